//! Who a verified token says it is of, as far as an operator may name it: to deny it, and in the log.

use std::sync::Arc;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::key_text;
use crate::model::tenant::TenantId;

/// What a token proved of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who issued it: `iss`.
    pub issuer: Arc<str>,
    /// The end user.
    pub subject: Option<Arc<str>>,
    /// The client that it was issued to.
    pub client: Option<Arc<str>>,
    /// Its own id: `jti`.
    pub jti: Option<Arc<str>>,
    /// When it was issued: `iat`.
    pub issued: Option<Wall>,
}

/// Under what id all access tokens and sessions of a tenant are reported. An issuer makes as many as it likes, for as many users; reports have one row
/// for all of them, so that nobody's logins make the store grow. As hard to meet as a key's id.
#[must_use]
pub fn tokens_of(tenant: &TenantId) -> KeyId {
    let name = format!("access tokens of {}", tenant.as_str());
    let digest = key_text::digest_of(name.as_bytes());
    let mut id = [0; 12];
    for (place, byte) in id.iter_mut().zip(digest.0.chunks_exact(2)) {
        let value = usize::from(u16::from_be_bytes([byte[0], byte[1]]));
        *place = BASE62[value % BASE62.len()];
    }
    KeyId(id)
}

/// What reports call them.
pub const TOKENS_NAME: &str = "access tokens and sessions";

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
