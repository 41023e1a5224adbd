//! Requests at once, up to a bound that holds over all workers, and the short queue of those beyond it: tenants take turns.
//!
//! A request that finds room adds one to an atomic and takes no lock. One that does not waits behind a mutex that only waiting ones, and those that
//! end while others wait, ever lock.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::sync::AtomicUsize;
use super::sync::Mutex;
use super::sync::MutexGuard;
use super::sync::oneshot;
use crate::model::tenant::TenantId;

/// How much one upstream takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Requests at once.
    pub(super) most: usize,
    /// Requests that wait.
    pub(super) waiting_max: usize,
}

/// The way in to one upstream, shared by all workers.
#[derive(Debug, Default)]
pub(super) struct Gate {
    in_flight: AtomicUsize,
    /// How many wait. Raised before a waiting one looks for room a last time, and read after room was made: either the one who leaves sees
    /// who waits, or the one who waits sees the room.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    /// Requests turned away, since the queue was full or their time in it was up.
    turned_away: AtomicU64,
}

/// A request's place; another may have it when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    /// `None` when the place was given back already.
    gate: Option<Arc<Gate>>,
}

/// Why a request did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnedAway {
    /// There was no place to wait, or one that had more waiting had to make way.
    Full,
    /// It waited for as long as it may.
    Late,
}

impl Gate {
    /// Requests under way.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Requests that were turned away so far.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// A place at once, if there is one and nobody waits for it.
    pub(super) fn enter(self: &Arc<Gate>, bounds: Bounds) -> Option<Permit> {
        let free = self.waiting.load(Ordering::SeqCst) == 0 && self.take(bounds.most);
        free.then(|| self.permit())
    }

    /// A place, once it is this tenant's turn, at `due` at the latest.
    ///
    /// # Errors
    /// Why there was none.
    pub(super) async fn wait(
        self: &Arc<Gate>,
        tenant: Option<&TenantId>,
        bounds: Bounds,
        due: Instant,
    ) -> Result<Permit, TurnedAway> {
        let got = match self.stand_in_line(tenant, bounds) {
            Ok(Line::Through(permit)) => Ok(permit),
            Ok(Line::Waiting(mut waiting)) => {
                match tokio::time::timeout_at(due, &mut waiting.called).await {
                    Ok(Ok(permit)) => Ok(permit),
                    Ok(Err(_)) => Err(TurnedAway::Full),
                    Err(_) => Err(TurnedAway::Late),
                }
            }
            Err(turned_away) => Err(turned_away),
        };
        if got.is_err() {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
        got
    }

    /// The queue's part of `wait`.
    pub(super) fn stand_in_line(
        self: &Arc<Gate>,
        tenant: Option<&TenantId>,
        bounds: Bounds,
    ) -> Result<Line<'_>, TurnedAway> {
        let mut queue = lock(&self.queue);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if queue.length == 0 && self.take(bounds.most) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Ok(Line::Through(self.permit()));
        }
        if queue.length >= bounds.waiting_max {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if !queue.make_way(tenant) {
                return Err(TurnedAway::Full);
            }
        }
        let (call, called) = oneshot::channel();
        let ticket = queue.push(tenant, bounds.most, call);
        Ok(Line::Waiting(Waiting {
            gate: self,
            tenant: tenant.cloned(),
            ticket,
            called,
        }))
    }

    fn take(&self, most: usize) -> bool {
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                (count < most).then_some(count + 1)
            })
            .is_ok()
    }

    fn permit(self: &Arc<Gate>) -> Permit {
        Permit {
            gate: Some(Arc::clone(self)),
        }
    }

    /// Gives what room there is to those who wait.
    fn call_next(self: &Arc<Gate>) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = lock(&self.queue);
        while let Some(most) = queue.next_most() {
            if !self.take(most) {
                return;
            }
            let Some(entry) = queue.pop() else {
                return self.leave();
            };
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if let Err(mut permit) = entry.call.send(self.permit()) {
                // Its request has left meanwhile. The lock is held, so that the permit must not find its own way back.
                permit.gate = None;
                self.leave();
            }
        }
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.leave();
            gate.call_next();
        }
    }
}

/// What standing in line comes to at first.
#[derive(Debug)]
pub(super) enum Line<'a> {
    /// There was room after all.
    Through(Permit),
    /// There was none.
    Waiting(Waiting<'a>),
}

/// A request in the queue; dropped, it stands there no more, and a place it was called to meanwhile goes on to the next.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    tenant: Option<TenantId>,
    ticket: u64,
    /// Has the permit when it is this one's turn.
    pub(super) called: oneshot::Receiver<Permit>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.gate.queue);
        if queue.remove(self.tenant.as_ref(), self.ticket) {
            self.gate.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Those who wait: each tenant's in the order in which they came, and tenants in turn. Requests without a key are one tenant more.
#[derive(Debug, Default)]
struct Queue {
    lines: HashMap<Option<TenantId>, VecDeque<Entry>>,
    /// Who has somebody waiting; the first is next.
    turns: VecDeque<Option<TenantId>>,
    length: usize,
    tickets: u64,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    /// The bound of the configuration that it came under.
    most: usize,
    call: oneshot::Sender<Permit>,
}

impl Queue {
    fn push(
        &mut self,
        tenant: Option<&TenantId>,
        most: usize,
        call: oneshot::Sender<Permit>,
    ) -> u64 {
        self.tickets += 1;
        let entry = Entry {
            ticket: self.tickets,
            most,
            call,
        };
        let line = self.lines.entry(tenant.cloned()).or_default();
        if line.is_empty() {
            self.turns.push_back(tenant.cloned());
        }
        line.push_back(entry);
        self.length += 1;
        self.tickets
    }

    fn next_most(&self) -> Option<usize> {
        let line = self.lines.get(self.turns.front()?)?;
        line.front().map(|entry| entry.most)
    }

    fn pop(&mut self) -> Option<Entry> {
        let tenant = self.turns.pop_front()?;
        let line = self.lines.get_mut(&tenant)?;
        let entry = line.pop_front()?;
        self.length -= 1;
        if line.is_empty() {
            self.lines.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        Some(entry)
    }

    /// Lets the newest request of whoever has the most waiting go, if that is fairer than to turn this tenant's away.
    fn make_way(&mut self, tenant: Option<&TenantId>) -> bool {
        let own = self.lines.get(&tenant.cloned()).map_or(0, VecDeque::len);
        let longest = self.lines.iter().max_by_key(|(_, line)| line.len());
        let Some((greedy, line)) = longest.filter(|(_, line)| line.len() > own + 1) else {
            return false;
        };
        let (greedy, newest) = (greedy.clone(), line.back().map(|entry| entry.ticket));
        newest.is_some_and(|newest| self.remove(greedy.as_ref(), newest))
    }

    fn remove(&mut self, tenant: Option<&TenantId>, ticket: u64) -> bool {
        let tenant = tenant.cloned();
        let Some(line) = self.lines.get_mut(&tenant) else {
            return false;
        };
        let Some(at) = line.iter().position(|entry| entry.ticket == ticket) else {
            return false;
        };
        line.remove(at);
        self.length -= 1;
        if line.is_empty() {
            self.lines.remove(&tenant);
            self.turns.retain(|other| *other != tenant);
        }
        true
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
