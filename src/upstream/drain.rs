//! The rest of a request that was answered without being read: taken off the wire and thrown away, within bounds.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;

/// Bytes that are thrown away before the connection (HTTP/2: the stream) is given up instead. A client that sends more learns of the
/// answer by a close; one that sends less keeps its connection, and never sees a reset where an answer was (S5).
const BYTES_MAX: u64 = 256 * 1024;

/// How long the rest may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Reads what is left of a body, in a task of its own; must be called inside a `LocalSet`. Reads nothing from a client that waits for a 100
/// before it sends (S6): once that client has its answer, what comes next may be the body or the next request, so its connection closes.
pub fn drain(body: Incoming, expects_continue: bool) {
    if expects_continue || body.is_end_stream() {
        return;
    }
    // The timer is made inside the task: a body that is dropped with its worker, at the end of a drain, is drained outside of the runtime.
    tokio::task::spawn_local(async move {
        let _ = tokio::time::timeout(TIME_MAX, throw_away(body)).await;
    });
}

async fn throw_away(mut body: Incoming) {
    let mut left = BYTES_MAX;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
}
