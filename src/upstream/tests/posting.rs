//! Requests that wait to be written, and what becomes of them meanwhile.

use std::cell::Cell;
use std::future::Future;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::config::Config;
use crate::upstream::BodySource;
use crate::upstream::ClientBody;
use crate::upstream::ClientFault;
use crate::upstream::Unread;
use crate::upstream::body::RequestBody;
use crate::upstream::deadline::Silence;
use crate::upstream::http1::Connection;
use crate::upstream::http1::Limits;
use crate::upstream::tests::GET;
use crate::upstream::tests::Gateway;
use crate::upstream::tests::OK;
use crate::upstream::tests::POST;
use crate::upstream::tests::SHORT;
use crate::upstream::tests::backend;
use crate::upstream::tests::run;
use crate::upstream::tests::taken;
use crate::upstream::wire::Wire;

/// A backend that answers whatever it is asked.
async fn willing() -> SocketAddr {
    backend(|_, mut wire| async move {
        while wire.maybe_head().await {
            wire.send(OK).await;
        }
    })
    .await
}

/// Asks once, and gives nobody else a turn.
async fn is_pending<F: Future>(mut asked: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_pending())).await
}

/// S38: a request is written after others have had their turn, and not if nobody waits for its answer any more by then.
#[test]
fn who_has_left_by_his_turn_is_not_written() {
    run(async {
        let heard = Rc::new(Cell::new(None));
        let hearing = Rc::clone(&heard);
        let closed = Rc::new(Notify::new());
        let closing = Rc::clone(&closed);
        let server = backend(move |_, mut wire| {
            let (hearing, closing) = (Rc::clone(&hearing), Rc::clone(&closing));
            async move {
                wire.head().await;
                wire.send(OK).await;
                hearing.set(Some(wire.maybe_head().await));
                closing.notify_one();
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let (head, body, _wire) = taken(GET).await;
        let mut leaving = Box::pin(gateway.forward(head, body));
        // However often it is asked.
        for _ in 0..2 {
            assert!(is_pending(leaving.as_mut()).await);
        }
        drop(leaving);
        closed.notified().await;
        assert_eq!(heard.get(), Some(false));
    });
}

/// A worker that has no time for a request does not charge that to the backend.
#[test]
fn the_wait_for_a_turn_is_not_the_backends() {
    run(async {
        let server = willing().await;
        let patience = Duration::from_millis(200);
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.first_byte_timeout = patience;
        });
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let (head, body, _wire) = taken(GET).await;
        let mut asking = Box::pin(gateway.forward(head, body));
        // Asked at first, in the middle, and when all of its time has passed.
        for _ in 0..3 {
            assert!(is_pending(asking.as_mut()).await);
            std::thread::sleep(patience * 2 / 3);
        }
        assert_eq!(asking.await.unwrap().response.status(), 200);
    });
}

/// An answer that is there before its request is written is seen at once, though nothing else comes that would tell of it.
#[test]
fn what_came_of_a_request_when_it_was_written_is_told() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut far = listener.accept().await.unwrap().0;
        far.write_all(OK.as_bytes()).await.unwrap();
        near.readable().await.unwrap();
        let limits = Limits {
            head_bytes_max: 1024,
            header_count_max: 10,
        };
        let connection = Connection::new(Wire::Clear(near), limits);
        let (head, _, _wire) = taken(GET).await;
        let silence = Silence::new(SHORT, None);
        let unread = Unread::of(&head.headers, &Config::for_tests("").connections);
        let body = RequestBody::new(ClientBody::none(), Rc::default(), 0, silence, unread);
        (connection.borrow_mut()).begin(&head, None, Box::new(body));
        let asking = Rc::clone(&connection);
        // A task of its own, which is asked when it is woken and not else.
        let task = tokio::task::spawn_local(async move {
            poll_fn(|cx| Connection::poll_answered(&asking, cx)).await
        });
        assert_eq!(task.await.unwrap().unwrap(), 200);
        assert!(!connection.borrow().is_sending());
    });
}

/// A body that panics while its request is written beside others takes its own task with it, and nobody else's; it is not asked again.
#[test]
fn a_panic_at_the_write_is_its_own_requests() {
    run(async {
        let server = willing().await;
        let gateway = Gateway::plain(&[server]);
        // Two connections that are there already, so that both are written at once.
        let (one, two) = tokio::join!(gateway.ask(GET), gateway.ask(GET));
        assert!(one.ends_with("ok") && two.ends_with("ok"));
        let (bad, _, _bad_wire) = taken(POST).await;
        let (good, body, _good_wire) = taken(GET).await;
        let bad = {
            let gateway = gateway.clone();
            tokio::task::spawn_local(async move {
                let body = ClientBody::http1(Box::new(Panicking(false)));
                gateway.forward(bad, body).await.map(drop)
            })
        };
        let good = tokio::task::spawn_local(async move { gateway.forward(good, body).await });
        let (bad, good) = tokio::join!(bad, good);
        assert!(bad.is_err_and(|error| error.is_panic()));
        assert_eq!(good.unwrap().unwrap().response.status(), 200);
    });
}

/// Panics when it is asked first, and has ended when it is asked again.
#[derive(Debug)]
struct Panicking(bool);

impl BodySource for Panicking {
    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>> {
        assert!(std::mem::replace(&mut self.0, true), "a body that panics");
        Poll::Ready(None)
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn length(&self) -> Option<u64> {
        None
    }
}
