//! gateway.toml and the store's contents into one snapshot; whatever would leave a live key without its plan, tenant or environment is refused.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use http::HeaderValue;

use crate::clock::Wall;
use crate::config::Config;
use crate::config::Upstream;
use crate::model::denial::DenyTable;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::Environment;
use crate::model::key::KeyId;
use crate::model::route::RouteTable;
use crate::model::scope::ScopeList;
use crate::model::scope::Scopes;
use crate::model::seat::SeatHint;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;
use crate::snapshot::KeyEntry;
use crate::snapshot::NEVER_EXPIRES;
use crate::snapshot::OwnLimits;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantEntry;
use crate::snapshot::TenantTable;
use crate::snapshot::key_table::Gathered;
use crate::snapshot::place;
use crate::store::Contents;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::merge::Clash;
use crate::store::merge::Merge;

/// A snapshot just built.
#[derive(Debug)]
pub struct Built {
    /// The view.
    pub snapshot: Snapshot,
    /// Tenants that both the file and the store declare; the view shows the file's. A start raises an alarm, `check` and a
    /// reload refuse.
    pub conflicts: Vec<TenantId>,
    /// The scope lists that its keys share.
    pub scope_sets: ScopeSets,
}

/// Why no snapshot can be built. Every one of them is a mistake in gateway.toml, or of gateway.toml beside this store.
#[derive(Debug)]
pub enum BuildError {
    /// A key of the file cannot stand beside one of the store.
    Clash(Box<Clash>),
    /// Two routes that match the same; what each matches.
    SameRoutes(String, String),
    /// The store refers to something that gateway.toml no longer declares. For each, who refers to it.
    Dangling(Vec<Dangling>),
}

/// Something that gateway.toml does not declare, and who in the store needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// `plan`, `tenant` or `environment`.
    pub what: &'static str,
    /// The name that is missing.
    pub name: String,
    /// Tenants or keys, at most a handful, as `tenant acme` or `key key_…`.
    pub needed_by: Vec<String>,
    /// How many need it in all.
    pub count: usize,
}

/// Builds the view of `config` and of what the store holds, row by row: a million keys are never in memory twice.
///
/// # Errors
/// The store cannot be read (outer), or as `build` (inner).
pub fn from_store(
    config: &Arc<Config>,
    store: &Store,
    generation: u64,
) -> Result<Result<Built, BuildError>, StoreError> {
    let building = store.stream(
        |contents| Building::begin(config, &contents),
        |building, key| building.pass(&key),
    )?;
    Ok(building.end(config, generation))
}

/// Builds the view of `config` and `contents`.
///
/// # Errors
/// Live duplicates, routes that match the same, and references into the void: fail closed rather than serve a key under a
/// plan that nobody wrote.
pub fn build(
    config: Arc<Config>,
    contents: &Contents,
    generation: u64,
) -> Result<Built, BuildError> {
    let mut building = Building::begin(&config, contents);
    for key in &contents.keys {
        building.pass(key);
    }
    building.end(&config, generation)
}

/// A view in the making, of which the keys come one by one.
struct Building<'a> {
    names: Names<'a>,
    revision: u64,
    merge: Merge<'a>,
    /// The first key that cannot stand beside one of the file.
    clash: Option<Clash>,
    missing: Missing,
    tenants: TenantTable,
    conflicts: Vec<TenantId>,
    scope_sets: ScopeSets,
    denials: DenyTable,
    keys: Gathered,
    /// Digests that a regeneration let live on, by key, each with its end (C-19).
    overlaps: HashMap<KeyId, Vec<(Digest, Wall)>>,
}

