//! The windows of a key and of its tenant: where each limit comes from, and what is left.

use crate::clock::Now;
use crate::config::LimitSubject;
use crate::gate::explain::find_key;
use crate::gate::explain::views::WindowState;
use crate::gate::explain::views::WindowView;
use crate::gate::refused::Fault;
use crate::model::key::Override;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Charge;
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;
use crate::store::VerbError;

/// The windows of a key and where they stand now, whatever it asks for.
///
/// # Errors
/// There is no such key in force.
pub fn windows_of(
    snapshot: &Snapshot,
    quota: &Quota,
    now: Now,
    id: &str,
) -> Result<Vec<WindowView>, VerbError> {
    find_key(snapshot, id).map(|key| windows(snapshot, Some(quota), key, now))
}

pub(super) fn windows(
    snapshot: &Snapshot,
    quota: Option<&Quota>,
    key: &KeyEntry,
    now: Now,
) -> Vec<WindowView> {
    let tenant = snapshot.tenant_of(key);
    let (of_key, of_tenant) = (snapshot.limits_of(key), snapshot.limits_of_tenant(tenant));
    let by_key = Charge {
        key: Some((key.id, &of_key)),
        tenant: None,
        cost: 1,
    };
    let by_tenant = Charge {
        key: None,
        tenant: Some((&tenant.id, &of_tenant)),
        cost: 1,
    };
    let subject = snapshot.config.limits.subject;
    let mut views = Vec::new();
    if subject != LimitSubject::Tenant {
        add_windows(&mut views, "key", &of_key, peek(quota, &by_key, now));
    }
    if subject != LimitSubject::Key {
        add_windows(
            &mut views,
            "tenant",
            &of_tenant,
            peek(quota, &by_tenant, now),
        );
    }
    for view in &mut views {
        view.from = origin(snapshot, key, &view.subject, &view.window);
    }
    views
}

/// The state of quota and burst; `None` where it is not known.
fn peek(quota: Option<&Quota>, charge: &Charge<'_>, now: Now) -> [Option<WindowState>; 2] {
    let numbers = quota
        .map(|quota| quota.peek(charge, now))
        .unwrap_or_default();
    [numbers.quota, numbers.burst].map(|window| window.as_ref().map(WindowState::of))
}

fn add_windows(
    views: &mut Vec<WindowView>,
    subject: &str,
    limits: &Limits,
    states: [Option<WindowState>; 2],
) {
    let rates = [("quota", limits.quota), ("burst", limits.burst)];
    for ((window, rate), state) in rates.into_iter().zip(states) {
        views.push(WindowView {
            subject: subject.to_owned(),
            window: window.to_owned(),
            limit: rate
                .as_ref()
                .map_or_else(|| "unlimited".to_owned(), Rate::to_string),
            from: String::new(),
            state,
        });
    }
}

/// Where a limit comes from, in the order of `Snapshot::limits_of`.
fn origin(snapshot: &Snapshot, key: &KeyEntry, subject: &str, window: &str) -> String {
    let tenant = snapshot.tenant_of(key);
    let said = |quota: Override, burst: Override| {
        let own = if window == "quota" { quota } else { burst };
        own != Override::Plan
    };
    let own = key.own.as_ref();
    if subject == "key" && own.is_some_and(|own| said(own.quota, own.burst)) {
        return "the key".to_owned();
    }
    if subject == "key" && key.plan != u32::MAX {
        return format!("plan {} of the key", snapshot.plan_of(key).name);
    }
    if said(tenant.own.quota, tenant.own.burst) {
        return "the tenant".to_owned();
    }
    let plan = &snapshot.plans[tenant.plan as usize];
    format!("plan {} of the tenant", plan.name)
}

pub(super) fn room(windows: &[WindowView], cost: u32) -> Result<(), Fault> {
    let states = windows.iter().filter_map(|window| window.state.as_ref());
    let short = states.filter(|state| state.remaining < cost);
    match short.map(|state| state.reset_in_seconds).max() {
        None => Ok(()),
        Some(retry_after_seconds) => {
            let refusal = Refusal::LimitExceeded {
                retry_after_seconds,
            };
            Err(Fault::new(refusal, "limit_exceeded"))
        }
    }
}
