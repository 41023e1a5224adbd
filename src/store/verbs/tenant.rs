//! Tenants: create, suspend, resume.

use std::collections::BTreeMap;

use crate::model::key::Override;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::outcome::TenantView;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::find;
use crate::store::verbs::place;

/// Makes a tenant in the store.
pub(super) fn create(
    scene: &Scene<'_>,
    id: &str,
    name: Option<&str>,
    plan: &str,
    upstreams: &BTreeMap<String, String>,
) -> Result<Prepared, Failure> {
    let id = TenantId::new(id).map_err(Failure::refused)?;
    let text = id.as_str();
    if scene.is_declared_tenant(&id) {
        return Err(declared(text));
    }
    if scene.store.tenants()?.iter().any(|tenant| tenant.id == id) {
        return Err(Failure::refused(format!(
            "there is a tenant {text} already; `portcullis tenants list` shows it"
        )));
    }
    let name = name.map_or_else(|| Ok(text.to_owned()), find::display_name)?;
    let plan = scene.plan(plan)?.name.clone();
    let said = format!(
        "tenant {text} is made, with plan {plan}; next: `portcullis keys create --tenant {text} --name NAME --inherit`"
    );
    let mut tenant = Tenant {
        id,
        name,
        plan,
        scopes: Scopes::Inherit,
        quota: Override::Plan,
        burst: Override::Plan,
        suspended: false,
        upstreams: BTreeMap::new(),
        origin: Origin::Store,
    };
    for (upstream, servers) in upstreams {
        place::set(scene, &mut tenant, upstream, servers)?;
    }
    Ok(Prepared {
        outcome: Outcome::TenantChanged {
            tenant: TenantView::of(&tenant),
            changed: true,
            said,
            notes: Vec::new(),
        },
        change: Change::Tenant(tenant.clone()),
        writes: vec![Write::InsertTenant(tenant, scene.now)],
    })
}

/// Suspends (`true`) or resumes a tenant of the store.
pub(super) fn suspend(scene: &Scene<'_>, id: &str, suspended: bool) -> Result<Prepared, Failure> {
    let mut tenant = scene.tenant(id)?;
    if tenant.origin == Origin::File {
        return Err(declared(id));
    }
    let changed = tenant.suspended != suspended;
    let said = match (suspended, changed) {
        (true, true) => format!(
            "tenant {id} is suspended: requests with its keys get 403; `portcullis tenants resume {id}` ends that"
        ),
        (true, false) => format!("tenant {id} was suspended already"),
        (false, true) => format!("tenant {id} is active"),
        (false, false) => format!("tenant {id} was active already"),
    };
    tenant.suspended = suspended;
    let outcome = Outcome::TenantChanged {
        tenant: TenantView::of(&tenant),
        changed,
        said,
        notes: Vec::new(),
    };
    if !changed {
        return Ok(Prepared::read(outcome));
    }
    Ok(Prepared {
        writes: vec![Write::UpdateTenant(tenant.clone())],
        change: Change::Tenant(tenant),
        outcome,
    })
}

pub(super) fn declared(id: &str) -> Failure {
    Failure::refused(format!(
        "tenant {id} is declared in gateway.toml: change it there"
    ))
}
