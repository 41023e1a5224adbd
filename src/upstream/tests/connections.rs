//! Connections: kept, stale, refused, swept, shared out.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::sync::Notify;

use crate::upstream::Outcome;
use crate::upstream::tests::GET;
use crate::upstream::tests::Gateway;
use crate::upstream::tests::OK;
use crate::upstream::tests::POST;
use crate::upstream::tests::SHORT;
use crate::upstream::tests::backend;
use crate::upstream::tests::nobody;
use crate::upstream::tests::run;
use crate::upstream::tests::taken;

#[test]
fn a_connection_serves_one_exchange_after_another() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            async move {
                loop {
                    wire.head().await;
                    wire.send(OK).await;
                    wire.head().await;
                    wire.send(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                    )
                    .await;
                    wire.head().await;
                    wire.send("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
                        .await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        for round in 0..6 {
            let answer = gateway.ask(GET).await;
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
            assert_eq!(gateway.outcome().await, Outcome::Completed, "{round}");
        }
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn idle_connections_are_swept_when_their_time_is_up() {
    run(async {
        let closed = Rc::new(Notify::new());
        let noticed = Rc::clone(&closed);
        let server = backend(move |_, mut wire| {
            let noticed = Rc::clone(&noticed);
            async move {
                wire.head().await;
                wire.send(OK).await;
                wire.rest().await;
                noticed.notify_one();
            }
        })
        .await;
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.pool_idle_timeout = Duration::ZERO;
        });
        gateway.ask(GET).await;
        gateway.pools.sweep();
        closed.notified().await;
    });
}

#[test]
fn a_stale_connection_costs_a_get_nothing() {
    run(async {
        let server = backend(|count, mut wire| async move {
            wire.head().await;
            wire.send(OK).await;
            if count == 0 {
                // The second request is read, and the connection closed without a byte.
                wire.head().await;
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        assert!(gateway.ask(GET).await.ends_with("ok"));
    });
}

#[test]
fn of_several_stale_connections_only_one_is_tried() {
    run(async {
        let seen = Rc::new(Cell::new(0));
        let both = Rc::new(Barrier::new(2));
        let counted = Rc::clone(&seen);
        let server = backend(move |count, mut wire| {
            let (counted, both) = (Rc::clone(&counted), Rc::clone(&both));
            async move {
                wire.head().await;
                counted.set(counted.get() + 1);
                if count < 2 {
                    both.wait().await;
                    wire.send(OK).await;
                    wire.head().await;
                    counted.set(counted.get() + 1);
                } else {
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        let (one, two) = tokio::join!(gateway.ask(GET), gateway.ask(GET));
        assert!(one.ends_with("ok") && two.ends_with("ok"));
        assert!(gateway.ask(GET).await.ends_with("ok"));
        // Two at first, then one on a stale connection and one on a fresh one.
        assert_eq!(seen.get(), 4);
    });
}

#[test]
fn a_post_that_reached_a_stale_connection_is_not_sent_again() {
    run(async {
        let posts = Rc::new(Cell::new(0));
        let counted = Rc::clone(&posts);
        let server = backend(move |_, mut wire| {
            let counted = Rc::clone(&counted);
            async move {
                wire.head().await;
                wire.send(OK).await;
                wire.head().await;
                counted.set(counted.get() + 1);
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        gateway.ask(GET).await;
        let answer = gateway
            .ask("POST /leases HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        assert!(answer.contains("Backend(ConnectionTerminated)"), "{answer}");
        assert_eq!(posts.get(), 1);
    });
}

#[test]
fn a_post_is_sent_on_a_fresh_connection_when_the_idle_one_was_closed() {
    run(async {
        let closed = Rc::new(Notify::new());
        let noticed = Rc::clone(&closed);
        let server = backend(move |_, mut wire| {
            let noticed = Rc::clone(&noticed);
            async move {
                wire.until("\r\n\r\n").await;
                wire.send(OK).await;
                drop(wire);
                noticed.notify_one();
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        gateway.ask(GET).await;
        closed.notified().await;
        let answer = gateway
            .ask("POST /leases HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
        assert!(answer.ends_with("ok"), "{answer}");
    });
}

#[test]
fn a_refused_server_is_left_for_the_next() {
    run(async {
        let refusing = nobody().await;
        let serving = backend(|_, mut wire| async move {
            loop {
                wire.head().await;
                wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::plain(&[refusing, serving]);
        for _ in 0..4 {
            assert!(gateway.ask(GET).await.ends_with("ok"));
        }
        let gateway = Gateway::new(&[refusing, serving], |_, upstream| {
            upstream.connect_retries = 0;
        });
        let both = [gateway.ask(GET).await, gateway.ask(GET).await].concat();
        assert!(both.contains("Backend(ConnectionRefused)"), "{both}");
    });
}

#[test]
fn a_server_that_takes_no_connection_is_a_connection_timeout() {
    run(async {
        // A full accept queue swallows connection attempts without an answer.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fillers = Vec::new();
        while let Ok(Ok(filler)) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
            fillers.push(filler);
        }
        let gateway = Gateway::new(&[address], |_, upstream| upstream.connect_timeout = SHORT);
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ConnectionTimeout)"), "{answer}");
    });
}

#[test]
fn a_name_that_does_not_resolve_is_a_dns_error() {
    run(async {
        let gateway = Gateway::new(&[nobody().await], |_, upstream| {
            upstream.servers[0].host = "no such name".to_owned();
        });
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(DnsError)"), "{answer}");
    });
}

#[test]
fn bytes_after_an_answer_never_become_the_next_answer() {
    run(async {
        let server = backend(|count, mut wire| async move {
            wire.head().await;
            if count == 0 {
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
                wire.rest().await;
            } else {
                wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        assert!(gateway.ask(GET).await.ends_with("ok"));
    });
}

#[test]
fn a_reload_keeps_the_connections() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        let server = backend(move |_, mut wire| {
            counted.set(counted.get() + 1);
            async move {
                loop {
                    wire.head().await;
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let gateway = Gateway::plain(&[server]);
        gateway.ask(GET).await;
        let reloaded = Arc::new((**gateway.config.borrow()).clone());
        *gateway.config.borrow_mut() = reloaded;
        gateway.ask(GET).await;
        gateway.pools.sweep();
        gateway.ask(GET).await;
        assert_eq!(connections.get(), 1);
    });
}

#[test]
fn an_expired_connection_is_not_used_even_before_the_sweep() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let server = counting(&connections).await;
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.pool_idle_timeout = Duration::ZERO;
        });
        gateway.ask(GET).await;
        gateway.ask(GET).await;
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn no_more_connections_are_kept_than_allowed() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let server = counting(&connections).await;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.pool_idle_max = 0);
        gateway.ask(GET).await;
        gateway.ask(GET).await;
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_connection_that_ends_before_anything_was_sent_costs_not_even_a_post() {
    run(async {
        let connections = Rc::new(Cell::new(0));
        let server = counting(&connections).await;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.connect_retries = 0);
        assert!(gateway.ask(GET).await.ends_with("ok"));
        let (head, body, _wire) = taken(POST).await;
        gateway.pools.directory.break_idle();
        let answer = gateway.forward(head, body).await;
        assert_eq!(answer.unwrap().response.status(), 200);
        assert_eq!(connections.get(), 2);
    });
}

#[test]
fn a_busy_server_is_spared() {
    run(async {
        let release = Rc::new(Notify::new());
        let holding = Rc::clone(&release);
        let arrived = Rc::new(Notify::new());
        let arriving = Rc::clone(&arrived);
        let busy = backend(move |_, mut wire| {
            let (holding, arriving) = (Rc::clone(&holding), Rc::clone(&arriving));
            async move {
                wire.head().await;
                arriving.notify_one();
                holding.notified().await;
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy")
                    .await;
            }
        })
        .await;
        let connections = Rc::new(Cell::new(0));
        let idle = counting(&connections).await;
        let gateway = Gateway::plain(&[busy, idle]);
        // With both idle they take turns: of two requests one is held.
        let (mut one, mut two) = (gateway.connect().await, gateway.connect().await);
        one.send(GET).await;
        two.send(GET).await;
        arrived.notified().await;
        tokio::select! {
            _ = one.until("ok") => {}
            _ = two.until("ok") => {}
        }
        for _ in 0..6 {
            assert!(gateway.ask(GET).await.ends_with("ok"));
        }
        release.notify_one();
        let both = [one.rest().await, two.rest().await].concat();
        assert!(both.contains("busy"), "{both}");
    });
}

/// Counts its connections and answers every request.
async fn counting(connections: &Rc<Cell<usize>>) -> SocketAddr {
    let counted = Rc::clone(connections);
    backend(move |_, mut wire| {
        counted.set(counted.get() + 1);
        async move {
            while wire.maybe_head().await.is_some() {
                wire.send(OK).await;
            }
        }
    })
    .await
}
