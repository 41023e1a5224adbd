//! gRPC on both ends, by tonic: a service written by hand, and a channel through the gateway.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::thread;
use std::thread::JoinHandle;

use bytes::Buf;
use bytes::BufMut;
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::codec::Codec;
use tonic::codec::DecodeBuf;
use tonic::codec::Decoder;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::support::client::tls_config;
use crate::support::gateway::Gateway;

/// Messages are texts.
#[derive(Clone, Copy, Default)]
pub struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Text;
    type Decoder = Text;

    fn encoder(&mut self) -> Text {
        Text
    }

    fn decoder(&mut self) -> Text {
        Text
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

type Texts = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// A function as a service.
struct Fun<F>(F);

impl<M, R, F, T> Service<Request<M>> for Fun<F>
where
    F: FnMut(Request<M>) -> T,
    T: Future<Output = Result<Response<R>, Status>>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = T;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> T {
        (self.0)(request)
    }
}

/// `Unary` greets, `Down` counts (or goes on for ever, or floods), `Up` joins, `Both` echoes, `Wait` never answers.
#[derive(Clone)]
struct Echo {
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let headers = MetadataMap::from_headers(request.headers().clone());
        self.seen.lock().unwrap().push(headers);
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Text);
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => grpc.unary(Fun(greet), request).await,
                "/test.Echo/Down" => grpc.server_streaming(Fun(count), request).await,
                "/test.Echo/Up" => grpc.client_streaming(Fun(join), request).await,
                "/test.Echo/Both" => grpc.streaming(Fun(echo), request).await,
                _ => {
                    let wait = |_: Request<String>| {
                        std::future::pending::<Result<Response<String>, Status>>()
                    };
                    grpc.unary(Fun(wait), request).await
                }
            })
        })
    }
}

async fn greet(request: Request<String>) -> Result<Response<String>, Status> {
    let tenant = request.metadata().get("x-tenant-id");
    let tenant = tenant.and_then(|tenant| tenant.to_str().ok()).unwrap_or("");
    match request.get_ref().as_str() {
        "fail" => Err(Status::failed_precondition("not today")),
        name => Ok(Response::new(format!("hello {name} of {tenant}"))),
    }
}

async fn count(request: Request<String>) -> Result<Response<Texts>, Status> {
    let stream: Texts = match request.get_ref().as_str() {
        "forever" => {
            let first = tokio_stream::once(Ok("first".to_owned()));
            Box::pin(first.chain(tokio_stream::pending()))
        }
        "flood" => {
            let piece = || Ok("x".repeat(16 * 1024));
            Box::pin(tokio_stream::iter(std::iter::repeat_with(piece)))
        }
        number => {
            let end: usize = number.parse().unwrap_or(0);
            let broken = Err(Status::resource_exhausted("no more"));
            let numbers = (0..end).map(|number| Ok(number.to_string()));
            let broken = (end == 0).then_some(broken);
            Box::pin(tokio_stream::iter(numbers.chain(broken)))
        }
    };
    Ok(Response::new(stream))
}

async fn join(request: Request<Streaming<String>>) -> Result<Response<String>, Status> {
    let mut stream = request.into_inner();
    let mut all = String::new();
    while let Some(text) = stream.message().await? {
        all.push_str(&text);
    }
    Ok(Response::new(all))
}

async fn echo(request: Request<Streaming<String>>) -> Result<Response<Texts>, Status> {
    let stream = request.into_inner();
    let echoed = stream.map(|text| text.map(|text| format!("{text}!")));
    Ok(Response::new(Box::pin(echoed)))
}

/// The running service, in clear with prior knowledge; stops when dropped.
pub struct GrpcUpstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// What each call came with.
    pub seen: Arc<Mutex<Vec<MetadataMap>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GrpcUpstream {
    /// Starts it.
    pub fn start() -> GrpcUpstream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let echo = Echo {
            seen: Arc::clone(&seen),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serving = Server::builder()
                    .add_service(echo)
                    .serve_with_incoming(TcpIncoming::from(listener));
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        GrpcUpstream {
            address,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// How many calls came.
    pub fn hits(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Drop for GrpcUpstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects to the gateway as any TLS client would.
struct Connect(SocketAddr);

impl Service<Uri> for Connect {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = self.0;
        Box::pin(async move {
            let connector = tokio_rustls::TlsConnector::from(tls_config(&["h2"]));
            let socket = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            Ok(TokioIo::new(connector.connect(name, socket).await?))
        })
    }
}

/// A gRPC client of the gateway; its calls share one connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    key: String,
}

impl Client {
    /// One that presents this key.
    pub async fn connect(gateway: &Gateway, key: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", gateway.https())).unwrap();
        let channel = endpoint
            .origin(Uri::from_static("https://localhost"))
            .connect_with_connector(Connect(gateway.https()))
            .await
            .unwrap();
        Client {
            channel,
            key: key.to_owned(),
        }
    }

    /// The same connection with another key.
    pub fn with_key(&self, key: &str) -> Client {
        Client {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = format!("Bearer {}", self.key).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        let forged = "forged".parse().unwrap();
        request.metadata_mut().insert("x-tenant-id", forged);
        request
    }

    async fn grpc(&self) -> tonic::client::Grpc<Channel> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        grpc
    }

    /// A call with one message each way.
    pub async fn unary(&self, path: &'static str, text: &str) -> Result<String, Status> {
        let request = self.request(text.to_owned());
        let path = PathAndQuery::from_static(path);
        let mut grpc = self.grpc().await;
        grpc.unary(request, path, Text)
            .await
            .map(Response::into_inner)
    }

    /// A call whose answer streams.
    pub async fn down(&self, text: &str) -> Result<Streaming<String>, Status> {
        let request = self.request(text.to_owned());
        let path = PathAndQuery::from_static("/test.Echo/Down");
        let mut grpc = self.grpc().await;
        grpc.server_streaming(request, path, Text)
            .await
            .map(Response::into_inner)
    }

    /// A call whose request streams.
    pub async fn up(
        &self,
        texts: impl Stream<Item = String> + Send + 'static,
    ) -> Result<String, Status> {
        let path = PathAndQuery::from_static("/test.Echo/Up");
        let mut grpc = self.grpc().await;
        grpc.client_streaming(self.request(texts), path, Text)
            .await
            .map(Response::into_inner)
    }

    /// A call that streams both ways.
    pub async fn both(
        &self,
        texts: impl Stream<Item = String> + Send + 'static,
    ) -> Result<Streaming<String>, Status> {
        let path = PathAndQuery::from_static("/test.Echo/Both");
        let mut grpc = self.grpc().await;
        grpc.streaming(self.request(texts), path, Text)
            .await
            .map(Response::into_inner)
    }
}
