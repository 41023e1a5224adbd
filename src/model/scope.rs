//! Scopes: opaque strings, compared whole; wildcards exist only in a plan's grants.

use std::sync::Arc;

/// One permission, for example `leases:read`. Compared byte for byte, never by prefix (FA14).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Accepts 1 to 128 characters of `A-Z a-z 0-9 . _ : / -` (and so never a wildcard, a quote or a space).
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn new(text: &str) -> Result<Scope, &'static str> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        if text.is_empty() || text.len() > 128 {
            return Err("a scope has 1 to 128 characters");
        }
        if !text.bytes().all(allowed) {
            return Err("a scope holds only letters, digits and . _ : / -");
        }
        Ok(Scope(Arc::from(text)))
    }

    /// The text as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a key (or a tenant) may do at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scopes {
    /// Everything that the tenant and its plan grant.
    Inherit,
    /// Exactly these.
    Listed(Arc<[Scope]>),
}

impl Scopes {
    /// Whether `demanded` is covered by this set alone.
    #[must_use]
    pub fn cover(&self, demanded: &Scope) -> bool {
        match self {
            Scopes::Inherit => true,
            Scopes::Listed(listed) => listed.contains(demanded),
        }
    }
}

/// One grant in a plan: a whole scope, `resource:*` (anything that begins with the text before the star), or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopePattern(Arc<str>);

impl ScopePattern {
    /// Accepts a scope, a scope prefix followed by one final `*`, or `*`.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn new(text: &str) -> Result<ScopePattern, &'static str> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        if !stem.is_empty() {
            Scope::new(stem)?;
        } else if text.is_empty() {
            return Err("a scope pattern is not empty");
        }
        Ok(ScopePattern(Arc::from(text)))
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this pattern grants `scope`.
    #[must_use]
    pub fn grants(&self, scope: &Scope) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => scope.as_str().starts_with(stem),
            None => scope.as_str() == &*self.0,
        }
    }
}
