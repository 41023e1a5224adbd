//! An API key: its text, digest, identity, expiry, status and scopes.

use std::fmt;

use crate::clock::Wall;
use crate::model::binding::Binding;
use crate::model::limit::Rate;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::TenantId;

/// SHA-256 of the whole key text: the only trace of a key that is ever kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The public name of a key, `key_` and 12 base62 characters; survives regeneration, safe to log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 12]);

/// What every key id begins with.
const KEY_ID_PREFIX: &str = "key_";

impl KeyId {
    /// Reads an id as it is shown.
    ///
    /// # Errors
    /// A sentence fragment that repeats nothing of the text: somebody may have given a key instead of its id.
    pub fn parse(text: &str) -> Result<KeyId, &'static str> {
        let wrong = "a key id is key_ and 12 letters or digits, as `keys list` shows it";
        let tail = text.strip_prefix(KEY_ID_PREFIX).ok_or(wrong)?;
        let bytes = <[u8; 12]>::try_from(tail.as_bytes()).map_err(|_| wrong)?;
        if bytes.iter().all(u8::is_ascii_alphanumeric) {
            Ok(KeyId(bytes))
        } else {
            Err(wrong)
        }
    }
}

impl Digest {
    /// `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        format!("sha256:{}", digits.collect::<String>())
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// A sentence fragment that repeats nothing of the text: somebody may have given a key instead of its digest.
    pub fn from_hex(text: &str) -> Result<Digest, &'static str> {
        let wrong = "a digest is sha256: and 64 hexadecimal digits";
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).map_err(|_| wrong)?;
        }
        Ok(Digest(bytes))
    }
}

impl fmt::Debug for Digest {
    /// Prints no part of the digest: logs need none.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Digest(***)")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(KEY_ID_PREFIX)?;
        self.0
            .iter()
            .try_for_each(|byte| fmt::Write::write_char(out, char::from(*byte)))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Which world a key, host, route or upstream belongs to, for example `live` or `test`: an index into `Config::environments`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Environment(pub u8);

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Server to server.
    Secret,
    /// May stand in a browser.
    Public,
}

impl KeyKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeyKind::Secret => "secret",
            KeyKind::Public => "public",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    /// A sentence fragment naming the words there are.
    pub fn parse(text: &str) -> Result<KeyKind, &'static str> {
        match text {
            "secret" => Ok(KeyKind::Secret),
            "public" => Ok(KeyKind::Public),
            _ => Err("a key is `secret` or `public`"),
        }
    }
}

/// What an operator has said of a key. Expiry is not a status that is stored: it follows from the clock of each request (FA6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// In use.
    Active,
    /// Switched off, reversible.
    Inactive,
    /// Ended for good (FA10); kept as a tombstone.
    Revoked,
    /// Ended for good and gone from lists; kept as a tombstone.
    Deleted,
}

impl KeyStatus {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeyStatus::Active => "active",
            KeyStatus::Inactive => "inactive",
            KeyStatus::Revoked => "revoked",
            KeyStatus::Deleted => "deleted",
        }
    }

    /// Whether it can never be active again (FA10).
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            KeyStatus::Active | KeyStatus::Inactive => false,
            KeyStatus::Revoked | KeyStatus::Deleted => true,
        }
    }
}

/// One key as the store or gateway.toml declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Who it is.
    pub id: KeyId,
    /// Digest of its text.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub kind: KeyKind,
    /// The name of its environment, one of `Config::environments`.
    pub environment: String,
    /// The one tenant it belongs to (FM4).
    pub tenant: TenantId,
    /// A plan of its own; else the tenant's.
    pub plan: Option<String>,
    /// Its own quota instead of the plan's (FA22).
    pub quota: Override,
    /// Its own burst instead of the plan's.
    pub burst: Override,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created: Wall,
    /// When it ends; `None` is never.
    pub expires: Option<Wall>,
    /// What the operator said.
    pub status: KeyStatus,
    /// Shown in lists: the text up to and including the last `_`, for example `fp_live_`.
    pub prefix: String,
    /// Shown in lists: the last four characters.
    pub last_four: String,
    /// What ties it down: subject, browser origins, client networks.
    pub binding: Binding,
    /// What the operator wrote beside it; never sent anywhere.
    pub note: Option<String>,
    /// Where it is declared.
    pub origin: Origin,
}

