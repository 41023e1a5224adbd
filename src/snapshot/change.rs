//! The one writer of a running gateway: every change is first in the store, then in force, and only then answered.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::clock::Wall;
use crate::config::Config;
use crate::config::Redis;
use crate::model::admin_token::AdminToken;
use crate::model::denial::DenyTable;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::TenantId;
use crate::snapshot::Contact;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::snapshot::build::BuildError;
use crate::snapshot::build::Names;
use crate::snapshot::build::ScopeSets;
use crate::store::Failure;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit;
use crate::store::audit::Act;
use crate::store::audit::Actor;
use crate::store::audit::Keep;
use crate::store::audit::Pruned;
use crate::store::audit::Written;
use crate::store::error::EXIT_CONFIG;
use crate::store::outcome::LastUsed;
use crate::store::shared::Position;
use crate::store::sqlite::Write;
use crate::store::verbs;
use crate::store::verbs::Change;
use crate::store::verbs::Declared;
use crate::store::verbs::unwritten_denial;

/// How often an act is judged anew because another node was first.
const TRIES: usize = 50;

/// Owns the store and replaces the snapshot. Its methods block on the disk: never call them on a data worker.
pub struct Keeper {
    /// A std mutex: held only on blocking threads, never across an await.
    state: Mutex<State>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Told after each swap that may have ended requests in flight.
    pub(super) endings: watch::Sender<()>,
    last_used: Box<LastUsed>,
    /// Tokens of the admin plane, those that have ended included. Apart from the snapshot: no client's request asks for them.
    pub(super) admin_tokens: ArcSwap<Vec<AdminToken>>,
    /// How many changes are in force but not in the store, for metrics.
    not_durable: AtomicUsize,
    /// The last change of a shared store that is in force here.
    pub(super) in_force: ArcSwap<Position>,
    /// How the nodes that share the store are reached; `None` where nobody does.
    pub(super) nodes: Option<Redis>,
    pub(super) node_id: String,
    /// How well it is heard.
    pub(super) contact: Option<Arc<Contact>>,
    /// How many nodes share it, as far as is known.
    pub(super) peers: Arc<AtomicUsize>,
}

pub(super) struct State {
    pub(super) store: Store,
    pub(super) scope_sets: ScopeSets,
    /// Revocations and their like that hold in the snapshot but could not be written yet.
    pub(super) unwritten: Vec<(Verb, Actor)>,
    /// Views that were replaced while requests still read them. Freed here: what only they hold may be most of a large table, and the
    /// request that reads one last would have to wait for that.
    replaced: Vec<Arc<Snapshot>>,
    /// The copy of the shared store holds what could not come into force, since it does not fit gateway.toml.
    pub(super) held_up: bool,
    /// It holds what was not put in force yet, since that failed.
    pub(super) behind: bool,
}

impl State {
    pub(super) fn put_away(&mut self, view: Arc<Snapshot>) {
        self.replaced.push(view);
        self.free_unread();
    }

    /// Nobody can begin to read a view that was replaced: a count of one stays one.
    fn free_unread(&mut self) {
        self.replaced.retain(|view| Arc::strong_count(view) > 1);
    }
}

/// Why a start or a reload cannot be.
#[derive(Debug)]
pub enum KeeperError {
    /// The store cannot be read.
    Store(StoreError),
    /// The file and the store do not fit together.
    Build(BuildError),
    /// Tenants that both declare (a reload only).
    Conflicts(Vec<TenantId>),
}

impl Keeper {
    /// Reads the store and builds the first snapshot. Also gives the tenants that both the file and the store declare: the
    /// file's are served, and somebody must be told.
    ///
    /// # Errors
    /// `Store` or `Build`.
    pub fn start(
        store: Store,
        config: Arc<Config>,
        last_used: Box<LastUsed>,
    ) -> Result<(Keeper, Vec<TenantId>), KeeperError> {
        Keeper::start_shared(store, config, last_used, None)
    }

