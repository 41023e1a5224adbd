//! One turn of everybody else's before the gate, where very many keys are in use.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

thread_local! {
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Lets every other request that is ready get as far as this one.
pub(super) async fn turn() {
    let mut waited = false;
    poll_fn(|cx| {
        if waited {
            return Poll::Ready(());
        }
        waited = true;
        TAKEN.set(true);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// From here on it is seen whether somebody takes such a turn.
pub fn watch_turns() {
    TAKEN.set(false);
}

/// Whether a future that was polled since `watch_turns` waits for nothing but its turn, which comes at once: nothing else need be looked at until then.
#[must_use]
pub fn turn_was_taken() -> bool {
    TAKEN.take()
}
