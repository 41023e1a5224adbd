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
use crate::upstream::ClientBody;

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

type TestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
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
                    .build()
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
                tokio::task::LocalSet::new()
                    .block_on(&runtime, edge.run(sockets, secure, plain, watch))
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
        let answer =
            |_: Peer, _, _: Request<ClientBody>| async { text(StatusCode::FORBIDDEN, "https") };
        tokio::task::spawn_local(plain(seat, arrival, answer));
    })
}

async fn answer(hold: Hold, peer: Peer, request: Request<ClientBody>) -> Response<TestBody> {
    assert!(peer.address.ip().is_loopback() && peer.local.port() != 0);
    match request.uri().path() {
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
            let body = request.into_body().collect().await.unwrap().to_bytes();
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

async fn patient<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("patience is over")
}

/// Reads one answer with a `Content-Length`, or what comes until the end.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = patient(stream.read(&mut chunk)).await.unwrap_or(0);
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").map(|(_, rest)| rest);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            length.is_some_and(|length: usize| body.len() >= length)
        });
        if read == 0 || whole {
            return text;
        }
    }
}

async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(GET).await.unwrap();
    read_answer(stream).await
}

/// Reads to the end; `Err` when the end was not a clean one (no close_notify, or a reset).
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    patient(stream.read_to_end(&mut all)).await.map(|_| all)
}

