//! What tokens may do: an issuer grants few different sets of scopes, and thousands of tokens share each.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::model::scope::Scope;

/// The sets of the tokens that are remembered, each once. A std mutex: it is taken when a token is verified, and never where one is found.
#[derive(Debug, Default)]
pub(super) struct ScopeSets(Mutex<HashSet<Arc<[Scope]>>>);

impl ScopeSets {
    /// This set, shared with all tokens that have the same. Where there are too many sets in use, one of its own.
    pub(super) fn shared(&self, scopes: Vec<Scope>) -> Arc<[Scope]> {
        // A set of sets is whole after every step, so a panic elsewhere has not broken it.
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(scopes.as_slice()) {
            return Arc::clone(known);
        }
        let set: Arc<[Scope]> = scopes.into();
        if sets.len() >= SETS_MAX {
            sets.retain(|set| Arc::strong_count(set) > 1);
        }
        if sets.len() < SETS_MAX {
            sets.insert(Arc::clone(&set));
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
        assert!(Arc::ptr_eq(&kept[7], &sets.shared(named(7))));
        for (name, set) in kept.iter().enumerate() {
            assert_eq!(**set, *named(name));
        }
        // Those that nobody has any more make room.
        drop(kept);
        let new = sets.shared(named(9_999));
        assert_eq!(sets.0.lock().unwrap().len(), 1);
        assert!(Arc::ptr_eq(&new, &sets.shared(named(9_999))));
    }
}