    /// The same on a store that nodes share, and that is heard so well.
    ///
    /// # Errors
    /// As `start`.
    pub fn start_shared(
        store: Store,
        config: Arc<Config>,
        last_used: Box<LastUsed>,
        contact: Option<Contact>,
    ) -> Result<(Keeper, Vec<TenantId>), KeeperError> {
        let position = store.position().map_err(KeeperError::Store)?;
        let node_id = store.node_id().map_err(KeeperError::Store)?;
        let peers = store.peers().map_err(KeeperError::Store)?;
        let nodes = store.is_shared().then(|| config.store.redis.clone());
        let built = build::from_store(&config, &store, 1).map_err(KeeperError::Store)?;
        let built = built.map_err(KeeperError::Build)?;
        let admin_tokens = store.admin_tokens().map_err(KeeperError::Store)?;
        let contact = contact.map(Arc::new);
        let first = Snapshot {
            contact: contact.clone(),
            ..built.snapshot
        };
        let state = State {
            store,
            scope_sets: built.scope_sets,
            unwritten: Vec::new(),
            replaced: Vec::new(),
            held_up: false,
            behind: false,
        };
        let keeper = Keeper {
            state: Mutex::new(state),
            snapshot: Arc::new(ArcSwap::from_pointee(first)),
            endings: watch::Sender::new(()),
            last_used,
            admin_tokens: ArcSwap::from_pointee(admin_tokens),
            not_durable: AtomicUsize::new(0),
            in_force: ArcSwap::from_pointee(position.unwrap_or_default()),
            nodes,
            node_id,
            contact,
            peers: Arc::new(AtomicUsize::new(peers.max(1))),
        };
        Ok((keeper, built.conflicts))
    }

