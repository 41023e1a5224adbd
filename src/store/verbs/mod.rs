//! Every administrative act: the rules first, then one write. `prepare` decides and reads, `Store::commit` writes.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::clock::Wall;
use crate::config::Config;
use crate::config::KeyDefault;
use crate::config::KeyFormat;
use crate::config::KeyLabels;
use crate::config::KeyRules;
use crate::config::Upstream;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::issuer::Issuer;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyStatus;
use crate::model::route::Route;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Verb;
use crate::store::audit::Actor;
use crate::store::outcome::Failure;
use crate::store::outcome::LastUsed;
use crate::store::outcome::Outcome;
use crate::store::sqlite::Write;

mod admin_token;
mod create;
mod find;
mod import;
mod list;
mod place;
mod revoke_many;
mod rules;
mod select;
mod status;
mod tenant;
mod tokens;
mod told;
mod update;

pub use tokens::unwritten as unwritten_denial;
pub use told::act_of;

/// What gateway.toml says that the verbs must know.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// `[[tenants]]`.
    pub tenants: &'a [Tenant],
    /// `[[keys]]`.
    pub keys: &'a [ApiKey],
    /// `[plans.NAME]`.
    pub plans: &'a [Plan],
    /// The first is the default.
    pub environments: &'a [String],
    /// How key texts are made.
    pub format: &'a KeyFormat,
    /// What new keys must be.
    pub rules: &'a KeyRules,
    /// What lists call the states of keys.
    pub labels: &'a KeyLabels,
    /// What they may do when nobody said it.
    pub defaults: &'a [KeyDefault],
    /// What they demand and cost, for advice.
    pub routes: &'a [Arc<Route>],
    /// `[upstreams.NAME]`: which of them have places for single tenants.
    pub upstreams: &'a [Arc<Upstream>],
    /// `[issuers.NAME]`: how long tokens may live.
    pub issuers: &'a [Arc<Issuer>],
}

impl<'a> Declared<'a> {
    /// The parts of a configuration that matter here.
    #[must_use]
    pub fn of(config: &'a Config) -> Declared<'a> {
        Declared {
            tenants: &config.tenants,
            keys: &config.declared_keys,
            plans: &config.plans,
            environments: &config.environments,
            format: &config.keys,
            rules: &config.key_rules,
            labels: &config.key_labels,
            defaults: &config.key_defaults,
            routes: &config.routes,
            upstreams: &config.upstreams,
            issuers: &config.issuers,
        }
    }
}

/// A verb that passed every rule and waits to be written.
#[derive(Debug)]
pub struct Prepared {
    /// What to write, in one transaction; nothing when nothing changes.
    pub writes: Vec<Write>,
    /// What the view of requests has to learn.
    pub change: Change,
    /// What to answer once it is written.
    pub outcome: Outcome,
}

/// A verb that was carried out and is durable.
#[derive(Debug)]
pub struct Applied {
    /// What to answer.
    pub outcome: Outcome,
    /// What the view of requests has to learn.
    pub change: Change,
    /// The store's new revision; `None` when nothing changed.
    pub revision: Option<u64>,
}

/// How the view of requests differs after a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    Nothing,
    /// Digests stand for keys, or for none any more.
    Keys {
        /// Each under its own digest; a key that was regenerated may come several times.
        put: Vec<ApiKey>,
        /// Digests that end.
        gone: Vec<Digest>,
    },
    /// The keys with these digests have this status.
    KeyStatus(Vec<Digest>, KeyStatus),
    /// A tenant, new or changed.
    Tenant(Tenant),
    /// Tokens of the admin plane: no request of a client asks for them. All of them, as they are from now on.
    AdminTokens(Vec<AdminToken>),
    /// Tokens are denied.
    Denied(Denial),
    /// What was said of these tokens is taken back.
    Allowed(Denial),
}

