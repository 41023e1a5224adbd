//! Reports of usage: what is flushed, read beside the flushes and by the page, with the names of keys and the windows of one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::admin::Admin;
use crate::admin::nodes::OtherNodes;
use crate::admin::nodes::Sharing;
use crate::clock::Wall;
use crate::gate;
use crate::gate::WindowView;
use crate::model::identity::tokens_of;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::counters::CountersError;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::history::History;
use crate::store::history::HoursOfKey;
use crate::store::history::Tally;
use crate::store::outcome::KeyView;
use crate::usage::report;
use crate::usage::report::Found;
use crate::usage::report::Report;
use crate::usage::report::Span;

/// Whose usage, since when, and which page of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// One key's; its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// That of these keys alone; their ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// One tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// How far back, in seconds; whole hours are told. At most 90 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    /// Behind this key: where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Keys of one page; `PAGE` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Keys of one page where nothing is said.
const PAGE: usize = 100;

/// Keys of one page at most.
pub const PAGE_MAX: usize = 1_000;

/// Who carries out the verbs that find keys and tenants.
type Ask<'a> = &'a mut dyn FnMut(&Verb) -> Result<Outcome, VerbError>;

impl Asked {
    /// Makes the report. `tenants` are all there are; their tokens are named by them. `sharing` is where other nodes tell what they did.
    ///
    /// # Errors
    /// There is no such key or tenant, or this node's counters cannot be read.
    pub fn report(
        &self,
        directory: &Path,
        sharing: Option<Sharing<'_>>,
        tenants: &[TenantId],
        now: Wall,
        ask: Ask<'_>,
    ) -> Result<Report, VerbError> {
        let span = Span::back(self.since_seconds.unwrap_or(report::SINCE_SECONDS), now);
        let history = History::open(directory).map_err(unreadable)?;
        let mark = history.as_ref().map(History::mark).transpose();
        let nodes = OtherNodes::look(sharing, mark.map_err(unreadable)?.unwrap_or(0));
        let page = Page {
            history,
            nodes,
            span,
            after: self.after.as_deref().map(id_of).transpose()?,
            limit: self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX),
        };
        let before = page.nodes.has_failed();
        let mut found = self.found(&page, ask)?;
        if page.nodes.has_failed() && !before {
            // On the way: what was read of other nodes is in one part of it and not in another.
            found = self.found(&page, ask)?;
        }
        let (found, known) = found;
        let told = page.nodes.told(sharing, &span, now);
        Ok(report::report(&span, found, &known, tenants).of_nodes(told))
    }

    fn found(&self, page: &Page, ask: Ask<'_>) -> Result<(Found, Vec<KeyView>), VerbError> {
        match (&self.key, &self.keys, &self.tenant) {
            (Some(id), ..) => page.one(id, ask),
            (None, Some(ids), tenant) => page.these(ids, tenant.as_deref(), ask),
            (None, None, Some(tenant)) => page.of_tenant(tenant, ask),
            (None, None, None) => page.all(ask),
        }
    }
}

/// A page of what was done.
struct Page {
    /// `None` when nothing was counted yet.
    history: Option<History>,
    nodes: OtherNodes,
    span: Span,
    after: Option<KeyId>,
    limit: usize,
}

impl Page {
    fn one(&self, id: &str, ask: Ask<'_>) -> Result<(Found, Vec<KeyView>), VerbError> {
        let Outcome::Key { key } = ask(&Verb::KeyShow { id: id.to_owned() })? else {
            return Ok((Found::default(), Vec::new()));
        };
        let id = id_of(&key.id)?;
        let hours = self.hours_of_each(&[id])?;
        let hours: Vec<(u32, Tally)> = hours.into_iter().flat_map(|(_, own)| own).collect();
        let found = Found {
            keys: vec![(id, report::sum(&hours))],
            hours: Some(hours),
            next: None,
        };
        Ok((found, vec![*key]))
    }

