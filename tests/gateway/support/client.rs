//! Clients: exact bytes over TLS or in clear, an ordinary HTTP/2 client, and the real curl.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::RootCertStore;
use rustls::StreamOwned;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;

use crate::support::PATIENCE;
use crate::support::certs;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::find;

/// Something that carries bytes both ways.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// The TLS settings of a client that trusts the test authority.
pub fn tls_config(alpn: &[&str]) -> Arc<ClientConfig> {
    tls_config_of(rustls::DEFAULT_VERSIONS, alpn)
}

/// The same for these TLS versions.
pub fn tls_config_of(
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certs::authority().der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A handshaken TLS connection.
pub fn tls(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    tls_over(socket_from(None, address)?, name, config)
}

/// A connection, if need be from this address of the machine's (all of 127.0.0.0/8 are).
pub fn socket_from(source: Option<&str>, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    if let Some(source) = source {
        let source = SocketAddr::new(source.parse().unwrap(), 0);
        socket.bind(&source.into())?;
    }
    socket.connect(&address.into())?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A TLS handshake on a connection that is there already.
pub fn tls_over(
    mut socket: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

fn usual_tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| tls_config(&["http/1.1"])))
}

/// One HTTP/1.1 connection on which a test decides every byte.
pub struct Http1 {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

impl Http1 {
    /// Over TLS, to `localhost`.
    #[track_caller]
    pub fn tls(address: SocketAddr) -> Http1 {
        Http1::over(tls(address, "localhost", usual_tls()).unwrap())
    }

    /// The same, or `None` when the gateway does not let it in.
    pub fn tls_try(address: SocketAddr) -> Option<Http1> {
        tls(address, "localhost", usual_tls()).ok().map(Http1::over)
    }

    /// In clear.
    #[track_caller]
    pub fn plain(address: SocketAddr) -> Http1 {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Http1::over(socket)
    }

    /// Over a connection that is there already.
    pub fn over(wire: impl Wire + 'static) -> Http1 {
        Http1 {
            wire: Box::new(wire),
            buffer: Vec::new(),
        }
    }

    /// Sends these bytes; a connection that the other side has closed is no failure here, the answer tells.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Http1 {
        let _ = self
            .wire
            .write_all(bytes.as_ref())
            .and_then(|()| self.wire.flush());
        self
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn exchange(&mut self, request: &Request) -> Answer {
        self.send(request.bytes());
        self.read_for(&request.method)
    }

    /// Reads one answer.
    #[track_caller]
    pub fn read(&mut self) -> Answer {
        self.read_for("GET")
    }

    /// Reads one answer to a request of this method (`HEAD` has no body).
    #[track_caller]
    pub fn read_for(&mut self, method: &str) -> Answer {
        self.try_read_for(method)
            .expect("an answer, but the connection was closed")
    }

    /// Reads one answer; `None` when the connection ends before its head does.
    pub fn try_read_for(&mut self, method: &str) -> Option<Answer> {
        let mut answer = self.read_head()?;
        self.read_body(method, &mut answer);
        Some(answer)
    }

    /// Reads the head of an answer and leaves its body.
    pub fn read_head(&mut self) -> Option<Answer> {
        let mut interim = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                    break at + 4;
                }
                self.fill()?;
            };
            let head: Vec<u8> = self.buffer.drain(..end).collect();
            let answer = parse_head(&head);
            if (100..200).contains(&answer.status) && answer.status != 101 {
                interim.push(answer.status);
                continue;
            }
            return Some(Answer { interim, ..answer });
        }
    }

    /// The status of the next head, which is taken off; `None` when the connection was closed before.
    pub fn read_interim(&mut self) -> Option<u16> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Some(parse_head(&head).status);
            }
            self.fill()?;
        }
    }

    /// Reads what follows a head.
    pub fn read_body(&mut self, method: &str, answer: &mut Answer) {
        let empty = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
        let chunked = answer
            .all("transfer-encoding")
            .iter()
            .any(|coding| coding.eq_ignore_ascii_case("chunked"));
        let length = answer
            .all("content-length")
            .first()
            .map(|text| text.parse());
        if empty {
            answer.complete = true;
        } else if chunked {
            answer.complete = self.read_chunks(answer).is_some();
        } else if let Some(length) = length {
            let length: usize = length.expect("Content-Length is a number");
            while self.buffer.len() < length && self.fill().is_some() {}
            answer.complete = self.buffer.len() >= length;
            let count = length.min(self.buffer.len());
            answer.body = self.buffer.drain(..count).collect();
        } else {
            while self.fill().is_some() {}
            answer.body = std::mem::take(&mut self.buffer);
            answer.complete = true;
        }
    }

    /// Waits until the bytes that came so far hold `text`; says whether they do before the connection ends.
    pub fn wait_for(&mut self, text: &str) -> bool {
        while find(&self.buffer, text.as_bytes()).is_none() {
            if self.fill().is_none() {
                return false;
            }
        }
        true
    }

    /// Everything until the other side closes; what stood in the buffer comes first.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().is_some() {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the other side has closed, with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        self.read_to_end().is_empty()
    }

    fn read_chunks(&mut self, answer: &mut Answer) -> Option<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            while self.buffer.len() < size + 2 {
                if self.fill().is_none() {
                    answer.body.append(&mut self.buffer);
                    return None;
                }
            }
            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                None => return Some(()),
                Some((name, value)) => answer
                    .trailers
                    .push((name.to_owned(), value.trim().to_owned())),
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Some(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()?;
        }
    }

    /// Reads some more; `None` when the other side has closed. Silence beyond the patience fails the test.
    fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 64 * 1024];
        match self.wire.read(&mut piece) {
            Ok(0) => None,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Some(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                panic!("the gateway neither answered nor closed within {PATIENCE:?}")
            }
            Err(_) => None,
        }
    }
}

