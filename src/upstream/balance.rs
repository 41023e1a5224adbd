//! Which server a request goes to: the least loaded of two taken by chance, of those that are in; now and then one that is to prove itself.

use std::cell::Cell;
use std::fmt;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Upstream;
use crate::upstream::backends::Backends;
use crate::upstream::backends::Load;
use crate::upstream::budget::Budget;
use crate::upstream::health::Health;
use crate::upstream::health::Trial;
use crate::upstream::health::scattered;
use crate::upstream::pool::Server;

/// The servers of one upstream, or of one tenant's place behind it, in the order of the file, as one worker sees them.
pub(super) struct Group {
    servers: Box<[Rc<Server>]>,
    /// Counts choices; also the source of chance, hence seeded: workers that start together must not choose alike.
    turn: Cell<u64>,
    budget: Budget,
    /// What other workers' requests to the same upstream share.
    pub(super) load: Arc<Load>,
    backends: Arc<Backends>,
}

/// A server for one try.
#[derive(Debug)]
pub(super) struct Choice {
    /// Among those of the group.
    pub(super) index: usize,
    /// Whether this try decides if the server comes back.
    trial: Option<Trial>,
}

impl fmt::Debug for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&self.servers).finish()
    }
}

impl Deref for Group {
    type Target = [Rc<Server>];

    fn deref(&self) -> &[Rc<Server>] {
        &self.servers
    }
}

impl Group {
    pub(super) fn new(
        servers: Vec<Rc<Server>>,
        load: Arc<Load>,
        backends: &Arc<Backends>,
    ) -> Group {
        Group {
            servers: servers.into_boxed_slice(),
            turn: Cell::new(RandomState::new().hash_one(0)),
            budget: Budget::default(),
            load,
            backends: Arc::clone(backends),
        }
    }

    /// A request begins.
    pub(super) fn begin(&self, upstream: &Upstream) {
        self.budget.earn(&upstream.retry_budget);
    }

