//! The edge on real sockets: handshakes, deadlines, caps, reload, drain.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;
use hyper::body::Frame;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::SupportedProtocolVersion;
use rustls::version::TLS12;
use rustls::version::TLS13;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::clock::Clock;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Connections;
use crate::config::Listen;
use crate::config::SniCertificate;
use crate::config::Tls;
use crate::edge::BoxError;
use crate::gate::Peer;
use crate::shutdown::Shutdown;
use crate::shutdown::State;
use crate::upstream::ClientRequest;

use super::Arrival;
use super::Bounds;
use super::Edge;
use super::Seat;
use super::Settings;
use super::Start;
use super::counters::ConnectionCounters;
use super::listener;
use super::listener::Inherited;
use super::plain;
use super::secure;
use super::tls::Certificates;

use client::*;

type TestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// A timeout that a test provokes, and that an honest client beside it keeps on a busy machine too.
const PROVOKED: Duration = Duration::from_secs(2);
/// How often a scenario is begun that has to keep pace with a deadline of the gateway's own.
const TRIES: usize = 20;
const NAME: &str = "gateway.test";
/// The client preface and empty SETTINGS.
const HTTP2_OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: gateway.test\r\n\r\n";

/// What HTTP in clear is answered.
fn in_clear() -> Response<Bytes> {
    let head = Response::builder().status(400);
    let head = head.header("connection", "close");
    head.body(Bytes::from_static(b"in clear")).unwrap()
}

/// What a test changes of the settings.
fn settings() -> Settings {
    let mut config = Config::for_tests("");
    config.http.head_bytes_max = 16 * 1024;
    config.http.header_count_max = 50;
    let long = Duration::from_secs(60);
    let connections = Connections {
        total_max: 100,
        per_address_max: 100,
        handshake_timeout: long,
        head_timeout: long,
        idle_timeout: long,
        stall_timeout: long,
        http2_streams_max: 10,
        ..config.connections
    };
    Settings {
        bounds: Bounds::of(&config.http, &connections),
        connections,
        proxies: Arc::default(),
    }
}

