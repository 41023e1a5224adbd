//! Standard Webhooks: an alert as a signed POST to one receiver, over HTTP or HTTPS; redirects are failures.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::Method;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header::CONTENT_TYPE;
use http::header::HOST;
use http::header::USER_AGENT;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Webhook;
use crate::pem;

/// From the name look-up to the head of the answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Waits before each try, in seconds, by the schedule of Standard Webhooks: at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h.
pub const TRIES: [u64; 10] = [
    0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400,
];

/// How secrets begin.
const SECRET_PREFIX: &str = "whsec_";

/// A secret has 24 to 64 bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Where alerts go, and the key that signs them.
#[derive(Clone)]
pub struct Receiver {
    uri: Uri,
    key: Arc<hmac::Key>,
    tls: Option<Arc<ClientConfig>>,
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The receiver has it.
    Taken,
    /// It should be tried again.
    Failed(String),
    /// The receiver wants no more, ever (410).
    Gone,
}

impl Receiver {
    /// The receiver that a configuration names, with the secret in its file.
    ///
    /// # Errors
    /// What is wrong with the files or the system's authorities, and the way out.
    pub fn load(webhook: &Webhook) -> Result<Receiver, String> {
        let Webhook { uri, secret, ca } = webhook;
        let wrong = |what: String| format!("[alerts] webhook_secret: {}: {what}", secret.display());
        let of_others =
            std::fs::metadata(secret).map(|file| file.permissions().mode() & 0o007 != 0);
        if of_others.map_err(|error| wrong(error.to_string()))? {
            return Err(wrong("others can read it; chmod 600".to_owned()));
        }
        let text = std::fs::read_to_string(secret).map_err(|error| wrong(error.to_string()))?;
        let key = text
            .trim()
            .strip_prefix(SECRET_PREFIX)
            .and_then(decode)
            .filter(|key| SECRET_BYTES.contains(&key.len()))
            .ok_or_else(|| {
                wrong("it is no webhook secret; write whsec_ and the base64 of 24 to 64 random bytes: echo whsec_$(openssl rand -base64 32)".to_owned())
            })?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(Arc::new(client_config(ca.as_deref())?)),
            _ => None,
        };
        Ok(Receiver {
            uri: uri.clone(),
            key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)),
            tls,
        })
    }

    /// Sends one alert, once.
    pub async fn send(&self, id: &str, body: &str, unix_seconds: u64) -> Sent {
        match tokio::time::timeout(TRY_TIMEOUT, self.exchange(id, body, unix_seconds)).await {
            Err(_) => Sent::Failed(format!("no answer within {} s", TRY_TIMEOUT.as_secs())),
            Ok(Err(error)) => Sent::Failed(error.to_string()),
            Ok(Ok(status)) if status.is_success() => Sent::Taken,
            Ok(Ok(StatusCode::GONE)) => Sent::Gone,
            Ok(Ok(status)) => Sent::Failed(format!("it answered {status}")),
        }
    }

    async fn exchange(
        &self,
        id: &str,
        body: &str,
        unix_seconds: u64,
    ) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
        let host = self.uri.host().unwrap_or("");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.uri.port_u16();
        let port = port.unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, self.uri.authority().map_or("", |own| own.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .header(
                USER_AGENT,
                concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            )
            .header("webhook-id", id)
            .header("webhook-timestamp", unix_seconds)
            .header("webhook-signature", self.signature(id, body, unix_seconds))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        match &self.tls {
            None => converse(stream, request).await,
            Some(tls) => {
                let name = ServerName::try_from(bare.to_owned())?;
                let connector = TlsConnector::from(Arc::clone(tls));
                converse(connector.connect(name, stream).await?, request).await
            }
        }
    }

    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
    fn signature(&self, id: &str, body: &str, unix_seconds: u64) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(format!("{id}.{unix_seconds}.").as_bytes());
        context.update(body.as_bytes());
        format!("v1,{}", encode(context.sign().as_ref()))
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Receiver({})", self.uri)
    }
}

/// One exchange; what the receiver says beyond its status is not read.
async fn converse<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driven = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    driven.abort();
    Ok(answer?.status())
}

/// There is no way to trust just anybody.
fn client_config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("[alerts] webhook: TLS cannot be set up: {error}"))?;
    let trusting = match ca {
        Some(ca) => builder.with_root_certificates(authorities(ca)?),
        None => builder.with_platform_verifier().map_err(|error| {
            format!("[alerts] webhook: the system's certificate authorities cannot be used: {error}; install ca-certificates, or name your own in webhook_ca")
        })?,
    };
    Ok(trusting.with_no_client_auth())
}

fn authorities(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let chain = pem::read_chain(ca).map_err(|problem| format!("[alerts] webhook_ca: {problem}"))?;
    for certificate in chain {
        roots.add(certificate).map_err(|error| {
            format!("[alerts] webhook_ca: {}: a certificate in it cannot be trusted: {error}; write the authority's own certificate, as PEM", ca.display())
        })?;
    }
    Ok(roots)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let whole = group
            .iter()
            .chain(&[0, 0])
            .take(3)
            .fold(0u32, |whole, byte| whole << 8 | u32::from(*byte));
        for place in 0..4 {
            match place <= group.len() {
                true => text.push(char::from(
                    ALPHABET[(whole >> (18 - 6 * place) & 63) as usize],
                )),
                false => text.push('='),
            }
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0u32, 0);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        held = held << 6 | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    (text.len() % 4 != 1).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(decode("Zm9v!"), None);
        assert_eq!(decode("Z"), None);
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let webhook = Webhook {
            uri: Uri::from_static("http://127.0.0.1:1/"),
            secret: file.clone(),
            ca: None,
        };
        assert!(
            Receiver::load(&webhook)
                .unwrap_err()
                .contains("webhook_secret")
        );
        for text in [
            "",
            "hunter2hunter2hunter2hunter2hunter2",
            "whsec_c2hvcnQ=",
            "whsec_!!!",
        ] {
            std::fs::write(&file, text).unwrap();
            closed(&file);
            let error = Receiver::load(&webhook).unwrap_err();
            assert!(
                error.contains("openssl rand") && !error.contains("hunter2"),
                "{error}"
            );
        }
        std::fs::write(
            &file,
            "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n",
        )
        .unwrap();
        assert!(Receiver::load(&webhook).is_ok());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Receiver::load(&webhook).unwrap_err().contains("chmod 600"));
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (secret, ca) = (
            directory.path().join("secret"),
            directory.path().join("ca.pem"),
        );
        std::fs::write(
            &secret,
            "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        )
        .unwrap();
        closed(&secret);
        let webhook = Webhook {
            uri: Uri::from_static("https://127.0.0.1:1/"),
            secret,
            ca: Some(ca.clone()),
        };
        for text in ["", "no certificate"] {
            std::fs::write(&ca, text).unwrap();
            let error = Receiver::load(&webhook).unwrap_err();
            assert!(
                error.contains("webhook_ca: ") && error.contains("no certificate in it"),
                "{error}"
            );
        }
    }

    fn closed(file: &Path) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}