/// How long a key may last, as operators write it: `never`, or a number and `s`, `min`, `h`, `d` or `y`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// As it was written.
    pub text: String,
    /// In seconds; `None` is never ending. A year has 365 days.
    pub seconds: Option<u64>,
}

/// Seconds of each unit of a lifetime.
const LIFETIME_UNITS: [(&str, u64); 5] = [
    ("s", 1),
    ("min", 60),
    ("h", 3_600),
    ("d", 86_400),
    ("y", 365 * 86_400),
];

impl Lifetime {
    /// Reads `never` or a span such as `90d`.
    ///
    /// # Errors
    /// A sentence fragment saying what it looks like.
    pub fn parse(text: &str) -> Result<Lifetime, &'static str> {
        let wrong = "write never, or a span such as 30d, 90d or 1y (units: s, min, h, d, y)";
        let seconds = match text {
            "never" => None,
            _ => Some(lifetime_seconds(text).ok_or(wrong)?),
        };
        Ok(Lifetime {
            text: text.to_owned(),
            seconds,
        })
    }
}

fn lifetime_seconds(text: &str) -> Option<u64> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, seconds) = LIFETIME_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*seconds)
}

/// A limit that a key may set for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Override {
    /// The plan's limit holds.
    Plan,
    /// No limit.
    Unlimited,
    /// This limit.
    Rate(Rate),
}

impl Override {
    /// Reads what an operator writes: nothing, `unlimited`, or a rate such as `7/hour`.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong with the rate.
    pub fn parse(text: Option<&str>) -> Result<Override, String> {
        match text {
            None => Ok(Override::Plan),
            Some("unlimited") => Ok(Override::Unlimited),
            Some(rate) => match Rate::parse(rate) {
                Ok(rate) => Ok(Override::Rate(rate)),
                Err(not_a_rate) => Err(not_a_rate.to_string()),
            },
        }
    }

    /// The limit that holds when the plan says `plan`; `None` is unlimited.
    #[must_use]
    pub fn over(self, plan: Option<Rate>) -> Option<Rate> {
        match self {
            Override::Plan => plan,
            Override::Unlimited => None,
            Override::Rate(rate) => Some(rate),
        }
    }

    /// What `parse` reads.
    #[must_use]
    pub fn text(self) -> Option<String> {
        match self {
            Override::Plan => None,
            Override::Unlimited => Some("unlimited".to_owned()),
            Override::Rate(rate) => Some(rate.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_reads_back_as_it_is_shown() {
        let id = KeyId(*b"0aZ9bY8cX7dW");
        assert_eq!(id.to_string(), "key_0aZ9bY8cX7dW");
        assert_eq!(KeyId::parse("key_0aZ9bY8cX7dW"), Ok(id));
    }

    #[test]
    fn what_is_no_key_id_is_refused_without_being_repeated() {
        let cases = [
            "",
            "key_",
            "key_0aZ9bY8cX7d",
            "key_0aZ9bY8cX7dWW",
            "key_0aZ9bY8cX7d-",
            "fp_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17",
        ];
        for text in cases {
            let error = KeyId::parse(text).unwrap_err();
            assert!(text.len() < 5 || !error.contains(text), "{text}");
        }
    }

    #[test]
    fn an_override_reads_back_as_it_is_written() {
        for text in [None, Some("unlimited"), Some("7/hour"), Some("50/10s")] {
            let parsed = Override::parse(text).unwrap();
            assert_eq!(parsed.text().as_deref(), text);
        }
        assert!(Override::parse(Some("7/fortnight")).is_err());
    }

    #[test]
    fn an_override_beats_the_plan() {
        let plan = Some(Rate {
            count: 100,
            seconds: 3600,
        });
        let own = Rate {
            count: 7,
            seconds: 3600,
        };
        assert_eq!(Override::Plan.over(plan), plan);
        assert_eq!(Override::Unlimited.over(plan), None);
        assert_eq!(Override::Rate(own).over(plan), Some(own));
    }
}
