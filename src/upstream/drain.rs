//! The rest of a request that was answered without being read: taken off the wire and thrown away, within bounds.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;

use crate::config::Connections;
use crate::upstream::client::ClientBody;

/// How much of a body is taken off the wire that was answered without it.
#[derive(Clone, Copy, Debug)]
pub struct Unread {
    /// Whether the client waits for a 100 before it sends.
    expects_continue: bool,
    /// Bytes that are thrown away before the connection (HTTP/2: the stream) is given up instead. A client that sends more learns of
    /// the answer by a close; one that sends less keeps its connection, and never sees a reset where an answer was (S5).
    bytes_max: u64,
    /// How long that may take.
    timeout: Duration,
}

impl Unread {
    /// What the configuration says, for a request with these headers.
    #[must_use]
    pub fn of(headers: &HeaderMap, bounds: &Connections) -> Unread {
        Unread {
            // By name: a hash costs more where it is not there, which is the usual case.
            expects_continue: headers.keys().any(|name| *name == EXPECT),
            bytes_max: bounds.unread_bytes_max,
            timeout: bounds.unread_timeout,
        }
    }

    /// The same after some of the body was read: a client that waited for a 100 has had it.
    pub(super) fn begun(self) -> Unread {
        Unread {
            expects_continue: false,
            ..self
        }
    }
}

/// Reads what is left of a body, in a task of its own; must be called on a worker. Reads nothing from a client that waits for a 100
/// before it sends (S6): once that client has its answer, what comes next may be the body or the next request, so its connection closes.
pub fn drain(body: ClientBody, unread: Unread) {
    if unread.expects_continue || unread.bytes_max == 0 || body.is_end_stream() {
        return;
    }
    // The timer is made inside the task: a body that is dropped with its worker, at the end of a drain, is drained outside of the runtime.
    tokio::task::spawn_local(async move {
        let _ = tokio::time::timeout(unread.timeout, throw_away(body, unread.bytes_max)).await;
    });
}

async fn throw_away(mut body: ClientBody, bytes_max: u64) {
    let mut left = bytes_max;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
}
