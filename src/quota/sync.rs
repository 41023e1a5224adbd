//! What `seats` and `local` lock with. Apart, so that the tests in `interleaved` can put modelled locks in its place.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Without poison, whose looks are a third of what an uncontended lock costs: what lies behind these locks is whole after every step.
pub(super) use parking_lot::Mutex;
pub(super) use parking_lot::MutexGuard;

#[inline]
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// Hashed by seeds of its own, at a tenth of what SipHash takes. Only ids that the gateway made, and tenants of the operator's, come in here.
pub(super) type Seed = foldhash::fast::RandomState;

/// As many as the key table has: those who do not know their seats seldom meet.
pub(super) const SHARDS: usize = 1024;

/// Seats that are set up together: 192 KiB, some tens of microseconds. What points to the rows of a million seats is then 16 KiB, which no request waits for.
pub(super) const ROW: usize = 1024;

/// Lists of changed ids, each under a lock of its own.
pub(super) const LANES: usize = 64;

/// Of these lists so many are a thread's own, or shared with every sixteenth: not one alone, since who takes it over holds the thread up for as long as it
/// is long.
const OF_THREAD: usize = 4;

/// The list of this thread that the seat with this number is put on.
#[inline]
pub(super) fn lane_of(number: u32) -> usize {
    thread_local! {
        static FIRST: usize = OF_THREAD * THREADS.fetch_add(1, Ordering::Relaxed);
    }
    (FIRST.with(|first| *first) + number as usize % OF_THREAD) % LANES
}

/// Threads that have put somebody on a list.
static THREADS: AtomicUsize = AtomicUsize::new(0);