pub fn parse_head(head: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let status_line = lines.next().unwrap_or("");
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("a status line: {status_line:?}"));
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a header line");
            (name.to_owned(), value.trim().to_owned())
        })
        .collect();
    Answer {
        status,
        headers,
        ..Answer::default()
    }
}

/// An HTTP/2 connection of an ordinary client; several requests may run on it at once.
pub struct Http2 {
    sender: h2::client::SendRequest<Bytes>,
    connection: tokio::task::JoinHandle<()>,
}

impl Http2 {
    /// Over TLS, to `localhost`.
    pub async fn connect(address: SocketAddr) -> Http2 {
        let connector = tokio_rustls::TlsConnector::from(tls_config(&["h2"]));
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, socket).await.unwrap();
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(&b"h2"[..]),
            "the gateway speaks HTTP/2"
        );
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Http2 { sender, connection }
    }

    /// Sends a request; `Err` when the stream or the connection is reset.
    pub async fn exchange(&self, request: &Request) -> Result<Answer, h2::Error> {
        let response = self.begin(request).await?.await?;
        read_h2(response).await
    }

    /// Sends a request whole; the answer is awaited by the caller.
    pub async fn begin(&self, request: &Request) -> Result<h2::client::ResponseFuture, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let body = request.body.clone();
        let (response, mut stream) = sender.send_request(h2_head(request), body.is_none())?;
        if let Some(body) = body {
            stream.send_data(Bytes::from(body), true)?;
        }
        Ok(response)
    }

    /// Sends a request's head; the caller sends the body.
    pub async fn begin_upload(
        &self,
        request: &Request,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        sender.send_request(h2_head(request), false)
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn h2_head(request: &Request) -> http::Request<()> {
    let host = request
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map_or("localhost", |(_, value)| value.as_str());
    let mut builder = http::Request::builder()
        .version(http::Version::HTTP_2)
        .method(request.method.as_str())
        .uri(format!("https://{host}{}", request.target));
    for (name, value) in &request.headers {
        if !name.eq_ignore_ascii_case("host") {
            builder = builder.header(name.to_ascii_lowercase(), value);
        }
    }
    builder.body(()).unwrap()
}

/// Reads the rest of an HTTP/2 answer; `complete` is false when the stream was reset within the body.
pub async fn read_h2(response: http::Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut answer = Answer {
        status: head.status.as_u16(),
        headers: pairs(&head.headers),
        complete: true,
        ..Answer::default()
    };
    while let Some(piece) = stream.data().await {
        match piece {
            Ok(piece) => {
                let _ = stream.flow_control().release_capacity(piece.len());
                answer.body.extend_from_slice(&piece);
            }
            Err(_) => {
                answer.complete = false;
                return Ok(answer);
            }
        }
    }
    if let Ok(Some(trailers)) = stream.trailers().await {
        answer.trailers = pairs(&trailers);
    }
    Ok(answer)
}

fn pairs(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Runs `work` on a runtime of its own, within [`PATIENCE`] times three.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE * 3, work)
            .await
            .expect("done in time")
    })
}

/// Runs the real curl, silent, trusting the test authority; the status code and standard output.
#[track_caller]
pub fn curl(directory: &Path, arguments: &[&str]) -> (u16, String) {
    let authority = directory.join("curl-ca.pem");
    std::fs::write(&authority, &certs::authority().pem).unwrap();
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "--write-out", "\n%{http_code}"])
        .arg("--cacert")
        .arg(&authority)
        .args(arguments)
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", text.as_str()));
    (code.parse().unwrap_or(0), body.to_owned())
}
