//! The forwarder between a real HTTP/1.1 edge and raw backends on loopback sockets.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http_body_util::Either;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::config::AccessLog;
use crate::config::Auth;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Connections;
use crate::config::Errors;
use crate::config::Headers;
use crate::config::HostHeader;
use crate::config::Http;
use crate::config::KeyFormat;
use crate::config::LimitSubject;
use crate::config::LimitsConfig;
use crate::config::Listen;
use crate::config::Log;
use crate::config::StoreConfig;
use crate::config::Tls;
use crate::config::Upstream;
use crate::config::UpstreamServer;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::model::key::Environment;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::tenant::TenantId;
use crate::refusal::Shape;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::TenantTable;
use crate::snapshot::key_table::KeyTable;
use crate::upstream::Outcome;
use crate::upstream::Pools;
use crate::upstream::ResponseBody;

/// The one patience of all waits in these tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// A timeout that a test provokes.
const SHORT: Duration = Duration::from_millis(80);

/// A whole configuration with one upstream; every timeout far away.
pub(super) fn config(servers: &[SocketAddr]) -> Config {
    let upstream = Upstream {
        name: "legacy".to_owned(),
        servers: servers
            .iter()
            .map(|address| UpstreamServer {
                host: address.ip().to_string(),
                port: address.port(),
            })
            .collect(),
        connect_timeout: PATIENCE,
        first_byte_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        total_timeout: None,
        pool_idle_max: 8,
        pool_idle_timeout: PATIENCE,
        head_bytes_max: 8192,
        connect_retries: 1,
        host_header: HostHeader::Client,
        environment: Environment(0),
    };
    Config {
        listen: Listen {
            https: Vec::new(),
            http: Vec::new(),
            admin: None,
            admin_socket: PathBuf::new(),
        },
        server: crate::config::Server {
            workers: 1,
            drain_timeout: PATIENCE,
        },
        connections: Connections {
            total_max: 100,
            per_address_max: 100,
            handshake_timeout: PATIENCE,
            head_timeout: PATIENCE,
            idle_timeout: PATIENCE,
            stall_timeout: PATIENCE,
            http2_streams_max: 100,
        },
        http: Http {
            head_bytes_max: 65536,
            header_count_max: 100,
            target_bytes_max: 8192,
            body_bytes_max: 1 << 20,
            hsts: None,
        },
        tls: Tls {
            default: CertificateFiles {
                certificate: PathBuf::new(),
                private_key: PathBuf::new(),
            },
            sni: Vec::new(),
            allow_tls12: true,
        },
        store: StoreConfig {
            path: PathBuf::new(),
            flush_interval: PATIENCE,
        },
        auth: Auth {
            bearer: true,
            x_api_key: true,
            realm: "api".to_owned(),
            pass_foreign_authorization: false,
        },
        keys: KeyFormat {
            secret_prefix: "fp".to_owned(),
            public_prefix: "fp".to_owned(),
        },
        headers: Headers {
            tenant: HeaderName::from_static("x-tenant-id"),
            keep_underscore: false,
            remove: Vec::new(),
            forwarded: true,
        },
        errors: Errors {
            shape: Shape::Problem,
            name_permission: true,
        },
        limits: LimitsConfig {
            subject: LimitSubject::Key,
            x_headers: true,
            ietf_headers: true,
        },
        log: Log {
            access: AccessLog::Off,
            level: tracing::Level::INFO,
        },
        environments: vec!["live".to_owned()],
        plans: Vec::new(),
        tenants: Vec::new(),
        declared_keys: Vec::new(),
        upstreams: vec![Arc::new(upstream)],
        hosts: Vec::new(),
        routes: Vec::new(),
    }
}

/// An admission under this configuration, of tenant `acme` or of nobody.
pub(super) fn admission(config: &Arc<Config>, authenticated: bool, path: &str) -> Admission {
    let id = TenantId::new("acme").unwrap();
    let tenants = TenantTable {
        entries: vec![TenantEntry {
            header_value: HeaderValue::from_static("acme"),
            id,
            plan: 0,
            suspended: false,
        }],
        by_id: Default::default(),
    };
    let snapshot = Snapshot {
        revision: 1,
        generation: 1,
        config: Arc::clone(config),
        routes: Arc::new(RouteTable::default()),
        plans: Arc::from([]),
        tenants: Arc::new(tenants),
        keys: KeyTable::build(std::iter::empty()),
    };
    let route = Route {
        path: "/{*rest}".to_owned(),
        host: None,
        methods: Vec::new(),
        access: Access::AnyKey,
        upstream: 0,
        cost: 1,
        environment: Environment(0),
        body_bytes_max: None,
        total_timeout: None,
        raw_path: false,
    };
    let tenant = authenticated.then_some(0);
    let host = "api.example";
    Admission::for_tests(Arc::new(snapshot), Arc::new(route), tenant, host, path)
}

/// The client's connection, from 192.0.2.7 to port 8443.
pub(super) fn peer() -> Peer {
    Peer {
        address: "192.0.2.7:50000".parse().unwrap(),
        local: "198.51.100.1:8443".parse().unwrap(),
    }
}