    /// Another tenant's keys are left out like those that nobody has.
    fn these(
        &self,
        ids: &[String],
        tenant: Option<&str>,
        ask: Ask<'_>,
    ) -> Result<(Found, Vec<KeyView>), VerbError> {
        let ids: Result<BTreeSet<KeyId>, VerbError> = ids.iter().map(|id| id_of(id)).collect();
        let mut ids = ids?;
        let known = named(&ids, tenant, ask)?;
        if let Some(tenant) = tenant {
            let tokens = TenantId::new(tenant).ok().map(|tenant| tokens_of(&tenant));
            let own = |id: &KeyId| known.iter().any(|key| key.id == id.to_string());
            ids.retain(|id| own(id) || tokens == Some(*id));
        }
        let mut hours: BTreeMap<u32, Tally> = BTreeMap::new();
        let mut keys = Vec::new();
        let ids: Vec<KeyId> = ids.into_iter().collect();
        for (id, own) in self.hours_of_each(&ids)? {
            for (hour, tally) in &own {
                let sum = hours.entry(*hour).or_default();
                *sum = sum.and(tally);
            }
            keys.push((id, report::sum(&own)));
        }
        keys.retain(|(id, tally)| *tally != Tally::default() && self.is_behind(*id));
        let next = self.cut(&mut keys);
        let found = Found {
            keys,
            hours: self.is_first().then(|| hours.into_iter().collect()),
            next,
        };
        Ok((found, known))
    }

    /// In the order of lists of keys, the tenant's tokens before all; what did nothing is passed over, and a page may be short of it.
    fn of_tenant(&self, tenant: &str, ask: Ask<'_>) -> Result<(Found, Vec<KeyView>), VerbError> {
        let tokens = TenantId::new(tenant).map(|tenant| tokens_of(&tenant));
        let tokens = tokens.map_err(VerbError::refused)?;
        let after = self.after.filter(|after| *after != tokens);
        let room = match self.is_first() {
            true => self.limit - 1,
            false => self.limit,
        };
        let mut known = keys_of(tenant, after, room + 1, ask)?;
        let more = known.len() > room;
        known.truncate(room);
        let mut ids = Vec::new();
        if self.is_first() {
            ids.push(tokens);
        }
        for key in &known {
            ids.push(id_of(&key.id)?);
        }
        let next = ids.last().copied().filter(|_| more);
        let mut keys = Vec::new();
        for (id, own) in self.hours_of_each(&ids)? {
            let tally = report::sum(&own);
            if tally != Tally::default() {
                keys.push((id, tally));
            }
        }
        let hours = match self.is_first() {
            true => Some(self.hours(Some(&all_of(tenant, tokens, ask)?))?),
            false => None,
        };
        Ok((Found { keys, hours, next }, known))
    }

    /// By their ids; those too that nobody knows any more.
    fn all(&self, ask: Ask<'_>) -> Result<(Found, Vec<KeyView>), VerbError> {
        let Span { since, until, .. } = self.span;
        let most = self.limit + 1;
        let own = match &self.history {
            Some(history) => history.page(since, until, self.after, most),
            None => Ok(Vec::new()),
        };
        let own = own.map_err(unreadable)?;
        let mut keys = (self.nodes).add_page(own, &self.span, self.after, most);
        let next = self.cut(&mut keys);
        let hours = match self.is_first() {
            true => Some(self.hours(None)?),
            false => None,
        };
        let known = named(&keys.iter().map(|(id, _)| *id).collect(), None, ask)?;
        Ok((Found { keys, hours, next }, known))
    }

    fn hours_of_each(&self, ids: &[KeyId]) -> Result<Vec<HoursOfKey>, VerbError> {
        let own = match &self.history {
            Some(history) => history.hours_of_each(ids, self.span.since, self.span.until),
            None => Ok(ids.iter().map(|id| (*id, Vec::new())).collect()),
        };
        let mut own = own.map_err(unreadable)?;
        self.nodes.add_hours_of_each(&mut own, &self.span);
        Ok(own)
    }

    /// What these keys together did in each hour; all where none are named.
    fn hours(&self, keys: Option<&HashSet<KeyId>>) -> Result<Vec<(u32, Tally)>, VerbError> {
        let own = match &self.history {
            Some(history) => history.hours(keys, self.span.since, self.span.until),
            None => Ok(Vec::new()),
        };
        Ok(self
            .nodes
            .add_hours(own.map_err(unreadable)?, keys, &self.span))
    }