/// Waits for a count; the client may see the end of a connection a moment before it is counted.
async fn becomes(counter: &AtomicU64, expected: u64) {
    let reached = async {
        while value(counter) < expected {
            tokio::task::yield_now().await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reached).await;
    assert_eq!(value(counter), expected);
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn request2(path: &str) -> Request<()> {
    let uri = format!("https://{NAME}{path}");
    Request::builder().uri(uri).body(()).unwrap()
}

async fn get2(
    send: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> Result<StatusCode, h2::Error> {
    let (response, _) = send.send_request(request2(path), true)?;
    patient(response).await.map(|response| response.status())
}

/// The whole body of an answer.
async fn whole2(
    send: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> Result<Vec<u8>, h2::Error> {
    let (response, _) = send.send_request(request2(path), true)?;
    let read = async {
        let mut body = response.await?.into_body();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    };
    patient(read).await
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_alpn_chooses_the_protocol() {
    let gateway = Gateway::start(settings());
    type Case = (
        &'static SupportedProtocolVersion,
        &'static [&'static [u8]],
        Option<&'static [u8]>,
    );
    let cases: [Case; 5] = [
        (&TLS13, &[], None),
        (&TLS12, &[], None),
        (&TLS12, &[b"http/1.1"], Some(b"http/1.1")),
        (&TLS13, &[b"http/1.1", b"h2"], Some(b"h2")),
        (&TLS12, &[b"h2"], Some(b"h2")),
    ];
    for (version, alpn, chosen) in cases {
        let mut stream = gateway.try_connect(NAME, &[version], alpn).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        if chosen == Some(b"h2") {
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
        } else {
            assert!(get(&mut stream).await.ends_with("hello"));
            assert!(get(&mut stream).await.ends_with("hello"), "kept alive");
        }
    }
    let old = gateway.try_connect(NAME, &[&TLS13], &[b"http/1.0"]).await;
    assert!(get(&mut old.unwrap()).await.ends_with("hello"));
    // Told, and not only closed.
    let refused = gateway.try_connect(NAME, &[&TLS13], &[b"spdy"]).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("ApplicationProtocol"), "{said}");
}

#[tokio::test]
async fn tls_1_2_can_be_switched_off() {
    let gateway = Gateway::start(settings());
    let tls13_only = Tls {
        allow_tls12: false,
        ..only(&gateway.files)
    };
    gateway.tls.store(load(&tls13_only));
    assert!(gateway.try_connect(NAME, &[&TLS12], &[]).await.is_err());
    becomes(&gateway.counters.handshake_failed, 1).await;
    assert!(gateway.try_connect(NAME, &[&TLS13], &[]).await.is_ok());
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let gateway = Gateway::start(settings());
    let entry = |file: &str, host: &str| SniCertificate {
        hosts: vec![host.to_owned()],
        files: make_files(&gateway.directory, file, host),
    };
    let tls = Tls {
        sni: vec![
            entry("exact", "api.example.test"),
            entry("wildcard", "*.example.test"),
        ],
        ..only(&gateway.files)
    };
    gateway.tls.store(load(&tls));
    for name in [NAME, "api.example.test", "other.example.test"] {
        // The client checks the name.
        assert!(
            gateway.try_connect(name, &[&TLS13], &[]).await.is_ok(),
            "{name}"
        );
    }
    assert!(
        gateway
            .try_connect("a.b.example.test", &[&TLS13], &[])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_while_old_ones_live() {
    let gateway = Gateway::start(settings());
    let mut old = gateway.connect().await;
    let before = old.get_ref().1.peer_certificates().unwrap().to_vec();
    make_files(&gateway.directory, NAME, NAME);
    gateway.tls.store(load(&only(&gateway.files)));
    let mut new = gateway.connect().await;
    assert_ne!(new.get_ref().1.peer_certificates().unwrap(), before);
    assert!(get(&mut new).await.ends_with("hello"));
    assert!(get(&mut old).await.ends_with("hello"));
}

#[tokio::test]
async fn plain_http_on_the_tls_port_gets_a_clear_400() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.https).await.unwrap();
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nin clear"), "{answer}");
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
    becomes(&gateway.counters.handshake_failed, 0).await;
}

#[tokio::test]
async fn garbage_on_the_tls_port_is_closed_without_a_word() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.https).await.unwrap();
    socket.write_all(&[0x80, 1, 2, 3]).await.unwrap();
    let said = read_to_end(&mut socket).await.unwrap_or_default();
    assert_eq!(said, b"");
    becomes(&gateway.counters.handshake_failed, 1).await;
}

#[tokio::test]
async fn a_probe_that_says_nothing_is_no_failed_handshake() {
    let gateway = Gateway::start(settings());
    drop(TcpStream::connect(gateway.https).await.unwrap());
    assert!(get(&mut gateway.connect().await).await.ends_with("hello"));
    becomes(&gateway.counters.handshake_failed, 0).await;
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let mut settings = settings();
    settings.connections.handshake_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut quick = gateway.connect().await;
    let mut slow = TcpStream::connect(gateway.https).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let _ = read_to_end(&mut slow).await;
    becomes(&gateway.counters.handshake_timeout, 1).await;
    assert!(get(&mut quick).await.ends_with("hello"));
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
#[tokio::test]
async fn silent_connections_are_cut_and_counted() {
    let mut settings = settings();
    settings.connections.handshake_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut quick = gateway.connect().await;
    let begun = tokio::time::Instant::now();
    for socket in &mut gateway.silent(50).await {
        assert_eq!(read_to_end(socket).await.unwrap(), b"");
    }
    assert!(begun.elapsed() >= Duration::from_millis(500));
    becomes(&gateway.counters.handshake_timeout, 50).await;
    gateway.holds(1).await;
    assert!(get(&mut quick).await.ends_with("hello"));
}

#[tokio::test]
async fn who_speaks_late_is_served_whoever_left_before() {
    let gateway = Gateway::start(settings());
    let mut silent = gateway.silent(30).await;
    let mut odd = false;
    silent.retain(|_| {
        odd = !odd;
        odd
    });
    gateway.holds(15).await;
    silent.extend(gateway.silent(30).await);
    for socket in silent {
        let mut stream = gateway
            .handshake(socket, NAME, &[&TLS13], &[])
            .await
            .unwrap();
        assert!(get(&mut stream).await.ends_with("hello"));
    }
    gateway.holds(0).await;
    becomes(&gateway.counters.handshake_failed, 0).await;
}

#[tokio::test]
async fn a_hello_in_pieces_is_put_together() {
    let gateway = Gateway::start(settings());
    let hello = {
        let mut client = rustls::ClientConnection::new(
            Arc::new(
                ClientConfig::builder()
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth(),
            ),
            ServerName::try_from(NAME).unwrap(),
        )
        .unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    };
    let mut socket = gateway.silent(1).await.remove(0);
    for byte in hello {
        socket.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // A ServerHello, not an alert.
    let mut first = [0];
    patient(socket.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, [0x16]);
}

// S25: the same whether the words were there at once or came later; who does not close is not waited for.
#[tokio::test]
async fn plain_http_after_a_silence_gets_the_same_400() {
    let gateway = Gateway::start(settings());
    let mut socket = gateway.silent(1).await.remove(0);
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(answer.ends_with("\r\n\r\nin clear"), "{answer}");
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
    socket.write_all(GET).await.unwrap();
    gateway.holds(0).await;
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_the_silent_but_hears_who_speaks_in_time() {
    let mut gateway = Gateway::start(settings());
    let mut silent = gateway.silent(2).await;
    let speaks = silent.remove(0);
    gateway.shutdown.terminate(PATIENCE);
    let mut stream = gateway
        .handshake(speaks, NAME, &[&TLS13], &[])
        .await
        .unwrap();
    assert!(get(&mut stream).await.ends_with("hello"));
    drop(stream);
    assert_eq!(read_to_end(&mut silent[0]).await.unwrap(), b"");
    gateway.ended().await;
    assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
    assert_eq!(value(&gateway.counters.handshake_timeout), 0);
}

#[tokio::test]
async fn a_second_terminate_cuts_the_silent_at_once() {
    let mut gateway = Gateway::start(settings());
    let mut silent = gateway.silent(3).await;
    gateway.shutdown.terminate(PATIENCE * 10);
    gateway.shutdown.terminate(PATIENCE * 10);
    for socket in &mut silent {
        assert_eq!(read_to_end(socket).await.unwrap(), b"");
    }
    gateway.ended().await;
    assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
}

/// Writes a byte now and then until the other side is gone.
async fn drip(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for byte in bytes.iter().cycle() {
        pause.tick().await;
        let write = async { stream.write_all(&[*byte]).await.and(stream.flush().await) };
        if write.await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_head_that_drips_is_cut_while_a_neighbour_lives() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut slow = gateway.connect().await;
    let mut neighbour = gateway.connect().await;
    assert!(
        get(&mut slow).await.ends_with("hello"),
        "the first request was honest"
    );
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    patient(drip(&mut slow, b"a")).await;
    becomes(&gateway.counters.head_timeout, 1).await;
    assert!(get(&mut neighbour).await.ends_with("hello"));
}

#[tokio::test]
async fn http2_continuation_that_drips_is_cut() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut slow = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    slow.write_all(HTTP2_OPENING).await.unwrap();
    // The gateway has acknowledged the opening, so the block begins with a read of its own.
    let mut said = Vec::new();
    while !said.ends_with(b"\0\0\0\x04\x01\0\0\0\0") {
        said.push(patient(slow.read_u8()).await.unwrap());
    }
    slow.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82")
        .await
        .unwrap();
    let continuation = b"\0\0\x01\x09\0\0\0\0\x01\x84";
    patient(drip(&mut slow, continuation)).await;
    becomes(&gateway.counters.head_timeout, 1).await;
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_connection() {
    let gateway = Gateway::start(settings());
    let mut flood = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    flood.write_all(HTTP2_OPENING).await.unwrap();
    let pings = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0".repeat(5_000);
    let (mut read, mut write) = tokio::io::split(flood);
    let reading = tokio::spawn(async move { read_to_end(&mut read).await.map(drop) });
    let flooding = async { while write.write_all(&pings).await.is_ok() {} };
    patient(flooding).await;
    let _ = reading.await;
    becomes(&gateway.counters.flooded, 1).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_in_haste_end_the_connection() {
    let gateway = Gateway::start(settings());
    let mut hasty = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    let mut frames = HTTP2_OPENING.to_vec();
    for stream in (1..2_000u32).step_by(2) {
        // GET https / with an empty authority, then RST_STREAM CANCEL.
        frames.extend(b"\0\0\x03\x01\x05");
        frames.extend(stream.to_be_bytes());
        frames.extend(b"\x82\x84\x87");
        frames.extend(b"\0\0\x04\x03\0");
        frames.extend(stream.to_be_bytes());
        frames.extend(8u32.to_be_bytes());
    }
    let _ = hasty.write_all(&frames).await;
    let mut said = Vec::new();
    let _ = patient(hasty.read_to_end(&mut said)).await;
    let calm = b"\0\0\0\x0b";
    assert!(
        said.windows(4).any(|window| window == calm),
        "GOAWAY with ENHANCE_YOUR_CALM: {said:?}"
    );
    becomes(&gateway.counters.protocol_error, 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_cleanly_after_its_time() {
    let mut settings = settings();
    settings.connections.idle_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut used = gateway.connect().await;
    assert!(get(&mut used).await.ends_with("hello"));
    let mut unused = gateway.connect().await;
    assert_eq!(read_to_end(&mut used).await.unwrap(), b"", "close_notify");
    assert_eq!(read_to_end(&mut unused).await.unwrap(), b"", "close_notify");
    becomes(&gateway.counters.idle_closed, 2).await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_after_its_time() {
    let mut settings = settings();
    settings.connections.idle_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let stream = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
    let _ = patient(connection).await.unwrap();
    becomes(&gateway.counters.idle_closed, 1).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let mut settings = settings();
    settings.connections.stall_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut stalled = gateway.connect().await;
    let mut neighbour = gateway.connect().await;
    stalled
        .write_all(b"GET /endless HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        .await
        .unwrap();
    // Reads only what shows that the answer has begun.
    patient(stalled.read_u8()).await.unwrap();
    let counter = &gateway.counters.stalled;
    patient(async {
        while value(counter) == 0 {
            assert!(get(&mut neighbour).await.ends_with("hello"));
        }
    })
    .await;
    assert!(read_to_end(&mut stalled).await.is_err(), "looks cut");
}

#[tokio::test]
async fn a_stalled_http2_stream_is_reset_and_the_others_live() {
    let mut settings = settings();
    settings.connections.stall_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/endless"), true).unwrap();
    let mut body = patient(response).await.unwrap().into_body();
    // Takes data without giving the window back.
    let end = patient(async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(end.await.unwrap().unwrap_err().is_reset());
    becomes(&gateway.counters.stalled, 1).await;
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn connections_over_a_cap_are_closed_at_once_and_places_come_back() {
    let mut settings = settings();
    settings.connections.per_address_max = 2;
    let gateway = Gateway::start(settings);
    let mut first = gateway.connect().await;
    let mut second = gateway.connect().await;
    assert!(gateway.try_connect(NAME, &[&TLS13], &[]).await.is_err());
    becomes(&gateway.counters.refused_address_cap, 1).await;
    assert!(get(&mut first).await.ends_with("hello"));
    assert!(get(&mut second).await.ends_with("hello"));
    drop(first);
    patient(async { while gateway.try_connect(NAME, &[&TLS13], &[]).await.is_err() {} }).await;
}

#[tokio::test]
async fn heads_that_are_too_large_get_431_and_broken_ones_400() {
    let gateway = Gateway::start(settings());
    let many = "X-Y: z\r\n".repeat(101);
    let cases = [
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(40_000)),
            "431",
        ),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431"),
        (
            "GET / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n".to_owned(),
            "400",
        ),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ];
    let count = cases.len();
    for (head, status) in cases {
        let mut stream = gateway.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_to_end(&mut stream).await.unwrap()).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    becomes(&gateway.counters.protocol_error, count as u64).await;
}

#[tokio::test]
async fn a_client_in_the_middle_of_an_upload_still_gets_the_refusal() {
    let gateway = Gateway::start(settings());
    let stream = gateway.connect().await;
    let (mut read, mut write) = tokio::io::split(stream);
    let upload = tokio::spawn(async move {
        let head = b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n";
        write.write_all(head).await?;
        write.write_all(&vec![0; 4_000_000]).await
    });
    let answer = String::from_utf8(read_to_end(&mut read).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // A reset here is what takes the answer from clients that have not read it yet.
    patient(upload).await.unwrap().expect("no reset");
}

#[tokio::test]
async fn an_answer_that_breaks_off_looks_cut_at_once() {
    let gateway = Gateway::start(settings());
    let mut stream = gateway.connect().await;
    stream
        .write_all(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(1), read_to_end(&mut stream)).await;
    assert!(cut.expect("at once").is_err());
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/broken"), true).unwrap();
    let body = async {
        let mut body = response.await?.into_body();
        while let Some(data) = body.data().await {
            data?;
        }
        Ok::<_, h2::Error>(())
    };
    assert!(patient(body).await.unwrap_err().is_reset());
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    let gateway = Gateway::start(settings());
    let mut stream = gateway.connect().await;
    let head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.write_all(&vec![0; 3_000_000]).await.unwrap();
    assert!(read_answer(&mut stream).await.ends_with("3000000"));
    let mut send = gateway.http2().await;
    let (response, mut body) = send.send_request(request2("/count"), false).unwrap();
    body.send_data(Bytes::from(vec![0; 3_000_000]), true)
        .unwrap();
    let mut answer = patient(response).await.unwrap().into_body();
    assert_eq!(patient(answer.data()).await.unwrap().unwrap(), "3000000");
}

#[tokio::test]
async fn a_panic_ends_one_connection_or_stream_only() {
    let gateway = Gateway::start(settings());
    let mut neighbour = gateway.connect().await;
    let mut doomed = gateway.connect().await;
    doomed
        .write_all(b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut doomed).await.is_err());
    assert!(get(&mut neighbour).await.ends_with("hello"));
    let mut send = gateway.http2().await;
    let (held, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    assert!(get2(&mut send, "/panic").await.is_err());
    assert!(whole2(&mut send, "/panic-later").await.is_err());
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
    gateway.release.add_permits(1);
    assert_eq!(patient(held).await.unwrap().status(), StatusCode::OK);
    becomes(&gateway.counters.panicked, 3).await;
}

// S34: what does not have the length that its head states looks cut, and the connection lives on.
#[tokio::test]
async fn an_http2_answer_of_another_length_is_reset() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    for path in ["/longer", "/shorter"] {
        // h2 would find it out by itself once the whole answer is there; a reset tells every client.
        let error = whole2(&mut send, path).await.unwrap_err();
        assert!(error.is_remote() && error.is_reset(), "{path}: {error}");
    }
    assert_eq!(whole2(&mut send, "/").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_head_is_answered_over_http2_without_the_body() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    let mut request = request2("/");
    *request.method_mut() = http::Method::HEAD;
    let (response, _) = send.send_request(request, true).unwrap();
    let answer = patient(response).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("date"));
    let data = patient(answer.into_body().data()).await;
    assert!(data.is_none_or(|data| data.unwrap().is_empty()));
}

// A client that gives a request up sets free what works for it, whether the answer has begun, or waits for the client's window, or has not.
#[tokio::test]
async fn a_stream_that_the_client_resets_is_let_go() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/left"), true).unwrap();
    gateway.held().await;
    drop(response);
    gateway.held().await;
    let (response, _) = send.send_request(request2("/endless-left"), true).unwrap();
    let mut answer = patient(response).await.unwrap();
    // It sends what the window of 65,535 bytes allows, and waits.
    let mut taken = 0;
    while taken < 65_535 {
        let data = patient(answer.body_mut().data()).await;
        taken += data.unwrap().unwrap().len();
    }
    drop(answer);
    gateway.held().await;
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn many_http2_streams_at_once_and_again_are_all_answered() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    for _ in 0..3 {
        let mut held = Vec::new();
        for _ in 0..10 {
            let (response, _) = send.send_request(request2("/hold"), true).unwrap();
            held.push(response);
            gateway.held().await;
        }
        gateway.release.add_permits(10);
        for response in held {
            assert_eq!(patient(response).await.unwrap().status(), StatusCode::OK);
        }
        for _ in 0..30 {
            assert_eq!(whole2(&mut send, "/").await.unwrap(), b"hello");
        }
    }
}

#[tokio::test]
async fn the_plain_listener_refuses_and_closes() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.http).await.unwrap();
    socket.write_all(GET).await.unwrap();
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert_eq!(
        answer.matches("HTTP/1.1").count(),
        1,
        "one answer only: {answer}"
    );
}

#[tokio::test]
async fn the_plain_listener_cuts_heads_that_drip() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut socket = TcpStream::connect(gateway.http).await.unwrap();
    socket.write_all(b"GET / HT").await.unwrap();
    let _ = read_to_end(&mut socket).await;
    becomes(&gateway.counters.head_timeout, 1).await;
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_closes_quiet_connections() {
    let mut gateway = Gateway::start(settings());
    let mut quiet = gateway.connect().await;
    assert!(get(&mut quiet).await.ends_with("hello"));
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    let mut send = gateway.http2().await;
    let (busy2, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    gateway.shutdown.terminate(PATIENCE);
    assert_eq!(read_to_end(&mut quiet).await.unwrap(), b"");
    drop(quiet);
    assert!(
        TcpStream::connect(gateway.https).await.is_err(),
        "takes nothing new"
    );
    gateway.release.add_permits(2);
    let answer = String::from_utf8(read_to_end(&mut busy).await.unwrap()).unwrap();
    assert!(answer.ends_with("held"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    drop(busy);
    assert_eq!(patient(busy2).await.unwrap().status(), StatusCode::OK);
    let ready = patient(std::future::poll_fn(|cx| send.poll_ready(cx))).await;
    assert!(
        ready.is_err() || send.send_request(request2("/"), true).is_err(),
        "GOAWAY"
    );
    drop(send);
    gateway.ended().await;
    assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_that_has_just_come_may_still_ask_in_a_drain() {
    let mut gateway = Gateway::start(settings());
    let mut used = gateway.connect().await;
    assert!(get(&mut used).await.ends_with("hello"));
    let mut fresh = gateway.connect().await;
    gateway.shutdown.terminate(PATIENCE);
    assert_eq!(
        read_to_end(&mut used).await.unwrap(),
        b"",
        "the drain is on"
    );
    assert!(get(&mut fresh).await.ends_with("hello"));
    drop((fresh, used));
    gateway.ended().await;
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut() {
    let mut gateway = Gateway::start(settings());
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    let mut send = gateway.http2().await;
    let (busy2, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    let drain = Duration::from_millis(300);
    assert_eq!(gateway.shutdown.terminate(drain), State::Draining(drain));
    assert!(read_to_end(&mut busy).await.is_err(), "looks cut");
    assert!(patient(busy2).await.is_err());
    gateway.ended().await;
}

#[tokio::test]
async fn a_second_terminate_cuts_at_once() {
    let mut gateway = Gateway::start(settings());
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    gateway.shutdown.terminate(PATIENCE * 10);
    gateway.shutdown.terminate(PATIENCE * 10);
    assert!(read_to_end(&mut busy).await.is_err());
    gateway.ended().await;
}