/// One worker on its own thread.
struct Gateway {
    https: SocketAddr,
    http: SocketAddr,
    tls: Arc<ArcSwap<ServerConfig>>,
    counters: Arc<ConnectionCounters>,
    shutdown: Shutdown,
    /// `/hold` answers once for each permit.
    release: Arc<Semaphore>,
    /// Counts requests to `/hold` that have reached the handler.
    holding: Arc<Semaphore>,
    files: CertificateFiles,
    directory: TempDir,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(settings: Settings) -> Gateway {
        let directory = TempDir::new().unwrap();
        let files = make_files(&directory, NAME, NAME);
        let tls = Arc::new(ArcSwap::new(load(&only(&files))));
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen {
            https: vec![loopback],
            http: vec![loopback],
            admin: None,
            admin_socket: PathBuf::new(),
        };
        let mut bound = listener::bind(&listen, 1, Inherited::default()).unwrap();
        let sockets = bound.workers.remove(0);
        let counters = Arc::new(ConnectionCounters::default());
        let shutdown = Shutdown::new();
        let release = Arc::new(Semaphore::new(0));
        let holding = Arc::new(Semaphore::new(0));
        let hold = Hold {
            release: Arc::clone(&release),
            holding: Arc::clone(&holding),
        };
        let thread = std::thread::spawn({
            let (tls, counters, watch) = (tls.clone(), counters.clone(), shutdown.watch());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())
                    .unwrap();
                let _entered = runtime.enter();
                let edge = Edge::new(
                    Box::new(move || settings.clone()),
                    tls,
                    counters,
                    Box::new(in_clear),
                )
                .unwrap();
                let (secure, plain) = (start_secure(hold), start_plain());
                runtime
                    .block_on(edge.run(sockets, secure, plain, watch))
                    .unwrap();
            }
        });
        Gateway {
            https: bound.https[0],
            http: bound.http[0],
            tls,
            counters,
            shutdown,
            release,
            holding,
            files,
            directory,
            thread: Some(thread),
        }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.try_connect(NAME, &[&TLS13], &[]).await.unwrap()
    }

    async fn try_connect(
        &self,
        name: &'static str,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.https).await?;
        self.handshake(socket, name, versions, alpn).await
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        name: &'static str,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                let certificate = CertificateDer::from_pem_file(path).unwrap();
                roots.add(certificate).unwrap();
            }
        }
        let mut config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(name).unwrap();
        patient(connector.connect(name, socket)).await
    }

    async fn http2(&self) -> h2::client::SendRequest<Bytes> {
        let stream = self.try_connect(NAME, &[&TLS13], &[b"h2"]).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        send
    }

    /// Waits until a request has reached `/hold`.
    async fn held(&self) {
        patient(self.holding.acquire()).await.unwrap().forget();
    }

    /// Waits for the worker to end.
    async fn ended(&mut self) {
        let thread = self.thread.take().unwrap();
        let joined = tokio::task::spawn_blocking(move || thread.join());
        patient(joined).await.unwrap().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.terminate(Duration::ZERO);
        self.shutdown.terminate(Duration::ZERO);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// What `/hold` waits for.
#[derive(Clone)]
struct Hold {
    release: Arc<Semaphore>,
    holding: Arc<Semaphore>,
}

fn start_secure(hold: Hold) -> Start {
    Rc::new(move |seat: Seat, arrival: Arrival| {
        let hold = hold.clone();
        let answer = move |peer, _, request| answer(hold.clone(), peer, request);
        tokio::task::spawn_local(secure(seat, arrival, answer));
    })
}

fn start_plain() -> Start {
    Rc::new(|seat: Seat, arrival: Arrival| {
        let answer = |_: Peer, _, _: ClientRequest| async { text(StatusCode::FORBIDDEN, "https") };
        tokio::task::spawn_local(plain(seat, arrival, answer));
    })
}

async fn answer(hold: Hold, peer: Peer, request: ClientRequest) -> Response<TestBody> {
    assert!(peer.address.ip().is_loopback() && peer.local.port() != 0);
    match request.head.uri.path() {
        "/hold" => {
            hold.holding.add_permits(1);
            hold.release.acquire().await.unwrap().forget();
            text(StatusCode::OK, "held")
        }
        "/endless" => Response::new(UnsyncBoxBody::new(Endless)),
        "/left" => {
            let _left = Left(Arc::clone(&hold.holding));
            hold.holding.add_permits(1);
            std::future::pending().await
        }
        "/endless-left" => {
            let left = Left(Arc::clone(&hold.holding));
            Response::new(UnsyncBoxBody::new(Endless.map_frame(move |frame| {
                let _ = &left;
                frame
            })))
        }
        "/panic" => panic!("asked to"),
        "/panic-later" => Response::new(UnsyncBoxBody::new(
            Endless.map_frame(|_| panic!("asked to")),
        )),
        "/longer" => told(text(StatusCode::OK, "four"), "2"),
        "/shorter" => told(text(StatusCode::OK, "four"), "9"),
        "/broken" => Response::new(UnsyncBoxBody::new(Broken { begun: false })),
        "/refuse" => text(StatusCode::PAYLOAD_TOO_LARGE, "no"),
        "/count" => {
            let body = request.body.collect().await.unwrap().to_bytes();
            text(StatusCode::OK, &body.len().to_string())
        }
        _ => text(StatusCode::OK, "hello"),
    }
}

fn text(status: StatusCode, text: &str) -> Response<TestBody> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let body = UnsyncBoxBody::new(body.map_err(|never| match never {}));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

impl crate::handler::Answered for UnsyncBoxBody<Bytes, BoxError> {}

/// The same with a `Content-Length` that need not be true.
fn told(mut response: Response<TestBody>, length: &'static str) -> Response<TestBody> {
    let length = http::HeaderValue::from_static(length);
    (response.headers_mut()).insert(http::header::CONTENT_LENGTH, length);
    response
}

/// Counts what was dropped.
struct Left(Arc<Semaphore>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024])))))
    }
}

/// A body that breaks off after its first bytes.
struct Broken {
    begun: bool,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let first = !std::mem::replace(&mut self.begun, true);
        let frame = first.then(|| Frame::data(Bytes::from_static(b"part")));
        std::task::Poll::Ready(Some(frame.ok_or_else(|| "broke off".into())))
    }
}

fn make_files(directory: &TempDir, file: &str, name: &str) -> CertificateFiles {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let files = CertificateFiles {
        certificate: directory.path().join(format!("{file}.crt")),
        private_key: directory.path().join(format!("{file}.key")),
    };
    fs::write(&files.certificate, made.cert.pem()).unwrap();
    fs::write(&files.private_key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&files.private_key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}

fn only(files: &CertificateFiles) -> Tls {
    Tls {
        default: files.clone(),
        sni: Vec::new(),
        allow_tls12: true,
    }
}

fn load(tls: &Tls) -> Arc<ServerConfig> {
    let now = Clock::system().now().wall;
    Certificates::load(tls, now).unwrap().server_config
}

impl Gateway {
    /// So many connections that say nothing, let in.
    async fn silent(&self, count: usize) -> Vec<TcpStream> {
        let accepted = value(&self.counters.accepted) + count as u64;
        let mut silent = Vec::new();
        for _ in 0..count {
            silent.push(TcpStream::connect(self.https).await.unwrap());
        }
        becomes(&self.counters.accepted, accepted).await;
        silent
    }

    /// Waits until so many connections are open.
    async fn holds(&self, open: usize) {
        let reached = async {
            while self.counters.active.load(Ordering::Relaxed) != open {
                tokio::task::yield_now().await;
            }
        };
        patient(reached).await;
    }
}

// S22: who says nothing is cut in time and counted, and its place is free again.

mod answers;
mod client;
mod ending;
mod greeting;
mod slow;
