//! Backends that speak HTTP/2: one whose requests a test serves itself, and one whose frames a test writes byte by byte.

use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;

use bytes::Bytes;
use http::HeaderMap;
use http::Response;
use http::request::Parts;
use tokio::sync::oneshot;

use crate::support::eventually;

/// One request that the backend was asked.
pub struct Call {
    /// Its head.
    pub head: Parts,
    /// Its body.
    pub body: h2::RecvStream,
    /// The way to answer.
    pub respond: h2::server::SendResponse<Bytes>,
    /// On which connection it came, counted from 0.
    pub connection: usize,
    /// How many came before it.
    pub index: usize,
}

impl Call {
    /// Reads the whole body.
    pub async fn read(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Ok(piece)) = self.body.data().await {
            let _ = self.body.flow_control().release_capacity(piece.len());
            all.extend_from_slice(&piece);
        }
        all
    }

    /// Answers with this status and body; headers as `(name, value)`.
    pub fn answer(&mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut stream = self.begin(status, headers, body.is_empty());
        if !body.is_empty() {
            let _ = stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
        }
    }

    /// Sends a head; `whole` when nothing follows.
    pub fn begin(
        &mut self,
        status: u16,
        headers: &[(&str, &str)],
        whole: bool,
    ) -> h2::SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.respond
            .send_response(response.body(()).unwrap(), whole)
            .unwrap()
    }

    /// Waits until the gateway resets the stream; why.
    pub async fn reset(&mut self) -> Option<h2::Reason> {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx))
            .await
            .ok()
    }
}

