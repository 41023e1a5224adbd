//! Quota and burst: one decision over all windows of a request, and the numbers for its headers.

use crate::clock::Now;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::tenant::TenantId;

/// Every live counter of this node. Exists only for real keys and tenants: strangers create none (S28).
#[derive(Debug, Default)]
pub struct Quota {}

/// What one request is to be charged to.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The key's own windows, unless limits are by tenant only.
    pub key: Option<(KeyId, &'a Limits)>,
    /// The tenant's windows, unless limits are by key only.
    pub tenant: Option<(&'a TenantId, &'a Limits)>,
    /// What it takes from every window; at least 1.
    pub cost: u32,
}

/// What the rate-limit headers say. With two subjects it describes the one with the least remaining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The quota; `None` when unlimited.
    pub quota: Option<WindowNumbers>,
    /// The burst; `None` when unlimited.
    pub burst: Option<WindowNumbers>,
}

/// The state of one window after this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowNumbers {
    /// The limit.
    pub rate: Rate,
    /// What is left; never negative.
    pub remaining: u32,
    /// Unix seconds, rounded up, at which the window is full again; constant within one quota window.
    pub reset_unix_seconds: u64,
    /// Seconds from now until then, rounded up.
    pub reset_in_seconds: u32,
}

/// A refused charge; nothing was taken from any window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// For the headers.
    pub numbers: Numbers,
    /// The longest wait among the refusing windows for this cost, in seconds, rounded up; at least 1.
    pub retry_after_seconds: u32,
}

impl Quota {
    /// Takes `cost` from every window, or from none.
    ///
    /// # Errors
    /// `Exhausted` when any window lacks room.
    pub fn charge(&self, _charge: &Charge<'_>, _now: Now) -> Result<Numbers, Exhausted> {
        todo!()
    }
}
