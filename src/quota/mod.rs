//! Quota and burst: one decision over all windows of a request, and the numbers for its headers.

use crate::aside::give_way;
use crate::meter::ErrorRate;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::seat::SeatHint;
use crate::model::tenant::TenantId;
use crate::store::counters::Row;
use crate::store::counters::Subject;
use crate::store::history::HourRow;

mod counters;
mod crowd;
pub mod headers;
#[cfg(test)]
mod interleaved;
mod local;
#[cfg(test)]
mod model;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
pub mod saves;
mod seats;
pub mod shared;
mod strangers;
mod sync;
#[cfg(test)]
mod tests;
mod visitors;
mod window;

pub(crate) use counters::Keys;
pub use counters::Quota;

/// What one request is to be charged to. The limits are those of the request's snapshot: a window whose length they change keeps its start
/// and its count, and ends at start + new length; what had passed under the old length stays passed.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// The key's own windows, unless limits are by tenant only.
    pub key: Option<(KeyId, &'a Limits)>,
    /// The tenant's windows, unless limits are by key only.
    pub tenant: Option<(&'a TenantId, &'a Limits)>,
    /// What it takes from every window; at least 1.
    pub cost: u32,
}

/// Where the windows of a charge were last found.
#[derive(Clone, Copy, Debug)]
pub struct Hints<'a> {
    /// The key's.
    pub key: &'a SeatHint,
    /// The tenant's.
    pub tenant: &'a SeatHint,
}

/// What the rate-limit headers say. With two subjects it describes, for each window, the one with the least remaining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The quota; `None` when unlimited.
    pub quota: Option<WindowNumbers>,
    /// The burst; `None` when unlimited.
    pub burst: Option<WindowNumbers>,
    /// The quota that headers say nothing of, where two subjects have one each.
    pub other_quota: Option<WindowNumbers>,
    /// Whether `quota` is the tenant's; `other_quota` is then the key's.
    pub quota_is_tenants: bool,
    /// By how much `quota` has fallen since this node last said it, where it may be by more than this request's cost: other nodes charge it too.
    pub fell: u32,
}

impl Numbers {
    /// Every quota that was charged, and whether it is the tenant's.
    pub fn quotas(&self) -> impl Iterator<Item = (&WindowNumbers, bool)> {
        let one = self
            .quota
            .iter()
            .map(|quota| (quota, self.quota_is_tenants));
        let other = self.other_quota.iter();
        one.chain(other.map(|quota| (quota, !self.quota_is_tenants)))
    }
}

/// The state of one window after this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowNumbers {
    /// The limit.
    pub rate: Rate,
    /// What is left; never negative.
    pub remaining: u32,
    /// Unix seconds at which the window is full again: exact and constant within one quota window (FA25), rounded up for a burst. A quota window that no
    /// charge has opened is described as if it opened now.
    pub reset_unix_seconds: u64,
    /// Seconds from now until then, rounded up, by the monotonic clock.
    pub reset_in_seconds: u32,
}

/// A refused charge; nothing was taken from any window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// For the headers.
    pub numbers: Numbers,
    /// The longest wait among the refusing windows for this cost, in seconds, rounded up; at least 1. True unless something else is
    /// charged meanwhile: sleeping it succeeds, a second less fails (SEEDS 8.3). A cost above a limit never succeeds; it gets the window's length.
    pub retry_after_seconds: u32,
}

/// What the store is to write to catch up with the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Subjects that were charged, in order.
    pub rows: Vec<Row>,
    /// Subjects whose windows are over, in order.
    pub removed: Vec<Subject>,
    /// What keys did, in their order: for `Usage`, which knows of more.
    pub counted: Vec<HourRow>,
    /// Keys of whose requests some failed lately: not for the store, but for who watches.
    pub failing: Vec<ErrorRate>,
}

impl Changes {
    /// Lets go of all, and has room for so many. Keeps no more memory for it than the changes of a second take, or these.
    fn begin(&mut self, keys: usize, tenants: usize) {
        // Each with the times of its burst.
        for (index, row) in self.rows.drain(..).enumerate() {
            drop(row);
            give_way(index);
        }
        self.removed.clear();
        self.counted.clear();
        self.failing.clear();
        self.removed.shrink_to(KEPT);
        self.failing.shrink_to(KEPT);
        with_room(&mut self.rows, keys + tenants);
        with_room(&mut self.counted, keys);
    }
}

/// Gives an empty list room for so many and some more, made at once: one that grew would copy what is not there, and leave pieces of every size.
fn with_room<T>(list: &mut Vec<T>, count: usize) {
    let (there, wanted) = (list.capacity(), count.next_power_of_two());
    if there < count || there > wanted.max(KEPT) {
        // Before the new one is made.
        *list = Vec::new();
        *list = Vec::with_capacity(wanted);
    }
}

/// Changes for which memory is kept, of some 120 bytes each: more than what a worker can do in a second.
const KEPT: usize = 131_072;
