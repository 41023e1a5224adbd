//! Lets a request wait until what it was charged is in the store (`store.durability = "strict"`).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;
use tokio::sync::watch;

/// Numbers the saves of all counters, and lets requests ask for one. Many requests wait for one save: it takes what all of them were charged.
#[derive(Debug)]
pub struct Saves {
    /// Saves that have begun. One that begins later takes every charge made before.
    begun: AtomicU64,
    /// Told when somebody waits for a save that has not begun.
    asked: Notify,
    done: watch::Sender<Done>,
}

/// Numbers of saves; 0 is none yet.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// The last one that ended.
    last: u64,
    /// The last one that ended well. What one that failed had taken, the next one takes again.
    last_good: u64,
}

impl Saves {
    pub(super) fn new() -> Saves {
        Saves {
            begun: AtomicU64::new(0),
            asked: Notify::new(),
            done: watch::Sender::new(Done::default()),
        }
    }

    /// Waits until everything charged before this call is in the store. `false` when it could not be written.
    pub async fn wait(&self) -> bool {
        // A save numbered higher than this begins after the charge; one that has begun already may have missed it.
        let number = self.begun.load(Ordering::SeqCst) + 1;
        let mut done = self.done.subscribe();
        self.asked.notify_one();
        let ended = done.wait_for(|done| done.last >= number).await;
        ended.is_ok_and(|done| done.last_good >= number)
    }

    /// Waits until somebody waits for a save.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// A save begins: to be called before anything is exported. One at a time.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The save with this number has ended.
    pub fn end(&self, number: u64, good: bool) {
        self.done.send_modify(|done| {
            done.last = number;
            if good {
                done.last_good = number;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;
    use std::task::Poll;
    use std::task::Waker;

    /// A save that has begun before the charge may have missed it; only one that begins later counts, and only if it went well.
    #[test]
    fn only_a_save_that_begins_after_the_charge_counts() {
        let saves = Saves::new();
        let cx = &mut Context::from_waker(Waker::noop());
        let early = saves.begin();
        let mut waiting = pin!(saves.wait());
        assert!(waiting.as_mut().poll(cx).is_pending());
        saves.end(early, true);
        assert!(waiting.as_mut().poll(cx).is_pending());
        assert!(pin!(saves.asked()).poll(cx).is_ready(), "it was asked for");
        let failing = saves.begin();
        saves.end(failing, false);
        assert_eq!(waiting.as_mut().poll(cx), Poll::Ready(false));
        let mut again = pin!(saves.wait());
        assert!(again.as_mut().poll(cx).is_pending());
        let good = saves.begin();
        saves.end(good, true);
        assert_eq!(again.as_mut().poll(cx), Poll::Ready(true));
    }
}
