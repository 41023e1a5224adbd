//! An identity provider whose every word the test chooses, at the addresses where keys are published.

use std::net::SocketAddr;

use serde_json::Value;
use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::signer::Signer;
use crate::support::signer::jwks;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

/// What a stub identity provider calls itself.
pub const ISSUER: &str = "https://auth.example.org";

/// For whom its tokens are.
pub const AUDIENCE: &str = "https://api.example.org";

/// A stub identity provider.
pub struct Idp {
    server: Upstream,
}

impl Idp {
    /// One that publishes these keys.
    pub fn start(signers: &[&Signer]) -> Idp {
        let idp = Idp {
            server: Upstream::start(),
        };
        idp.publish(signers);
        idp
    }

    /// Publishes these keys from now on.
    pub fn publish(&self, signers: &[&Signer]) {
        self.answer("/jwks", &jwks(signers));
    }

    /// Answers 200 with this JSON from now on.
    pub fn answer(&self, path: &str, body: &str) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let bytes = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.server.answer(path, bytes);
    }

    /// Is there, and closes every connection without an answer.
    pub fn go_down(&self, path: &str) {
        self.server.script(path, vec![Step::ReadBody, Step::Close]);
    }

    /// The backend that it is.
    pub fn server(&self) -> &Upstream {
        &self.server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// How often its keys were fetched.
    pub fn fetches(&self) -> usize {
        self.server.hits_on("/jwks")
    }

    /// `[issuers.main]` of it, with more lines.
    pub fn table(&self, more: &str) -> String {
        let address = self.address();
        format!(
            "[issuers.main]\nissuer = {ISSUER:?}\naudience = [{AUDIENCE:?}]\njwks_url = \"http://{address}/jwks\"\n{more}\n"
        )
    }
}

/// The claims of a good access token: of tenant `acme` and user `user-7`, for an hour, with these scopes.
pub fn claims(gateway: &Gateway, scope: &str) -> Value {
    let now = gateway.clock.now().wall.unix_seconds();
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user-7",
        "client_id": "app-1",
        "tenant": "acme",
        "scope": scope,
        "iat": now,
        "exp": now + 3_600,
        "jti": format!("jti-{}", unique()),
    })
}

/// These claims with some others; `null` takes one away.
pub fn with(claims: &Value, changes: Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn unique() -> usize {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
