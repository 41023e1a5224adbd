//! Who a verified token says it is of, as far as an operator may name it: to deny it, and in the log.

use std::sync::Arc;

use crate::clock::Wall;

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