/// Checks a verb against every rule and says what is to be written. The store must not be written in between: the lock and
/// the one owner of `Store` see to that.
///
/// # Errors
/// The rule that forbids it, with the way out; or the store cannot be read.
pub fn prepare(
    store: &Store,
    declared: &Declared<'_>,
    verb: &Verb,
    now: Wall,
    last_used: &LastUsed,
) -> Result<Prepared, Failure> {
    let scene = Scene::new(store, declared, now, last_used);
    match verb {
        Verb::KeyCreate(new) => create::create(&scene, new),
        Verb::KeyList(which) => list::keys(&scene, which),
        Verb::KeyPage {
            which,
            after,
            limit,
        } => list::page(&scene, which, after.as_deref(), *limit),
        Verb::KeyShow { id } => list::key(&scene, id),
        Verb::KeyDeactivate { id } => status::deactivate(&scene, id),
        Verb::KeyActivate { id } => status::activate(&scene, id),
        Verb::KeyUpdate(change) => update::key(&scene, change),
        Verb::KeyRegenerate {
            id,
            overlap_seconds,
        } => create::regenerate(&scene, id, *overlap_seconds),
        Verb::KeyRotate {
            id,
            overlap_seconds,
        } => create::rotate(&scene, id, *overlap_seconds),
        Verb::KeyImport { file, keys } => import::import(&scene, file, keys),
        Verb::KeyRevokeMany(which) => revoke_many::revoke_many(&scene, which),
        Verb::KeyRevoke { id } => status::revoke(&scene, id),
        Verb::KeyDelete { id } => status::delete(&scene, id),
        Verb::TenantCreate {
            id,
            name,
            plan,
            upstreams,
        } => tenant::create(&scene, id, name.as_deref(), plan, upstreams),
        Verb::TenantList => list::tenants(&scene),
        Verb::TenantUpdate(change) => update::of_tenant(&scene, change),
        Verb::TenantSuspend { id } => tenant::suspend(&scene, id, true),
        Verb::TenantResume { id } => tenant::suspend(&scene, id, false),
        Verb::AdminTokenCreate(new) => admin_token::create(&scene, new),
        Verb::AdminTokenList => admin_token::list(&scene),
        Verb::AdminTokenRevoke { id } => admin_token::revoke(&scene, id),
        Verb::TokenDeny(asked) => tokens::deny(&scene, asked),
        Verb::TokenAllow(names) => tokens::allow(&scene, names),
        Verb::TokenDenials => tokens::list(&scene),
    }
}

/// Carries a verb out on a store that no gateway is running on.
///
/// # Errors
/// As `prepare`; or the store cannot be written, and nothing was changed.
pub fn apply(
    store: &mut Store,
    declared: &Declared<'_>,
    verb: &Verb,
    now: Wall,
    last_used: &LastUsed,
    actor: &Actor,
) -> Result<Applied, Failure> {
    for _ in 0..TRIES {
        match apply_once(store, declared, verb, now, last_used, actor) {
            // Another node was first.
            Err(Failure::Store(StoreError::Behind)) => store.catch_up(now)?,
            done => return done,
        }
    }
    Err(StoreError::Behind.into())
}

/// How often an act is judged anew because another node was first.
const TRIES: usize = 50;

fn apply_once(
    store: &mut Store,
    declared: &Declared<'_>,
    verb: &Verb,
    now: Wall,
    last_used: &LastUsed,
    actor: &Actor,
) -> Result<Applied, Failure> {
    let prepared = prepare(store, declared, verb, now, last_used)?;
    let revision = match prepared.writes.as_slice() {
        [] => None,
        writes => {
            let act = act_of(store, declared, verb, &prepared.outcome, actor, now)?;
            Some(store.commit_act(writes, &act)?.0)
        }
    };
    Ok(Applied {
        outcome: prepared.outcome,
        change: prepared.change,
        revision,
    })
}

/// All that a rule looks at.
struct Scene<'a> {
    store: &'a Store,
    declared: &'a Declared<'a>,
    now: Wall,
    last_used: &'a LastUsed,
    /// Those of the store, read once.
    tenants: OnceCell<Vec<Tenant>>,
}

impl<'a> Scene<'a> {
    fn new(
        store: &'a Store,
        declared: &'a Declared<'a>,
        now: Wall,
        last_used: &'a LastUsed,
    ) -> Scene<'a> {
        Scene {
            store,
            declared,
            now,
            last_used,
            tenants: OnceCell::new(),
        }
    }
}

impl Prepared {
    /// An answer that changes nothing.
    fn read(outcome: Outcome) -> Prepared {
        Prepared {
            writes: Vec::new(),
            change: Change::Nothing,
            outcome,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "tests/mod.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "the same rules, over a store that nodes share"
)]
mod tests_shared;
