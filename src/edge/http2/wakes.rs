//! Who of a connection is to be polled next: it itself, and which of its streams. Whatever wakes them wakes the connection's one task, once.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;

/// What was woken since the task looked last. Wakers may be called from any thread, and nearly always are by the connection's own.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    /// A bit for each of the first places, and those below. One step of the processor notes a wake-up, and finds whether the task knows of it.
    noted: AtomicU64,
    /// Locked where the task is to be woken, and for places beyond those bits.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connection's task.
    task: Option<Waker>,
    /// Places beyond the bits; each at most once, but for marks of an earlier stream in the same place.
    others: Vec<usize>,
}

/// The task runs or is going to, and finds by itself what is noted meanwhile.
const AWAKE: u64 = 1 << 63;
/// The connection itself.
const CONNECTION: u64 = 1 << 62;
/// Places that have no bit.
const OTHERS: u64 = 1 << 61;
/// Places that have one.
const PLACES: usize = 61;

impl Wakes {
    /// The task runs: takes what was noted. Adds places to `streams`, and says whether the connection itself is among it.
    pub(super) fn begin(&self, task: &Waker, streams: &mut Vec<usize>) -> bool {
        {
            let mut state = self.state();
            if !state.task.as_ref().is_some_and(|old| old.will_wake(task)) {
                state.task = Some(task.clone());
            }
        }
        self.take(streams)
    }

    /// Takes what was noted meanwhile, as `begin` does; `None` when that is nothing: from now on the task is woken.
    pub(super) fn take_or_rest(&self, streams: &mut Vec<usize>) -> Option<bool> {
        let rests = (self.noted).compare_exchange(AWAKE, 0, Ordering::AcqRel, Ordering::Acquire);
        match rests {
            Ok(_) => None,
            Err(_) => Some(self.take(streams)),
        }
    }

    fn take(&self, streams: &mut Vec<usize>) -> bool {
        let noted = self.noted.swap(AWAKE, Ordering::AcqRel);
        let mut places = noted & (OTHERS - 1);
        while places != 0 {
            streams.push(places.trailing_zeros() as usize);
            places &= places - 1;
        }
        if noted & OTHERS != 0 {
            streams.append(&mut self.state().others);
        }
        noted & CONNECTION != 0
    }

    fn note(&self, bit: u64) {
        if self.noted.fetch_or(bit | AWAKE, Ordering::AcqRel) & AWAKE == 0
            && let Some(task) = &self.state().task
        {
            task.wake_by_ref();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom a waker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The connection itself.
    Connection,
    /// The stream in this place.
    Stream(usize),
}

/// One who is polled when woken.
pub(super) struct Sleeper {
    mark: Arc<Mark>,
    /// Of the same mark, made once and not for each poll.
    waker: Waker,
}

impl Sleeper {
    pub(super) fn new(wakes: &Arc<Wakes>, who: Who) -> Sleeper {
        let mark = Arc::new(Mark {
            wakes: Arc::clone(wakes),
            who,
            bit: match who {
                Who::Connection => CONNECTION,
                Who::Stream(place) if place < PLACES => 1 << place,
                Who::Stream(_) => OTHERS,
            },
            is_listed: AtomicBool::new(false),
        });
        Sleeper {
            waker: Waker::from(Arc::clone(&mark)),
            mark,
        }
    }

    /// It is polled now: what wakes it from here on counts for the next time.
    pub(super) fn begin(&self) -> Context<'_> {
        if self.mark.bit == OTHERS {
            // Also reads what those did who found it listed already.
            self.mark.is_listed.swap(false, Ordering::AcqRel);
        }
        Context::from_waker(&self.waker)
    }

    /// Has it polled.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mark.who.fmt(out)
    }
}

