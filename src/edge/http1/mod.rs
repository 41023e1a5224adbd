//! HTTP/1.1 with one client: a request at a time, read strictly, answered, and the next; until either side has had enough.
//!
//! `head` and `reading` take what a client writes, `answer` writes what it gets, `talk` is the connection that both go through; here is their order. No channel
//! stands between a request and its body or its answer.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use http::Method;
use http::Response;
use http::StatusCode;
use http::Version;
use http_body_util::Empty;

use crate::gate::Peer;
use crate::handler::Answered;
use crate::handler::in_flight::Carrier;
use crate::handler::turn_was_taken;
use crate::handler::watch_turns;
use crate::upstream::ClientBody;
use crate::upstream::ClientRequest;
use crate::upstream::ClientStream;

use super::client::Client;
use super::client::UnderWay;
use answer::Asked;
use head::Head;
use head::Limits;
use head::Unfit;
pub(super) use incoming::Incoming;
use talk::Broken;
use talk::Talk;
use talk::Upload;
use talk::poll_answer;

mod answer;
pub(super) mod head;
mod incoming;
#[cfg(any(test, fuzzing))]
pub(super) mod properties;
mod reading;
pub(super) mod spare;
mod talk;
#[cfg(test)]
mod tests;

/// One connection from its first request to its end.
pub(super) struct Serving<'a, T: Incoming, H, F, B> {
    talk: Rc<RefCell<Talk<T>>>,
    client: &'a Rc<Client>,
    limits: Limits,
    /// Off, one request is answered and the connection closed.
    keep_alive: bool,
    peer: Peer,
    handle: H,
    stage: Stage<F, B>,
}

/// What is waited for.
enum Stage<F, B> {
    /// A request.
    Waiting,
    /// The head of its answer.
    Handling(Handling<F>),
    /// The client to take an answer, or more of that answer. On the heap: few answers wait, and a quiet connection has no room for one.
    Answering(Box<Answer<B>>),
    /// The end of a request that was answered before it, which somebody else reads.
    Resting,
    /// The client to take our last bytes.
    Closing,
    /// Nothing more.
    Over,
}

struct Handling<F> {
    /// On the heap: a quiet connection has no room for it.
    answer: Pin<Box<F>>,
    under_way: UnderWay,
    asked: Asked,
    keeps_alive: bool,
}

struct Answer<B> {
    /// Dropped before the request ends with what follows.
    body: B,
    _under_way: UnderWay,
    then: Then,
}

/// What comes behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Next,
    Close,
    /// Another protocol.
    Switch,
}