/// A gateway that only forwards: what the edge and the handler will be.
#[derive(Clone)]
struct Gateway {
    pools: Rc<Pools>,
    config: Rc<RefCell<Arc<Config>>>,
    /// How the last answer's body ended.
    outcome: Rc<Cell<Option<Outcome>>>,
    ended: Rc<Notify>,
}

impl Gateway {
    fn new(servers: &[SocketAddr], change: impl FnOnce(&mut Config, &mut Upstream)) -> Gateway {
        let mut config = config(servers);
        let mut upstream = (*config.upstreams[0]).clone();
        change(&mut config, &mut upstream);
        config.upstreams = vec![Arc::new(upstream)];
        Gateway {
            pools: Rc::default(),
            config: Rc::new(RefCell::new(Arc::new(config))),
            outcome: Rc::default(),
            ended: Rc::default(),
        }
    }

    fn plain(servers: &[SocketAddr]) -> Gateway {
        Gateway::new(servers, |_, _| {})
    }

    /// A client connection to it.
    async fn connect(&self) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = self.clone();
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request| {
                let gateway = gateway.clone();
                async move { Ok::<_, std::convert::Infallible>(gateway.handle(request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        Wire::new(TcpStream::connect(address).await.unwrap())
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Either<Watched, Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let config = Arc::clone(&self.config.borrow());
        let admission = admission(&config, true, head.uri.path());
        let id = HeaderValue::from_static("request-1");
        let peer = peer();
        let answer = self.pools.forward(&admission, &peer, &id, head, body);
        match answer.await {
            Ok(answer) => answer.response.map(|inner| {
                Either::Left(Watched {
                    inner,
                    gateway: self.clone(),
                })
            }),
            Err(failure) => {
                let text = format!("{:?} {}", failure.kind, failure.detail);
                let mut response = Response::new(Either::Right(Full::from(text)));
                *response.status_mut() = http::StatusCode::from_u16(599).unwrap();
                response
            }
        }
    }

    /// One request on a connection of its own; the whole answer as text.
    async fn ask(&self, request: &str) -> String {
        let mut wire = self.connect().await;
        wire.send(request).await;
        wire.rest().await
    }

    /// How the answer's body ended, once it has.
    async fn outcome(&self) -> Outcome {
        while self.outcome.get().is_none() {
            self.ended.notified().await;
        }
        self.outcome.take().unwrap()
    }
}

/// The body as the handler will wrap it: it reads the outcome when it is dropped.
struct Watched {
    inner: ResponseBody,
    gateway: Gateway,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = crate::upstream::BodyFault;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gateway.outcome.set(Some(self.inner.outcome()));
        self.gateway.ended.notify_one();
    }
}

/// One end of a connection, spoken raw.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Wire {
        Wire {
            stream,
            read: Vec::new(),
        }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything up to and including `mark`.
    async fn until(&mut self, mark: &str) -> String {
        loop {
            let found = self
                .read
                .windows(mark.len())
                .position(|window| window == mark.as_bytes());
            if let Some(start) = found {
                let taken: Vec<u8> = self.read.drain(..start + mark.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            let count = self.stream.read_buf(&mut self.read).await.unwrap();
            assert!(
                count > 0,
                "closed while waiting for {mark:?}, after {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
    }

    /// A request's or answer's head.
    async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the other end closes, cleanly or not.
    async fn rest(&mut self) -> String {
        while let Ok(1..) = self.stream.read_buf(&mut self.read).await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned()
    }
}

/// A backend that treats each accepted connection, counted from 0, as `script` says.
async fn backend<F>(script: impl Fn(usize, Wire) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        for count in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(script(count, Wire::new(stream)));
        }
    });
    address
}

/// A backend that answers one request on its first connection with this text, and then closes.
async fn answering(text: &'static str) -> SocketAddr {
    backend(move |_, mut wire| async move {
        wire.head().await;
        wire.send(text).await;
    })
    .await
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Runs a scenario on one thread, as a worker does, and not for ever.
fn run(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let patient = async { tokio::time::timeout(PATIENCE, scenario).await };
    tokio::task::LocalSet::new()
        .block_on(&runtime, patient)
        .expect("the scenario ends in time");
}

const GET: &str = "GET /leases HTTP/1.1\r\nHost: api.example\r\nConnection: close\r\n\r\n";
const GET_KEPT: &str = "GET /leases HTTP/1.1\r\nHost: api.example\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

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
fn a_silent_backend_is_a_response_timeout() {
    run(async {
        let server = backend(|_, mut wire| async move {
            wire.rest().await;
        })
        .await;
        let gateway = Gateway::new(&[server], |_, upstream| upstream.first_byte_timeout = SHORT);
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.total_timeout = Some(SHORT)
        });
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
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
        let gateway = Gateway::new(&[server], |_, upstream| upstream.first_byte_timeout = SHORT);
        let answer = gateway.ask(GET).await;
        assert!(answer.contains("Backend(ResponseTimeout)"), "{answer}");
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
        let gateway = Gateway::new(&[server], |_, upstream| {
            upstream.total_timeout = Some(SHORT)
        });
        assert!(gateway.ask(GET).await.ends_with("short"));
        assert_eq!(gateway.outcome().await, Outcome::TimedOut);
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
