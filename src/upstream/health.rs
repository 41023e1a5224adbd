//! The standing of one server: in, left out for a while after failures, on trial, or down because its checks say so.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Ejection;

/// One server of one upstream, as all workers see it. A request pays two relaxed loads for it while all is well: one when the server is
/// chosen, one when it has answered. Points in time are microseconds since the process began, 1 at the earliest.
#[derive(Debug)]
pub(super) struct Health {
    /// The upstream's name, for logs.
    pub(super) upstream: String,
    /// `host:port`, for logs.
    pub(super) server: String,
    /// 0 while the server is in. Else the point from which one request may try it, with `TRIAL` while one does, and `DOWN` where checks say so.
    word: AtomicU64,
    /// Failures since the last good answer.
    failures: AtomicU32,
    /// Answers that broke off in the middle since the last whole one. Apart from the others, since an answer that begins well says nothing of its end.
    cuts: AtomicU32,
    history: Mutex<History>,
    ejections: AtomicU64,
    /// What each worker has outstanding here.
    seats: Mutex<Vec<Weak<Seat>>>,
}

/// Requests that one worker has outstanding at one server: written by that worker alone, read by whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Seat(AtomicUsize);

impl Seat {
    pub(super) fn outstanding(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A store and no addition in place: nobody else writes.
    pub(super) fn take(&self) {
        self.0.store(self.outstanding() + 1, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self) {
        self.0.store(self.outstanding() - 1, Ordering::Relaxed);
    }
}

/// How a server has fared so far.
#[derive(Debug, Default)]
struct History {
    /// Ejections that came soon one after another.
    streak: u32,
    /// How long the last one was to last, microseconds.
    span: u64,
    /// When the server came back from it.
    back: u64,
}

/// What there is to tell of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    /// Left out, so many microseconds longer; 0 when the next request may try it.
    Ejected(u64),
    /// One request is trying it.
    Probing,
    /// Its checks fail.
    Down,
}

impl Standing {
    /// The word for status and metrics.
    pub(super) fn word(self) -> &'static str {
        match self {
            Standing::In => "up",
            Standing::Ejected(_) => "ejected",
            Standing::Probing => "probing",
            Standing::Down => "down",
        }
    }
}

impl Health {
    pub(super) fn new(upstream: &str, server: &str) -> Health {
        Health {
            upstream: upstream.to_owned(),
            server: server.to_owned(),
            word: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            cuts: AtomicU32::new(0),
            history: Mutex::default(),
            ejections: AtomicU64::new(0),
            seats: Mutex::default(),
        }
    }

