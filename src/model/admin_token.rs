//! A token of the admin plane: who may act there, as what, and until when.

use crate::clock::Wall;
use crate::model::key::Digest;
use crate::model::tenant::TenantId;

/// What every token id begins with.
const ID_PREFIX: &str = "tok_";

/// A token as it is kept: never its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminToken {
    /// `tok_` and 12 base62 characters; safe to log.
    pub id: String,
    /// SHA-256 of the whole text.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Shown in lists.
    pub last_four: String,
    /// When it was made.
    pub created: Wall,
    /// When it ends; `None` is never.
    pub expires: Option<Wall>,
    /// When it was revoked.
    pub revoked: Option<Wall>,
}

/// What a token may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Full,
    /// See everything, change nothing.
    ReadOnly,
    /// See and change the keys of this tenant, and see nothing of others.
    Tenant(TenantId),
}

impl Role {
    /// `full`, `read-only` or `tenant`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Role::Full => "full",
            Role::ReadOnly => "read-only",
            Role::Tenant(_) => "tenant",
        }
    }

    /// The one tenant that it is tied to.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Role::Tenant(tenant) => Some(tenant),
            Role::Full | Role::ReadOnly => None,
        }
    }

    /// Reads what the store and the command line say.
    ///
    /// # Errors
    /// What it should be.
    pub fn parse(role: &str, tenant: Option<&str>) -> Result<Role, &'static str> {
        match (role, tenant) {
            ("full", None) => Ok(Role::Full),
            ("read-only", None) => Ok(Role::ReadOnly),
            ("tenant", Some(tenant)) => TenantId::new(tenant).map(Role::Tenant),
            ("tenant", None) => Err("a token of the role tenant names its tenant"),
            ("full" | "read-only", Some(_)) => Err("only a token of the role tenant names one"),
            _ => Err("a role is full, read-only or tenant"),
        }
    }
}

impl AdminToken {
    /// Whether it opens anything at this time.
    #[must_use]
    pub fn stands(&self, now: Wall) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }

    /// Reads an id as it is shown.
    ///
    /// # Errors
    /// A sentence fragment that repeats nothing of the text: somebody may have given a token instead of its id.
    pub fn parse_id(text: &str) -> Result<&str, &'static str> {
        let tail = text.strip_prefix(ID_PREFIX).unwrap_or("");
        match tail.len() == 12 && tail.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            true => Ok(text),
            false => {
                Err("a token id is tok_ and 12 letters or digits, as `admin-tokens list` shows it")
            }
        }
    }

    /// The id of 12 base62 characters.
    #[must_use]
    pub fn id_of(characters: [u8; 12]) -> String {
        let tail = characters.iter().copied().map(char::from);
        ID_PREFIX.chars().chain(tail).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_id_is_read_and_a_token_is_not_repeated() {
        assert!(AdminToken::parse_id("tok_0aZ9bY8cX7dW").is_ok());
        for text in [
            "",
            "tok_",
            "tok_0aZ9bY8cX7d",
            "adm_full_zQWBuTSOoRi4A9",
            "tok_0aZ9bY8cX7d/",
        ] {
            let error = AdminToken::parse_id(text).unwrap_err();
            assert!(text.len() < 5 || !error.contains(text), "{text}");
        }
    }

    #[test]
    fn a_role_names_a_tenant_or_does_not() {
        for (role, tenant, fine) in [
            ("full", None, true),
            ("read-only", None, true),
            ("tenant", Some("acme"), true),
            ("tenant", None, false),
            ("full", Some("acme"), false),
            ("tenant", Some("a b"), false),
            ("owner", None, false),
        ] {
            assert_eq!(Role::parse(role, tenant).is_ok(), fine, "{role} {tenant:?}");
        }
    }
}
