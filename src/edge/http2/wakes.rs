//! Who of a connection is to be polled next: it itself, and which of its streams. Whatever wakes them wakes the connection's one task, once.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;

/// What was woken since the task looked last. Locked for moments, and nearly always by the connection's own thread: wakers may be called from others.
#[derive(Debug, Default)]
pub(super) struct Wakes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The connection's task.
    task: Option<Waker>,
    /// It runs or is going to, and finds by itself what is noted meanwhile.
    awake: bool,
    connection: bool,
    /// Places; each at most once, but for marks of an earlier stream in the same place.
    streams: Vec<usize>,
}

impl Wakes {
    /// The task runs: takes what was noted. Adds places to `streams`, and says whether the connection itself is among it.
    pub(super) fn begin(&self, task: &Waker, streams: &mut Vec<usize>) -> bool {
        let mut state = self.state();
        state.awake = true;
        if !state.task.as_ref().is_some_and(|old| old.will_wake(task)) {
            state.task = Some(task.clone());
        }
        state.take(streams)
    }

    /// Takes what was noted meanwhile, as `begin` does; `None` when that is nothing: from now on the task is woken.
    pub(super) fn take_or_rest(&self, streams: &mut Vec<usize>) -> Option<bool> {
        let mut state = self.state();
        if !state.connection && state.streams.is_empty() {
            state.awake = false;
            return None;
        }
        Some(state.take(streams))
    }

    fn note(&self, who: Who) {
        let mut state = self.state();
        match who {
            Who::Connection => state.connection = true,
            Who::Stream(place) => state.streams.push(place),
        }
        if !state.awake {
            state.awake = true;
            if let Some(task) = &state.task {
                task.wake_by_ref();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, streams: &mut Vec<usize>) -> bool {
        streams.append(&mut self.streams);
        std::mem::take(&mut self.connection)
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
            noted: AtomicBool::new(false),
        });
        Sleeper {
            waker: Waker::from(Arc::clone(&mark)),
            mark,
        }
    }

    /// It is polled now: what wakes it from here on counts for the next time.
    pub(super) fn begin(&self) -> Context<'_> {
        // Also reads what those did who found it noted already.
        self.mark.noted.swap(false, Ordering::AcqRel);
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
    /// It has been noted and not polled since.
    noted: AtomicBool,
}

impl Wake for Mark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, Ordering::AcqRel) {
            self.wakes.note(self.who);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

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
}