    /// Whether requests may go there. One that sees a change a moment late is one more like those before it.
    pub(super) fn is_in(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    pub(super) fn standing(&self, now: u64) -> Standing {
        match self.word.load(Ordering::Relaxed) {
            0 => Standing::In,
            word if word & DOWN != 0 => Standing::Down,
            word if word & TRIAL != 0 => Standing::Probing,
            point => Standing::Ejected(point.saturating_sub(now)),
        }
    }

    /// Times it was left out since the process began.
    pub(super) fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// A worker's count of what it has outstanding here.
    pub(super) fn seat(&self) -> Arc<Seat> {
        let seat = Arc::new(Seat::default());
        let mut seats = lock(&self.seats);
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(Arc::downgrade(&seat));
        seat
    }

    /// Requests outstanding here, of all workers.
    pub(super) fn in_flight(&self) -> usize {
        let seats = lock(&self.seats);
        let seats = seats.iter().filter_map(Weak::upgrade);
        seats.map(|seat| seat.outstanding()).sum()
    }

    /// A request came back well.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// An answer came whole.
    pub(super) fn ended_well(&self) {
        if self.cuts.load(Ordering::Relaxed) != 0 {
            self.cuts.store(0, Ordering::Relaxed);
        }
    }

    /// An answer broke off, and the server is to blame. What follows from it is decided when the next one begins (`breaks_off`).
    pub(super) fn broke_off(&self) {
        if self.cuts.load(Ordering::Relaxed) < CUTS_MAX {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether so many answers in a row broke off that the server is to be left out, although it begins them well.
    pub(super) fn breaks_off(&self, rules: &Ejection) -> bool {
        let cuts = self.cuts.load(Ordering::Relaxed);
        cuts != 0 && rules.failures != 0 && cuts >= rules.failures && self.is_in()
    }

    /// A request failed here. Whether the server has failed so often that it is to be left out.
    pub(super) fn failed(&self, rules: &Ejection) -> bool {
        if rules.failures == 0 {
            return false;
        }
        // Past the bound it counts no further, or it would one day begin anew.
        let before = self.failures.load(Ordering::Relaxed);
        if before < rules.failures {
            let before = self.failures.fetch_add(1, Ordering::Relaxed);
            return before + 1 >= rules.failures && self.is_in();
        }
        self.is_in()
    }

    /// Leaves the server out for a while, which it says; `None` when it was out already.
    pub(super) fn eject(&self, rules: &Ejection, now: u64) -> Option<Duration> {
        self.leave_out(rules, now, 0)
    }

    /// From the standing `known`, which nothing but `DOWN` may have changed since.
    fn leave_out(&self, rules: &Ejection, now: u64, known: u64) -> Option<Duration> {
        let mut history = lock(&self.history);
        // One that has held out for as long as it was last left out begins anew.
        if now.saturating_sub(history.back) > history.span {
            history.streak = 0;
        }
        let span = span_of(rules, history.streak, now);
        let point = now.saturating_add(span) & POINT;
        let changed = self
            .word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word & !DOWN == known).then_some(point | word & DOWN)
            });
        changed.ok()?;
        history.streak = history.streak.saturating_add(1);
        history.span = span;
        history.back = point;
        self.failures.store(0, Ordering::Relaxed);
        self.cuts.store(0, Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        Some(Duration::from_micros(span))
    }

    /// One request's leave to try a server whose time out is over; nobody else gets one within `lasts`, or until it is decided.
    pub(super) fn try_it(self: &Arc<Self>, now: u64, lasts: Duration) -> Option<Trial> {
        let word = self.word.load(Ordering::Relaxed);
        let due = word & POINT;
        if word & DOWN != 0 || due == 0 || due > now {
            return None;
        }
        let token = TRIAL | now.saturating_add(micros(lasts)) & POINT;
        let claimed = self
            .word
            .compare_exchange(word, token, Ordering::Relaxed, Ordering::Relaxed);
        claimed.ok().map(|_| Trial {
            health: Arc::clone(self),
            token,
        })
    }

    /// What its checks say; whether that is news.
    pub(super) fn set_down(&self, down: bool) -> bool {
        let before = if down {
            self.word.fetch_or(DOWN, Ordering::Relaxed)
        } else {
            self.failures.store(0, Ordering::Relaxed);
            self.word.fetch_and(!DOWN, Ordering::Relaxed)
        };
        (before & DOWN != 0) != down
    }
}

/// A request that decides whether a server comes back. Dropped without a verdict, the next request may try.
#[derive(Debug)]
pub(super) struct Trial {
    health: Arc<Health>,
    /// The server's standing while this is the one trial; 0 once it is decided.
    token: u64,
}

impl Trial {
    /// It went well: the server is in again. Whether that counted.
    pub(super) fn passed(mut self, now: u64) -> bool {
        lock(&self.health.history).back = now;
        self.health.failures.store(0, Ordering::Relaxed);
        let token = std::mem::take(&mut self.token);
        self.health.decide(token, 0)
    }

    /// It did not: out again, for twice as long. For how long, if that counted.
    pub(super) fn failed(mut self, rules: &Ejection, now: u64) -> Option<Duration> {
        let token = std::mem::take(&mut self.token);
        lock(&self.health.history).back = now;
        self.health.leave_out(rules, now, token)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.token != 0 {
            self.health.decide(self.token, ALWAYS_DUE);
        }
    }
}

impl Health {
    fn decide(&self, token: u64, then: u64) -> bool {
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word & !DOWN == token).then_some(then | word & DOWN)
            })
            .is_ok()
    }
}

/// Twice as long for each ejection before it, up to a bound; less up to a quarter by chance, so that servers which failed together are not tried
/// together.
fn span_of(rules: &Ejection, streak: u32, now: u64) -> u64 {
    let first = micros(rules.time);
    let longer = first.checked_shl(streak.min(20)).unwrap_or(u64::MAX);
    let most = longer.max(first).min(micros(rules.time_max));
    most - most / 4 / 256 * (scattered(now) & 0xff)
}

