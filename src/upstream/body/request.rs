//! A client's body on its way to a backend.

use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http_body::Body;
use http_body::Frame;
use http_body::SizeHint;
use tokio::time::Instant;

use crate::upstream::body::BodyFault;
use crate::upstream::body::Upload;
use crate::upstream::client::ClientBody;
use crate::upstream::deadline::Silence;
use crate::upstream::drain::Unread;
use crate::upstream::drain::drain;
use crate::upstream::inject::Inject;

/// A client's body on its way to a backend: counted, capped, its silences bounded, its trailers dropped (S11, S43).
#[derive(Debug)]
pub(in crate::upstream) struct RequestBody {
    /// `None` once it has ended in whatever way.
    incoming: Option<ClientBody>,
    upload: Rc<Upload>,
    bytes_max: u64,
    silence: Silence,
    /// What becomes of the rest when it is left before its end.
    unread: Unread,
    /// Rewrites it, where the route's guard says so.
    inject: Option<Box<Inject>>,
    /// A piece that was counted and taken, and then not sent.
    again: Option<Bytes>,
}

impl RequestBody {
    /// Wraps the client's body.
    pub(in crate::upstream) fn new(
        incoming: ClientBody,
        upload: Rc<Upload>,
        bytes_max: u64,
        silence: Silence,
        unread: Unread,
    ) -> RequestBody {
        let ended = incoming.is_end_stream();
        upload.complete.set(ended);
        RequestBody {
            incoming: (!ended).then_some(incoming),
            upload,
            bytes_max,
            silence,
            unread,
            inject: None,
            again: None,
        }
    }

    /// Rewrites what comes on its way through.
    pub(in crate::upstream) fn rewrite(&mut self, inject: Box<Inject>) {
        self.inject = Some(inject);
        self.upload.complete.set(false);
    }

    /// Gives back the first piece, of which nothing was sent: it comes once more.
    pub(in crate::upstream) fn put_back(&mut self, piece: Bytes) {
        self.again = Some(piece);
    }

    /// Takes back what was read of it before anything was sent: it goes on from there.
    pub(in crate::upstream) fn begin_again(&mut self, read: BytesMut) {
        let ended = self.incoming.is_none();
        let inject = self.inject.get_or_insert_with(|| Inject::nothing(ended));
        inject.put_back(read);
        self.upload.complete.set(inject.length() == Some(0));
    }

    /// Whether it is being rewritten.
    pub(in crate::upstream) fn is_rewritten(&self) -> bool {
        self.inject.is_some()
    }

    /// Reads and rewrites until the whole body is there, whose length is then known, or as much of it as may be held.
    pub(in crate::upstream) fn poll_gather(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<u64>, BodyFault>> {
        loop {
            match &self.inject {
                Some(inject) if !inject.has_ended() && !inject.is_full() => {
                    ready!(self.poll_more(cx))?;
                }
                Some(inject) => {
                    let length = inject.length();
                    self.upload.complete.set(length == Some(0));
                    return Poll::Ready(Ok(length));
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// Rewrites one more piece of what the client sends, or its end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyFault>> {
        let frame = ready!(self.poll_plain(cx)).transpose()?;
        let data = frame.and_then(|frame| frame.into_data().ok());
        let Some(inject) = &mut self.inject else {
            return Poll::Ready(Ok(()));
        };
        let taken = match data {
            Some(data) => inject.feed(data),
            None => inject.finish(),
        };
        if taken.is_err() {
            let rest = self.incoming.take();
            if let Some(rest) = rest {
                drain(rest, self.unread.begun());
            }
            self.upload.fault.set(Some(BodyFault::Unfit));
            return Poll::Ready(Err(BodyFault::Unfit));
        }
        // The backend does not have what is ready here.
        self.upload.complete.set(false);
        Poll::Ready(Ok(()))
    }

    fn poll_rewritten(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            let Some(inject) = &mut self.inject else {
                return Poll::Ready(None);
            };
            let next = inject.next();
            if inject.has_ended() {
                self.upload.complete.set(true);
                self.upload.progressed.set(Some(Instant::now()));
            }
            if next.is_some() || inject.has_ended() {
                return Poll::Ready(next.map(|data| Ok(Frame::data(data))));
            }
            if let Err(fault) = ready!(self.poll_more(cx)) {
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    /// No body, for a request of our own.
    pub(in crate::upstream) fn none(
        upload: Rc<Upload>,
        silence: Silence,
        unread: Unread,
    ) -> RequestBody {
        upload.complete.set(true);
        RequestBody {
            incoming: None,
            upload,
            bytes_max: 0,
            silence,
            unread,
            inject: None,
            again: None,
        }
    }

    fn end(&mut self) {
        self.incoming = None;
        self.upload.complete.set(true);
        self.upload.progressed.set(Some(Instant::now()));
    }

    fn give_up(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let rest = self.incoming.take();
        if let Some(rest) = rest.filter(|_| fault == BodyFault::TooLarge) {
            drain(rest, self.unread.begun());
        }
        self.upload.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }

    fn take(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let bytes = self.upload.bytes.get().saturating_add(data.len() as u64);
        self.upload.bytes.set(bytes);
        if bytes > self.bytes_max {
            return self.give_up(BodyFault::TooLarge);
        }
        if self.silence.past_end() {
            return self.give_up(BodyFault::ClientStalled);
        }
        if self.incoming.as_ref().is_some_and(Body::is_end_stream) {
            self.end();
        } else {
            self.upload.progressed.set(Some(Instant::now()));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Drop for RequestBody {
    /// Left before its end: the backend failed, or answered early, or there was too much of it.
    fn drop(&mut self) {
        if let Some(rest) = self.incoming.take()
            && !self.upload.abandoned.get()
        {
            drain(rest, self.unread);
        }
    }
}

impl RequestBody {
    fn poll_plain(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self;
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        this.upload.awaits_client.set(polled.is_pending());
        let Poll::Ready(frame) = polled else {
            ready!(this.silence.poll_expired(cx));
            return this.give_up(BodyFault::ClientStalled);
        };
        this.silence.broken();
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => this.take(data),
                Err(_trailers) => {
                    this.end();
                    Poll::Ready(None)
                }
            },
            Some(Err(fault)) => this.give_up(fault.into()),
            None => {
                this.end();
                Poll::Ready(None)
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if let Some(piece) = self.again.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.inject {
            Some(_) => self.poll_rewritten(cx),
            None => self.poll_plain(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.again.is_some() {
            return false;
        }
        if let Some(inject) = &self.inject {
            return inject.length() == Some(0) && self.upload.fault.get().is_none();
        }
        // A body given up has not ended: claiming so would end the message towards the backend as if it were whole.
        self.incoming.is_none() && self.upload.fault.get().is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(inject) = &self.inject {
            let length = inject.length();
            return length.map_or_else(SizeHint::default, SizeHint::with_exact);
        }
        match &self.incoming {
            Some(incoming) => incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
