//! A store that several nodes share, seen from one of them: what the others changed comes into force, and who has what in force is known.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Wall;
use crate::config::Redis;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Origin;
use crate::snapshot::Contact;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::snapshot::build::Names;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::State;
use crate::snapshot::change::impose;
use crate::snapshot::change::shared;
use crate::snapshot::change::with_statuses;
use crate::store::StoreError;
use crate::store::VerbError;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::shared::CaughtUp;
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

    /// The last change of the shared store that is in force here.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Relaxed)
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
        if caught.any || state.held_up {
            self.put_in_force(state, &caught)?;
        }
        self.note_applied(state);
        caught_up
    }

    /// The view after what came in. Where the whole does not fit this node's file, what ends rights comes into force alone.
    fn put_in_force(&self, state: &mut State, caught: &CaughtUp) -> Result<(), StoreError> {
        let current = self.snapshot.load_full();
        let one_by_one = match caught.more || state.held_up {
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
                    ended_alone(&current, state, &caught.keys)?
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
        if state.held_up || self.nodes.is_none() {
            return;
        }
        if let Ok(Some(position)) = state.store.position() {
            self.applied.store(position.seq, Ordering::Relaxed);
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

/// The view with what has ended or was switched off of these keys, and nothing else that is new.
fn ended_alone(current: &Snapshot, state: &State, ids: &[KeyId]) -> Result<Snapshot, StoreError> {
    let mut next = shared(current);
    for id in ids {
        let Some(key) = state.store.key(*id)? else {
            continue;
        };
        if key.status != KeyStatus::Active {
            let mut digests = vec![key.digest];
            digests.extend(state.store.retired_of(*id)?.iter().map(|old| old.digest));
            next = with_statuses(&next, &digests, key.status);
        }
    }
    Ok(next)
}

/// Waits until change `seq` is in force on every node, or those that lack it have been silent for a lease; says on how many it is.
///
/// # Errors
/// Nodes lack it: each is named, with the latest moment until which it may still admit (exit 69).
pub fn fence(settings: &Redis, seq: u64) -> Result<usize, VerbError> {
    let mut nodes = Nodes::new(settings, "");
    let mut looks = 0;
    loop {
        looks += 1;
        let unknown = |error: StoreError| VerbError {
            text: format!(
                "written, and in force on this node; whether it is on the others is not known: {error}"
            ),
            exit: EXIT_UNAVAILABLE,
        };
        let all = nodes.beat(0).map_err(unknown)?;
        let (done, lack): (Vec<Node>, Vec<Node>) =
            all.into_iter().partition(|node| node.applied >= seq);
        if lack.is_empty() {
            return Ok(done.len());
        }
        let waiting = lack.iter().any(Node::is_there) && looks < FENCE_LOOKS;
        if !waiting {
            return Err(not_everywhere(&done, &lack));
        }
        std::thread::sleep(FENCE_PAUSE);
    }
}

fn not_everywhere(done: &[Node], lack: &[Node]) -> VerbError {
    let shown: Vec<String> = lack
        .iter()
        .map(|node| {
            format!(
                "{} ({}), silent for {} s, may still admit until {}",
                node.name, node.id, node.silent_seconds, node.serves_until
            )
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
