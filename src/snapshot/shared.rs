//! A store that several nodes share, seen from one of them: what the others changed comes into force, and who has what in force is known.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Wall;
use crate::config::Redis;
use crate::model::denial::DenyTable;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Origin;
use crate::model::tenant::TenantId;
use crate::snapshot::Contact;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::snapshot::build::Names;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::State;
use crate::snapshot::impose::impose;
use crate::snapshot::next::shared;
use crate::snapshot::next::with_denials;
use crate::snapshot::next::with_status;
use crate::snapshot::next::with_suspended;
use crate::store::Contents;
use crate::store::StoreError;
use crate::store::VerbError;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::shared::CaughtUp;
use crate::store::shared::Position;
use crate::store::shared::nodes::Node;
use crate::store::shared::nodes::Nodes;

impl Keeper {
    /// How the store is shared; `None` where it is this node's alone.
    #[must_use]
    pub fn shared(&self) -> Option<&Redis> {
        self.nodes.as_ref()
    }

    /// How many nodes share the store, this one included; those that fell silent and have not left too.
    #[must_use]
    pub fn peers(&self) -> &Arc<AtomicUsize> {
        &self.peers
    }

    /// What the other nodes call this one.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.node_id
    }

    /// From its next start on it is called something else.
    ///
    /// # Errors
    /// It could not be written.
    pub fn take_new_id(&self) -> Result<(), StoreError> {
        self.lock().store.take_new_id()
    }

    /// The last change of the shared store that is in force here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.in_force.load().seq
    }

    /// The same with its name.
    #[must_use]
    pub fn in_force(&self) -> Arc<Position> {
        self.in_force.load_full()
    }

    /// The last change of the shared store that the copy holds, in force or not.
    ///
    /// # Errors
    /// The copy cannot be read.
    pub fn copied(&self) -> Result<u64, StoreError> {
        let position = self.lock().store.position()?;
        Ok(position.map_or(0, |position| position.seq))
    }

    /// How well the shared store is heard; `None` where the store is this node's alone.
    #[must_use]
    pub fn contact(&self) -> Option<&Contact> {
        self.contact.as_deref()
    }

    /// Whether what was caught up with is this run of the server; if not, the primary is looked for anew.
    #[must_use]
    pub fn is_asked_on(&self, run_id: &str) -> bool {
        self.lock().store.is_asked_on(run_id)
    }

    /// Whether what others changed does not fit this node's file, so that not all of it is in force here.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        let state = self.lock();
        state.held_up || state.behind
    }

    /// So many nodes share the store. Remembered, since each has a part of every limit while the store is away, also after a restart.
    ///
    /// # Errors
    /// It could not be written.
    pub fn note_peers(&self, nodes: usize) -> Result<(), StoreError> {
        let nodes = nodes.max(1);
        if self.peers.swap(nodes, Ordering::Relaxed) != nodes {
            self.lock().store.note_peers(nodes)?;
        }
        Ok(())
    }

    /// Brings into force what other nodes changed.
    ///
    /// # Errors
    /// The shared store is away, or holds what cannot be; what came in before that is in force.
    pub fn catch_up(&self, now: Wall) -> Result<(), StoreError> {
        self.take_in(&mut self.lock(), now)
    }

    pub(super) fn take_in(&self, state: &mut State, now: Wall) -> Result<(), StoreError> {
        let caught_up = state.store.catch_up(now);
        let caught = state.store.take_caught();
        if caught.any || state.behind {
            // Until it is in force nobody is told that it is, however many tries that takes.
            let whole = std::mem::replace(&mut state.behind, true);
            self.put_in_force(state, &caught, whole)?;
            state.behind = false;
        }
        self.note_applied(state);
        caught_up
    }

    /// Waits until the last change of this node's copy is in force on every node; see `fence`.
    pub(super) fn fence(&self, settings: &Redis) -> Result<usize, VerbError> {
        // What the copy holds and not what is in force here: an act on a node that is held up is in force on no other by that.
        let seq = self.copied().map_err(unknown)?;
        fence(settings, Some(&self.node_id), seq)
    }

    /// The view after what came in. Where the whole does not fit this node's file, what ends rights comes into force alone.
    fn put_in_force(
        &self,
        state: &mut State,
        caught: &CaughtUp,
        whole: bool,
    ) -> Result<(), StoreError> {
        let current = self.snapshot.load_full();
        let one_by_one = match whole || caught.more || state.held_up {
            true => None,
            false => with_keys(&current, state, &caught.keys)?,
        };
        let mut next = match one_by_one {
            Some(next) => next,
            None => match build::from_store(&current.config, &state.store, current.generation)? {
                Ok(built) => {
                    state.scope_sets = built.scope_sets;
                    state.held_up = false;
                    built.snapshot
                }
                Err(why) => {
                    if !state.held_up {
                        tracing::error!(
                            "what another node changed does not fit the gateway.toml of this one; only what ends rights is in force here: {why}"
                        );
                    }
                    state.held_up = true;
                    ended_alone(&current, state)?
                }
            },
        };
        next.contact = self.contact.clone();
        // What is in force here and could not be written yet stays in force.
        let next = ArcSwap::from_pointee(next);
        for (verb, _) in &state.unwritten {
            impose(&next, verb);
        }
        let tokens = state.store.admin_tokens()?;
        self.admin_tokens.store(Arc::new(tokens));
        self.snapshot.store(next.into_inner());
        self.endings.send_replace(());
        state.put_away(current);
        Ok(())
    }

    /// To be called once what the copy holds is in force.
    pub(super) fn note_applied(&self, state: &State) {
        if state.held_up || state.behind || self.nodes.is_none() {
            return;
        }
        if let Ok(Some(position)) = state.store.position() {
            self.in_force.store(Arc::new(position));
        }
    }
}

