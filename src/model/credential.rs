//! The kinds of credentials that there are, and sets of them.

/// What a client may present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An API key.
    Key,
    /// A JWT access token (RFC 9068).
    Jwt,
    /// An access token that only its issuer can read (RFC 7662).
    Opaque,
    /// A session, in a cookie.
    Session,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Kind; 4] = [Kind::Key, Kind::Jwt, Kind::Opaque, Kind::Session];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::Jwt => "jwt",
            Kind::Opaque => "opaque",
            Kind::Session => "session",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// API keys and nothing else: what a route takes for which nothing is said.
    pub const KEYS: Kinds = Kinds(1);

    /// Whether this kind is among them.
    #[must_use]
    pub fn contain(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether API keys are all there is.
    #[must_use]
    pub fn are_keys_alone(self) -> bool {
        self == Kinds::KEYS
    }

    /// Those that are in both.
    #[must_use]
    pub fn both(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn are_none(self) -> bool {
        self.0 == 0
    }

    /// The kinds, in the order of the enum.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .into_iter()
            .filter(move |kind| self.contain(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Kinds {
        Kinds(kinds.into_iter().fold(0, |all, kind| all | kind.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let kinds: Kinds = [Kind::Jwt, Kind::Session].into_iter().collect();
        let words: Vec<&str> = kinds.iter().map(Kind::as_str).collect();
        assert_eq!(words, ["jwt", "session"]);
        assert!(!kinds.contain(Kind::Key) && !kinds.are_keys_alone());
        assert!(Kinds::KEYS.contain(Kind::Key) && Kinds::KEYS.are_keys_alone());
        assert!(kinds.both(Kinds::KEYS).are_none());
        assert_eq!(Kind::parse("opaque"), Some(Kind::Opaque));
        assert_eq!(Kind::parse("Key"), None);
    }
}