/// Spreads a counter over 64 bits (Steele, Lea and Flood's SplitMix).
pub(super) fn scattered(counter: u64) -> u64 {
    let mixed = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks say that the server is down.
const DOWN: u64 = 1 << 63;
/// One request is trying it.
const TRIAL: u64 = 1 << 62;
/// The point in the word.
const POINT: u64 = TRIAL - 1;
/// A point that every request lies behind.
const ALWAYS_DUE: u64 = 1;
/// Answers that broke off are counted no further: more than `ejection.failures` can ask for.
const CUTS_MAX: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn rules() -> Ejection {
        Ejection {
            failures: 3,
            statuses: Vec::new(),
            time: Duration::from_secs(10),
            time_max: Duration::from_secs(60),
            share_max: 50,
        }
    }

    fn server() -> Arc<Health> {
        Arc::new(Health::new("legacy", "127.0.0.1:1"))
    }

    #[test]
    fn failures_in_a_row_are_what_counts() {
        let health = server();
        for _ in 0..5 {
            assert!(!health.failed(&rules()));
            assert!(!health.failed(&rules()));
            health.succeeded();
        }
        assert!(!health.failed(&rules()));
        assert!(!health.failed(&rules()));
        assert!(health.failed(&rules()));
        let never = Ejection {
            failures: 0,
            ..rules()
        };
        assert!((0..100).all(|_| !health.failed(&never)));
    }

    #[test]
    fn one_trial_decides_and_a_lost_one_leaves_the_next() {
        let health = server();
        let span = health.eject(&rules(), SECOND).unwrap();
        assert!(health.eject(&rules(), SECOND).is_none(), "it is out");
        let due = SECOND + micros(span);
        let lasts = Duration::from_secs(5);
        assert!(health.try_it(due - 1, lasts).is_none());
        let trial = health.try_it(due, lasts).unwrap();
        assert_eq!(health.standing(due), Standing::Probing);
        assert!(health.try_it(due, lasts).is_none(), "one at a time");
        drop(trial);
        let late = health.try_it(due, lasts).unwrap();
        // One that hangs holds nobody up for longer than it may last, and then counts no more.
        let next = health.try_it(due + 5 * SECOND, lasts).unwrap();
        assert!(late.failed(&rules(), due + 6 * SECOND).is_none());
        assert!(next.passed(due + 7 * SECOND));
        assert!(health.is_in());
        assert_eq!(health.ejections(), 1);
    }

    #[test]
    fn each_ejection_is_longer_up_to_the_bound_and_calm_forgets() {
        let health = server();
        let mut now = SECOND;
        let mut spans = Vec::new();
        let mut span = health.eject(&rules(), now).unwrap();
        for _ in 0..5 {
            spans.push(span.as_secs_f64());
            now += micros(span);
            let trial = health.try_it(now, Duration::from_secs(5)).unwrap();
            span = trial.failed(&rules(), now).unwrap();
        }
        for (span, most) in spans.iter().zip([10.0, 20.0, 40.0, 60.0, 60.0]) {
            assert!((most * 0.75..=most).contains(span), "{spans:?}");
        }
        now += micros(span);
        let trial = health.try_it(now, Duration::from_secs(5)).unwrap();
        assert!(trial.passed(now));
        let soon = health.eject(&rules(), now + SECOND).unwrap();
        assert!(soon > Duration::from_secs(40), "{soon:?}");
        now += micros(soon) + SECOND;
        let trial = health.try_it(now, Duration::from_secs(5)).unwrap();
        assert!(trial.passed(now));
        let later = health.eject(&rules(), now + 61 * SECOND).unwrap();
        assert!(later <= Duration::from_secs(10), "{later:?}");
    }

    #[test]
    fn checks_and_failures_do_not_undo_each_other() {
        let health = server();
        assert!(health.set_down(true));
        assert!(!health.set_down(true), "no news");
        let span = health.eject(&rules(), SECOND);
        assert!(span.is_some());
        assert_eq!(health.standing(SECOND), Standing::Down);
        let due = SECOND + micros(span.unwrap());
        assert!(health.try_it(due, Duration::from_secs(1)).is_none());
        assert!(health.set_down(false));
        assert_eq!(health.standing(due), Standing::Ejected(0));
        let trial = health.try_it(due, Duration::from_secs(1)).unwrap();
        health.set_down(true);
        assert!(trial.passed(due));
        assert_eq!(health.standing(due), Standing::Down);
        health.set_down(false);
        assert!(health.is_in());
    }
}