    /// Whether one more try is within the budget; it is taken from it.
    pub(super) fn may_retry(&self, upstream: &Upstream) -> bool {
        let rules = &upstream.retry_budget;
        let may = (self.budget).spend(rules, &self.load.free, self.backends.now());
        let counter = if may {
            &self.load.retries
        } else {
            &self.load.retries_refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        may
    }

    /// The server with the fewest requests outstanding, of two taken by chance, leaving out those at the indexes `failed`; `None` when none is left.
    pub(super) fn choose(&self, failed: &[usize], upstream: &Upstream) -> Option<Choice> {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        if failed.is_empty() {
            let index = pick(self.len(), |index| self[index].outstanding(), turn)?;
            if self[index].health.is_in() {
                return Some(Choice { index, trial: None });
            }
        }
        self.choose_with_care(failed, upstream, turn)
    }

    /// The same where a server is out, or has failed this request. One whose time out is over is tried by this very request; while all are out,
    /// all are as good as any, unless the upstream says that nobody is to be sent there then.
    #[cold]
    fn choose_with_care(&self, failed: &[usize], upstream: &Upstream, turn: u64) -> Option<Choice> {
        let open: Vec<usize> = (0..self.len())
            .filter(|index| !failed.contains(index))
            .collect();
        let now = self.backends.now();
        let lasts = longest_try(upstream);
        for &index in &open {
            if let Some(trial) = self[index].health.try_it(now, lasts) {
                let trial = Some(trial);
                return Some(Choice { index, trial });
            }
        }
        let of = |some: &[usize]| {
            let outstanding = |at: usize| self[some[at]].outstanding();
            let picked = pick(some.len(), outstanding, turn).map(|at| some[at]);
            picked.map(|index| Choice { index, trial: None })
        };
        let well: Vec<usize> = (open.iter().copied())
            .filter(|index| self[*index].health.is_in())
            .collect();
        let none_is_in = self.iter().all(|server| !server.health.is_in());
        match none_is_in && !upstream.refuse_when_all_out {
            true => of(&open),
            false => of(&well),
        }
    }

    /// A try went well: its answer has begun.
    pub(super) fn went_well(&self, choice: &mut Choice, upstream: &Upstream) {
        let health = &self[choice.index].health;
        health.succeeded();
        if health.breaks_off(&upstream.ejection) && choice.trial.is_none() {
            return self.leave_out(health, upstream, "answers broke off");
        }
        if let Some(trial) = choice.trial.take()
            && trial.passed(self.backends.now())
        {
            tracing::info!(
                upstream = health.upstream,
                server = health.server,
                "server_back: the request that tried it went well"
            );
        }
    }

    /// A try failed, and the server is to blame.
    #[cold]
    pub(super) fn went_wrong(&self, choice: &mut Choice, upstream: &Upstream, why: &str) {
        let health = &self[choice.index].health;
        let rules = &upstream.ejection;
        match choice.trial.take() {
            Some(trial) => tell(health, trial.failed(rules, self.backends.now()), why),
            None if health.failed(rules) => self.leave_out(health, upstream, why),
            None => {}
        }
    }

    #[cold]
    fn leave_out(&self, health: &Health, upstream: &Upstream, why: &str) {
        // Looked at twice, so that a dead upstream, whose every request fails here, does not have all workers wait for one lock.
        if !self.may_lose_one(upstream) {
            return;
        }
        let _one_at_a_time = self.backends.ejecting();
        if self.may_lose_one(upstream) {
            let span = health.eject(&upstream.ejection, self.backends.now());
            tell(health, span, why);
        }
    }

    /// Whether the share that may be out has room for one more.
    fn may_lose_one(&self, upstream: &Upstream) -> bool {
        let out = self.iter().filter(|server| !server.health.is_in()).count();
        (out + 1) * 100 <= self.len() * upstream.ejection.share_max as usize
    }
}

/// Logs that a server is left out for this long, if it is.
fn tell(health: &Health, span: Option<Duration>, why: &str) {
    let Some(span) = span else {
        return;
    };
    tracing::warn!(
        upstream = health.upstream,
        server = health.server,
        seconds = span.as_secs_f64(),
        why,
        "server_ejected: it gets no requests for a while"
    );
}

/// How long one try takes at most until its verdict, waits for the client aside.
fn longest_try(upstream: &Upstream) -> Duration {
    (upstream.connect_timeout).saturating_add(upstream.first_byte_timeout)
}

/// Power of two choices; with two servers that is the least loaded. Ties fall to chance, with two servers to turns.
fn pick(count: usize, outstanding: impl Fn(usize) -> usize, turn: u64) -> Option<usize> {
    let (first, second) = match count {
        0 => return None,
        1 => return Some(0),
        2 => ((turn % 2) as usize, ((turn + 1) % 2) as usize),
        _ => {
            let chance = scattered(turn);
            let first = (chance >> 32) as usize % count;
            let step = 1 + (chance & 0xffff_ffff) as usize % (count - 1);
            (first, (first + step) % count)
        }
    };
    Some(if outstanding(second) < outstanding(first) {
        second
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn the_least_loaded_of_two_is_picked() {
        for turn in 0..10 {
            assert_eq!(pick(2, |index| [3, 2][index], turn), Some(1));
            assert_eq!(pick(2, |index| [0, 1][index], turn), Some(0));
        }
    }

    #[test]
    fn two_idle_servers_take_turns() {
        let picked: Vec<_> = (0..4).map(|turn| pick(2, |_| 0, turn)).collect();
        assert_eq!(picked, [Some(0), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn of_many_every_one_is_picked_but_never_the_most_loaded() {
        let mut counts = [0; 5];
        for turn in 0..10_000 {
            let outstanding = |index: usize| if index == 3 { 9 } else { 1 };
            counts[pick(5, outstanding, turn).unwrap()] += 1;
        }
        assert_eq!(counts[3], 0);
        for index in [0, 1, 2, 4] {
            assert!(counts[index] > 2_000, "{counts:?}");
        }
    }

    #[test]
    fn one_is_picked_and_none_is_not() {
        assert_eq!(pick(1, |_| 7, 3), Some(0));
        assert_eq!(pick(0, |_| 7, 3), None);
    }
}
