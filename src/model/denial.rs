//! Tokens that are denied before their time: by their own id, by user or by client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::clock::Wall;
use crate::model::identity::Identity;

/// What tokens are denied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeniedBy {
    /// One token: `jti`.
    Jti,
    /// All of a user.
    Subject,
    /// All of a client.
    Client,
}

impl DeniedBy {
    /// Every one, in the order of the enum.
    pub const ALL: [DeniedBy; 3] = [DeniedBy::Jti, DeniedBy::Subject, DeniedBy::Client];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DeniedBy::Jti => "jti",
            DeniedBy::Subject => "subject",
            DeniedBy::Client => "client",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    /// A sentence fragment naming the words there are.
    pub fn parse(text: &str) -> Result<DeniedBy, &'static str> {
        let mut all = DeniedBy::ALL.into_iter();
        all.find(|one| one.as_str() == text)
            .ok_or("tokens are denied by `jti`, `subject` or `client`")
    }
}

/// One entry of what is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// By what.
    pub by: DeniedBy,
    /// Which: 1 to 255 printable ASCII characters.
    pub value: Arc<str>,
    /// Of this issuer alone; `None` is of any.
    pub issuer: Option<Arc<str>>,
    /// When it was said.
    pub created: Wall,
    /// From then on it counts no more; `None` is until it is taken back.
    pub expires: Option<Wall>,
    /// Only tokens that were issued until then; `None` is all. What does not say when it was issued was issued before.
    pub issued_until: Option<Wall>,
    /// What the operator wrote beside it.
    pub note: Option<String>,
}

/// Most entries that there may be.
pub const DENIALS_MAX: usize = 100_000;

/// Whether a text can be denied: it has to be able to stand in a token.
///
/// # Errors
/// A sentence fragment that repeats nothing of the text: somebody may have given a whole token.
pub fn value(text: &str) -> Result<Arc<str>, &'static str> {
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    if text.len() > 64 && dots == 2 {
        return Err(
            "this looks like a whole token: deny it by the id in it (jti), as the access log shows it",
        );
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && (1..=255).contains(&text.len()) {
        true => Ok(Arc::from(text)),
        false => Err("what is denied has 1 to 255 printable ASCII characters without spaces"),
    }
}

impl Denial {
    /// Whether both are about the same tokens, and one stands instead of the other.
    #[must_use]
    pub fn replaces(&self, other: &Denial) -> bool {
        (self.by, &self.value, &self.issuer) == (other.by, &other.value, &other.issuer)
    }

    /// Whether it counts no more.
    #[must_use]
    pub fn expired(&self, wall: Wall) -> bool {
        self.expires.is_some_and(|expires| wall >= expires)
    }

    fn concerns(&self, identity: &Identity) -> bool {
        let issuer = (self.issuer.as_ref()).is_none_or(|issuer| **issuer == *identity.issuer);
        let time = match (self.issued_until, identity.issued) {
            (Some(until), Some(issued)) => issued <= until,
            _ => true,
        };
        issuer && time
    }
}

/// All that is denied, of one moment.
#[derive(Debug)]
pub struct DenyTable {
    version: u64,
    entries: HashMap<(DeniedBy, Arc<str>), Vec<Denial>>,
    count: usize,
}

impl DenyTable {
    /// A table of these.
    #[must_use]
    pub fn build(denials: impl IntoIterator<Item = Denial>) -> DenyTable {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut entries: HashMap<(DeniedBy, Arc<str>), Vec<Denial>> = HashMap::new();
        for denial in denials {
            let key = (denial.by, Arc::clone(&denial.value));
            let same = entries.entry(key).or_default();
            same.retain(|other| !denial.replaces(other));
            same.push(denial);
        }
        DenyTable {
            version: NEXT.fetch_add(1, Ordering::Relaxed),
            count: entries.values().map(Vec::len).sum(),
            entries,
        }
    }

    /// This table with one more entry, which stands instead of what was said of the same tokens; without what has expired by then.
    #[must_use]
    pub fn with(&self, denial: Denial) -> DenyTable {
        let wall = denial.created;
        let kept = self.iter().filter(|other| !other.expired(wall));
        let kept: Vec<Denial> = kept.cloned().collect();
        DenyTable::build(kept.into_iter().chain([denial]))
    }

