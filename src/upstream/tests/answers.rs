//! Answers: passed on, refused, cut, timed out.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::config::HostHeader;
use crate::upstream::Outcome;
use crate::upstream::tests::GET;
use crate::upstream::tests::Gateway;
use crate::upstream::tests::OK;
use crate::upstream::tests::SHORT;
use crate::upstream::tests::answering;
use crate::upstream::tests::backend;
use crate::upstream::tests::run;

#[test]
fn the_backend_sees_a_clean_head_with_our_headers() {
    run(async {
        let seen = Rc::new(RefCell::new(String::new()));
        let record = Rc::clone(&seen);
        let server = backend(move |_, mut wire| {
            let record = Rc::clone(&record);
            async move {
                *record.borrow_mut() = wire.head().await;
                wire.send(OK).await;
            }
        })
        .await;
        let answer = Gateway::plain(&[server])
            .ask("GET /a%20b?q=1;2 HTTP/1.1\r\nHost: api.example\r\nConnection: close, X-Tenant-Id\r\nX_Tenant_ID: evil\r\nX-Tenant-Id: evil\r\nAccept: */*\r\n\r\n")
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("cache-control: private\r\n"), "{answer}");
        let seen = seen.borrow();
        let mut lines: Vec<&str> = seen.trim_end().split("\r\n").collect();
        lines[1..].sort_unstable();
        assert_eq!(
            lines,
            [
                "GET /a%20b?q=1;2 HTTP/1.1",
                "accept: */*",
                "host: api.example",
                "via: 1.1 portcullis",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: api.example",
                "x-forwarded-port: 8443",
                "x-forwarded-proto: https",
                "x-request-id: request-1",
                "x-tenant-id: acme",
            ]
        );
    });
}

#[test]
fn a_silent_backend_is_a_response_timeout() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.rest().await;
        })
        .await;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.first_byte_timeout = SHORT);
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
        // The total also holds the connection and the head: on a busy machine a short one would be over before the body began.
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.total_timeout = Some(Duration::from_secs(2));
        });
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
    });
}

#[test]
fn what_is_not_http_is_refused() {
    let cases = [
        ("garbage\r\n\r\n", "ProtocolError"),
        (
            "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
            "ProtocolError",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "UpgradeFailed",
        ),
        ("HTTP/1.1 200 OK\r\nContent-", "ConnectionTerminated"),
        ("", "ConnectionTerminated"),
    ];
    for (text, expected) in cases {
        run(async move {
            let server = answering(text).await;
            let answer = Gateway::plain(&[server]).ask(GET).await;
            let expected = format!("Backend({expected})");
            assert!(answer.contains(&expected), "{text:?} gave {answer}");
        });
    }
}

#[test]
fn an_oversized_answer_head_is_refused() {
    for text in [
        "X: y\r\n".repeat(101),
        format!("X: {}\r\n", "y".repeat(9000)),
    ] {
        run(async move {
            let server = backend(move |_, mut wire| {
                let text = text.clone();
                async move {
                    wire.head().await;
                    wire.send(&format!(
                        "HTTP/1.1 200 OK\r\n{text}Content-Length: 0\r\n\r\n"
                    ))
                    .await;
                    wire.rest().await;
                }
            })
            .await;
            let answer = Gateway::plain(&[server]).ask(GET).await;
            assert!(answer.contains("Backend(HeadTooLarge)"), "{answer}");
        });
    }
}

#[test]
fn interim_answers_are_dropped_and_bounded() {
    run(async {
        let server = answering("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let answer = Gateway::plain(&[server]).ask(GET).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let server = backend(|_, mut wire| async move {
            wire.head().await;
            let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
            while wire.stream.write_all(interim).await.is_ok() {}
        })
        .await;
        let answer = Gateway::plain(&[server]).ask(GET).await;
        assert!(answer.contains("Backend(ProtocolError)"), "{answer}");
    });
}

#[test]
fn an_answer_cut_short_is_cut_for_the_client_too() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nbad\r\n",
    ];
    for text in cases {
        run(async move {
            let server = answering(text).await;
            let gateway = Gateway::plain(&[server]);
            let answer = gateway.ask(GET).await;
            assert!(answer.contains("short"), "{text:?} gave {answer}");
            assert!(!answer.contains("\r\n0\r\n"), "{text:?} gave {answer}");
            assert_eq!(gateway.outcome().await, Outcome::BrokeOff, "{text:?}");
        });
    }
}

#[test]
fn a_reset_in_the_body_is_cut_for_the_client_too() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\n\r\nhello").await;
            // Closing with unread bytes or without lingering resets; this asks for the reset.
            socket2::SockRef::from(&wire.stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        let answer = gateway.ask(GET).await;
        assert!(!answer.contains("\r\n0\r\n"), "{answer}");
    });
}

#[test]
fn a_body_without_a_length_ends_with_the_connection() {
    run(async {
        let server = answering("HTTP/1.0 200 OK\r\nServer: old\r\n\r\nhello").await;
        let gateway = Gateway::plain(&[server]);
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("server: old\r\n"), "{answer}");
        assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{answer}");
        assert_eq!(gateway.outcome().await, Outcome::Completed);
    });
}

