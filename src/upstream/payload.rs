//! A client's body on its way over HTTP/2: sent as the server's windows allow, its beginning kept until it is clear that it need not be sent again.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::SendStream;
use http_body::Body;

use crate::upstream::body::BodyFault;
use crate::upstream::body::RequestBody;

/// The body of one request over all tries; shared by the exchange and the task that sends it.
#[derive(Debug)]
pub(super) struct Payload {
    body: RefCell<Box<RequestBody>>,
    /// All that was sent, as long as it is little and no answer has come.
    kept: RefCell<Vec<Bytes>>,
    kept_bytes: Cell<usize>,
    keeps: Cell<bool>,
}

impl Payload {
    pub(super) fn new(body: Box<RequestBody>) -> Rc<Payload> {
        Rc::new(Payload {
            body: RefCell::new(body),
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            keeps: Cell::new(true),
        })
    }

    /// Whether there is nothing to send, and never was.
    pub(super) fn is_none(&self) -> bool {
        self.has_ended() && self.kept.borrow().is_empty() && self.keeps.get()
    }

    /// Whether all of it can be sent once more.
    pub(super) fn can_be_sent_again(&self) -> bool {
        self.keeps.get()
    }

    /// An answer has begun: nothing will be sent again.
    pub(super) fn is_settled(&self) {
        self.keeps.set(false);
        self.kept.borrow_mut().clear();
    }

    fn has_ended(&self) -> bool {
        self.body.borrow().is_end_stream()
    }

    fn keep(&self, piece: &Bytes) {
        if !self.keeps.get() {
            return;
        }
        let bytes = self.kept_bytes.get() + piece.len();
        if bytes > KEPT_BYTES_MAX {
            self.is_settled();
            return;
        }
        self.kept_bytes.set(bytes);
        self.kept.borrow_mut().push(piece.clone());
    }

    /// Sends all of it, from its beginning. A body that breaks off ends in a reset, so that it does not look whole (S34).
    pub(super) async fn send(self: Rc<Payload>, mut stream: SendStream<Bytes>) {
        let again = self.kept.borrow().clone();
        for (index, piece) in again.iter().enumerate() {
            let last = index + 1 == again.len() && self.has_ended();
            if !send_piece(&mut stream, piece.clone(), last).await || last {
                return;
            }
        }
        while let Some(piece) = self.next(&mut stream).await {
            match piece {
                Ok(piece) => {
                    self.keep(&piece);
                    let last = self.has_ended();
                    if !send_piece(&mut stream, piece, last).await || last {
                        return;
                    }
                }
                Err(_) => return stream.send_reset(Reason::CANCEL),
            }
        }
        // Refused only where the stream is gone already.
        let _ = stream.send_data(Bytes::new(), true);
    }

    /// The next piece; `None` at the end, or when the server takes no more.
    async fn next(&self, stream: &mut SendStream<Bytes>) -> Option<Result<Bytes, BodyFault>> {
        poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            let mut body = self.body.borrow_mut();
            let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(cx));
            // Data or a fault: `RequestBody` drops trailers.
            Poll::Ready(frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())))
        })
        .await
    }
}

/// Sends one piece as the windows allow; whether the server took all of it.
async fn send_piece(stream: &mut SendStream<Bytes>, mut piece: Bytes, last: bool) -> bool {
    if piece.is_empty() {
        // An empty frame says nothing, unless that it is the last.
        return !last || stream.send_data(piece, true).is_ok();
    }
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        if !has_capacity(stream).await {
            return false;
        }
        let part = piece.split_to(stream.capacity().min(piece.len()));
        let end = last && piece.is_empty();
        if stream.send_data(part, end).is_err() {
            return false;
        }
    }
    true
}

/// Waits until the server takes at least a byte; `false` when it never will.
async fn has_capacity(stream: &mut SendStream<Bytes>) -> bool {
    poll_fn(|cx| {
        if stream.poll_reset(cx).is_ready() {
            return Poll::Ready(false);
        }
        while stream.capacity() == 0 {
            match std::task::ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(false),
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Bytes of a body that are kept for a second try. A gRPC call is seldom larger; what is, is sent once.
const KEPT_BYTES_MAX: usize = 64 * 1024;
