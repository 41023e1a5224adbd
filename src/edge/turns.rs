//! Turns of connections that have not finished their handshake: a few at a time, so that requests need not wait until a hundred have begun or ended.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use tokio::task::spawn_local;
use tokio::task::yield_now;

/// The turns of one worker. Holds a waker for each connection that waits for one.
#[derive(Debug)]
pub(super) struct Turns {
    left: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
    /// Whether somebody is at work who gives out new turns.
    ushered: Cell<bool>,
}

impl Turns {
    pub(super) fn new() -> Rc<Turns> {
        Rc::new(Turns {
            left: Cell::new(AT_ONCE),
            waiting: RefCell::default(),
            ushered: Cell::new(false),
        })
    }

    /// The same future, each step of which takes a turn (S22, S25): everybody else on this worker gets one after every few.
    pub(super) async fn step<F: Future>(self: Rc<Self>, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(move |cx| match self.take(cx) {
            true => future.as_mut().poll(cx),
            false => Poll::Pending,
        })
        .await
    }

    fn take(self: &Rc<Self>, cx: &Context<'_>) -> bool {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            return true;
        }
        self.waiting.borrow_mut().push_back(cx.waker().clone());
        if !self.ushered.replace(true) {
            spawn_local(Rc::clone(self).usher());
        }
        false
    }

    async fn usher(self: Rc<Self>) {
        loop {
            yield_now().await;
            self.left.set(AT_ONCE);
            let next: Vec<Waker> = {
                let mut waiting = self.waiting.borrow_mut();
                let count = waiting.len().min(AT_ONCE);
                waiting.drain(..count).collect()
            };
            if next.is_empty() {
                break;
            }
            next.into_iter().for_each(Waker::wake);
        }
        self.ushered.set(false);
    }
}

/// Steps before everybody else gets a turn: the most that a request waits for, some hundred microseconds where each is a signature.
const AT_ONCE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    use std::pin::pin;

    use tokio::task::LocalSet;

    /// A hundred that are ready at once step four at a time, all of them come to their end, and the others' turns lie between.
    #[tokio::test]
    async fn others_get_a_turn_after_every_few_steps() {
        let order = Rc::new(RefCell::new(Vec::new()));
        let turns = Turns::new();
        LocalSet::new()
            .run_until(async {
                let steps: Vec<_> = (0..100)
                    .map(|_| {
                        let order = Rc::clone(&order);
                        let turns = Rc::clone(&turns);
                        spawn_local(async move {
                            let step = pin!(async move { order.borrow_mut().push('s') });
                            turns.step(step).await;
                        })
                    })
                    .collect();
                let other = Rc::clone(&order);
                let other = spawn_local(async move {
                    for _ in 0..200 {
                        other.borrow_mut().push('o');
                        yield_now().await;
                    }
                });
                for step in steps {
                    step.await.unwrap();
                }
                other.await.unwrap();
            })
            .await;
        let order: String = order.borrow().iter().collect();
        assert_eq!(order.matches('s').count(), 100);
        let longest = order.split('o').map(str::len).max();
        assert!(longest <= Some(AT_ONCE), "{order}");
    }
}