#[test]
fn a_body_that_falls_silent_is_cut() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
                .await;
            wire.rest().await;
        })
        .await;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.idle_timeout = SHORT);
        assert!(gateway.ask(GET).await.ends_with("short"));
        assert_eq!(gateway.outcome().await, Outcome::TimedOut);
        // The total also holds the connection and the head: on a busy machine a short one would be over before the body began.
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.total_timeout = Some(Duration::from_secs(2));
        });
        assert!(gateway.ask(GET).await.ends_with("short"));
        assert_eq!(gateway.outcome().await, Outcome::TimedOut);
    });
}

#[test]
fn trailers_reach_a_client_that_asked_for_them_without_the_tenant() {
    run(async {
        let server = answering("HTTP/1.1 200 OK\r\nTrailer: X-Sum, X-Tenant-Id\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nX-Tenant-Id: acme\r\nX-Tenant.Id: acme\r\n\r\n").await;
        let request = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n";
        let answer = Gateway::plain(&[server]).ask(request).await;
        assert!(
            answer.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"),
            "{answer}"
        );
    });
}

#[test]
fn the_backend_sees_the_host_that_is_configured() {
    let cases = [
        (HostHeader::Client, "api.example".to_owned()),
        (
            HostHeader::Fixed("fixed.example".parse().unwrap()),
            "fixed.example".to_owned(),
        ),
        (HostHeader::Server, String::new()),
    ];
    for (policy, expected) in cases {
        run(async move {
            let server = backend(|_, mut wire| async move {
                let head = wire.head().await;
                let host = head.split("host: ").nth(1).unwrap();
                let host = host.split("\r\n").next().unwrap();
                let length = host.len();
                wire.send(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{host}"
                ))
                .await;
            })
            .await;
            let gateway = Gateway::new(&[server], |_, upstream| upstream.host_header = policy);
            let answer = gateway.ask(GET).await;
            let expected = if expected.is_empty() {
                server.to_string()
            } else {
                expected
            };
            assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{answer}");
        });
    }
}

/// Read in large pieces wherever much is known to come, and not a byte beyond it.
#[test]
fn large_answers_come_whole_however_they_are_framed() {
    let body: String = (0..400_000).map(|number| format!("{number:08}")).collect();
    let length = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    let in_one = chunk(&body);
    let parts = body.as_bytes().chunks(200_000);
    let in_some: String = parts
        .map(|part| chunk(str::from_utf8(part).unwrap()))
        .collect();
    let chunked = |chunks| format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    run(async move {
        let framed = [length, chunked(in_one), chunked(in_some)];
        let connections = Rc::new(Cell::new(0));
        let (counted, count) = (Rc::clone(&connections), framed.len());
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            let framed = framed.clone();
            async move {
                for framed in framed {
                    wire.head().await;
                    wire.send(&format!("HTTP/1.1 200 OK\r\n{framed}")).await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        for answer in 0..count {
            // Of HTTP/1.0, so that the answer is not chunked for the client.
            let answered = gateway
                .ask("GET / HTTP/1.0\r\nHost: api.example\r\n\r\n")
                .await;
            let got = answered.split_once("\r\n\r\n").unwrap().1;
            assert!(got == body, "answer {answer}: {} bytes", got.len());
        }
        assert_eq!(connections.get(), 1, "nothing was left over");
    });
}

#[test]
fn an_answer_to_head_keeps_its_length_and_its_connection() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            async move {
                while wire.maybe_head().await.is_some() {
                    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
                        .await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        for _ in 0..2 {
            let answer = gateway
                .ask("HEAD / HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n")
                .await;
            assert!(answer.contains("content-length: 7\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn a_client_of_http_1_0_is_served_over_http_1_1() {
    run(async {
        let server = backend(|_, mut wire| async move {
            let head = wire.head().await;
            assert!(head.starts_with("GET /leases HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("via: 1.0 portcullis\r\n"), "{head}");
            wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
                .await;
        })
        .await;
        let answer = Gateway::plain(&[server])
            .ask("GET /leases HTTP/1.0\r\nHost: api.example\r\n\r\n")
            .await;
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    });
}

#[test]
fn a_slow_client_slows_the_backend_down() {
    run(async {
        let written = Rc::new(Cell::new(0));
        let stuck = Rc::new(Notify::new());
        let (counted, noticed) = (Rc::clone(&written), Rc::clone(&stuck));
        let server = backend(move |_, mut wire| {
            let (counted, noticed) = (Rc::clone(&counted), Rc::clone(&noticed));
            async move {
                wire.head().await;
                wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
                let piece = [b'x'; 65536];
                while let Ok(Ok(count)) =
                    tokio::time::timeout(3 * SHORT, wire.stream.write(&piece)).await
                {
                    counted.set(counted.get() + count);
                }
                noticed.notify_one();
            }
        })
        .await;
        let mut wire = Gateway::plain(&[server]).connect().await;
        wire.send(GET).await;
        stuck.notified().await;
        // What the kernel's socket buffers take, and no body held by us.
        assert!(written.get() < 32 << 20, "{}", written.get());
    });
}