    fn is_first(&self) -> bool {
        self.after.is_none()
    }

    fn is_behind(&self, id: KeyId) -> bool {
        self.after.is_none_or(|after| id > after)
    }

    /// Cuts what is beyond the page; where the next one begins.
    fn cut(&self, keys: &mut Vec<(KeyId, Tally)>) -> Option<KeyId> {
        let more = keys.len() > self.limit;
        keys.truncate(self.limit);
        keys.last().filter(|_| more).map(|(id, _)| *id)
    }
}

/// The keys with these ids, as far as there are any; of this tenant alone where one is said.
fn named(
    ids: &BTreeSet<KeyId>,
    tenant: Option<&str>,
    ask: Ask<'_>,
) -> Result<Vec<KeyView>, VerbError> {
    let which = KeyFilter {
        keys: Some(ids.iter().map(KeyId::to_string).collect()),
        tenant: tenant.map(str::to_owned),
        all: true,
        ..KeyFilter::default()
    };
    Ok(views(ask(&Verb::KeyList(which))?))
}

fn keys_of(
    tenant: &str,
    after: Option<KeyId>,
    limit: usize,
    ask: Ask<'_>,
) -> Result<Vec<KeyView>, VerbError> {
    let which = KeyFilter {
        tenant: Some(tenant.to_owned()),
        all: true,
        ..KeyFilter::default()
    };
    let verb = Verb::KeyPage {
        which,
        after: after.map(|id| id.to_string()),
        limit,
    };
    Ok(views(ask(&verb)?))
}

/// The ids of all keys of a tenant, and that of its tokens; read by the page, and only the ids are kept.
fn all_of(tenant: &str, tokens: KeyId, ask: Ask<'_>) -> Result<HashSet<KeyId>, VerbError> {
    let mut ids = HashSet::from([tokens]);
    let mut after = None;
    loop {
        let page = keys_of(tenant, after, PAGE_MAX, ask)?;
        let Some(last) = page.last() else {
            return Ok(ids);
        };
        after = Some(id_of(&last.id)?);
        ids.extend(page.iter().filter_map(|key| KeyId::parse(&key.id).ok()));
        if page.len() < PAGE_MAX {
            return Ok(ids);
        }
    }
}

fn views(outcome: Outcome) -> Vec<KeyView> {
    match outcome {
        Outcome::Keys { keys } => keys,
        _ => Vec::new(),
    }
}

fn id_of(text: &str) -> Result<KeyId, VerbError> {
    KeyId::parse(text).map_err(VerbError::refused)
}

fn unreadable(error: CountersError) -> VerbError {
    VerbError {
        text: error.to_string(),
        exit: EXIT_UNAVAILABLE,
    }
}

/// A report with what only a running gateway knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// The report.
    #[serde(flatten)]
    pub report: Report,
    /// Of one key: its windows now.
    #[serde(default)]
    pub windows: Vec<WindowView>,
}

/// What was done, up to now. Blocks on the disk.
///
/// # Errors
/// There is no such key or tenant, or the store cannot be read.
pub(super) fn usage(admin: &Admin, asked: &Asked) -> Result<Usage, VerbError> {
    (admin.flush)();
    let now = admin.clock.now();
    let snapshot = admin.keeper.snapshot().load_full();
    let tenants: Vec<TenantId> = (snapshot.tenants.entries.iter())
        .map(|tenant| tenant.id.clone())
        .collect();
    let mut ask = |verb: &Verb| admin.keeper.execute(verb, now.wall);
    let sharing = admin.keeper.shared().map(|settings| Sharing {
        settings,
        node: admin.keeper.node_id(),
    });
    let report = asked.report(&admin.store, sharing, &tenants, now.wall, &mut ask)?;
    let windows = match &asked.key {
        // One that has ended for good has none.
        Some(id) => gate::windows_of(&snapshot, &admin.quota, now, id).unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Usage { report, windows })
}
