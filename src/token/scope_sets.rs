//! What tokens may do: an issuer grants few different sets of scopes, and thousands of tokens share each.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::model::scope::Scope;
use crate::model::scope::ScopeList;

/// The sets of the tokens that are remembered, each once. A std mutex: it is taken when a token is verified, and never where one is found.
#[derive(Debug, Default)]
pub(super) struct ScopeSets(Mutex<HashSet<ScopeList>>);

impl ScopeSets {
    /// This set, shared with all tokens that have the same. Where there are too many sets in use, one of its own.
    pub(super) fn shared(&self, scopes: Vec<Scope>) -> ScopeList {
        // A set of sets is whole after every step, so a panic elsewhere has not broken it.
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(scopes.as_slice()) {
            return known.clone();
        }
        let set = ScopeList::from(scopes);
        if sets.len() >= SETS_MAX {
            sets.retain(ScopeList::is_shared);
        }
        if sets.len() < SETS_MAX {
            sets.insert(set.clone());
        }
        set
    }
}

/// Sets that are shared at a time; a token's may be as long as a token.
const SETS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[String]) -> Vec<Scope> {
        names.iter().map(|name| Scope::new(name).unwrap()).collect()
    }

    #[test]
    fn equal_sets_are_one_and_there_is_no_end_of_none() {
        let sets = ScopeSets::default();
        let named = |name: usize| scopes(&[format!("a:{name}"), "b".to_owned()]);
        let kept: Vec<_> = (0..2 * SETS_MAX)
            .map(|name| sets.shared(named(name)))
            .collect();
        assert_eq!(sets.0.lock().unwrap().len(), SETS_MAX);
        assert!(kept[7].is(&sets.shared(named(7))));
        for (name, set) in kept.iter().enumerate() {
            assert_eq!(**set, *named(name));
        }
        // Those that nobody has any more make room.
        drop(kept);
        let new = sets.shared(named(9_999));
        assert_eq!(sets.0.lock().unwrap().len(), 1);
        assert!(new.is(&sets.shared(named(9_999))));
    }
}
