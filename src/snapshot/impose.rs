//! Rights taken away in the view alone, because the store cannot be written, and written once it can (DESIGN section 11).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

use crate::clock::Wall;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::TenantId;
use crate::snapshot::Snapshot;
use crate::snapshot::change::Keeper;
use crate::snapshot::change::State;
use crate::snapshot::next::with_denials;
use crate::snapshot::next::with_statuses;
use crate::snapshot::next::with_suspended;
use crate::store::Failure;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::StoreError;
use crate::store::Verb;
use crate::store::sqlite::Write;
use crate::store::verbs;
use crate::store::verbs::Change;
use crate::store::verbs::Declared;
use crate::store::verbs::unwritten_denial;

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

fn impose_on_tenant(current: &Snapshot, id: &str) -> Option<Snapshot> {
    let id = TenantId::new(id).ok()?;
    let of_file = current.config.tenants.iter().any(|tenant| tenant.id == id);
    let known = current.tenants.by_id.contains_key(&id);
    (known && !of_file).then(|| with_suspended(current, &id, true))
}

impl Keeper {
    /// Ends a token of the admin plane in memory alone; `false` when there is none to end.
    pub(super) fn impose_on_token(&self, id: &str, now: Wall) -> bool {
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
    pub(super) fn impose_on_many(&self, state: &State, verb: &Verb, now: Wall) -> Vec<Verb> {
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

    pub(super) fn note_unwritten(&self, state: &State) {
        self.not_durable
            .store(state.unwritten.len(), Ordering::Relaxed);
    }

    /// Writes in the order of the acts, and stops at the first that fails for the store's sake.
    pub(super) fn write_unwritten(&self, state: &mut State, now: Wall) -> Result<(), StoreError> {
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
}
