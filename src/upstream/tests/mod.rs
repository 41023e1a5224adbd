//! The forwarder between a real HTTP/1.1 edge and raw backends on loopback sockets.

use std::cell::Cell;
use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::request::Parts;
use http_body::Body;
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

use crate::config::Config;
use crate::config::HostHeader;
use crate::config::Upstream;
use crate::config::UpstreamServer;
use crate::gate::Admission;
use crate::gate::Peer;
use crate::gate::Via;
use crate::model::isolation::Isolation;
use crate::model::request_id::RequestId;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::scope::Scopes;
use crate::model::seat::SeatHint;
use crate::model::tenant::TenantId;
use crate::snapshot::OwnLimits;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::TenantTable;
use crate::snapshot::key_table::KeyTable;
use crate::upstream::Answer;
use crate::upstream::BodySource;
use crate::upstream::ClientBody;
use crate::upstream::ClientFault;
use crate::upstream::ClientRequest;
use crate::upstream::Failure;
use crate::upstream::Forwarded;
use crate::upstream::Outcome;
use crate::upstream::Pools;
use crate::upstream::ResponseBody;

mod answers;
mod bodies;
mod connections;
mod posting;
mod queue;

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
                tls: false,
                host: address.ip().to_string(),
                port: address.port(),
            })
            .collect(),
        connect_timeout: PATIENCE,
        first_byte_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        tunnel_idle_timeout: PATIENCE,
        total_timeout: None,
        pool_idle_max: 8,
        pool_idle_timeout: PATIENCE,
        head_bytes_max: 8192,
        header_count_max: 100,
        connect_retries: 1,
        host_header: HostHeader::Client,
        isolation: Isolation::Header,
        ..Upstream::for_tests()
    };
    let mut config = Config::for_tests("");
    config.connections.stall_timeout = PATIENCE;
    config.http.body_bytes_max = 1 << 20;
    config.upstreams = vec![Arc::new(upstream)];
    config
}

/// An admission under this configuration, of tenant `acme` or of nobody.
pub(super) fn admission(config: &Arc<Config>, authenticated: bool, path: &str) -> Admission {
    let id = TenantId::new("acme").unwrap();
    let tenants = TenantTable {
        entries: vec![TenantEntry {
            header_value: HeaderValue::from_static("acme"),
            id,
            plan: 0,
            scopes: Scopes::Inherit,
            own: OwnLimits::NONE,
            suspended: false,
            places: Vec::new(),
            seat: SeatHint::default(),
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
        contact: None,
        denials: Arc::default(),
    };
    let route = Route::for_tests("/{*rest}");
    let tenant = authenticated.then_some(0);
    let host = "api.example";
    Admission::for_tests(Arc::new(snapshot), Arc::new(route), tenant, host, path)
}

/// The client's connection, from 192.0.2.7 to port 8443.
pub(super) fn peer() -> Peer {
    Peer {
        address: "192.0.2.7:50000".parse().unwrap(),
        local: "198.51.100.1:8443".parse().unwrap(),
        via: Via::Direct,
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

    async fn forward(&self, head: Parts, body: impl Into<ClientBody>) -> Result<Answer, Failure> {
        let config = Arc::clone(&self.config.borrow());
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let admission = admission(&config, true, target);
        let id = RequestId::given(&HeaderValue::from_static("request-1")).unwrap();
        let peer = peer();
        let request = ClientRequest {
            head: Box::new(head),
            body: body.into(),
        };
        let forward = self.pools.forward(&admission, &peer, &id, false, request);
        match forward.await? {
            Forwarded::Answer(answer) => Ok(answer),
            Forwarded::Switched(_) => panic!("a tunnel, which no edge of these tests can open"),
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Either<Watched, Full<Bytes>>> {
        let (head, body) = request.into_parts();
        match self.forward(head, body).await {
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
    inner: Box<ResponseBody>,
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

    /// Whether another head came before the other end closed.
    async fn maybe_head(&mut self) -> Option<String> {
        let mut byte = [0];
        match self.stream.peek(&mut byte).await {
            Ok(1) => Some(self.head().await),
            _ => None,
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

/// The body of a request that hyper's server read.
#[derive(Debug)]
struct Taken(Incoming);

impl BodySource for Taken {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientFault>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        let data = frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()));
        Poll::Ready(data.map(|data| data.map_err(|error| fault_of(&error))))
    }

    fn has_ended(&self) -> bool {
        self.0.is_end_stream()
    }

    fn length(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }
}

impl From<Incoming> for ClientBody {
    fn from(incoming: Incoming) -> ClientBody {
        ClientBody::http1(Box::new(Taken(incoming)))
    }
}

/// Tells a client that broke the framing of its body from one that went away.
fn fault_of(error: &hyper::Error) -> ClientFault {
    let io = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => ClientFault::Malformed,
        _ => ClientFault::Gone,
    }
}

/// A request as hyper's server hands it over, with the client's end of its connection.
async fn taken(request: &str) -> (Parts, Incoming, Wire) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = RefCell::new(Some(sender));
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let sender = sender.borrow_mut().take();
            if let Some(sender) = sender {
                let _ = sender.send(request.into_parts());
            }
            std::future::pending::<Result<Response<Full<Bytes>>, std::convert::Infallible>>()
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    });
    let mut wire = Wire::new(TcpStream::connect(address).await.unwrap());
    wire.send(request).await;
    let (head, body) = receiver.await.unwrap();
    (head, body, wire)
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
const POST: &str =
    "POST /leases HTTP/1.1\r\nHost: api.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
