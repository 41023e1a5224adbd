//! Requests' bodies, and clients that stall or leave.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::upstream::Outcome;
use crate::upstream::tests::GET_KEPT;
use crate::upstream::tests::Gateway;
use crate::upstream::tests::OK;
use crate::upstream::tests::SHORT;
use crate::upstream::tests::backend;
use crate::upstream::tests::run;

#[test]
fn a_body_larger_than_allowed_is_stopped() {
    run(async {
        let contacts = Rc::new(Cell::new(0));
        let counted = Rc::clone(&contacts);
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            async move {
                wire.rest().await;
            }
        })
        .await;
        let gateway = Gateway::new(&[server], |config, _| config.http.body_bytes_max = 8);
        let announced = "POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 9\r\nConnection: close\r\n\r\n123456789";
        let answer = gateway.ask(announced).await;
        assert!(answer.contains("BodyTooLarge"), "{answer}");
        assert_eq!(contacts.get(), 0);
        let chunked = "POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n9\r\n123456789\r\n0\r\n\r\n";
        let answer = gateway.ask(chunked).await;
        assert!(answer.contains("BodyTooLarge"), "{answer}");
        assert_eq!(contacts.get(), 1);
    });
}

#[test]
fn a_client_that_stalls_or_breaks_its_framing_is_told_apart_from_a_slow_backend() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.rest().await;
        })
        .await;
        let gateway = Gateway::new(&[server], |config, upstream| {
            config.connections.stall_timeout = 2 * SHORT;
            upstream.first_byte_timeout = SHORT;
        });
        let head = "POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let answer = gateway.ask(&format!("{head}2\r\nab\r\n")).await;
        assert!(answer.contains("ClientStalled"), "{answer}");
        let answer = gateway.ask(&format!("{head}2\r\nab\r\nzz\r\n")).await;
        assert!(answer.contains("BodyMalformed"), "{answer}");
    });
}

#[test]
fn bodies_are_framed_once_and_without_trailers() {
    let cases = [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close, content-length\r\n\r\nhello",
            "content-length: 5\r\n",
            "hello",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-tenant-id\r\nConnection: close\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Tenant-Id: evil\r\n\r\n",
            "transfer-encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "transfer-encoding: chunked\r\n",
            "2\r\nhi\r\n0\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "content-length: 0\r\n",
            "",
        ),
    ];
    for (request, framing, body) in cases {
        run(async move {
            let server = backend(move |_, mut wire| async move {
                let head = wire.head().await;
                let framings = head.matches("content-length:").count()
                    + head.matches("transfer-encoding:").count();
                let seen = if body.is_empty() {
                    String::new()
                } else {
                    wire.until(body).await
                };
                let verdict = if head.contains(framing)
                    && framings == 1
                    && seen == body
                    && !head.contains("trailer")
                {
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()
                } else {
                    format!(
                        "HTTP/1.1 500 Bad\r\nX: {:?}\r\nContent-Length: 0\r\n\r\n",
                        head
                    )
                };
                wire.send(&verdict).await;
            })
            .await;
            let answer = Gateway::plain(&[server]).ask(request).await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{request:?} gave {answer}"
            );
        });
    }
}

#[test]
fn an_early_answer_is_relayed_and_its_connection_not_kept() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            async move {
                wire.head().await;
                wire.send(OK).await;
                wire.rest().await;
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        let mut wire = gateway.connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 4\r\n\r\nab")
            .await;
        wire.until("ok").await;
        wire.send("cd").await;
        wire.send(GET_KEPT).await;
        wire.until("ok").await;
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let answers = ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"];
    for answer in answers {
        run(async move {
            let arrived = Rc::new(Notify::new());
            let closed = Rc::new(Notify::new());
            let (arriving, closing) = (Rc::clone(&arrived), Rc::clone(&closed));
            let server = backend(move |_, mut wire| {
                let (arriving, closing) = (Rc::clone(&arriving), Rc::clone(&closing));
                async move {
                    wire.head().await;
                    wire.send(answer).await;
                    arriving.notify_one();
                    wire.rest().await;
                    closing.notify_one();
                }
            })
            .await;
            let gateway = Gateway::plain(&[server]);
            let mut wire = gateway.connect().await;
            wire.send(GET_KEPT).await;
            arrived.notified().await;
            if !answer.is_empty() {
                wire.until("short").await;
            }
            drop(wire);
            closed.notified().await;
            if !answer.is_empty() {
                assert_eq!(gateway.outcome().await, Outcome::Unfinished);
            }
        });
    }
}

#[test]
fn interim_continue_is_sent_when_the_backend_takes_the_body() {
    run(async {
        let server = backend(|_, mut wire| async move {
            let head = wire.head().await;
            assert!(!head.contains("expect"), "{head}");
            wire.until("body").await;
            wire.send(OK).await;
        })
        .await;
        let mut wire = Gateway::plain(&[server]).connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(wire.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        wire.send("body").await;
        assert!(wire.rest().await.ends_with("ok"));
    });
}

#[test]
fn a_backend_that_stops_reading_is_a_response_timeout() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.head().await;
            std::future::pending::<()>().await;
        })
        .await;
        let gateway = Gateway::new(&[server], |config, upstream| {
            upstream.first_byte_timeout = SHORT;
            config.http.body_bytes_max = u64::MAX;
        });
        let mut wire = gateway.connect().await;
        wire.send(
            "POST /leases HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100000000\r\n\r\n",
        )
        .await;
        let piece = "x".repeat(1 << 20);
        let (mut reading, mut writing) = wire.stream.split();
        let mut answer = Vec::new();
        let read = async {
            while !answer.ends_with(b"in time") {
                reading.read_buf(&mut answer).await.unwrap();
            }
        };
        let write = async {
            while writing.write_all(piece.as_bytes()).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
    });
}

#[test]
fn the_backends_time_does_not_run_while_the_client_is_uploading() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.until("cd").await;
            wire.send(OK).await;
        })
        .await;
        // Enough for the backend to answer in on a busy machine.
        let time = 8 * SHORT;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.first_byte_timeout = time);
        let mut wire = gateway.connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
            .await;
        // Not a wait for something: the pause is what is tested.
        tokio::time::sleep(2 * time).await;
        wire.send("cd").await;
        let answer = wire.rest().await;
        assert!(answer.ends_with("ok"), "{answer}");
    });
}

#[test]
fn an_upload_cut_by_the_client_is_cut_for_the_backend() {
    run(async {
        let seen = Rc::new(RefCell::new(None));
        let (record, noticed) = (Rc::clone(&seen), Rc::new(Notify::new()));
        let cut = Rc::clone(&noticed);
        let server = backend(move |_, mut wire| {
            let (record, noticed) = (Rc::clone(&record), Rc::clone(&noticed));
            async move {
                wire.head().await;
                *record.borrow_mut() = Some(wire.rest().await);
                noticed.notify_one();
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        let mut wire = gateway.connect().await;
        wire.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
            .await;
        drop(wire);
        cut.notified().await;
        let seen = seen.borrow_mut().take().unwrap();
        assert!(!seen.contains("0\r\n\r\n"), "{seen}");
    });
}
