//! Scopes: opaque strings, compared whole; wildcards exist only in a plan's grants.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Deref;
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
    Listed(ScopeList),
}

/// Scopes that many keys may share. One pointer wide and not two, since each of a million rows has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeList(Arc<Vec<Scope>>);

impl ScopeList {
    /// Whether both are the same list in memory.
    #[must_use]
    pub fn is(&self, other: &ScopeList) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether somebody else has the same list in memory.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl FromIterator<Scope> for ScopeList {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> ScopeList {
        ScopeList::from(Vec::from_iter(scopes))
    }
}

impl From<Vec<Scope>> for ScopeList {
    fn from(mut scopes: Vec<Scope>) -> ScopeList {
        scopes.shrink_to_fit();
        ScopeList(Arc::new(scopes))
    }
}

impl Borrow<[Scope]> for ScopeList {
    fn borrow(&self) -> &[Scope] {
        &self.0
    }
}

impl Deref for ScopeList {
    type Target = [Scope];

    fn deref(&self) -> &[Scope] {
        &self.0
    }
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

/// What the holder of one scope may do besides: nothing, unless the operator says so (C-4, C-5). Widens what keys and tenants hold, never
/// what a plan grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScopeRules {
    /// Whoever holds one of these holds every scope (FF9).
    pub superuser: Vec<Scope>,
    /// Whoever holds the first holds the others too, as written.
    pub implies: BTreeMap<Scope, Vec<Scope>>,
}

impl ScopeRules {
    /// Whether `held` covers `demanded` under these rules; implications are followed to their end.
    #[must_use]
    pub fn cover(&self, held: &Scopes, demanded: &Scope) -> bool {
        if held.cover(demanded) {
            return true;
        }
        let Scopes::Listed(listed) = held else {
            return false;
        };
        listed.iter().any(|scope| self.superuser.contains(scope))
            || (!self.implies.is_empty() && self.implied(listed, demanded))
    }

    /// Each implication is looked at once, so that a circle of them ends.
    fn implied(&self, listed: &[Scope], demanded: &Scope) -> bool {
        let mut reached: Vec<&Scope> = listed.iter().collect();
        let mut next = 0;
        while let Some(scope) = reached.get(next).copied() {
            next += 1;
            for more in self.implies.get(scope).into_iter().flatten() {
                if more == demanded || self.superuser.contains(more) {
                    return true;
                }
                if !reached.contains(&more) {
                    reached.push(more);
                }
            }
        }
        false
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::new(text).unwrap()
    }

    /// C-4, C-5: implications are followed to their end, circles included, also up to a superuser scope.
    #[test]
    fn implications_reach_further_scopes_and_superusers() {
        let rules = ScopeRules {
            superuser: vec![scope("admin")],
            implies: [
                (scope("a:write"), vec![scope("a:read"), scope("b:write")]),
                (scope("b:write"), vec![scope("a:write")]),
                (scope("owner"), vec![scope("admin")]),
            ]
            .into(),
        };
        let cases = [
            ("a:write", "a:read", true),
            ("b:write", "a:read", true),
            ("b:write", "c:read", false),
            ("owner", "c:read", true),
            ("admin", "c:read", true),
            ("a:read", "a:write", false),
        ];
        for (held, demanded, expected) in cases {
            let held = Scopes::Listed(vec![scope(held)].into());
            assert_eq!(rules.cover(&held, &scope(demanded)), expected, "{demanded}");
        }
    }
}
