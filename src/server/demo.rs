//! `portcullis demo`: a legacy backend, a development certificate, tenants and keys made on the spot, then what `run` does.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;

use bytes::Bytes;
use http::Request;
use http::Response;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::clock::Clock;
use crate::store::NewKey;
use crate::store::Outcome;
use crate::store::Verb;

use super::Gateway;
use super::StartError;

/// A running demonstration; its files go away with it.
#[derive(Debug)]
pub(crate) struct Demo {
    pub(crate) gateway: Gateway,
    /// gateway.toml and everything beside it.
    directory: PathBuf,
    /// Keeps the backend alive.
    _backend: tokio::runtime::Runtime,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Makes everything and starts it; gives back the text to print.
pub(crate) fn start() -> Result<(Demo, String), StartError> {
    let directory = fresh_directory()?;
    write_certificates(&directory)?;
    let (backend, backend_address) = start_backend()?;
    let https = free_port(8443)?;
    let http = free_port(8080)?;
    let config_path = directory.join("gateway.toml");
    std::fs::write(&config_path, config_text(https, http, backend_address))?;
    let gateway = Gateway::start(&config_path, Clock::system())?;
    let key = make_key(&gateway, "acme")?;
    let small_key = make_key(&gateway, "bravo")?;
    let text = introduction(&gateway, &directory, &key, &small_key);
    Ok((
        Demo {
            gateway,
            directory,
            _backend: backend,
        },
        text,
    ))
}

fn fresh_directory() -> io::Result<PathBuf> {
    let mut random = [0u8; 6];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = String::from("portcullis-demo-");
    for byte in random {
        let _ = write!(name, "{byte:02x}");
    }
    let directory = std::env::temp_dir().join(name);
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
        .create(&directory)?;
    Ok(directory)
}

/// A CA of its own, so that curl can check the certificate instead of being told not to.
fn write_certificates(directory: &Path) -> Result<(), StartError> {
    let names = vec![String::from("localhost"), String::from("127.0.0.1")];
    let made = make_certificates(names)
        .map_err(|error| StartError::failed(format!("cannot make a certificate: {error}")))?;
    std::fs::write(directory.join("ca.pem"), made.ca)?;
    std::fs::write(directory.join("cert.pem"), made.certificate)?;
    let key_path = directory.join("key.pem");
    std::fs::write(&key_path, made.private_key)?;
    std::fs::set_permissions(
        &key_path,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    Ok(())
}

/// PEM texts.
struct Certificates {
    ca: String,
    certificate: String,
    private_key: String,
}

fn make_certificates(names: Vec<String>) -> Result<Certificates, rcgen::Error> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "Portcullis demonstration CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let leaf_key = rcgen::KeyPair::generate()?;
    let mut leaf = rcgen::CertificateParams::new(names)?;
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, "localhost");
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = leaf.signed_by(&leaf_key, &issuer)?;
    Ok(Certificates {
        ca: ca_certificate.pem(),
        certificate: certificate.pem(),
        private_key: leaf_key.serialize_pem(),
    })
}

/// The wanted port of 127.0.0.1, or the next free one after it.
fn free_port(wanted: u16) -> io::Result<SocketAddr> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in wanted..wanted.saturating_add(100) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn config_text(https: SocketAddr, http: SocketAddr, backend: SocketAddr) -> String {
    format!(
        r#"[listen]
https = ["{https}"]
http = ["{http}"]
admin = ""

[tls]
certificate = "cert.pem"
private_key = "key.pem"

[store]
path = "state"

[log]
access = "off"
level = "warn"

[plans.free]
quota = "100/hour"
burst = "20/min"
scopes = ["*"]

[plans.tiny]
quota = "1/hour"
burst = "unlimited"
scopes = ["*"]

[[tenants]]
id = "acme"
plan = "free"

[[tenants]]
id = "bravo"
plan = "tiny"

[upstreams.legacy]
servers = ["http://{backend}"]
isolation = "header"

[[routes]]
path = "/leases/{{*rest}}"
methods = ["GET"]
scope = "leases:read"
upstream = "legacy"

[[routes]]
path = "/leases/{{*rest}}"
methods = ["POST"]
scope = "leases:write"
upstream = "legacy"

[[routes]]
path = "/status"
access = "public"
upstream = "legacy"
"#
    )
}

fn make_key(gateway: &Gateway, tenant: &str) -> Result<String, StartError> {
    let key = NewKey {
        tenant: String::from(tenant),
        name: String::from("demonstration"),
        kind: String::from("secret"),
        environment: None,
        plan: None,
        quota: None,
        burst: None,
        scopes: Some(vec![String::from("leases:read")]),
        expires_in_seconds: Some(24 * 3600),
        ..NewKey::default()
    };
    match gateway.execute(Verb::KeyCreate(key)) {
        Ok(Outcome::KeyIssued { text, .. }) => Ok(text.reveal().to_owned()),
        Ok(_) => Err(StartError::failed(String::from("the store made no key"))),
        Err(error) => Err(StartError::failed(error.to_string())),
    }
}

fn introduction(gateway: &Gateway, directory: &Path, key: &str, small_key: &str) -> String {
    let https = gateway.https()[0].port();
    let http = gateway.http()[0].port();
    let curl = format!("curl -sS --cacert {}", directory.join("ca.pem").display());
    let edge = format!("https://127.0.0.1:{https}");
    format!(
        r#"Portcullis stands in front of a demonstration backend. Paste these in this order, in another terminal:

{curl} -H "Authorization: Bearer {key}" {edge}/leases/7  # 200 the backend is told the tenant and never sees the key
{curl} -H "X-API-Key: {key}" -H "X-Tenant-ID: bravo" {edge}/leases/7  # 200 a forged tenant header is replaced
{curl} {edge}/leases/7  # 401 no key, nothing reaches the backend
{curl} http://127.0.0.1:{http}/leases/7  # 403 plain HTTP is refused, never redirected
{curl} -H "X-API-Key: {key}" -d "{{}}" {edge}/leases  # 403 the key lacks leases:write, and the answer says so
{curl} -H "X-API-Key: {small_key}" {edge}/leases/7  # 200 this key's plan allows one request an hour
{curl} -i -H "X-API-Key: {small_key}" {edge}/leases/7  # 429 with a Retry-After that is true
{curl} {edge}/status  # 200 a public route

Configuration, certificate and store: {directory}
(removed on exit). Stop with Ctrl-C.
"#,
        directory = directory.display()
    )
}

/// A backend that knows nothing of keys: it answers with what it was sent.
fn start_backend() -> io::Result<(tokio::runtime::Runtime, SocketAddr)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("demo-backend")
        .enable_all()
        .build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                hyper::service::service_fn(
                    |request| async move { Ok::<_, Infallible>(echo(&request)) },
                );
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Ok((runtime, address))
}

fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut received = serde_json::Map::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        received.insert(name.to_string(), value.into());
    }
    let answer = serde_json::json!({
        "backend": "demonstration",
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "received_headers": received,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{answer:#}\n"))));
    let json = http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, json);
    response
}