impl<'a> Building<'a> {
    fn begin(config: &'a Config, contents: &Contents) -> Building<'a> {
        let mut missing = Missing::default();
        let names = Names::of(config);
        let (tenants, conflicts) =
            tenant_table(&config.tenants, &contents.tenants, &names, &mut missing);
        let mut overlaps: HashMap<KeyId, Vec<(Digest, Wall)>> = HashMap::new();
        for old in &contents.retired {
            if let Some(until) = old.until {
                overlaps
                    .entry(old.key)
                    .or_default()
                    .push((old.digest, until));
            }
        }
        Building {
            names,
            revision: contents.revision,
            merge: Merge::new(&config.declared_keys, &contents.retired),
            clash: None,
            missing,
            tenants,
            conflicts,
            scope_sets: ScopeSets::default(),
            denials: DenyTable::build(contents.denials.iter().cloned()),
            keys: Gathered::new(),
            overlaps,
        }
    }

    /// Takes a key of the store.
    fn pass(&mut self, key: &ApiKey) {
        match self.merge.beside(key) {
            Ok(()) => self.add(key),
            Err(clash) => self.clash = self.clash.take().or(Some(clash)),
        }
    }

    /// Adds a key under its digest, and under those that still stand for it, ending sooner.
    fn add(&mut self, key: &ApiKey) {
        match entry_of(key, &self.tenants, &self.names, &mut self.scope_sets) {
            Ok(entry) => {
                for (digest, until) in self.overlaps.get(&key.id).into_iter().flatten() {
                    let expires = entry.expires.min(*until);
                    let older = KeyEntry {
                        expires,
                        ..entry.clone()
                    };
                    self.keys.push(*digest, older);
                }
                self.keys.push(key.digest, entry);
            }
            // What has ended is refused with or without an entry.
            Err(_) if key.status.is_final() => {}
            Err((what, name)) => self.missing.add(what, &name, format!("key {}", key.id)),
        }
    }

    fn end(mut self, config: &Arc<Config>, generation: u64) -> Result<Built, BuildError> {
        let routes = route_table(config)?;
        if let Some(clash) = self.clash.take() {
            return Err(BuildError::Clash(Box::new(clash)));
        }
        let merge = std::mem::replace(&mut self.merge, Merge::new(&[], &[]));
        for key in merge.into_keys() {
            self.add(&key);
        }
        self.missing.into_result()?;
        let snapshot = Snapshot {
            revision: self.revision,
            generation,
            routes: Arc::new(routes),
            plans: config.plans.as_slice().into(),
            tenants: Arc::new(self.tenants),
            keys: self.keys.into_table(),
            denials: Arc::new(self.denials),
            contact: None,
            config: Arc::clone(config),
        };
        Ok(Built {
            snapshot,
            conflicts: self.conflicts,
            scope_sets: self.scope_sets,
        })
    }
}

/// One key as requests see it.
///
/// # Errors
/// What it refers to and what is not declared: (`tenant`, id), (`plan`, name) or (`environment`, name).
pub(super) fn entry_of(
    key: &ApiKey,
    tenants: &TenantTable,
    names: &Names<'_>,
    scope_sets: &mut ScopeSets,
) -> Result<KeyEntry, (&'static str, String)> {
    let tenant = *tenants
        .by_id
        .get(&key.tenant)
        .ok_or_else(|| ("tenant", key.tenant.as_str().to_owned()))?;
    let plan = match &key.plan {
        None => u32::MAX,
        Some(name) => names.plan(name)?,
    };
    Ok(KeyEntry {
        id: key.id,
        tenant,
        plan,
        expires: key.expires.unwrap_or(NEVER_EXPIRES),
        status: key.status,
        kind: key.kind,
        environment: names.environment(&key.environment)?,
        own: own_limits(key),
        binding: (!key.binding.is_empty()).then(|| Box::new(key.binding.clone())),
        scopes: scope_sets.shared(&key.scopes),
    })
}

/// The entry of a tenant.
///
/// # Errors
/// Its plan is not declared: (`plan`, name).
pub(super) fn tenant_entry(
    tenant: &Tenant,
    names: &Names<'_>,
) -> Result<TenantEntry, (&'static str, String)> {
    Ok(TenantEntry {
        id: tenant.id.clone(),
        header_value: HeaderValue::from_str(tenant.id.as_str())
            .expect("a tenant id holds letters, digits and . _ - only"),
        plan: names.plan(&tenant.plan)?,
        scopes: tenant.scopes.clone(),
        own: OwnLimits {
            quota: tenant.quota,
            burst: tenant.burst,
        },
        suspended: tenant.suspended,
        places: place::places(tenant, names.upstreams),
        seat: SeatHint::default(),
    })
}

/// Finds plans and environments by name.
pub(super) struct Names<'a> {
    plan_index: HashMap<&'a str, u32>,
    environments: &'a [String],
    upstreams: &'a [Arc<Upstream>],
}