struct Mark {
    wakes: Arc<Wakes>,
    who: Who,
    bit: u64,
    /// It is among the places beyond the bits and has not been polled since.
    is_listed: AtomicBool,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Who::Stream(place @ PLACES..) = self.who {
            if self.is_listed.swap(true, Ordering::AcqRel) {
                return;
            }
            self.wakes.state().others.push(place);
        }
        self.wakes.note(self.bit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_once_and_finds_what_was_noted_while_it_ran() {
        let (wakes, task) = (Arc::new(Wakes::default()), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        let connection = Sleeper::new(&wakes, Who::Connection);
        let streams = [0, 1].map(|place| Sleeper::new(&wakes, Who::Stream(place)));
        let mut places = Vec::new();
        assert!(!wakes.begin(&waker, &mut places));
        streams[1].waker().wake_by_ref();
        streams[1].waker().wake_by_ref();
        assert_eq!(wakes.take_or_rest(&mut places), Some(false));
        assert_eq!(std::mem::take(&mut places), [1], "noted once");
        connection.waker().wake_by_ref();
        let _ = streams[1].begin();
        streams[1].waker().wake_by_ref();
        assert_eq!(wakes.take_or_rest(&mut places), Some(true));
        assert_eq!(std::mem::take(&mut places), [1], "woken anew");
        assert_eq!(wakes.take_or_rest(&mut places), None);
        assert_eq!(task.0.load(Ordering::Relaxed), 0, "not while it runs");
        let _ = (connection.begin(), streams[1].begin());
        streams[0].waker().wake_by_ref();
        connection.waker().wake_by_ref();
        streams[1].waker().wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "once");
        assert!(wakes.begin(&waker, &mut places));
        assert_eq!(places, [0, 1]);
    }

    #[test]
    fn places_beyond_the_bits_are_woken_like_others() {
        let (wakes, task) = (Arc::new(Wakes::default()), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        let all: Vec<usize> = (0..PLACES + 5).collect();
        let streams: Vec<Sleeper> = all
            .iter()
            .map(|place| Sleeper::new(&wakes, Who::Stream(*place)))
            .collect();
        let mut places = Vec::new();
        assert!(!wakes.begin(&waker, &mut places));
        assert_eq!(wakes.take_or_rest(&mut places), None);
        for round in 1..4 {
            for stream in streams.iter().chain(&streams) {
                stream.waker().wake_by_ref();
            }
            assert_eq!(task.0.load(Ordering::Relaxed), round, "once");
            assert!(!wakes.begin(&waker, &mut places));
            assert_eq!(std::mem::take(&mut places), all, "each once");
            for stream in &streams {
                let _ = stream.begin();
            }
            assert_eq!(wakes.take_or_rest(&mut places), None);
        }
    }

    /// Threads that wake their streams whenever these were polled, beside a task that rests as soon as it may: a wake-up that is lost ends in silence.
    #[test]
    fn a_wake_up_from_another_thread_is_not_lost() {
        const EACH: usize = 10_000;
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::new(Woken(std::thread::current())));
        let mut streams = Vec::new();
        for place in [0, PLACES] {
            let sleeper = Sleeper::new(&wakes, Who::Stream(place));
            let polled = Arc::new(AtomicUsize::new(0));
            let (waker, seen) = (sleeper.waker().clone(), Arc::clone(&polled));
            std::thread::spawn(move || {
                for round in 1..=EACH {
                    waker.wake_by_ref();
                    let mut looks = 0u32;
                    while seen.load(Ordering::Acquire) < round {
                        looks += 1;
                        match looks % 1_000 {
                            0 => std::thread::yield_now(),
                            _ => std::hint::spin_loop(),
                        }
                    }
                }
            });
            streams.push((place, sleeper, polled));
        }
        let (mut places, mut silent) = (Vec::new(), 0);
        wakes.begin(&waker, &mut places);
        loop {
            for at in places.drain(..) {
                for (_, sleeper, polled) in streams.iter().filter(|(place, ..)| *place == at) {
                    let _ = sleeper.begin();
                    polled.fetch_add(1, Ordering::AcqRel);
                }
            }
            let is_over = |polled: &AtomicUsize| polled.load(Ordering::Relaxed) >= EACH;
            if streams.iter().all(|(.., polled)| is_over(polled)) {
                break;
            }
            if wakes.take_or_rest(&mut places).is_none() {
                std::thread::park_timeout(SILENCE / LOOKS);
                wakes.begin(&waker, &mut places);
                silent = match places.is_empty() {
                    true => silent + 1,
                    false => 0,
                };
                assert!(silent < LOOKS, "lost");
            }
        }
    }

    const SILENCE: Duration = Duration::from_secs(10);
    const LOOKS: u32 = 100;

    #[derive(Debug)]
    struct Woken(std::thread::Thread);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
}