    /// The view that requests read.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.snapshot
    }

    /// Changes whenever a view comes into force under which a request in flight may have lost its right (FA9).
    #[must_use]
    pub fn endings(&self) -> watch::Receiver<()> {
        self.endings.subscribe()
    }

    /// The token of the admin plane with this digest, if it opens anything at this time.
    #[must_use]
    pub fn admin_token(&self, digest: &Digest, now: Wall) -> Option<AdminToken> {
        let tokens = self.admin_tokens.load();
        let found = tokens.iter().find(|token| token.digest == *digest);
        found.filter(|token| token.stands(now)).cloned()
    }

    /// The same by its id.
    #[must_use]
    pub fn admin_token_by_id(&self, id: &str, now: Wall) -> Option<AdminToken> {
        let tokens = self.admin_tokens.load();
        let found = tokens.iter().find(|token| token.id == id);
        found.filter(|token| token.stands(now)).cloned()
    }

    /// Whether any token of the admin plane opens anything.
    #[must_use]
    pub fn has_admin_tokens(&self, now: Wall) -> bool {
        self.admin_tokens
            .load()
            .iter()
            .any(|token| token.stands(now))
    }

    /// Carries a verb out, by the gateway itself.
    ///
    /// # Errors
    /// As `execute_as`.
    pub fn execute(&self, verb: &Verb, now: Wall) -> Result<Outcome, VerbError> {
        self.execute_as(verb, &Actor::gateway("itself"), now)
    }

    /// Writes down an act that changes nothing in the store, such as a reload.
    pub fn record(&self, act: &Act) {
        let mut state = self.lock();
        let mut written = state.store.record(act);
        for _ in 0..TRIES {
            if !matches!(written, Err(StoreError::Behind))
                || self.take_in(&mut state, act.at).is_err()
            {
                break;
            }
            written = state.store.record(act);
        }
        match written {
            Ok(written) => {
                self.note_applied(&state);
                written.iter().for_each(|written| told(act, written));
            }
            Err(error) => tracing::error!(act = act.act, %error, "not in the audit log"),
        }
    }

    /// Lets go of lines of the audit log that `[audit]` does not keep, some at a time; whether there may be more. To be called now and then.
    pub fn prune_audit(&self, now: Wall) -> bool {
        let rules = self.snapshot.load().config.audit.clone();
        let keep = Keep {
            seconds: rules.keep.and_then(|span| span.seconds),
            lines_max: u64::from(rules.lines_max),
        };
        let mut state = self.lock();
        let mut pruned = state.store.prune_audit(keep, now);
        for _ in 0..TRIES {
            if !matches!(pruned, Err(StoreError::Behind)) || self.take_in(&mut state, now).is_err()
            {
                break;
            }
            pruned = state.store.prune_audit(keep, now);
        }
        self.note_applied(&state);
        drop(state);
        match pruned {
            Ok(Pruned::Nothing) => {}
            Ok(Pruned::Gone(act, written)) => {
                told(&act, &written);
                return true;
            }
            Ok(Pruned::NotWhole(fault)) => {
                tracing::error!(
                    fault,
                    "audit_not_whole: no line is let go; see `portcullis audit verify`"
                );
            }
            Err(error) => tracing::error!(%error, "old lines of the audit log not let go"),
        }
        false
    }

    /// Carries a verb out and writes down who asked for it. When this returns, every request that begins later sees the change (FA8).
    ///
    /// # Errors
    /// Refused, or the store failed and nothing changed; except that what takes rights away holds even then ("in force, not
    /// durable", exit 69).
    pub fn execute_as(&self, verb: &Verb, actor: &Actor, now: Wall) -> Result<Outcome, VerbError> {
        let outcome = self.execute_here(verb, actor, now)?;
        match &self.nodes {
            Some(settings) if verb.takes_rights() => match self.fence(settings) {
                Ok(nodes) => Ok(outcome.beside(&format!("in force on {nodes} of {nodes} nodes"))),
                // The new text is shown this once, whatever the others know of the old one.
                Err(why) if outcome.has_text() => Ok(outcome.beside(&why.text)),
                Err(why) => Err(why),
            },
            _ => Ok(outcome),
        }
    }

    fn execute_here(&self, verb: &Verb, actor: &Actor, now: Wall) -> Result<Outcome, VerbError> {
        let mut state = self.lock();
        match self.carry_out_in_order(&mut state, verb, actor, now) {
            Ok(outcome) => Ok(outcome),
            Err(Failure::Store(error)) => {
                let imposed = match verb {
                    Verb::KeyRevokeMany(_) => self.impose_on_many(&state, verb, now),
                    Verb::AdminTokenRevoke { id } if self.impose_on_token(id, now) => {
                        vec![verb.clone()]
                    }
                    _ if impose(&self.snapshot, verb) => vec![verb.clone()],
                    _ => Vec::new(),
                };
                if imposed.is_empty() {
                    return Err(error.into());
                }
                for verb in imposed {
                    if !state.unwritten.iter().any(|(known, _)| *known == verb) {
                        let (verb_name, of) = verb.label();
                        tracing::error!(verb = verb_name, of, %error, "in force, not durable: trying on; a crash now would undo it");
                        state.unwritten.push((verb, actor.clone()));
                    }
                }
                self.note_unwritten(&state);
                self.endings.send_replace(());
                Err(VerbError::not_durable(&error))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Puts another configuration in force, with the keys and tenants as they are; returns the new snapshot. Counts, keys and
    /// connections know nothing of it.
    ///
    /// # Errors
    /// The old one stays in force.
    pub fn replace_config(&self, config: Arc<Config>) -> Result<Arc<Snapshot>, KeeperError> {
        let mut state = self.lock();
        let generation = self.snapshot.load().generation + 1;
        let built = build::from_store(&config, &state.store, generation);
        let built = built
            .map_err(KeeperError::Store)?
            .map_err(KeeperError::Build)?;
        if !built.conflicts.is_empty() {
            return Err(KeeperError::Conflicts(built.conflicts));
        }
        // What could not be written yet must hold in the new view too, before anybody sees it.
        let next = ArcSwap::from_pointee(Snapshot {
            contact: self.contact.clone(),
            ..built.snapshot
        });
        for (verb, _) in &state.unwritten {
            impose(&next, verb);
        }
        state.scope_sets = built.scope_sets;
        let next = next.into_inner();
        let replaced = self.snapshot.swap(Arc::clone(&next));
        self.endings.send_replace(());
        state.put_away(replaced);
        (state.held_up, state.behind) = (false, false);
        self.note_applied(&state);
        Ok(next)
    }

    /// Tries again to write what is in force but not durable, and frees views that no request reads any more; returns how many acts
    /// are still not durable. To be called now and then.
    pub fn retry_unwritten(&self, now: Wall) -> usize {
        let mut state = self.lock();
        state.free_unread();
        // A failure shows in the number that is left.
        let _failed = self.write_unwritten(&mut state, now);
        self.note_unwritten(&state);
        state.unwritten.len()
    }

    /// How many changes are in force but could not be written yet.
    #[must_use]
    pub fn not_durable(&self) -> usize {
        self.not_durable.load(Ordering::Relaxed)
    }

    fn note_unwritten(&self, state: &State) {
        self.not_durable
            .store(state.unwritten.len(), Ordering::Relaxed);
    }

    /// Makes every later write of the store fail, as a full disk would.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.lock().store.refuse_writes(refuse);
    }

    /// A change waits behind those that could not be written, so that the store sees them in their order.
    fn carry_out_in_order(
        &self,
        state: &mut State,
        verb: &Verb,
        actor: &Actor,
        now: Wall,
    ) -> Result<Outcome, Failure> {
        if !verb.is_read() {
            self.write_unwritten(state, now)?;
        }
        for _ in 0..TRIES {
            let done = match done_before(&state.store, actor, now)? {
                Some(id) => return Ok(Outcome::Replayed { id }),
                None => self.carry_out(state, verb, actor, now),
            };
            match done {
                // Another node was first: what it did may forbid this, or be this.
                Err(Failure::Store(StoreError::Behind)) => self.take_in(state, now)?,
                done => return done,
            }
        }
        Err(StoreError::Behind.into())
    }

    fn carry_out(
        &self,
        state: &mut State,
        verb: &Verb,
        actor: &Actor,
        now: Wall,
    ) -> Result<Outcome, Failure> {
        let current = self.snapshot.load_full();
        let declared = Declared::of(&current.config);
        let prepared = verbs::prepare(&state.store, &declared, verb, now, &*self.last_used)?;
        if !prepared.writes.is_empty() {
            // Made before the write: once it is written, nothing can keep it from coming into force.
            let mut next = changed(&current, &prepared.change, &mut state.scope_sets)?;
            let outcome = &prepared.outcome;
            let act = verbs::act_of(&state.store, &declared, verb, outcome, actor, now)?;
            let (revision, written) = state.store.commit_act(&prepared.writes, &act)?;
            next.revision = revision;
            self.snapshot.store(Arc::new(next));
            if let Some(written) = &written {
                told(&act, written);
            }
            if let Change::AdminTokens(tokens) = &prepared.change {
                self.admin_tokens.store(Arc::new(tokens.clone()));
            }
            if may_end_requests(&current, &prepared.change) {
                self.endings.send_replace(());
            }
            state.put_away(current);
            self.note_applied(state);
        }
        Ok(prepared.outcome)
    }

    /// Ends a token of the admin plane in memory alone; `false` when there is none to end.
    fn impose_on_token(&self, id: &str, now: Wall) -> bool {
        let mut tokens = (**self.admin_tokens.load()).clone();
        let token = tokens.iter_mut().find(|token| token.id == id);
        let Some(token) = token.filter(|token| token.revoked.is_none()) else {
            return false;
        };
        token.revoked = Some(now);
        self.admin_tokens.store(Arc::new(tokens));
        true
    }

    /// Ends many keys in the view alone; gives what is to be written once that is possible. Nothing, when not even reading works.
    fn impose_on_many(&self, state: &State, verb: &Verb, now: Wall) -> Vec<Verb> {
        let current = self.snapshot.load_full();
        let declared = Declared::of(&current.config);
        let prepared = verbs::prepare(&state.store, &declared, verb, now, &*self.last_used);
        let Ok(prepared) = prepared else {
            return Vec::new();
        };
        let (Change::KeyStatus(digests, status), Outcome::KeysChanged { ids, .. }) =
            (prepared.change, prepared.outcome)
        else {
            return Vec::new();
        };
        let next = with_statuses(&current, &digests, status);
        self.snapshot.store(Arc::new(next));
        let mut unwritten: Vec<Verb> = ids.into_iter().map(|id| Verb::KeyRevoke { id }).collect();
        let texts = prepared.writes.iter().filter_map(|write| match write {
            Write::EndRetired(digest, _) => Some(digest.hex()),
            _ => None,
        });
        let texts: Vec<String> = texts.collect();
        if !texts.is_empty() {
            unwritten.push(Verb::KeyRevokeMany(KeyFilter {
                keys: Some(texts),
                ..KeyFilter::default()
            }));
        }
        unwritten
    }

    /// Writes in the order of the acts, and stops at the first that fails for the store's sake.
    fn write_unwritten(&self, state: &mut State, now: Wall) -> Result<(), StoreError> {
        while let Some((verb, actor)) = state.unwritten.first().cloned() {
            match self.carry_out(state, &verb, &actor, now) {
                Err(Failure::Store(StoreError::Behind)) => {
                    self.take_in(state, now)?;
                    continue;
                }
                Err(Failure::Store(error)) => return Err(error),
                _ => {}
            }
            state.unwritten.remove(0);
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves whole values behind: the store is transactional and the snapshot is swapped whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom an act made that was done under the same name before, if it was.
fn done_before(store: &Store, actor: &Actor, now: Wall) -> Result<Option<String>, Failure> {
    let Some(once) = &actor.once else {
        return Ok(None);
    };
    let since = Wall(now.0.saturating_sub(audit::ONCE_SECONDS * 1_000_000));
    match store.done(&actor.who, once, since)? {
        None => Ok(None),
        Some(done) if done.print == once.print => Ok(Some(done.result.unwrap_or_default())),
        Some(_) => Err(Failure::refused(
            "this Idempotency-Key was used for another request within the last 24 hours; choose a new one",
        )),
    }
}

/// One line of the log for each act, with what ties it to the audit log.
fn told(act: &Act, written: &Written) {
    let (who, from) = (&act.actor.who, &act.actor.from);
    tracing::info!(
        act = act.act,
        subject = act.subject,
        who,
        from,
        audit_seq = written.seq,
        audit_hash = written.hash,
        "administrative act"
    );
}

/// `current` after `change`.
fn changed(
    current: &Snapshot,
    change: &Change,
    scope_sets: &mut ScopeSets,
) -> Result<Snapshot, Failure> {
    let names = Names::of(&current.config);
    let unfit = |(what, name): (&str, String)| {
        Failure::refused(format!("no {what} {name:?} is in force any more"))
    };
    let keys = |changes: &[(Digest, Option<KeyEntry>)]| Snapshot {
        keys: current.keys.with(changes),
        ..shared(current)
    };
    Ok(match change {
        Change::Nothing | Change::AdminTokens(_) => shared(current),
        Change::Keys { put, gone } => {
            let mut changes: Vec<(Digest, Option<KeyEntry>)> =
                gone.iter().map(|digest| (*digest, None)).collect();
            for key in put {
                let entry = build::entry_of(key, &current.tenants, &names, scope_sets);
                changes.push((key.digest, Some(entry.map_err(unfit)?)));
            }
            keys(&changes)
        }
        Change::KeyStatus(digests, status) => with_statuses(current, digests, *status),
        Change::Tenant(tenant) => {
            let mut tenants = (*current.tenants).clone();
            tenants.put(build::tenant_entry(tenant, &names).map_err(unfit)?);
            Snapshot {
                tenants: Arc::new(tenants),
                ..shared(current)
            }
        }
        Change::Denied(denial) => with_denials(current, current.denials.with(denial.clone())),
        Change::Allowed(denial) => with_denials(current, current.denials.without(denial)),
    })
}

pub(super) fn with_denials(current: &Snapshot, denials: DenyTable) -> Snapshot {
    Snapshot {
        denials: Arc::new(denials),
        ..shared(current)
    }
}

/// Whether a request in flight may have to end with this change. A change that is not known to be harmless is taken to end some: a look
/// at every request for nothing costs less than one that is missed.
fn may_end_requests(before: &Snapshot, change: &Change) -> bool {
    match change {
        Change::Nothing
        | Change::AdminTokens(_)
        | Change::Allowed(_)
        | Change::KeyStatus(_, KeyStatus::Active) => false,
        Change::KeyStatus(..) | Change::Denied(_) => true,
        Change::Keys { put, gone } => {
            let known = |key: &ApiKey| before.key(&key.digest).is_some();
            !gone.is_empty() || put.iter().any(known)
        }
        Change::Tenant(tenant) => tenant.suspended,
    }
}

/// Takes rights away in the view alone, because the store cannot be written (DESIGN section 11). `false` when this verb takes
/// none away, or there is nothing that it may take them from.
pub(super) fn impose(snapshot: &ArcSwap<Snapshot>, verb: &Verb) -> bool {
    let current = snapshot.load_full();
    let next = match verb {
        Verb::KeyRevoke { id } => impose_on_key(&current, id, KeyStatus::Revoked),
        Verb::KeyDelete { id } => impose_on_key(&current, id, KeyStatus::Deleted),
        Verb::KeyDeactivate { id } => impose_on_key(&current, id, KeyStatus::Inactive),
        Verb::TenantSuspend { id } => impose_on_tenant(&current, id),
        Verb::KeyRevokeMany(which) => impose_on_texts(&current, which),
        Verb::TokenDeny(asked) => unwritten_denial(asked)
            .map(|denial| with_denials(&current, current.denials.with(denial))),
        Verb::KeyCreate(_)
        | Verb::KeyList(_)
        | Verb::KeyUpdate(_)
        | Verb::KeyRotate { .. }
        | Verb::KeyImport { .. }
        | Verb::TenantUpdate(_)
        | Verb::KeyPage { .. }
        | Verb::KeyShow { .. }
        | Verb::KeyActivate { .. }
        | Verb::KeyRegenerate { .. }
        | Verb::TenantCreate { .. }
        | Verb::TenantList
        | Verb::TenantResume { .. }
        | Verb::AdminTokenCreate(_)
        | Verb::AdminTokenList
        | Verb::AdminTokenRevoke { .. }
        | Verb::TokenAllow(_)
        | Verb::TokenDenials => None,
    };
    let imposed = next.is_some();
    if let Some(next) = next {
        snapshot.store(Arc::new(next));
    }
    imposed
}

fn impose_on_key(current: &Snapshot, id: &str, status: KeyStatus) -> Option<Snapshot> {
    let id = KeyId::parse(id).ok()?;
    let mut declared = current.config.declared_keys.iter();
    let of_file = declared.any(|key| key.id == id);
    if of_file && status != KeyStatus::Revoked {
        return None;
    }
    let of_key = current.keys.iter().filter(|(_, entry)| entry.id == id);
    let digests: Vec<Digest> = of_key.map(|(digest, _)| *digest).collect();
    (!digests.is_empty()).then(|| with_statuses(current, &digests, status))
}

/// Ends texts alone, as `impose_on_many` notes them.
fn impose_on_texts(current: &Snapshot, which: &KeyFilter) -> Option<Snapshot> {
    let texts = which.keys.iter().flatten();
    let digest = |text: &String| Digest::from_hex(text.strip_prefix("sha256:")?).ok();
    let digests: Vec<Digest> = texts.filter_map(digest).collect();
    (!digests.is_empty()).then(|| with_statuses(current, &digests, KeyStatus::Revoked))
}

/// Those of the keys that have not ended for good, with another status.
fn with_statuses(current: &Snapshot, digests: &[Digest], status: KeyStatus) -> Snapshot {
    let found = digests.iter().filter_map(|digest| {
        let entry = current.keys.get(digest)?;
        let may_change = !entry.status.is_final() || status.is_final();
        may_change.then(|| (*digest, Some(with_status(entry, status))))
    });
    let changes: Vec<(Digest, Option<KeyEntry>)> = found.collect();
    Snapshot {
        keys: current.keys.with(&changes),
        ..shared(current)
    }
}

fn impose_on_tenant(current: &Snapshot, id: &str) -> Option<Snapshot> {
    let id = TenantId::new(id).ok()?;
    let of_file = current.config.tenants.iter().any(|tenant| tenant.id == id);
    let known = current.tenants.by_id.contains_key(&id);
    (known && !of_file).then(|| with_suspended(current, &id, true))
}

pub(super) fn with_suspended(current: &Snapshot, id: &TenantId, suspended: bool) -> Snapshot {
    let mut tenants = (*current.tenants).clone();
    if let Some(index) = tenants.by_id.get(id) {
        tenants.entries[*index as usize].suspended = suspended;
    }
    Snapshot {
        tenants: Arc::new(tenants),
        ..shared(current)
    }
}

pub(super) fn with_status(entry: &KeyEntry, status: KeyStatus) -> KeyEntry {
    KeyEntry {
        status,
        ..entry.clone()
    }
}

/// The same view again, sharing everything.
pub(super) fn shared(current: &Snapshot) -> Snapshot {
    Snapshot {
        revision: current.revision,
        generation: current.generation,
        config: Arc::clone(&current.config),
        routes: Arc::clone(&current.routes),
        plans: Arc::clone(&current.plans),
        tenants: Arc::clone(&current.tenants),
        keys: current.keys.clone(),
        denials: Arc::clone(&current.denials),
        contact: current.contact.clone(),
    }
}

impl KeeperError {
    /// The exit code of a start that ends with this.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            KeeperError::Store(error) => error.exit_code(),
            KeeperError::Build(_) | KeeperError::Conflicts(_) => EXIT_CONFIG,
        }
    }
}

impl fmt::Display for KeeperError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeeperError::Store(error) => error.fmt(out),
            KeeperError::Build(error) => error.fmt(out),
            KeeperError::Conflicts(tenants) => out.write_str(&build::conflict_text(tenants)),
        }
    }
}

impl std::error::Error for KeeperError {}

impl fmt::Debug for Keeper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Keeper")
    }
}
