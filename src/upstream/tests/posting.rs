//! Requests that wait to be written, and what becomes of them meanwhile.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::Config;
use crate::upstream::BodySource;
use crate::upstream::ClientBody;
use crate::upstream::ClientFault;
use crate::upstream::Unread;
use crate::upstream::body::RequestBody;
use crate::upstream::deadline::Silence;
use crate::upstream::http1::Connection;
use crate::upstream::http1::Limits;
use crate::upstream::outbox;
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
        while wire.maybe_head().await.is_some() {
            wire.send(OK).await;
        }
    })
    .await
}

/// Asks once, and gives nobody else a turn.
async fn is_pending<F: Future>(mut asked: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_pending())).await
}

/// S38, S20: a request is written after others have had their turn, and not if nobody waits for its answer any more by then. Its connection is the next
/// one's, who may come before that turn.
#[test]
fn who_has_left_by_his_turn_is_not_written_and_leaves_his_connection() {
    run(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let hearing = Rc::clone(&heard);
        let server = backend(move |number, mut wire| {
            let hearing = Rc::clone(&hearing);
            async move {
                while let Some(head) = wire.maybe_head().await {
                    let (line, _) = head.split_once("\r\n").unwrap();
                    hearing.borrow_mut().push((number, line.to_owned()));
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        for (left, at_once) in [(GET, true), (GET, false), (WITH_BODY, true), (POST, false)] {
            let (left, left_body, _left_wire) = taken(&left.replace("/leases", "/left")).await;
            let (head, body, _wire) = taken(GET).await;
            let mut leaving = Box::pin(gateway.forward(left, left_body));
            // However often it is asked.
            for _ in 0..2 {
                assert!(is_pending(leaving.as_mut()).await);
            }
            drop(leaving);
            if !at_once {
                tokio::task::yield_now().await;
            }
            let answer = gateway.forward(head, body).await.unwrap().response;
            let answer = answer.into_body().collect().await.unwrap();
            assert_eq!(answer.to_bytes(), "ok");
        }
        let asked = (0, "GET /leases HTTP/1.1".to_owned());
        assert_eq!(*heard.borrow(), vec![asked; 5]);
    });
}

/// S20: neither does a connection that is kept hold on to what it was to send, whose client's stream counts until then.
#[test]
fn who_has_left_by_his_turn_leaves_nothing_behind() {
    run(async {
        let gateway = Gateway::plain(&[willing().await]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let (head, _, _wire) = taken(POST).await;
        let held = Rc::new(());
        let body = ClientBody::http1(Box::new(Empty {
            _held: Rc::clone(&held),
        }));
        let mut leaving = Box::pin(gateway.forward(head, body));
        assert!(is_pending(leaving.as_mut()).await);
        assert_eq!(Rc::strong_count(&held), 2);
        drop(leaving);
        // Its rest is read first, if there is one.
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&held), 1);
    });
}

/// S20: however many leave before their turn, those behind them do not wait for that.
#[test]
fn who_leaves_by_his_turn_again_and_again_is_nobodys_turn() {
    run(async {
        let gateway = Gateway::plain(&[willing().await]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let mut taken_in = Vec::new();
        for _ in 0..100 {
            taken_in.push(taken(GET).await);
        }
        for (head, body, _wire) in taken_in {
            let mut leaving = Box::pin(gateway.forward(head, body));
            assert!(is_pending(leaving.as_mut()).await);
        }
        assert_eq!(outbox::waiting(), 1);
    });
}

/// S35: what was not used is kept no longer for it; the backend may let go of it at that time.
#[test]
fn who_has_left_by_his_turn_does_not_keep_his_connection_young() {
    run(async {
        let accepted = Rc::new(Cell::new(0));
        let accepting = Rc::clone(&accepted);
        let server = backend(move |number, mut wire| {
            accepting.set(number + 1);
            async move {
                while wire.maybe_head().await.is_some() {
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.pool_idle_timeout = SHORT;
        });
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let since = Instant::now();
        while since.elapsed() < SHORT {
            let (head, body, _wire) = taken(GET).await;
            let mut leaving = Box::pin(gateway.forward(head, body));
            assert!(is_pending(leaving.as_mut()).await);
        }
        assert!(gateway.ask(GET).await.ends_with("ok"));
        assert_eq!(accepted.get(), 2);
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

/// Ends when it is asked.
#[derive(Debug)]
struct Empty {
    _held: Rc<()>,
}

impl BodySource for Empty {
    fn poll_data(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>> {
        Poll::Ready(None)
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn length(&self) -> Option<u64> {
        None
    }
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

const WITH_BODY: &str = "POST /leases HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
