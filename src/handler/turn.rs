//! One turn of everybody else's before the gate, where very many keys are in use.

use std::cell::Cell;

use crate::upstream;

thread_local! {
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Lets every other request that is ready get as far as this one.
pub(super) async fn turn() {
    TAKEN.set(true);
    upstream::turn().await;
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