/// The view with these keys as the copy has them now; `None` where more than their entries may be other.
fn with_keys(
    current: &Snapshot,
    state: &mut State,
    ids: &[KeyId],
) -> Result<Option<Snapshot>, StoreError> {
    let names = Names::of(&current.config);
    let declared = &current.config.declared_keys;
    let mut changes: Vec<(Digest, Option<KeyEntry>)> = Vec::new();
    for id in ids {
        let Some(key) = state.store.key(*id)? else {
            return Ok(None);
        };
        let of_file =
            |known: &crate::model::key::ApiKey| known.id == key.id || known.digest == key.digest;
        if key.origin == Origin::File || declared.iter().any(of_file) {
            return Ok(None);
        }
        let Ok(entry) = build::entry_of(&key, &current.tenants, &names, &mut state.scope_sets)
        else {
            return Ok(None);
        };
        for old in state.store.retired_of(*id)? {
            let older = old.until.map(|until| KeyEntry {
                expires: entry.expires.min(until),
                ..entry.clone()
            });
            changes.push((old.digest, older));
        }
        changes.push((key.digest, Some(entry)));
    }
    let revision = state.store.revision()?;
    Ok(Some(Snapshot {
        keys: current.keys.with(&changes),
        revision,
        ..shared(current)
    }))
}

/// The view without what the copy has ended, switched off, suspended or denied, and nothing else that is new.
fn ended_alone(current: &Snapshot, state: &State) -> Result<Snapshot, StoreError> {
    let begin = |contents: Contents| (contents, Vec::new());
    let (contents, ended) = state.store.stream(begin, |(_, ended), key| {
        if key.status != KeyStatus::Active {
            ended.push((key.digest, key.status));
        }
    })?;
    let mut changes: Vec<(Digest, Option<KeyEntry>)> = Vec::new();
    for (digest, status) in ended {
        if let Some(entry) = current.keys.get(&digest)
            && (!entry.status.is_final() || status.is_final())
        {
            changes.push((digest, Some(with_status(entry, status))));
        }
    }
    for old in contents.retired {
        if let Some(entry) = current.keys.get(&old.digest) {
            let older = old.until.map(|until| KeyEntry {
                expires: entry.expires.min(until),
                ..entry.clone()
            });
            changes.push((old.digest, older));
        }
    }
    let mut next = Snapshot {
        keys: current.keys.with(&changes),
        ..shared(current)
    };
    let of_file = |id: &TenantId| current.config.tenants.iter().any(|own| own.id == *id);
    for tenant in contents.tenants {
        if tenant.suspended && !of_file(&tenant.id) {
            next = with_suspended(&next, &tenant.id, true);
        }
    }
    Ok(with_denials(&next, DenyTable::build(contents.denials)))
}

/// Waits until change `seq` is in force on every node, or those that lack it have been silent for a lease; says on how many it is. `own` is
/// the node that asks, where it is one of them: a store that was emptied knows nobody until the nodes have told it, this one among them. Who asks and
/// is none of them waits until any has.
///
/// # Errors
/// Nodes lack it: each is named, with the latest moment until which it may still admit (exit 69).
pub fn fence(settings: &Redis, own: Option<&str>, seq: u64) -> Result<usize, VerbError> {
    let mut nodes = Nodes::new(settings, "");
    let mut looks = 0;
    loop {
        looks += 1;
        let all = nodes.beat(&Position::default(), false).map_err(unknown)?;
        let knows = match own {
            Some(own) => all.iter().any(|node| node.id == own),
            None => nodes.are_known(),
        };
        let (done, lack): (Vec<Node>, Vec<Node>) =
            all.into_iter().partition(|node| node.applied >= seq);
        if lack.is_empty() && knows {
            return Ok(done.len());
        }
        let may_come = |node: &Node| node.is_there() && !node.held_up;
        let waiting = (!knows || lack.iter().any(may_come)) && looks < FENCE_LOOKS;
        if !waiting && lack.is_empty() {
            let what = match own {
                Some(_) => "it has not heard of this node since it was emptied",
                None => "it was emptied, and has heard of no node since",
            };
            return Err(unknown(StoreError::away(settings.servers.join(", "), what)));
        }
        if !waiting {
            return Err(not_everywhere(&done, &lack));
        }
        std::thread::sleep(FENCE_PAUSE);
    }
}

fn unknown(error: StoreError) -> VerbError {
    VerbError {
        text: format!(
            "written, and in force on this node; whether it is on the others is not known: {error}"
        ),
        exit: EXIT_UNAVAILABLE,
    }
}

fn not_everywhere(done: &[Node], lack: &[Node]) -> VerbError {
    let shown: Vec<String> = lack
        .iter()
        .map(|node| match (node.is_there(), node.held_up) {
            (true, true) => format!(
                "{} ({}), whose gateway.toml does not fit what was changed (its log says why; what ends rights is in force there)",
                node.name, node.id
            ),
            (true, false) => format!("{} ({}), which is there", node.name, node.id),
            (false, _) => format!(
                "{} ({}), silent for {} s, may still admit until {}",
                node.name, node.id, node.silent_seconds, node.serves_until
            ),
        })
        .collect();
    VerbError {
        text: format!(
            "written, and in force on {} of {} nodes; not yet on {}; repeat the command once they are back, or stop them (`portcullis store forget` for what is gone for good)",
            done.len(),
            done.len() + lack.len(),
            shown.join("; ")
        ),
        exit: EXIT_UNAVAILABLE,
    }
}

/// A node that is there puts a change in force within milliseconds; one that has just fallen silent is waited for until its lease is over.
const FENCE_LOOKS: u32 = 2_400;
const FENCE_PAUSE: Duration = Duration::from_millis(5);
