//! `[auth]`, `[tokens]` and `[sessions]`: what is taken for a credential.

use std::time::Duration;

use toml::Spanned;

use crate::config::entries;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::problem::Problem;
use crate::config::values::wrong;
use crate::model::credential::Kinds;
use crate::model::issuer::ClaimPath;
use crate::model::limit::Rate;

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Whether `Authorization: Bearer` is a credential.
    pub bearer: bool,
    /// Whether `X-API-Key` is a credential.
    pub x_api_key: bool,
    /// Unknown credentials that one source may present before it is answered 429 for them; `None` is without limit.
    pub failures: Option<Rate>,
    /// `realm` of `WWW-Authenticate`: 1 to 64 of printable ASCII without quotes and backslashes.
    pub realm: String,
    /// `true` passes an `Authorization` of another scheme on to the backend when a valid X-API-Key stands beside it; `false` refuses it.
    pub pass_foreign_authorization: bool,
    /// Name of the query parameter that may carry a key (FF11): 1 to 64 of `A-Z a-z 0-9 . _ -`; `None` for none (C-12).
    pub query_parameter: Option<String>,
    /// Whether a secret key that a browser sends gets 403 (FF20, C-14).
    pub refuse_secret_keys_in_browsers: bool,
    /// What routes take that say nothing of credentials, and paths that no route serves.
    pub credentials: Kinds,
}

/// `[tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The longest token, bytes; a longer one is refused unread. 512B to 64KiB.
    pub bytes_max: usize,
    /// Verified tokens that are remembered, so that they cost no more than keys. 64 to 1,000,000.
    pub cached_max: usize,
}

/// `[sessions]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    /// The cookie that carries one; `None` for no sessions.
    pub cookie: Option<String>,
    /// How old one may become, however it is prolonged. 1min to 720h.
    pub age_max: Duration,
    /// Where it says when it began.
    pub begins: ClaimPath,
}

/// `[auth]`.
pub(in crate::config) fn auth(root: &mut Reader<'_>) -> Auth {
    root.table("auth", "auth", |table| {
        let headers = table.list("headers", |text| match text.to_ascii_lowercase().as_str() {
            "authorization" => Ok(true),
            "x-api-key" => Ok(false),
            _ => wrong(
                format!("\"{text}\" is no place for a key"),
                "choose from \"authorization\" (Bearer) and \"x-api-key\"",
            ),
        });
        if table.has("headers") && table.list_is_empty("headers") {
            table.notes().error(Problem::context(
                table.place("headers"),
                "[auth] headers: nobody could present a key",
                "write headers = [\"authorization\", \"x-api-key\"], or one of them",
            ));
        }
        let query_parameter = table.word("query_parameter", |text| match text {
            "" => Ok(None),
            text => names::query_parameter(text).map(Some),
        });
        let takes = |bearer| match &headers {
            Some(headers) => headers.iter().any(|header| *header.get_ref() == bearer),
            None => true,
        };
        Auth {
            bearer: takes(true),
            x_api_key: takes(false),
            failures: table.rate_or_unlimited("failures").unwrap_or(FAILURES),
            realm: table
                .word("realm", names::realm)
                .map_or_else(|| "api".into(), Spanned::into_inner),
            pass_foreign_authorization: table.choice(
                "foreign_authorization",
                false,
                &[("refuse", false), ("pass", true)],
            ),
            query_parameter: query_parameter.and_then(Spanned::into_inner),
            credentials: entries::listed_kinds(table, "credentials").unwrap_or(Kinds::KEYS),
            refuse_secret_keys_in_browsers: table.choice(
                "secret_keys_in_browsers",
                false,
                &[("allow", false), ("refuse", true)],
            ),
        }
    })
}

/// `[tokens]`.
pub(in crate::config) fn tokens(root: &mut Reader<'_>) -> Tokens {
    root.table("tokens", "tokens", |table| Tokens {
        bytes_max: table.size("bytes_max", "8KiB", ("512B", "64KiB")),
        cached_max: table.number("cached_max", 10_000, 64, 1_000_000) as usize,
    })
}

/// `[sessions]`.
pub(in crate::config) fn sessions(root: &mut Reader<'_>) -> Sessions {
    root.table("sessions", "sessions", |table| {
        let cookie = table.word("cookie", |text| match text {
            "" => Ok(None),
            text => names::session_cookie(text).map(Some),
        });
        Sessions {
            cookie: cookie.and_then(Spanned::into_inner),
            age_max: table.duration("age_max", "24h", ("1min", "720h")),
            begins: entries::claim(table, "begins_claim", "iat"),
        }
    })
}

/// Unknown credentials of one source: five a second are no client that was set up with one wrong key, and find no key in an age.
const FAILURES: Option<Rate> = Some(Rate {
    count: 300,
    seconds: 60,
});
