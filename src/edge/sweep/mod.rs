//! Every deadline of client connections, judged by one coarse sweep per worker; no timer per request or connection (S22).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::Connections;

use super::client::Client;
use super::client::Order;
use super::client::Phase;
use super::client::Why;
use super::counters::ConnectionCounters;

/// How often a worker sweeps. A deadline is never early and at most two of these late.
pub(super) const PERIOD: Duration = Duration::from_millis(250);

/// The client connections of one worker.
#[derive(Debug)]
pub(super) struct Registry {
    clients: RefCell<Vec<Rc<Client>>>,
    tick: Arc<AtomicU32>,
    /// Told when the last one leaves.
    empty: Notify,
}

impl Registry {
    pub(super) fn new() -> Registry {
        Registry {
            clients: RefCell::new(Vec::new()),
            // Tick 0 means "never".
            tick: Arc::new(AtomicU32::new(1)),
            empty: Notify::new(),
        }
    }

    /// The clock of the sweep: grows by one each `PERIOD`.
    pub(super) fn tick(&self) -> &Arc<AtomicU32> {
        &self.tick
    }

    /// What that clock says.
    pub(super) fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Takes a connection under the sweep; pair with `leave`.
    pub(super) fn join(&self, client: &Rc<Client>) {
        let mut clients = self.clients.borrow_mut();
        client.slot.set(clients.len());
        clients.push(Rc::clone(client));
    }

    /// Lets a connection go.
    pub(super) fn leave(&self, client: &Client) {
        let mut clients = self.clients.borrow_mut();
        let slot = client.slot.get();
        clients.swap_remove(slot);
        if let Some(moved) = clients.get(slot) {
            moved.slot.set(slot);
        }
        if clients.is_empty() {
            self.empty.notify_waiters();
        }
    }

    /// Waits until no connection is left.
    pub(super) async fn emptied(&self) {
        loop {
            let told = self.empty.notified();
            if self.clients.borrow().is_empty() {
                return;
            }
            told.await;
        }
    }

    /// Moves the tick and judges every connection.
    pub(super) fn turn(&self, bounds: &Connections, counters: &ConnectionCounters, draining: bool) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        let limits = Limits::new(bounds);
        for client in self.clients.borrow().iter() {
            if draining {
                client.drain();
            }
            let stalled_streams = client.cut_stalled_streams(now, limits.stall);
            counters
                .stalled
                .fetch_add(stalled_streams, Ordering::Relaxed);
            let order = verdict(&client.view(), now, &limits);
            if let Some(order) = order
                && client.give(order)
            {
                count(counters, order);
            }
        }
    }

    /// Cuts what is left, but for tunnels, which are told to say goodbye; says how many of all had a request, an answer or a tunnel under way.
    pub(super) fn dismiss_all(&self) -> usize {
        let clients = self.clients.borrow();
        let busy = clients.iter().filter(|client| client.view().requests > 0);
        let busy = busy.count();
        for client in clients.iter() {
            client.dismiss();
        }
        busy
    }

    /// Cuts what is left.
    pub(super) fn cut_all(&self) {
        for client in self.clients.borrow().iter() {
            client.give(Order::Cut(Why::Drain));
        }
    }
}

