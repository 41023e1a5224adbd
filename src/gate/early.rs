//! What is known of a request's key is looked for before anybody looks at the request: where keys are many it is far away, and comes meanwhile.

use std::cell::RefCell;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use smallvec::SmallVec;

use super::credential::X_API_KEY;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::quota::Quota;
use crate::snapshot::Snapshot;

/// A text that is perhaps the key of a request, and its digest, made before anybody else looks at it. What is known of it comes in three steps while the
/// request is looked at, or together with what is known of others. Nothing of this says whether the text counts, or is a key at all.
#[derive(Debug)]
pub struct Early {
    text: [u8; EARLY_BYTES_MAX],
    length: usize,
    digest: Digest,
    /// Whether others look for it.
    is_gathered: bool,
}

impl Early {
    /// The first text that may be one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Early> {
        let may_be_key = |(name, _): &(&HeaderName, &HeaderValue)| {
            *name == header::AUTHORIZATION || *name == X_API_KEY
        };
        let (_, value) = headers.iter().find(may_be_key)?;
        let value = value.as_bytes();
        let key = value.strip_prefix(b"Bearer ").unwrap_or(value);
        let mut text = [0; EARLY_BYTES_MAX];
        text.get_mut(..key.len())?.copy_from_slice(key);
        Some(Early {
            text,
            length: key.len(),
            digest: key_text::digest_of(key),
            is_gathered: false,
        })
    }

    /// Begins to look for it by itself.
    pub fn look_out(&self, snapshot: &Snapshot) {
        snapshot.keys.look_out(&self.digest);
    }

    /// Goes on: what says where to look is brought.
    pub(super) fn look_ahead(&self, snapshot: &Snapshot) {
        if !self.is_gathered {
            snapshot.keys.look_ahead(&self.digest);
        }
    }

    /// Goes on: what is known of the key and of what it did is brought, as far as it is known where that lies.
    pub(super) fn look_on(&self, snapshot: &Snapshot, quota: &Quota) {
        if !self.is_gathered {
            quota.look_ahead(snapshot.keys.look_on(&self.digest));
        }
    }

    /// Whether this is the text that was looked for.
    pub(super) fn is_of(&self, text: &[u8]) -> bool {
        self.text[..self.length] == *text
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

/// Keys of requests that have come at once, looked for together. A processor waits for what a place in memory is called by its page tables even when it
/// only asks for it, and where pages are many these are far away too; but of several places it finds that out at once.
#[derive(Debug, Default)]
pub struct Gathering(RefCell<SmallVec<[Digest; GATHERED_MAX]>>);

impl Gathering {
    /// Has a key looked for with those that come until somebody says `look`: whoever adds one does after a turn, if he is still there. Over HTTP/1.1 that is
    /// a turn of everybody else's, over HTTP/2 one of the other streams of his connection.
    pub fn add(&self, early: &mut Early, snapshot: &Snapshot, quota: &Quota) {
        early.is_gathered = true;
        self.0.borrow_mut().push(early.digest);
        if self.0.borrow().len() == GATHERED_MAX {
            self.look(snapshot, quota);
        }
    }

    /// Looks for all that were added since the last time, each step for all of them before the next.
    pub fn look(&self, snapshot: &Snapshot, quota: &Quota) {
        let mut gathered = self.0.borrow_mut();
        let keys = &snapshot.keys;
        gathered.iter().for_each(|digest| keys.look_out(digest));
        gathered.iter().for_each(|digest| keys.look_ahead(digest));
        let seats = gathered.iter().map(|digest| keys.look_on(digest));
        let seats: SmallVec<[u32; GATHERED_MAX]> = seats.collect();
        seats.iter().for_each(|seat| quota.look_ahead(*seat));
        gathered.clear();
    }
}

/// Of a text that is looked for early; keys that we make are shorter.
const EARLY_BYTES_MAX: usize = 64;

/// So many keys' rows and seats have room in a processor's first cache.
const GATHERED_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tests::World;

    /// However many come in a turn, no more are held than a request looks for at once.
    #[test]
    fn a_gathering_is_bounded() {
        let (snapshot, quota) = (World::new().build(), Quota::new());
        let gathering = Gathering::default();
        for index in 1..=3 * GATHERED_MAX + 1 {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::try_from(format!("Bearer nobody-{index}")).unwrap();
            headers.insert(header::AUTHORIZATION, value);
            let mut early = Early::of(&headers).unwrap();
            gathering.add(&mut early, &snapshot, &quota);
            assert!(early.is_gathered);
            assert_eq!(gathering.0.borrow().len(), index % GATHERED_MAX);
        }
        gathering.look(&snapshot, &quota);
        assert!(gathering.0.borrow().is_empty());
        assert!(!gathering.0.borrow().spilled());
    }
}