impl<'a> Names<'a> {
    pub(super) fn of(config: &'a Config) -> Names<'a> {
        let indexed = config.plans.iter().enumerate();
        Names {
            plan_index: indexed
                .map(|(index, plan)| (plan.name.as_str(), index as u32))
                .collect(),
            environments: &config.environments,
            upstreams: &config.upstreams,
        }
    }

    fn plan(&self, name: &str) -> Result<u32, (&'static str, String)> {
        let index = self.plan_index.get(name).copied();
        index.ok_or_else(|| ("plan", name.to_owned()))
    }

    fn environment(&self, name: &str) -> Result<Environment, (&'static str, String)> {
        let index = self.environments.iter().position(|there| there == name);
        index
            .and_then(|index| u8::try_from(index).ok())
            .map(Environment)
            .ok_or_else(|| ("environment", name.to_owned()))
    }
}

/// One shared list for all keys that list the same scopes: a million keys then cost a million pointers.
#[derive(Debug, Default)]
pub struct ScopeSets(HashSet<ScopeList>);

impl ScopeSets {
    fn shared(&mut self, scopes: &Scopes) -> Scopes {
        let Scopes::Listed(listed) = scopes else {
            return Scopes::Inherit;
        };
        if let Some(known) = self.0.get(listed) {
            return Scopes::Listed(known.clone());
        }
        self.0.insert(listed.clone());
        Scopes::Listed(listed.clone())
    }
}

fn own_limits(key: &ApiKey) -> Option<Box<OwnLimits>> {
    let own = OwnLimits {
        quota: key.quota,
        burst: key.burst,
    };
    (own != OwnLimits::NONE).then(|| Box::new(own))
}

fn route_table(config: &Config) -> Result<RouteTable, BuildError> {
    RouteTable::build(&config.routes).map_err(|(first, second)| {
        let shown = |index: usize| {
            let route = &config.routes[index];
            let host = route.host.as_deref().unwrap_or("");
            format!("routes[{index}] ({host}{})", route.path)
        };
        BuildError::SameRoutes(shown(first), shown(second))
    })
}

fn tenant_table(
    declared: &[Tenant],
    stored: &[Tenant],
    names: &Names<'_>,
    missing: &mut Missing,
) -> (TenantTable, Vec<TenantId>) {
    let mut table = TenantTable::default();
    let mut conflicts = Vec::new();
    for tenant in declared.iter().chain(stored) {
        if table.by_id.contains_key(&tenant.id) {
            conflicts.push(tenant.id.clone());
            continue;
        }
        match tenant_entry(tenant, names) {
            Ok(entry) => table.push(entry),
            Err((what, name)) => {
                missing.add(what, &name, format!("tenant {}", tenant.id.as_str()));
            }
        }
    }
    (table, conflicts)
}

impl TenantTable {
    /// Changes a tenant where it stands, or adds it.
    pub(super) fn put(&mut self, entry: TenantEntry) {
        match self.by_id.get(&entry.id) {
            Some(index) => self.entries[*index as usize] = entry,
            None => self.push(entry),
        }
    }

    /// Adds a tenant behind the others, so that no index moves.
    fn push(&mut self, entry: TenantEntry) {
        self.by_id
            .insert(entry.id.clone(), self.entries.len() as u32);
        self.entries.push(entry);
    }
}

/// Collects what is not declared, so that one message names all of it.
#[derive(Default)]
struct Missing(BTreeMap<(&'static str, String), Needed>);

/// Who needs it: some of them by name, and how many in all.
type Needed = (Vec<String>, usize);

/// How many of those who need a missing thing are named.
const NAMED_MAX: usize = 8;

impl Missing {
    fn add(&mut self, what: &'static str, name: &str, needed_by: String) {
        let (named, count) = self.0.entry((what, name.to_owned())).or_default();
        *count += 1;
        if named.len() < NAMED_MAX {
            named.push(needed_by);
        }
    }

    fn into_result(self) -> Result<(), BuildError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let dangling = self
            .0
            .into_iter()
            .map(|((what, name), (needed_by, count))| Dangling {
                what,
                name,
                needed_by,
                count,
            });
        Err(BuildError::Dangling(dangling.collect()))
    }
}

impl fmt::Display for Dangling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, name) = (self.what, &self.name);
        let who = self.needed_by.join(", ");
        let more = match self.count - self.needed_by.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let way_out = match what {
            "plan" => format!("keep [plans.{name}]"),
            "tenant" => format!("keep the tenant {name}, or revoke its keys"),
            _ => format!("keep {name:?} among the environments, or revoke these keys"),
        };
        write!(
            out,
            "no {what} {name:?} is declared, but in the store it is needed by {who}{more}: {way_out}"
        )
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Clash(clash) => clash.fmt(out),
            BuildError::SameRoutes(first, second) => {
                write!(out, "{first} and {second} match the same requests")
            }
            BuildError::Dangling(list) => {
                let lines: Vec<String> = list.iter().map(Dangling::to_string).collect();
                out.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for BuildError {}

/// What a reload and `check` say of tenants that stand in both places.
#[must_use]
pub fn conflict_text(conflicts: &[TenantId]) -> String {
    let names: Vec<&str> = conflicts.iter().map(TenantId::as_str).collect();
    format!(
        "declared in gateway.toml and in the store: tenant {}; the file's holds: remove it from gateway.toml, or keep it there alone",
        names.join(", ")
    )
}