fn count(counters: &ConnectionCounters, order: Order) {
    let (Order::Finish(why) | Order::Cut(why)) = order else {
        return;
    };
    let counter = match why {
        Why::HandshakeTimeout => &counters.handshake_timeout,
        Why::HeadTimeout => &counters.head_timeout,
        Why::Idle => &counters.idle_closed,
        Why::Stalled => &counters.stalled,
        Why::Flooded => &counters.flooded,
        Why::Drain | Why::Revoked | Why::Unfinished => return,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The deadlines in ticks.
#[derive(Clone, Copy, Debug)]
struct Limits {
    handshake: u32,
    head: u32,
    idle: u32,
    stall: u32,
}

impl Limits {
    fn new(bounds: &Connections) -> Limits {
        Limits {
            handshake: ticks(bounds.handshake_timeout),
            head: ticks(bounds.head_timeout),
            idle: ticks(bounds.idle_timeout),
            stall: ticks(bounds.stall_timeout),
        }
    }
}

/// Ticks that surely last this long once exceeded.
pub(super) fn ticks(span: Duration) -> u32 {
    let ticks = span.as_millis().div_ceil(PERIOD.as_millis());
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Whether more than `limit` ticks lie between `since` (0 is never) and `now`.
pub(super) fn over(since: u32, now: u32, limit: u32) -> bool {
    since != 0 && now.saturating_sub(since) > limit
}

/// What the sweep sees of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// How far it has come.
    pub(super) phase: Phase,
    /// When that phase, or the last wait for a request, began.
    pub(super) quiet_since: u32,
    /// Requests whose answer is not finished.
    pub(super) requests: usize,
    /// It has had a request.
    pub(super) served: bool,
    /// When the head being read began; 0 if none is.
    pub(super) head_since: u32,
    /// When the socket stopped taking bytes; 0 if it takes them.
    pub(super) blocked_since: u32,
    /// Control frames flooded it.
    pub(super) flooded: bool,
    /// When it was told to finish; 0 if it was not.
    pub(super) finishing_since: u32,
    /// Not a byte came since then.
    pub(super) silent_since_told: bool,
    /// Since when the worker drains; 0 while it does not.
    pub(super) draining_since: u32,
}

fn verdict(view: &View, now: u32, limits: &Limits) -> Option<Order> {
    match view.phase {
        Phase::Handshake => {
            let silent = view.head_since == 0;
            if over(view.quiet_since, now, limits.handshake) {
                Some(Order::Cut(Why::HandshakeTimeout))
            } else if view.draining() && silent && over(view.quiet_since, now, DRAIN_GRACE) {
                Some(Order::Cut(Why::Drain))
            } else if view.holds_drain_up(view.quiet_since, now) {
                Some(Order::Cut(Why::HandshakeTimeout))
            } else {
                None
            }
        }
        Phase::Http1 | Phase::Http2 => http_verdict(view, now, limits),
        // A tunnel times itself, and lives until the drain's time is over.
        Phase::Tunnel => None,
        Phase::Lingering => {
            over(view.quiet_since, now, LINGER).then_some(Order::Cut(Why::Unfinished))
        }
    }
}

fn http_verdict(view: &View, now: u32, limits: &Limits) -> Option<Order> {
    if view.flooded {
        return Some(Order::Cut(Why::Flooded));
    }
    if over(view.blocked_since, now, limits.stall) {
        return Some(Order::Cut(Why::Stalled));
    }
    if over(view.head_since, now, limits.head) {
        return Some(Order::Cut(Why::HeadTimeout));
    }
    if view.requests > 0 {
        // An HTTP/1.1 answer says in its head that it is the last one, or a later one does.
        let tells = view.draining() && view.phase == Phase::Http2;
        return tells.then_some(Order::Finish(Why::Drain));
    }
    if view.head_since != 0 && view.holds_drain_up(view.head_since, now) {
        return Some(Order::Cut(Why::HeadTimeout));
    }
    // HTTP/2 may still hold the end of an answer for which the client has not opened its window. But a drain does not wait for a client
    // that lets the PING after our GOAWAY unanswered.
    let grace = match view.phase {
        Phase::Http2 if !(view.draining() && view.silent_since_told) => limits.stall,
        _ => FINISH_GRACE,
    };
    let told = view.finishing_since;
    if over(told, now, grace) && over(view.quiet_since, now, grace) && view.blocked_since == 0 {
        return Some(Order::Cut(Why::Unfinished));
    }
    if view.draining() && view.may_go(now) {
        return Some(Order::Finish(Why::Drain));
    }
    if view.head_since == 0 && over(view.quiet_since, now, limits.idle) {
        return Some(Order::Finish(Why::Idle));
    }
    None
}

impl View {
    fn draining(&self) -> bool {
        self.draining_since != 0
    }

    /// Whether a drain has waited long enough for a head or a handshake that began at `since`.
    fn holds_drain_up(&self, since: u32, now: u32) -> bool {
        self.draining() && over(since.max(self.draining_since), now, DRAIN_HEAD)
    }

    /// Whether a drain may tell a connection without a request to finish, without losing one that is on its way already: HTTP/2 has
    /// GOAWAY for that; HTTP/1.1 has nothing, so a client that was served a moment ago gets a moment, and a head that has begun is awaited.
    fn may_go(&self, now: u32) -> bool {
        let fresh = !self.served && !over(self.quiet_since, now, DRAIN_GRACE);
        match self.phase {
            Phase::Http1 => {
                let since = self.quiet_since.max(self.draining_since);
                !fresh && self.head_since == 0 && over(since, now, IDLE_GRACE)
            }
            _ => !fresh,
        }
    }
}

/// How long a fresh connection may still bring its first request when the drain begins: 1 s.
pub(super) const DRAIN_GRACE: u32 = 4;
/// How long a drain leaves a kept HTTP/1.1 connection open for a request that is on its way already: half a second.
const IDLE_GRACE: u32 = 2;
/// How long a drain waits for the rest of a head or a handshake: 2 s.
pub(super) const DRAIN_HEAD: u32 = 8;
/// How long a connection without a request may take to say goodbye: 2 s.
const FINISH_GRACE: u32 = 8;
/// How long a closed connection is read from so that the client gets our last bytes: 2 s.
pub(super) const LINGER: u32 = 8;

#[cfg(test)]
mod tests;