impl<'a, T, H, F, B> Serving<'a, T, H, F, B>
where
    T: Incoming,
    H: Fn(Peer, Rc<dyn Carrier>, ClientRequest) -> F,
    F: Future<Output = Response<B>>,
    B: Answered + Unpin,
{
    pub(super) fn new(
        io: T,
        client: &'a Rc<Client>,
        limits: Limits,
        keep_alive: bool,
        peer: Peer,
        handle: H,
    ) -> Serving<'a, T, H, F, B> {
        Serving {
            talk: Rc::new(RefCell::new(Talk::new(io))),
            client,
            limits,
            keep_alive,
            peer,
            handle,
            stage: Stage::Waiting,
        }
    }

    /// Goes on as far as it can; done when HTTP on the connection has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.stage {
                Stage::Waiting => ready!(self.poll_request(cx)),
                Stage::Handling(_) => ready!(self.poll_handler(cx)),
                Stage::Answering(_) => ready!(self.poll_answer(cx)),
                Stage::Resting => ready!(self.poll_rest(cx)),
                Stage::Closing => {
                    ready!(self.talk.borrow_mut().poll_close(cx));
                    self.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(()),
            }
        }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut talk = self.talk.borrow_mut();
        if talk.is_quiet() && self.client.is_finishing() {
            drop(talk);
            self.stage = Stage::Closing;
            return Poll::Ready(());
        }
        let head = ready!(talk.poll_head(cx, &self.limits));
        let is_quiet = talk.is_quiet();
        drop(talk);
        let head = match head {
            Ok(Some(lines)) => head::parse(&lines, &self.limits).map(Some),
            Ok(None) => Ok(None),
            Err(unfit) => Err(unfit),
        };
        self.stage = match head {
            Ok(Some(head)) => Stage::Handling(self.begin(head)),
            Ok(None) if is_quiet => Stage::Closing,
            // It closed in the middle of a head.
            Ok(None) => Stage::Over,
            Err(unfit) => {
                self.refuse(unfit);
                Stage::Closing
            }
        };
        Poll::Ready(())
    }

    fn begin(&self, head: Head) -> Handling<F> {
        self.talk.borrow_mut().expect(&head);
        let under_way = UnderWay::begin(self.client);
        let body = match self.talk.borrow().has_read() {
            true => ClientBody::none(),
            false => ClientBody::http1(Box::new(Upload(Rc::clone(&self.talk)))),
        };
        let body = match head.upgrades {
            true => body.switching(),
            false => body,
        };
        let asked = Asked {
            head_only: head.parts.method == Method::HEAD,
            is_old: head.parts.version == Version::HTTP_10,
            takes_trailers: head.takes_trailers,
        };
        let request = ClientRequest {
            head: head.parts,
            body,
        };
        // Room first, so that the future is made where it stays.
        let room = Box::new_uninit();
        let answer = (self.handle)(self.peer, under_way.carrier(), request);
        Handling {
            answer: Box::into_pin(Box::write(room, answer)),
            under_way,
            asked,
            keeps_alive: head.keeps_alive,
        }
    }

    /// Answers what is no request: with its status alone, since nobody knows who asks for what.
    fn refuse(&self, unfit: Unfit) {
        self.client.breaks_rules();
        tracing::debug!(?unfit, "a client's request is none");
        let mut answer = Response::new(Empty::<Bytes>::new());
        *answer.status_mut() = unfit.status();
        let (head, mut body) = answer.into_parts();
        let tick = self.client.progress.now();
        let mut talk = self.talk.borrow_mut();
        talk.begin(&head, &mut body, Asked::default(), true, tick);
    }

    fn poll_handler(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Handling(handling) = &mut self.stage else {
            return Poll::Ready(());
        };
        watch_turns();
        let Poll::Ready(response) = handling.answer.as_mut().poll(cx) else {
            if turn_was_taken() {
                return Poll::Pending;
            }
            return self.poll_gone(cx);
        };
        let Stage::Handling(handling) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Poll::Ready(());
        };
        let (head, mut body) = response.into_parts();
        let is_last = !(handling.keeps_alive && self.keep_alive)
            || handling.under_way.is_last()
            || self.client.is_finishing();
        let tick = self.client.progress.now();
        let is_last =
            (self.talk.borrow_mut()).begin(&head, &mut body, handling.asked, is_last, tick);
        let then = match head.status {
            StatusCode::SWITCHING_PROTOCOLS => Then::Switch,
            _ if is_last => Then::Close,
            _ => Then::Next,
        };
        spare::keep_fields(head.headers);
        match poll_answer(&self.talk, cx, &mut body) {
            Poll::Ready(result) => {
                drop(body);
                drop(handling.under_way);
                self.answered(result, then);
            }
            Poll::Pending => {
                self.stage = Stage::Answering(Box::new(Answer {
                    body,
                    _under_way: handling.under_way,
                    then,
                }));
            }
        }
        Poll::Ready(())
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Answering(answer) = &mut self.stage else {
            return Poll::Ready(());
        };
        let Poll::Ready(result) = poll_answer(&self.talk, cx, &mut answer.body) else {
            return self.poll_gone(cx);
        };
        let then = answer.then;
        self.stage = Stage::Over;
        self.answered(result, then);
        Poll::Ready(())
    }

    /// Gives up what is under way when the client has gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.talk.borrow_mut().poll_gone(cx));
        self.stage = Stage::Over;
        Poll::Ready(())
    }

    fn answered(&mut self, result: Result<(), Broken>, then: Then) {
        let mut talk = self.talk.borrow_mut();
        if talk.is_malformed() {
            self.client.breaks_rules();
        }
        self.stage = match (result, then) {
            // Not closed in order: it must look cut (S34).
            (Err(broken), _) => {
                tracing::debug!(?broken, "an answer broke off");
                Stage::Over
            }
            (Ok(()), Then::Switch) => {
                if let Some((io, early)) = talk.let_go() {
                    self.client
                        .hand_back(ClientStream::new(Box::new(io), early));
                }
                Stage::Over
            }
            (Ok(()), Then::Close) => Stage::Closing,
            (Ok(()), Then::Next) => {
                talk.rest();
                match talk.has_read() {
                    true => Stage::Waiting,
                    false => Stage::Resting,
                }
            }
        };
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut talk = self.talk.borrow_mut();
        ready!(talk.poll_read_by_others(cx));
        if talk.is_malformed() {
            self.client.breaks_rules();
        }
        self.stage = match talk.is_lost() {
            true => Stage::Closing,
            false => {
                // What came until now was not the next head.
                if talk.is_quiet() {
                    self.client.progress.forget_reads();
                }
                Stage::Waiting
            }
        };
        Poll::Ready(())
    }
}

impl<T: Incoming, H, F, B> Drop for Serving<'_, T, H, F, B> {
    /// Whoever still reads a body holds the connection, too: it ends now, and not when they notice.
    fn drop(&mut self) {
        drop(self.talk.borrow_mut().let_go());
    }
}
