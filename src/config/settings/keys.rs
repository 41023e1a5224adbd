//! `[key_format]`, `[key_rules]`, `[key_labels]` and `[scopes]`: what keys are.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::file::Reader;
use crate::config::names;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::key::KeyKind;
use crate::model::key::Lifetime;
use crate::model::scope::Scope;
use crate::model::scope::ScopeRules;
use crate::model::scope::Scopes;

/// `[key_format]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFormat {
    /// First word of secret keys: 1 to 16 of `a-z 0-9`.
    pub secret_prefix: String,
    /// First word of public keys; may equal the other.
    pub public_prefix: String,
}

/// `[key_labels]`: what lists call the states of keys; each 1 to 128 characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLabels {
    /// In use.
    pub active: String,
    /// Switched off.
    pub inactive: String,
    /// Its end is past.
    pub expired: String,
    /// Ended for good.
    pub revoked: String,
    /// Ended for good and off the lists.
    pub deleted: String,
}

impl KeyLabels {
    /// What this state is called.
    #[must_use]
    pub fn of<'a>(&'a self, status: &'a str) -> &'a str {
        match status {
            "active" => &self.active,
            "inactive" => &self.inactive,
            "expired" => &self.expired,
            "revoked" => &self.revoked,
            "deleted" => &self.deleted,
            other => other,
        }
    }
}

/// `[key_rules]`: checked when a key is made or changed from the command line, never at requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRules {
    /// The lifetimes there are to choose from (FA3, C-8); empty is any.
    pub allowed_expirations: Vec<Lifetime>,
    /// The longest lifetime; `None` is unlimited.
    pub max_ttl: Option<Lifetime>,
    /// Whether keys that never end are remarked upon (C-30).
    pub warn_never: bool,
    /// Whether a key may list a scope that its plan does not grant; it has no effect until the plan does (CW7).
    pub allow_ungranted: bool,
}

/// `[[key_defaults]]`: what a key may do when nobody said it (C-7, PB20). The first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDefault {
    /// Of this kind only.
    pub kind: Option<KeyKind>,
    /// In this environment only.
    pub environment: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
}

/// `[key_format]`.
pub(in crate::config) fn key_format(root: &mut Reader<'_>) -> KeyFormat {
    root.table("key_format", "key_format", |table| {
        let mut prefix = |key| {
            table
                .word(key, names::key_word)
                .map_or_else(|| "fp".into(), Spanned::into_inner)
        };
        KeyFormat {
            secret_prefix: prefix("secret_prefix"),
            public_prefix: prefix("public_prefix"),
        }
    })
}

/// `[key_rules]`.
pub(in crate::config) fn key_rules(root: &mut Reader<'_>) -> KeyRules {
    root.table("key_rules", "key_rules", |table| {
        let lifetime = |text: &str| {
            Lifetime::parse(text).or_else(|why| wrong(format!("\"{text}\" is not a lifetime"), why))
        };
        let allowed = table.list("allowed_expirations", lifetime);
        let max_ttl = table.word("max_ttl", |text| match text {
            "unlimited" => Ok(None),
            "never" => wrong("\"never\" is no longest lifetime", "write \"unlimited\""),
            text => lifetime(text).map(Some),
        });
        KeyRules {
            allowed_expirations: (allowed.into_iter().flatten())
                .map(Spanned::into_inner)
                .collect(),
            max_ttl: max_ttl.and_then(Spanned::into_inner),
            warn_never: table.flag("warn_never", true),
            allow_ungranted: table.choice(
                "ungranted_scopes",
                false,
                &[("refuse", false), ("allow", true)],
            ),
        }
    })
}

/// `[key_labels]`.
pub(in crate::config) fn key_labels(root: &mut Reader<'_>) -> KeyLabels {
    root.table("key_labels", "key_labels", |table| {
        let mut label = |key| {
            table
                .word(key, names::display_name)
                .map_or_else(|| key.to_owned(), Spanned::into_inner)
        };
        KeyLabels {
            active: label("active"),
            inactive: label("inactive"),
            expired: label("expired"),
            revoked: label("revoked"),
            deleted: label("deleted"),
        }
    })
}

/// `[scopes]`.
pub(in crate::config) fn scopes(root: &mut Reader<'_>) -> ScopeRules {
    root.table("scopes", "scopes", |table| ScopeRules {
        superuser: table
            .list("superuser", scope)
            .unwrap_or_default()
            .into_iter()
            .map(Spanned::into_inner)
            .collect(),
        implies: implies(table),
    })
}

fn scope(text: &str) -> Result<Scope, Wrong> {
    Scope::new(text).or_else(|why| wrong(format!("\"{text}\" is not a scope"), why))
}

/// `implies = { "leases:write" = ["leases:read"] }`: the names are the operator's, so no key of them is known beforehand.
fn implies(table: &mut Reader<'_>) -> BTreeMap<Scope, Vec<Scope>> {
    const HELP: &str = "write implies = { \"leases:write\" = [\"leases:read\"] }, or {} for none";
    let mut rules = BTreeMap::new();
    let Some(value) = table.ask("implies") else {
        return rules;
    };
    let Some(entries) = value.get_ref().as_table() else {
        table.refuse_kind(value, "implies", "a table of lists", HELP.into());
        return rules;
    };
    for (name, implied) in entries {
        let Some(list) = implied.get_ref().as_array() else {
            table.refuse_kind(implied, "implies", "a list of scopes", HELP.into());
            continue;
        };
        let texts = list.iter().map(|entry| match entry.get_ref() {
            DeValue::String(text) => (entry.span(), scope(text)),
            _ => (entry.span(), wrong("this is not a scope", HELP)),
        });
        let mut read = Vec::new();
        for (at, word) in std::iter::once((name.span(), scope(name.get_ref()))).chain(texts) {
            match word {
                Ok(word) => read.push(word),
                Err(wrong) => table.refuse(at, "implies", wrong),
            }
        }
        if !read.is_empty() {
            rules.insert(read.remove(0), read);
        }
    }
    rules
}
