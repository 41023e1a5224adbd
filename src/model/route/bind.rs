//! What ties a route's requests to their caller: a part of the path, the query or the host that must name it.

/// Whom a part of a request must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The caller's tenant.
    Tenant,
    /// The end user that the caller's key acts for (FA18); a key without one fits nothing.
    Subject,
}

impl Whom {
    /// The word of gateway.toml.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Whom::Tenant => "tenant",
            Whom::Subject => "subject",
        }
    }
}

/// All that a route ties to its caller. Routes without any have none of this, and pay nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Parameters of the path.
    pub path: Vec<PathBinding>,
    /// Parameters of the query that the client must send.
    pub query: Vec<QueryBinding>,
    /// What `*` of the route's host stands for: one label.
    pub host: Option<Whom>,
    /// Parameters of the query that the gateway sets; the client's own go.
    pub set_query: Vec<QueryBinding>,
    /// What is answered where one of them names somebody else.
    pub twin: Twin,
}

/// A parameter of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathBinding {
    /// As the route writes it between braces.
    pub name: String,
    /// Which segment it is, from 0.
    pub segment: usize,
    /// Whom it names.
    pub whom: Whom,
}

/// A parameter of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryBinding {
    /// Its name, `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// Whom it names.
    pub whom: Whom,
}

/// The answer to a request for somebody else's: the same bytes as for what does not exist (FM7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Twin {
    /// Who makes it.
    pub source: TwinSource,
    /// What an id looks like that cannot exist.
    pub id: TwinId,
    /// Whether the backend's answer repeats the id, so that the one asked for must stand in its place.
    pub echo: bool,
}

/// Who makes the twin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TwinSource {
    /// The backend, for GET and HEAD: it is asked for an id that cannot exist.
    #[default]
    Backend,
    /// The gateway, always.
    Gateway,
}

/// The form of an id that cannot exist: backends that check the form of ids would else answer 400.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TwinId {
    /// 32 of `a-z 0-9`.
    #[default]
    Text,
    /// 18 decimal digits, the first a 9; a 64-bit integer.
    Digits,
    /// A random UUID (RFC 9562, version 4).
    Uuid,
}

impl TwinId {
    /// An id of this form, from this much chance.
    #[must_use]
    pub fn of(self, random: [u8; 32]) -> String {
        const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
        let digit = |byte: &u8| char::from(b'0' + byte % 10);
        match self {
            TwinId::Text => {
                let letters = random.iter().map(|byte| LETTERS[usize::from(byte % 32)]);
                letters.map(char::from).collect()
            }
            TwinId::Digits => {
                let digits = random[..17].iter().map(digit);
                std::iter::once('9').chain(digits).collect()
            }
            TwinId::Uuid => {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&random[..16]);
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                let (a, b, c, d) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20]);
                format!("{a}-{b}-{c}-{d}-{}", &hex[20..])
            }
        }
    }
}

impl Bindings {
    /// Whether a request must name its caller, so that it can name somebody else.
    #[must_use]
    pub fn demand(&self) -> bool {
        !self.path.is_empty() || !self.query.is_empty() || self.host.is_some()
    }

    /// Whether each request that passes carries its tenant's name, the client's word checked or the gateway's set.
    #[must_use]
    pub fn names_tenant(&self) -> bool {
        let all = (self.path.iter().map(|bound| bound.whom))
            .chain(self.query.iter().map(|bound| bound.whom))
            .chain(self.set_query.iter().map(|bound| bound.whom))
            .chain(self.host);
        all.into_iter().any(|whom| whom == Whom::Tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_that_backends_check() {
        for seed in 0..=255 {
            let text = TwinId::Text.of([seed; 32]);
            assert!(text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            let digits = TwinId::Digits.of([seed; 32]);
            assert!(
                digits
                    .parse::<i64>()
                    .is_ok_and(|number| number >= 900_000_000_000_000_000)
            );
        }
        let uuid = TwinId::Uuid.of([0xff; 32]);
        assert_eq!(uuid, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(
            TwinId::Uuid.of([0; 32]),
            "00000000-0000-4000-8000-000000000000"
        );
    }
}
