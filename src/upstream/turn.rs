//! A turn before a backend is asked for something.

use std::future::poll_fn;
use std::task::Poll;

/// Has the task look first at what else it has at hand, and goes on at once then. A client may have given its request up in the same breath in which it made
/// it: for those no connection is opened, and no stream of one that others use (S20).
pub(crate) async fn turn() {
    let mut taken = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut taken, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
