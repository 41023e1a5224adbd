//! Finding keys, tenants and names, and the words for what is not there.

use crate::clock::Wall;
use crate::model::display;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;
use crate::store::outcome::Failure;
use crate::store::outcome::KeyView;
use crate::store::sqlite::DigestUse;
use crate::store::verbs::Scene;
use crate::store::verbs::create;

/// How many names a message lists before it says how many more there are.
const NAMES_MAX: usize = 20;

impl Scene<'_> {
    /// The key with this id, wherever it is declared, as it stands now.
    pub(super) fn key(&self, id: &str) -> Result<ApiKey, Failure> {
        let id = KeyId::parse(id).map_err(Failure::refused)?;
        if let Some(key) = self.store.key(id)? {
            return Ok(key);
        }
        let declared = self.declared.keys.iter().find(|key| key.id == id);
        let Some(mut key) = declared.cloned() else {
            return Err(Failure::refused(format!(
                "no key has the id {id}; `portcullis keys list` shows those there are"
            )));
        };
        let ended = match self.store.digest_use(&key.digest)? {
            DigestUse::Free => false,
            DigestUse::Retired(..) => true,
            DigestUse::Key(_, status) if status.is_final() => true,
            DigestUse::Key(other, _) => {
                return Err(Failure::refused(format!(
                    "key {id} of gateway.toml is the same key as {other} of the store; act on {other}"
                )));
            }
        };
        if ended {
            key.status = KeyStatus::Revoked;
        }
        Ok(key)
    }

    /// The tenants of the store.
    pub(super) fn stored_tenants(&self) -> Result<&[Tenant], Failure> {
        if self.tenants.get().is_none() {
            let _ = self.tenants.set(self.store.tenants()?);
        }
        Ok(self.tenants.get().map_or(&[], Vec::as_slice))
    }

    /// Every digest under which a request of this key may be in flight: its own, and those that a regeneration let live on, even where
    /// the overlap is over, for an answer may outlast it (FA9).
    pub(super) fn digests_of(&self, key: &ApiKey) -> Result<Vec<Digest>, Failure> {
        let retired = self.store.retired_of(key.id)?.into_iter();
        let overlapped = retired.filter(|retired| retired.until.is_some());
        let older = overlapped.map(|retired| retired.digest);
        Ok(std::iter::once(key.digest).chain(older).collect())
    }

    /// Every digest under which a key is admitted, with what it stands for: the key itself, ending sooner under an older digest.
    pub(super) fn entries_of(&self, key: &ApiKey) -> Result<Vec<ApiKey>, Failure> {
        let mut entries = vec![key.clone()];
        for retired in self.store.retired_of(key.id)? {
            if let Some(until) = retired.until.filter(|until| *until > self.now) {
                let older = ApiKey {
                    digest: retired.digest,
                    ..key.clone()
                };
                entries.push(create::capped(older, until));
            }
        }
        Ok(entries)
    }

    /// The tenant with this id, wherever it is declared; the file's beats the store's.
    pub(super) fn tenant(&self, id: &str) -> Result<Tenant, Failure> {
        let stored = self.stored_tenants()?;
        let all = || self.declared.tenants.iter().chain(stored);
        let found = all().find(|tenant| tenant.id.as_str() == id);
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = all().map(|tenant| tenant.id.as_str()).collect();
            Failure::refused(format!(
                "{}; `portcullis tenants create` makes one",
                unknown("tenant", id, &names)
            ))
        })
    }

    /// The plan with this name.
    pub(super) fn plan(&self, name: &str) -> Result<&Plan, Failure> {
        let plans = self.declared.plans;
        plans.iter().find(|plan| plan.name == name).ok_or_else(|| {
            let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
            Failure::refused(format!(
                "{}; plans stand in gateway.toml as [plans.NAME]",
                unknown("plan", name, &names)
            ))
        })
    }

    /// The environment with this name, or the first one.
    pub(super) fn environment(&self, name: Option<&str>) -> Result<String, Failure> {
        let all = self.declared.environments;
        let found = match name {
            None => all.first(),
            Some(name) => all.iter().find(|environment| *environment == name),
        };
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(String::as_str).collect();
            Failure::refused(unknown("environment", name.unwrap_or("live"), &names))
        })
    }

    /// Whether the file declares this tenant: then only the file changes it.
    pub(super) fn is_declared_tenant(&self, id: &TenantId) -> bool {
        self.declared.tenants.iter().any(|tenant| tenant.id == *id)
    }

    /// How a key is shown after a change; when it was last used is asked for only where keys are listed.
    pub(super) fn view(&self, key: &ApiKey) -> KeyView {
        KeyView::of(key, self.now, None, self.declared.labels)
    }

    /// Whether a key has expired.
    pub(super) fn expired(&self, key: &ApiKey) -> Option<Wall> {
        key.expires.filter(|expires| self.now >= *expires)
    }
}

/// Says that a name is not there, which one is meant, and which there are.
pub(super) fn unknown(what: &str, name: &str, there: &[&str]) -> String {
    let name = name.escape_debug();
    if there.is_empty() {
        return format!("no {what} is called \"{name}\": there is none yet");
    }
    let nearest = nearest(&name.to_string(), there)
        .map_or_else(String::new, |near| format!(", did you mean \"{near}\"?"));
    let mut listed = there[..there.len().min(NAMES_MAX)].join(", ");
    if there.len() > NAMES_MAX {
        listed.push_str(&format!(" and {} more", there.len() - NAMES_MAX));
    }
    format!("no {what} is called \"{name}\"{nearest} (there are: {listed})")
}

/// The name that a mistyped one most likely stands for.
pub(super) fn nearest<'a>(name: &str, there: &[&'a str]) -> Option<&'a str> {
    there
        .iter()
        .map(|near| (strsim::jaro_winkler(name, near), *near))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, near)| near)
}

/// A name that people read in tables and logs: 1 to 128 characters, all of which can be seen (S27).
pub(super) fn display_name(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    display::check("a name", text, 128).map_err(Failure::refused)?;
    Ok(text.to_owned())
}

/// A key as sentences name it.
pub(super) fn called(key: &ApiKey) -> String {
    format!("{} ({})", key.id, display::shown(&key.name))
}
