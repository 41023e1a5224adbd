//! What the edges of all workers share: counts of what became of connections, and the two caps.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::model::source::source_of;

/// Counts over all listeners of this process since its start; one instance for all workers.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// Open now: from accept to close.
    pub active: AtomicUsize,
    /// Taken in.
    pub accepted: AtomicU64,
    /// Closed at once: `connections.total_max` was reached.
    pub refused_total_cap: AtomicU64,
    /// Closed at once: `connections.per_address_max` was reached.
    pub refused_address_cap: AtomicU64,
    /// Closed at once: the file descriptors that are left are for backends and the control side.
    pub refused_descriptors: AtomicU64,
    /// Connections of trusted proxies that did not begin with a sound PROXY header.
    pub proxy_header_invalid: AtomicU64,
    /// TLS handshakes that failed; a peer that closed without a byte is not one.
    pub handshake_failed: AtomicU64,
    /// TLS handshakes that took longer than `connections.handshake_timeout`.
    pub handshake_timeout: AtomicU64,
    /// Plain HTTP spoken to a TLS port (S25).
    pub plaintext_on_tls: AtomicU64,
    /// Heads that took longer than `connections.head_timeout` (S22).
    pub head_timeout: AtomicU64,
    /// Connections closed after `connections.idle_timeout` without a request.
    pub idle_closed: AtomicU64,
    /// Connections and HTTP/2 streams ended because the client took nothing for `connections.stall_timeout` (S22).
    pub stalled: AtomicU64,
    /// Connections that broke the rules of HTTP: answered with a bare status, or closed.
    pub protocol_error: AtomicU64,
    /// Connections that HTTP/2 control frames flooded (S21).
    pub flooded: AtomicU64,
    /// Requests whose handler panicked; each ended only its connection or stream.
    pub panicked: AtomicU64,
    /// Open connections by client address. An entry exists only while its count is above zero, so there are at most `total_max` (S28).
    by_address: DashMap<IpAddr, u32>,
    /// The tick of each worker, which its sweep moves.
    heartbeats: Mutex<Vec<Arc<AtomicU32>>>,
    /// A worker could not start or serve.
    failed: AtomicBool,
    /// Workers that have not ended yet.
    workers: AtomicUsize,
    /// Connections that the drain cut, over all workers.
    cut: AtomicUsize,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All listeners together are at their cap.
    Total,
    /// This client address is at its cap.
    Address,
}

/// The place of one open connection under the caps; gives it back when dropped.
#[derive(Debug)]
pub struct Place {
    counters: Arc<ConnectionCounters>,
    /// Whom it is counted under; `None` until a proxy has said for whom it connects.
    address: Option<IpAddr>,
}

impl ConnectionCounters {
    /// Takes a place for a client address, or says which cap is full and counts the refusal.
    ///
    /// # Errors
    /// `Full`; nothing is held then.
    pub fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        total_max: usize,
        per_address_max: usize,
    ) -> Result<Place, Full> {
        let mut place = self.enter_unnamed(total_max)?;
        place.name(client, per_address_max)?;
        Ok(place)
    }

    /// Takes a place for a client that a proxy is about to name; `Place::name` then asks the other cap.
    ///
    /// # Errors
    /// `Full::Total`; nothing is held then.
    pub fn enter_unnamed(self: &Arc<Self>, total_max: usize) -> Result<Place, Full> {
        let before = self.active.fetch_add(1, Ordering::Relaxed);
        if before >= total_max {
            self.active.fetch_sub(1, Ordering::Relaxed);
            self.refused_total_cap.fetch_add(1, Ordering::Relaxed);
            return Err(Full::Total);
        }
        Ok(Place {
            counters: Arc::clone(self),
            address: None,
        })
    }

    fn enter_address(&self, address: IpAddr, per_address_max: usize) -> bool {
        match self.by_address.entry(address) {
            Entry::Occupied(mut count) => {
                let room = (*count.get() as usize) < per_address_max;
                if room {
                    *count.get_mut() += 1;
                }
                room
            }
            Entry::Vacant(free) => {
                if per_address_max > 0 {
                    free.insert(1);
                }
                per_address_max > 0
            }
        }
    }

    /// Enrols a worker by the tick that its sweep moves.
    pub(super) fn worker_started(&self, tick: Arc<AtomicU32>) {
        self.workers.fetch_add(1, Ordering::Relaxed);
        self.heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tick);
    }

    /// Notes a worker that does not serve, and never will: the watchdog is to end this process.
    pub fn worker_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Strikes a worker off. The last one gets the number of connections that all workers cut.
    pub(super) fn worker_ended(&self, tick: &Arc<AtomicU32>, cut: usize) -> Option<usize> {
        self.heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, tick));
        self.cut.fetch_add(cut, Ordering::AcqRel);
        let last = self.workers.fetch_sub(1, Ordering::AcqRel) == 1;
        last.then(|| self.cut.load(Ordering::Acquire))
    }

    fn ticks(&self) -> Vec<u32> {
        self.heartbeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|tick| tick.load(Ordering::Relaxed))
            .collect()
    }
}

