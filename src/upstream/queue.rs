//! Requests at once, up to a bound that holds over all workers, and the short queue of those beyond it: tenants take turns.
//!
//! A request that finds room adds one to an atomic and takes no lock. One that does not waits behind a mutex that only waiting ones, and those that
//! end while others wait, ever lock.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::model::tenant::TenantId;
use crate::upstream::health::lock;

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

    fn stand_in_line(
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

enum Line<'a> {
    Through(Permit),
    Waiting(Waiting<'a>),
}

/// A request in the queue; dropped, it stands there no more, and a place it was called to meanwhile goes on to the next.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    tenant: Option<TenantId>,
    ticket: u64,
    called: oneshot::Receiver<Permit>,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    fn bounds(most: usize, waiting_max: usize) -> Bounds {
        Bounds { most, waiting_max }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Waiting requests of these tenants, in this order; each says its name when it gets in, and leaves.
    async fn order(gate: &Arc<Gate>, names: &[&str], waiting_max: usize) -> Vec<String> {
        let held = gate.enter(bounds(1, waiting_max)).unwrap();
        let through = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for (at, name) in names.iter().enumerate() {
            let (own, through) = (Arc::clone(gate), Arc::clone(&through));
            let id = tenant(name);
            tasks.spawn(async move {
                let got = own.wait(Some(&id), bounds(1, waiting_max), far()).await;
                if got.is_ok() {
                    lock(&through).push(id.as_str().to_owned());
                }
            });
            while gate.waiting() + usize::try_from(gate.turned_away()).unwrap() <= at {
                tokio::task::yield_now().await;
            }
        }
        drop(held);
        while tasks.join_next().await.is_some() {}
        let order = lock(&through).clone();
        assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        order
    }

    #[tokio::test]
    async fn tenants_take_turns() {
        let gate = Arc::new(Gate::default());
        let names = ["a", "a", "a", "a", "b", "c", "b"];
        let order = order(&gate, &names, 100).await;
        assert_eq!(order.concat(), "abcabaa");
    }

    #[tokio::test]
    async fn whoever_has_the_most_waiting_makes_way() {
        let gate = Arc::new(Gate::default());
        let order = order(&gate, &["a", "a", "a", "b", "c", "c"], 3).await;
        assert_eq!(order.concat(), "abc");
        assert_eq!(gate.turned_away(), 3);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_leaves_no_trace() {
        let gate = Arc::new(Gate::default());
        let held = gate.enter(bounds(1, 1)).unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        let id = tenant("a");
        let late = gate.wait(Some(&id), bounds(1, 1), soon).await;
        assert_eq!(late.unwrap_err(), TurnedAway::Late);
        let full = gate.wait(None, bounds(1, 0), far()).await;
        assert_eq!(full.unwrap_err(), TurnedAway::Full);
        assert_eq!(gate.waiting(), 0);
        assert_eq!(lock(&gate.queue).lines.len(), 0);
        drop(held);
        assert_eq!(gate.in_flight(), 0);
        drop(gate.enter(bounds(1, 1)).unwrap());
    }

    #[test]
    fn a_place_given_to_somebody_who_left_goes_on() {
        let gate = Arc::new(Gate::default());
        let held = gate.enter(bounds(1, 9)).unwrap();
        let (id, other) = (tenant("a"), tenant("b"));
        let Ok(Line::Waiting(first)) = gate.stand_in_line(Some(&id), bounds(1, 9)) else {
            panic!("there was room");
        };
        let Ok(Line::Waiting(mut second)) = gate.stand_in_line(Some(&other), bounds(1, 9)) else {
            panic!("there was room");
        };
        drop(held);
        // The first was called, and leaves before it has heard.
        drop(first);
        let permit = second.called.try_recv().unwrap();
        assert_eq!((gate.in_flight(), gate.waiting()), (1, 0));
        drop(permit);
        drop(second);
        assert_eq!(gate.in_flight(), 0);
    }

    /// Many threads, never more than the bound at once, and nobody waits for ever.
    #[test]
    fn the_bound_holds_over_threads() {
        let gate = Arc::new(Gate::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|at| {
                let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let id = tenant(["a", "b", "c", "d"][at]);
                        let mut tasks = JoinSet::new();
                        for _ in 0..8 {
                            let (gate, inside, id) =
                                (Arc::clone(&gate), Arc::clone(&inside), id.clone());
                            tasks.spawn(async move {
                                for _ in 0..500 {
                                    let bounds = bounds(3, 100);
                                    let permit = match gate.enter(bounds) {
                                        Some(permit) => permit,
                                        None => gate.wait(Some(&id), bounds, far()).await.unwrap(),
                                    };
                                    let count = inside.fetch_add(1, Ordering::SeqCst);
                                    assert!(count < 3, "{count}");
                                    tokio::task::yield_now().await;
                                    inside.fetch_sub(1, Ordering::SeqCst);
                                    drop(permit);
                                }
                            });
                        }
                        while let Some(ended) = tasks.join_next().await {
                            ended.unwrap();
                        }
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
    }
}