    /// This table without what is said of the same tokens.
    #[must_use]
    pub fn without(&self, denial: &Denial) -> DenyTable {
        let kept = self.iter().filter(|other| !denial.replaces(other));
        DenyTable::build(kept.cloned().collect::<Vec<_>>())
    }

    /// Which table it is: no two of one process have the same number.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many entries there are, those that have expired included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a token is denied now.
    #[must_use]
    pub fn denies(&self, identity: &Identity, wall: Wall) -> bool {
        self.hits(identity).any(|denial| !denial.expired(wall))
    }

    /// Whether a token is denied that was not denied under the table before: what stood there already had expired when it was let in.
    #[must_use]
    pub fn denies_since(&self, before: &DenyTable, identity: &Identity) -> bool {
        self.version != before.version
            && self
                .hits(identity)
                .any(|denial| !before.hits(identity).any(|old| old == denial))
    }

    fn hits<'a>(&'a self, identity: &'a Identity) -> impl Iterator<Item = &'a Denial> {
        let names = [
            (DeniedBy::Jti, &identity.jti),
            (DeniedBy::Subject, &identity.subject),
            (DeniedBy::Client, &identity.client),
        ];
        let named = names.into_iter().filter(|_| !self.is_empty());
        named
            .filter_map(|(by, name)| self.entries.get(&(by, Arc::clone(name.as_ref()?))))
            .flatten()
            .filter(|denial| denial.concerns(identity))
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Denial> {
        self.entries.values().flatten()
    }
}

impl Default for DenyTable {
    fn default() -> DenyTable {
        DenyTable::build([])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(by: DeniedBy, value: &str) -> Denial {
        Denial {
            by,
            value: Arc::from(value),
            issuer: None,
            created: Wall(10),
            expires: None,
            issued_until: None,
            note: None,
        }
    }

    fn identity() -> Identity {
        Identity {
            issuer: Arc::from("i"),
            subject: Some(Arc::from("same")),
            client: Some(Arc::from("client")),
            jti: Some(Arc::from("id")),
            issued: Some(Wall(100)),
        }
    }

    #[test]
    fn an_entry_hits_what_it_names_and_nothing_else() {
        let of = |denial: Denial| DenyTable::build([denial]).denies(&identity(), Wall(200));
        assert!(of(denial(DeniedBy::Jti, "id")));
        assert!(of(denial(DeniedBy::Subject, "same")));
        assert!(of(denial(DeniedBy::Client, "client")));
        assert!(
            !of(denial(DeniedBy::Client, "same")),
            "a user's name is no client's"
        );
        assert!(!of(denial(DeniedBy::Jti, "ID")));
        let narrowed = |change: fn(&mut Denial)| {
            let mut one = denial(DeniedBy::Subject, "same");
            change(&mut one);
            of(one)
        };
        assert!(narrowed(|one| one.issuer = Some(Arc::from("i"))));
        assert!(!narrowed(|one| one.issuer = Some(Arc::from("other"))));
        assert!(narrowed(|one| one.expires = Some(Wall(201))));
        assert!(!narrowed(|one| one.expires = Some(Wall(200))));
        assert!(narrowed(|one| one.issued_until = Some(Wall(100))));
        assert!(!narrowed(|one| one.issued_until = Some(Wall(99))));
    }

    #[test]
    fn what_was_let_in_ends_by_new_entries_alone() {
        let mut expired = denial(DeniedBy::Subject, "same");
        expired.expires = Some(Wall(50));
        let before = DenyTable::build([expired]);
        let other = DenyTable::build(before.iter().cloned().chain([denial(DeniedBy::Jti, "x")]));
        assert!(!other.denies_since(&before, &identity()));
        let new = before.with(denial(DeniedBy::Subject, "same"));
        assert_eq!(new.len(), 1, "it stands instead of the other");
        assert!(new.denies_since(&before, &identity()));
        assert!(new.without(&denial(DeniedBy::Subject, "same")).is_empty());
    }

    #[test]
    fn a_whole_token_is_not_taken_for_a_name() {
        let token = format!("{}.{}.{}", "a".repeat(30), "b".repeat(30), "c".repeat(30));
        assert!(value(&token).unwrap_err().contains("whole token"));
        assert!(value("user|7").is_ok());
        assert!(value("a b").is_err() && value("").is_err() && value(&"x".repeat(256)).is_err());
    }
}