impl Place {
    /// Whether it is known whose it is.
    pub fn is_named(&self) -> bool {
        self.address.is_some()
    }

    /// Counts the connection under this client, for good, or counts the refusal.
    ///
    /// # Errors
    /// `Full::Address`.
    pub fn name(&mut self, client: IpAddr, per_address_max: usize) -> Result<(), Full> {
        let address = source_of(client);
        if !self.counters.enter_address(address, per_address_max) {
            self.counters
                .refused_address_cap
                .fetch_add(1, Ordering::Relaxed);
            return Err(Full::Address);
        }
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counters.active.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else {
            return;
        };
        if let Entry::Occupied(mut count) = self.counters.by_address.entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Tells whether every worker still turns: what the watchdog is fed with.
#[derive(Debug)]
pub struct Heartbeat {
    counters: Arc<ConnectionCounters>,
    seen: Vec<u32>,
}

impl Heartbeat {
    /// Watches the workers that share these counters.
    #[must_use]
    pub fn new(counters: Arc<ConnectionCounters>) -> Heartbeat {
        Heartbeat {
            counters,
            seen: Vec::new(),
        }
    }

    /// Whether each worker's sweep has run since the last call. Ask at most twice a second. `true` while workers come or go; `false` for good
    /// once one has failed.
    pub fn moved(&mut self) -> bool {
        let ticks = self.counters.ticks();
        let stuck =
            ticks.len() == self.seen.len() && ticks.iter().zip(&self.seen).any(|(a, b)| a == b);
        self.seen = ticks;
        !stuck && !self.counters.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_cap_counts_ipv6_by_64_and_mapped_ipv4_as_ipv4() {
        let cases = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ];
        for (first, second, same) in cases {
            let counters = Arc::new(ConnectionCounters::default());
            let held = counters.enter(ip(first), 10, 1).unwrap();
            let again = counters.enter(ip(second), 10, 1);
            assert_eq!(again.is_err(), same, "{first} then {second}");
            drop((held, again));
            assert!(counters.by_address.is_empty());
            assert_eq!(counters.active.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn a_refused_connection_holds_no_place() {
        let counters = Arc::new(ConnectionCounters::default());
        let first = counters.enter(ip("192.0.2.1"), 2, 1).unwrap();
        assert_eq!(
            counters.enter(ip("192.0.2.1"), 2, 1).err(),
            Some(Full::Address)
        );
        let second = counters.enter(ip("192.0.2.2"), 2, 1).unwrap();
        assert_eq!(
            counters.enter(ip("192.0.2.3"), 2, 1).err(),
            Some(Full::Total)
        );
        drop((first, second));
        assert_eq!(counters.active.load(Ordering::Relaxed), 0);
        assert_eq!(counters.accepted.load(Ordering::Relaxed), 2);
        assert_eq!(counters.refused_address_cap.load(Ordering::Relaxed), 1);
        assert_eq!(counters.refused_total_cap.load(Ordering::Relaxed), 1);
        assert!(counters.enter(ip("192.0.2.3"), 1, 1).is_ok());
    }

    #[test]
    fn heartbeat_notices_one_stuck_worker_among_others() {
        let counters = Arc::new(ConnectionCounters::default());
        let (turning, stuck) = (Arc::new(AtomicU32::new(1)), Arc::new(AtomicU32::new(1)));
        counters.worker_started(Arc::clone(&turning));
        counters.worker_started(Arc::clone(&stuck));
        let mut heartbeat = Heartbeat::new(Arc::clone(&counters));
        assert!(heartbeat.moved());
        turning.fetch_add(1, Ordering::Relaxed);
        assert!(!heartbeat.moved());
        turning.fetch_add(1, Ordering::Relaxed);
        stuck.fetch_add(1, Ordering::Relaxed);
        assert!(heartbeat.moved());
        counters.worker_failed();
        turning.fetch_add(1, Ordering::Relaxed);
        stuck.fetch_add(1, Ordering::Relaxed);
        assert!(!heartbeat.moved());
    }

    #[test]
    fn the_last_worker_tells_how_many_connections_all_have_cut() {
        let counters = Arc::new(ConnectionCounters::default());
        let ticks = [Arc::new(AtomicU32::new(1)), Arc::new(AtomicU32::new(1))];
        for tick in &ticks {
            counters.worker_started(Arc::clone(tick));
        }
        assert_eq!(counters.worker_ended(&ticks[0], 2), None);
        assert_eq!(counters.worker_ended(&ticks[1], 3), Some(5));
    }
}
