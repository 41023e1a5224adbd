//! Who begins to write a request: one for all that come at once.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::rc::Rc;
use std::rc::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use http::StatusCode;
use tokio::time::Instant;

use super::Connection;
use super::SharedConnection;
use crate::upstream::http1::Fault;
use crate::upstream::outbox;
use crate::upstream::outbox::Posted;

/// How far that is.
#[derive(Debug)]
pub(super) enum Post {
    /// It is not posted yet.
    Open,
    /// It waits, and this task for it.
    Waits(Waker),
    /// It is being written. Its task sees that only where that panicked.
    UnderWay,
    /// It was begun; what came of it that its task does not know yet.
    Begun(Option<Result<StatusCode, Fault>>),
}

/// Wakes a task when it is dropped, unless that was taken out.
struct Waking(Option<Waker>);

impl Connection {
    /// Has the request written together with others, and waits for the head of the answer, whose fields are then in `lines`.
    pub(crate) fn poll_answered(
        this: &SharedConnection,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StatusCode, Fault>> {
        let mut connection = this.borrow_mut();
        match &mut connection.post {
            Post::Open => {
                connection.post = Post::Waits(cx.waker().clone());
                let is_there = std::mem::replace(&mut connection.in_outbox, true);
                drop(connection);
                if !is_there {
                    let posted: Weak<RefCell<Connection>> = Rc::downgrade(this);
                    outbox::post(posted);
                }
                Poll::Pending
            }
            Post::Waits(task) => {
                task.clone_from(cx.waker());
                Poll::Pending
            }
            // The hook has told of it, where it happened.
            Post::UnderWay => resume_unwind(Box::new("a panic while this request was written")),
            Post::Begun(came) => match came.take() {
                Some(came) => Poll::Ready(came),
                None => connection.poll_head(cx),
            },
        }
    }

    /// Lets go of a request that is not begun, so that the connection is as good for the next one as it was; says whether it was one.
    pub(crate) fn forget_unbegun(&mut self) -> bool {
        match self.post {
            Post::Open | Post::Waits(_) => {
                self.post = Post::Begun(None);
                self.body = None;
                true
            }
            Post::UnderWay | Post::Begun(_) => false,
        }
    }

    /// Since when the backend may know of the request: since now at the earliest, as long as that waits to be written.
    pub(crate) fn begun(&self, now: Instant) -> Instant {
        match self.post {
            Post::Begun(_) => self.begun,
            Post::Open | Post::Waits(_) | Post::UnderWay => now,
        }
    }
}

impl Posted for Connection {
    fn go_on(&mut self, now: Instant) {
        self.in_outbox = false;
        self.post = match std::mem::replace(&mut self.post, Post::UnderWay) {
            Post::Waits(task) => {
                self.begun = now;
                let mut waking = Waking(None);
                let task = waking.0.insert(task);
                let asked = self.asking;
                match self.poll_head(&mut Context::from_waker(task)) {
                    Poll::Ready(came) => Post::Begun(Some(came)),
                    // The end of the request was read here: from now on its task is to look for a client that leaves (S38).
                    Poll::Pending if asked && !self.asking => Post::Begun(None),
                    Poll::Pending => {
                        waking.0 = None;
                        Post::Begun(None)
                    }
                }
            }
            other => other,
        };
    }

    fn give_back(&mut self) {
        self.in_outbox = false;
        self.post = match std::mem::replace(&mut self.post, Post::Open) {
            Post::Waits(task) => {
                task.wake();
                Post::Open
            }
            other => other,
        };
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.wake();
        }
    }
}
