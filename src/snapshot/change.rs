//! The one writer of a running gateway: every change is first in the store, then in force, and only then answered.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::clock::Wall;
use crate::config::Config;
use crate::config::Redis;
use crate::model::admin_token::AdminToken;
use crate::model::key::Digest;
use crate::model::tenant::TenantId;
use crate::snapshot::Contact;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::snapshot::build::BuildError;
use crate::snapshot::build::ScopeSets;
use crate::snapshot::impose::impose;
use crate::snapshot::next::changed;
use crate::snapshot::next::may_end_requests;
use crate::store::Failure;
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
use crate::store::verbs;
use crate::store::verbs::Change;
use crate::store::verbs::Declared;

/// How often an act is judged anew because another node was first.
const TRIES: usize = 50;

/// Owns the store and replaces the snapshot. Its methods block on the disk: never call them on a data worker.
pub struct Keeper {
    /// A std mutex: held only on blocking threads, never across an await.
    state: Mutex<State>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    /// Told after each swap that may have ended requests in flight.
    pub(super) endings: watch::Sender<()>,
    pub(super) last_used: Box<LastUsed>,
    /// Tokens of the admin plane, those that have ended included. Apart from the snapshot: no client's request asks for them.
    pub(super) admin_tokens: ArcSwap<Vec<AdminToken>>,
    /// How many changes are in force but not in the store, for metrics.
    pub(super) not_durable: AtomicUsize,
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
    pub(super) fn free_unread(&mut self) {
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

    pub(super) fn carry_out(
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
