//! Which rules hold and which are only observed.

use crate::config::Config;
use crate::model::limit::Mode;
use crate::model::route::Route;
use crate::snapshot::KeyEntry;
use crate::snapshot::Snapshot;

/// Observed where the file says so for all, for the key's plan or for the route.
pub(super) fn limits_mode(snapshot: &Snapshot, key: &KeyEntry, route: Option<&Route>) -> Mode {
    let of_route = route.map_or(Mode::Enforce, |route| route.mode);
    let modes = [
        snapshot.config.limits.mode,
        snapshot.plan_of(key).mode,
        of_route,
    ];
    observed_if_any(&modes)
}

pub(super) fn scopes_mode(snapshot: &Snapshot, key: &KeyEntry, route: &Route) -> Mode {
    observed_if_any(&[snapshot.plan_of(key).mode, route.mode])
}

pub(super) fn visits_mode(config: &Config, route: Option<&Route>) -> Mode {
    let of_route = route.map_or(Mode::Enforce, |route| route.mode);
    observed_if_any(&[config.limits.mode, of_route])
}

fn observed_if_any(modes: &[Mode]) -> Mode {
    match modes.contains(&Mode::Observe) {
        true => Mode::Observe,
        false => Mode::Enforce,
    }
}
