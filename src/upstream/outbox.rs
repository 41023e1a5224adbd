//! Requests that are ready to be written: those that come at once go out one right behind the other.
//!
//! A backend falls asleep between two writes if there is time for it, and to wake it costs more than all of the gate. So a request is posted here, and begun
//! when everybody who is ready by now has had his turn, by one task for all. Its own goes on with it when that is told to, by its socket as a rule, and need not
//! be asked for the write alone. A key that ends in between may find its request begun, as one that ends a moment later does: it is cut all the same.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::task::coop::has_budget_remaining;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// What can be posted.
pub(super) trait Posted {
    /// Goes on for the task that waits, if one does: in its name, so that it is woken as if it had gone on itself, and at once if that came to an end. Now is
    /// when the first of those began that go on one behind the other.
    fn go_on(&mut self, now: Instant);

    /// Lets that task know that nobody will.
    fn give_back(&mut self);
}

thread_local! {
    static OUTBOX: Outbox = const { Outbox::new() };
}

/// One worker's.
struct Outbox {
    waiting: RefCell<VecDeque<Entry>>,
    /// Wakes who writes them; `None` where nobody does yet.
    writer: RefCell<Option<Waker>>,
}

/// One request, as long as somebody waits for its answer.
type Entry = Weak<RefCell<dyn Posted>>;

/// Has it go on once others have had their turn. What is dropped before does not.
pub(super) fn post(posted: Entry) {
    if OUTBOX.with(|outbox| outbox.put(posted)) {
        spawn_local(Writer);
    }
}

/// How many entries wait on this thread.
#[cfg(test)]
pub(super) fn waiting() -> usize {
    OUTBOX.with(|outbox| outbox.waiting.borrow().len())
}

impl Outbox {
    const fn new() -> Outbox {
        Outbox {
            waiting: RefCell::new(VecDeque::new()),
            writer: RefCell::new(None),
        }
    }

    /// Says whether somebody must be found who writes it.
    fn put(&self, entry: Entry) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(entry);
        if waiting.len() > 1 {
            return false;
        }
        let writer = self.writer.borrow();
        writer.as_ref().map(Waker::wake_by_ref).is_none()
    }

    fn next(&self) -> Option<Entry> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Whether more is to be done. Keeps no more memory than what usually comes at once takes.
    fn rest(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            waiting.shrink_to(KEPT);
        }
        !waiting.is_empty()
    }
}

/// Writes what is posted on its thread.
struct Writer;

impl Future for Writer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        OUTBOX.with(|outbox| {
            (outbox.writer.borrow_mut()).get_or_insert_with(|| cx.waker().clone());
            let now = Instant::now();
            for _ in 0..AT_ONCE {
                // A long body may have had all of it.
                if !has_budget_remaining() {
                    break;
                }
                let Some(entry) = outbox.next() else {
                    break;
                };
                if let Some(posted) = entry.upgrade() {
                    posted.borrow_mut().go_on(now);
                }
            }
            if outbox.rest() {
                cx.waker().wake_by_ref();
            }
        });
        Poll::Pending
    }
}

impl Drop for Writer {
    /// With its runtime, or when what it wrote has panicked: then another is found for all that still waits.
    fn drop(&mut self) {
        // A thread that ends has nobody left to tell.
        let _ = OUTBOX.try_with(|outbox| {
            outbox.writer.take();
            while let Some(entry) = outbox.next() {
                if let Some(posted) = entry.upgrade() {
                    posted.borrow_mut().give_back();
                }
            }
        });
    }
}

/// Begun one behind the other before anybody else has a turn: for each of them little more than a system call, where it has no body.
const AT_ONCE: usize = 32;

/// Entries for which memory is kept.
const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::runtime::Builder;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use super::*;
    use crate::upstream::turn::turn;

    /// Notes when it goes on, for a task that waits until it is given back.
    struct Note {
        name: &'static str,
        noted: Noted,
        panics: bool,
        given_back: bool,
        task: Option<Waker>,
    }

    impl Posted for Note {
        fn go_on(&mut self, _: Instant) {
            assert!(!self.panics, "{} panics", self.name);
            self.noted.0.borrow_mut().push(self.name);
        }

        fn give_back(&mut self) {
            self.given_back = true;
            if let Some(task) = self.task.take() {
                task.wake();
            }
        }
    }

    #[derive(Clone, Default)]
    struct Noted(Rc<RefCell<Vec<&'static str>>>);

    impl Noted {
        fn post(&self, name: &'static str, panics: bool) -> Rc<RefCell<Note>> {
            let note = Rc::new(RefCell::new(Note {
                name,
                noted: self.clone(),
                panics,
                given_back: false,
                task: None,
            }));
            let posted: Weak<RefCell<Note>> = Rc::downgrade(&note);
            post(posted);
            note
        }

        fn take(&self) -> Vec<&'static str> {
            self.0.take()
        }
    }

    async fn given_back(note: &RefCell<Note>) {
        poll_fn(|cx| {
            let mut note = note.borrow_mut();
            if note.given_back {
                return Poll::Ready(());
            }
            note.task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn run(scenario: impl Future<Output = ()>) {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let patient = async { timeout(Duration::from_secs(10), scenario).await };
        let ended = LocalSet::new().block_on(&runtime, patient);
        ended.expect("the scenario ends in time");
    }

    async fn settle() {
        for _ in 0..4 {
            turn().await;
        }
    }

    /// They go on in their order, when others have had a turn; who was dropped meanwhile does not. A worker that comes after another's end begins anew.
    #[test]
    fn what_is_posted_goes_on_after_others() {
        for _ in 0..2 {
            run(async {
                let noted = Noted::default();
                let first = noted.post("first", false);
                let second = noted.post("second", false);
                let third = noted.post("third", false);
                assert!(noted.take().is_empty());
                drop(second);
                settle().await;
                assert_eq!(noted.take(), ["first", "third"]);
                let fourth = noted.post("fourth", false);
                settle().await;
                assert_eq!(noted.take(), ["fourth"]);
                // Left behind when the runtime ends.
                drop((first, third, fourth, noted.post("last", false)));
            });
        }
    }

    /// However many there are, others have a turn in between.
    #[test]
    fn not_all_of_very_many_go_on_at_once() {
        run(async {
            let noted = Noted::default();
            let mut notes = Vec::new();
            for _ in 0..3 * AT_ONCE {
                notes.push(noted.post("one", false));
            }
            let other = spawn_local(async move {
                let mut left = 3 * AT_ONCE;
                while left > 0 {
                    let gone = noted.take().len();
                    assert!(gone <= AT_ONCE, "{gone} at once");
                    left -= gone;
                    turn().await;
                }
            });
            other.await.unwrap();
            drop(notes);
        });
    }

    /// Who panics harms nobody else: those that are still to be written are given back, and whoever comes next is written by another.
    #[test]
    fn a_panic_gives_back_what_still_waits() {
        run(async {
            let noted = Noted::default();
            let bad = noted.post("bad", true);
            let left = noted.post("left", false);
            spawn_local(async move { given_back(&left).await })
                .await
                .unwrap();
            assert!(!bad.borrow().given_back, "it is no other's");
            let next = noted.post("next", false);
            settle().await;
            assert_eq!(noted.take(), ["next"]);
            drop(next);
        });
    }
}