/// Sends so many bytes as the windows allow; `false` when the stream is reset first.
pub async fn send_all(stream: &mut h2::SendStream<Bytes>, mut bytes: usize, end: bool) -> bool {
    let piece = Bytes::from(vec![b'x'; 16 * 1024]);
    while bytes > 0 {
        stream.reserve_capacity(bytes.min(piece.len()));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let Some(Ok(room)) = room else { return false };
        let count = room.min(bytes).min(piece.len());
        bytes -= count;
        if stream
            .send_data(piece.slice(..count), end && bytes == 0)
            .is_err()
        {
            return false;
        }
    }
    true
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Bounds that the backend declares.
#[derive(Clone, Default)]
pub struct Manners {
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub streams_max: Option<u32>,
    /// TLS; `None` is clear text with prior knowledge.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// The running backend; stops when dropped.
pub struct H2Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// Heads of all requests so far.
    pub heads: Arc<Mutex<Vec<Parts>>>,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl H2Upstream {
    /// Serves each request by this function.
    pub fn start<F, S>(serve: F) -> H2Upstream
    where
        F: Fn(Call) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        H2Upstream::start_with(Manners::default(), serve)
    }

    /// The same, with these manners.
    pub fn start_with<F, S>(manners: Manners, serve: F) -> H2Upstream
    where
        F: Fn(Call) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (noted, counted) = (Arc::clone(&heads), Arc::clone(&connections));
        let serve: Arc<dyn Fn(Call) -> Serving + Send + Sync> =
            Arc::new(move |call| Box::pin(serve(call)));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let accepting = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        let connection = counted.fetch_add(1, Ordering::SeqCst);
                        let _ = socket.set_nodelay(true);
                        let (serve, noted) = (Arc::clone(&serve), Arc::clone(&noted));
                        let manners = manners.clone();
                        tokio::spawn(async move {
                            match &manners.tls {
                                None => converse(socket, connection, &manners, serve, noted).await,
                                Some(tls) => {
                                    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(tls));
                                    if let Ok(socket) = acceptor.accept(socket).await {
                                        converse(socket, connection, &manners, serve, noted).await;
                                    }
                                }
                            }
                        });
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        H2Upstream {
            address,
            heads,
            connections,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many requests came.
    pub fn hits(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn wait_for_hits(&self, count: usize) {
        eventually("the backend gets its requests", || {
            (self.hits() >= count).then_some(())
        });
    }

    /// The headers of the latest request.
    pub fn last(&self) -> HeaderMap {
        self.heads.lock().unwrap().last().unwrap().headers.clone()
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn converse<T>(
    socket: T,
    connection: usize,
    manners: &Manners,
    serve: Arc<dyn Fn(Call) -> Serving + Send + Sync>,
    noted: Arc<Mutex<Vec<Parts>>>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    if let Some(max) = manners.streams_max {
        builder.max_concurrent_streams(max);
    }
    let Ok(mut requests) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = requests.accept().await {
        let (head, body) = request.into_parts();
        let index = {
            let mut noted = noted.lock().unwrap();
            noted.push(head.clone());
            noted.len() - 1
        };
        tokio::spawn(serve(Call {
            head,
            body,
            respond,
            connection,
            index,
        }));
    }
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// `:status: 200` and nothing more, END_STREAM.
pub fn bare_200(stream: u32) -> Vec<u8> {
    frame(1, 0x5, stream, &[0x88])
}

/// RST_STREAM.
pub fn reset(stream: u32, reason: u32) -> Vec<u8> {
    frame(3, 0, stream, &reason.to_be_bytes())
}

/// GOAWAY.
pub fn go_away(last: u32, reason: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), reason.to_be_bytes()].concat();
    frame(7, 0, 0, &payload)
}

/// What to do after a frame came.
pub enum Then {
    /// Write these bytes.
    Write(Vec<u8>),
    /// Write these bytes and close.
    Close(Vec<u8>),
}

/// A frame that the gateway sent.
pub struct Came {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// On which connection, counted from 0.
    pub connection: usize,
    /// How many HEADERS came before it, on whatever connection.
    pub requests: usize,
}

/// A backend whose frames the test writes; stops when dropped.
pub struct RawH2 {
    /// Where it listens.
    pub address: SocketAddr,
    /// HEADERS frames so far.
    pub requests: Arc<AtomicUsize>,
    /// PING frames so far.
    pub pings: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RawH2 {
    /// Begins each connection with `hello` (usually SETTINGS), then asks `then` for each frame but SETTINGS. PINGs are counted, and answered by `then`.
    pub fn start(hello: Vec<u8>, then: impl Fn(&Came) -> Then + Send + Sync + 'static) -> RawH2 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let pings = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let then: Arc<dyn Fn(&Came) -> Then + Send + Sync> = Arc::new(then);
        let (counted, pinged, stop) = (requests.clone(), pings.clone(), stopping.clone());
        let thread = thread::spawn(move || {
            let mut conversations = Vec::new();
            let mut open: Vec<TcpStream> = Vec::new();
            for (connection, socket) in listener.incoming().flatten().enumerate() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                open.push(socket.try_clone().unwrap());
                let hello = hello.clone();
                let then = Arc::clone(&then);
                let (counted, pinged) = (counted.clone(), pinged.clone());
                conversations.push(thread::spawn(move || {
                    raw(socket, connection, &hello, &*then, &counted, &pinged)
                }));
            }
            for socket in open {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            for conversation in conversations {
                let _ = conversation.join();
            }
        });
        RawH2 {
            address,
            requests,
            pings,
            stopping,
            thread: Some(thread),
        }
    }
}

impl Drop for RawH2 {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn raw(
    mut socket: TcpStream,
    connection: usize,
    hello: &[u8],
    then: &(dyn Fn(&Came) -> Then + Send + Sync),
    counted: &AtomicUsize,
    pinged: &AtomicUsize,
) -> Option<()> {
    let mut preface = [0; 24];
    socket.read_exact(&mut preface).ok()?;
    socket.write_all(hello).ok()?;
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).ok()?;
        let (kind, flags) = (header[3], header[4]);
        if kind == 4 {
            if flags & 1 == 0 {
                socket.write_all(&frame(4, 1, 0, &[])).ok()?;
            }
            continue;
        }
        if kind == 6 {
            pinged.fetch_add(1, Ordering::SeqCst);
        }
        let mut requests = counted.load(Ordering::SeqCst);
        if kind == 1 {
            requests = counted.fetch_add(1, Ordering::SeqCst);
        }
        let came = Came {
            kind,
            flags,
            stream: u32::from_be_bytes([header[5], header[6], header[7], header[8]]),
            connection,
            requests,
        };
        match then(&came) {
            Then::Write(bytes) => socket.write_all(&bytes).ok()?,
            Then::Close(bytes) => {
                let _ = socket.write_all(&bytes);
                let _ = socket.shutdown(std::net::Shutdown::Both);
                return None;
            }
        }
    }
}
