//! The queue under every order of threads that a scheduler draws: `queue.rs` is compiled here once more, over modelled locks and atomics.
//!
//! Covered: that the bound holds, that nobody waits for ever, and that a place given to a request which has left goes on. Not covered: weak memory
//! order (one thread runs at a time; the product orders these atomics sequentially), tokio's channel, and orders that are not drawn.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::duplicate_mod,
    reason = "the product's file, of which these tests use a part"
)]
#[path = "queue.rs"]
mod queue;

/// Stands in for `upstream::sync`.
mod sync {
    pub(super) use shuttle::sync::Mutex;
    pub(super) use shuttle::sync::MutexGuard;
    pub(super) use shuttle::sync::atomic::AtomicUsize;

    /// As much of a channel for one value as `queue` and its tests use.
    pub(super) mod oneshot {
        use std::pin::Pin;
        use std::task::Context;
        use std::task::Poll;

        use shuttle::sync::Arc;
        use shuttle::sync::Condvar;
        use shuttle::sync::Mutex;

        #[derive(Debug)]
        struct State<T> {
            value: Option<T>,
            sender_lives: bool,
            receiver_lives: bool,
        }

        #[derive(Debug)]
        struct Shared<T> {
            state: Mutex<State<T>>,
            changed: Condvar,
        }

        #[derive(Debug)]
        pub(in super::super) struct Sender<T>(Arc<Shared<T>>);

        #[derive(Debug)]
        pub(in super::super) struct Receiver<T>(Arc<Shared<T>>);

        pub(in super::super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let state = State {
                value: None,
                sender_lives: true,
                receiver_lives: true,
            };
            let shared = Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            });
            (Sender(Arc::clone(&shared)), Receiver(shared))
        }

        impl<T> Sender<T> {
            pub(in super::super) fn send(self, value: T) -> Result<(), T> {
                let mut state = self.0.state.lock().unwrap();
                if !state.receiver_lives {
                    return Err(value);
                }
                state.value = Some(value);
                Ok(())
            }
        }

        impl<T> Drop for Sender<T> {
            fn drop(&mut self) {
                self.0.state.lock().unwrap().sender_lives = false;
                self.0.changed.notify_all();
            }
        }

        impl<T> Receiver<T> {
            /// Waits for the value; `None` when nobody can send it any more.
            pub(in super::super) fn receive(&mut self) -> Option<T> {
                let mut state = self.0.state.lock().unwrap();
                while state.value.is_none() && state.sender_lives {
                    state = self.0.changed.wait(state).unwrap();
                }
                state.value.take()
            }
        }

        impl<T> Drop for Receiver<T> {
            fn drop(&mut self) {
                let left = {
                    let mut state = self.0.state.lock().unwrap();
                    state.receiver_lives = false;
                    state.value.take()
                };
                drop(left);
            }
        }

        /// The product awaits it; the model never does.
        impl<T> Future for Receiver<T> {
            type Output = Result<T, ()>;

            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
                Poll::Ready(Err(()))
            }
        }
    }
}

mod tests {
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::AtomicUsize;
    use shuttle::sync::atomic::Ordering;
    use shuttle::thread;

    use super::queue::Bounds;
    use super::queue::Gate;
    use super::queue::Line;
    use super::queue::Permit;
    use crate::model::tenant::TenantId;

    /// Orders drawn for each test; some are drawn anew with few switches in mind, which is where most mistakes show.
    const ORDERS: usize = 1_000;

    fn in_any_order(model: impl Fn() + Send + Sync + Clone + 'static) {
        shuttle::check_random(model.clone(), ORDERS);
        shuttle::check_pct(model, ORDERS, 3);
    }

    /// Gets in as a request does, waiting if need be.
    fn enter(gate: &Arc<Gate>, tenant: &str, bounds: Bounds) -> Option<Permit> {
        if let Some(permit) = gate.enter(bounds) {
            return Some(permit);
        }
        let id = TenantId::new(tenant).unwrap();
        match gate.stand_in_line(Some(&id), bounds) {
            Ok(Line::Through(permit)) => Some(permit),
            Ok(Line::Waiting(mut waiting)) => waiting.called.receive(),
            Err(_) => None,
        }
    }

    /// Stands in line, and leaves at once.
    fn look_in(gate: &Arc<Gate>, bounds: Bounds) {
        drop(gate.stand_in_line(None, bounds));
    }

    fn inside(count: &AtomicUsize, most: usize) {
        let now = count.fetch_add(1, Ordering::SeqCst);
        assert!(now < most, "{now}");
        thread::yield_now();
        count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Three requests after another on each of three threads, two at once; one thread also looks in and leaves. All get in.
    #[test]
    fn the_bound_holds_and_nobody_waits_for_ever() {
        in_any_order(|| {
            let bounds = Bounds {
                most: 2,
                waiting_max: 9,
            };
            let gate = Arc::new(Gate::default());
            let count = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = ["a", "b", "a"]
                .into_iter()
                .enumerate()
                .map(|(at, tenant)| {
                    let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
                    thread::spawn(move || {
                        for _ in 0..3 {
                            let permit =
                                enter(&gate, tenant, bounds).expect("there is room to wait");
                            inside(&count, 2);
                            drop(permit);
                            if at == 0 {
                                look_in(&gate, bounds);
                            }
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        });
    }

    /// With one place to wait, tenants push one another out; whoever is in the queue at the end gets in.
    #[test]
    fn who_makes_way_leaves_nobody_behind() {
        in_any_order(|| {
            let bounds = Bounds {
                most: 1,
                waiting_max: 2,
            };
            let gate = Arc::new(Gate::default());
            let count = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = ["a", "a", "a", "b"]
                .into_iter()
                .map(|tenant| {
                    let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
                    thread::spawn(move || {
                        if let Some(permit) = enter(&gate, tenant, bounds) {
                            inside(&count, 1);
                            drop(permit);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        });
    }
}
