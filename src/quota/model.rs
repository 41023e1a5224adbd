//! The counters against a naive model that keeps the plain list of admissions, through any order of charges, clocks, plans, saves, restarts and reboots.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::tenant::TenantId;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::quota::Quota;
use crate::quota::WindowNumbers;
use crate::store::counters::Subject;
use crate::store::properties::CounterFile;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A request: which key, which tenant (at least one of the two), its cost, and whether its thread read the clock late.
    Charge(Request),
    /// The same request from `threads` threads, `each` times.
    ChargeAtOnce {
        request: Request,
        threads: usize,
        each: usize,
    },
    /// Milliseconds and microseconds pass.
    Wait(u64, u64),
    /// The wall clock is set by so many milliseconds.
    SetWallClock(i64),
    /// The plan of all keys or of all tenants changes: quota and burst, each a count and seconds.
    ChangePlan {
        of_keys: bool,
        quota: Option<(u32, u32)>,
        burst: Option<(u32, u32)>,
    },
    /// Counters are saved; or the save fails.
    Save { fails: bool },
    /// Windows that are over are swept.
    Sweep,
    /// Stops and starts: the last save is whole.
    Restart,
    /// `kill -9`: the last save counts.
    Kill,
    /// `kill -9` by a reboot: the monotonic clock begins anew, and this many milliseconds pass on the wall clock.
    Reboot(u64),
}

#[derive(Clone, Copy, Debug)]
struct Request {
    key: Option<u8>,
    tenant: Option<u8>,
    cost: u32,
    late: bool,
}

/// Everything admitted to one subject that may still count.
#[derive(Clone, Debug, Default)]
struct History {
    /// Beginning on both clocks, length, and what was taken in the open quota window.
    quota: Option<(i64, u64, i64, Vec<u32>)>,
    /// Time and cost of each admission within the burst's span, and that span.
    burst: Vec<(i64, u32)>,
    span: i64,
    /// The latest clock that was seen.
    latest: i64,
}

/// What the headers and a refusal should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// Seconds to wait, 0 for admitted.
    wait: u32,
    numbers: Numbers,
}

const SECOND: i64 = 1_000_000;

fn up(micros: i64) -> i64 {
    (micros + SECOND - 1).div_euclid(SECOND)
}

impl History {
    /// Forgets what is over, under the length it was admitted under and under the one in force.
    fn look(&mut self, limits: &Limits, now: Now) {
        self.latest = self.latest.max(now.mono.0 as i64);
        let at = self.latest;
        if let Some(rate) = limits.quota {
            let new = i64::from(rate.seconds) * SECOND;
            if let Some((begin, _, length, _)) = &mut self.quota
                && at < *begin + *length
            {
                *length = new;
            }
            self.quota
                .take_if(|(begin, _, length, _)| at >= *begin + *length);
        }
        if let Some(rate) = limits.burst {
            for span in [self.span, i64::from(rate.seconds) * SECOND] {
                self.burst.retain(|(time, _)| at < time + span);
                self.span = span;
            }
        }
    }

    /// Microseconds until `cost` fits, by asking for each moment at which something ends.
    fn wait(&self, limits: &Limits, cost: u32) -> i64 {
        let quota = limits.quota.map_or(0, |rate| {
            let used: u32 = self.quota.iter().flat_map(|window| &window.3).sum();
            let end = self
                .quota
                .as_ref()
                .map_or(i64::from(rate.seconds) * SECOND, |window| {
                    window.0 + window.2 - self.latest
                });
            if used + cost <= rate.count { 0 } else { end }
        });
        let burst = limits.burst.map_or(0, |rate| {
            let inside = |wait: i64| -> u32 {
                let alive = self
                    .burst
                    .iter()
                    .filter(|(time, _)| self.latest + wait < time + self.span);
                alive.map(|(_, cost)| cost).sum()
            };
            let ends = self
                .burst
                .iter()
                .map(|(time, _)| time + self.span - self.latest);
            let mut moments = std::iter::once(0).chain(ends);
            moments
                .find(|wait| inside(*wait) + cost <= rate.count)
                .unwrap_or(i64::from(rate.seconds) * SECOND)
        });
        quota.max(burst)
    }

    fn take(&mut self, limits: &Limits, cost: u32, now: Now) {
        let wall = now.wall.0 + (self.latest - now.mono.0 as i64) as u64;
        if let Some(rate) = limits.quota {
            let into = wall % SECOND as u64;
            let fresh = || {
                let length = i64::from(rate.seconds) * SECOND;
                (self.latest - into as i64, wall - into, length, Vec::new())
            };
            self.quota.get_or_insert_with(fresh).3.push(cost);
        }
        if limits.burst.is_some() {
            self.burst.push((self.latest, cost));
        }
    }

    fn numbers(&self, subject: &Subject, limits: &Limits, now: Now) -> Numbers {
        let quota = limits.quota.map(|rate| {
            let length = i64::from(rate.seconds) * SECOND;
            let used: u32 = self.quota.iter().flat_map(|window| &window.3).sum();
            let (end, opened) = match &self.quota {
                Some((begin, wall, _, _)) => (begin + length - self.latest, *wall),
                None => (length, now.wall.0 - now.wall.0 % SECOND as u64),
            };
            told(rate, used, up(opened as i64 + length), end)
        });
        let burst = limits.burst.map(|rate| {
            let used: u32 = self.burst.iter().map(|(_, cost)| cost).sum();
            let last = self
                .burst
                .last()
                .map_or(0, |(time, _)| time + self.span - self.latest);
            told(rate, used, up(now.wall.0 as i64 + last), last)
        });
        Numbers {
            quota,
            burst,
            other_quota: None,
            quota_is_tenants: quota.is_some() && matches!(subject, Subject::Tenant(_)),
            fell: 0,
        }
    }

    fn is_over(&self, at: i64) -> bool {
        let quota = self
            .quota
            .as_ref()
            .is_none_or(|(begin, _, length, _)| at >= *begin + *length);
        quota && self.burst.iter().all(|(time, _)| at >= time + self.span)
    }

    /// As it is after a start at `now`: a time ahead of the clock counts from now.
    fn restored(mut self, now: Now) -> History {
        let at = now.mono.0 as i64;
        if let Some((begin, wall, _, _)) = &mut self.quota
            && *begin > at
        {
            (*begin, *wall) = (at, now.wall.0);
        }
        self.quota
            .take_if(|(begin, _, length, _)| at >= *begin + *length);
        self.burst.retain(|(time, _)| at < time + self.span);
        for (time, _) in &mut self.burst {
            *time = (*time).min(at);
        }
        self.latest = at;
        self
    }
}

fn told(rate: Rate, used: u32, reset_unix: i64, reset_in: i64) -> WindowNumbers {
    WindowNumbers {
        rate,
        remaining: rate.count.saturating_sub(used),
        reset_unix_seconds: reset_unix as u64,
        reset_in_seconds: up(reset_in) as u32,
    }
}

/// Both sides, and what the saved file should hold.
struct World {
    quota: Quota,
    file: CounterFile,
    model: BTreeMap<Subject, History>,
    saved: BTreeMap<Subject, History>,
    /// Charged, swept or found to be over since the last save.
    unsaved: Vec<Subject>,
    /// Wall minus monotonic clock at the last save.
    saved_offset: i64,
    mono: u64,
    wall: u64,
    boot: u32,
    plans: [Limits; 2],
}

impl World {
    fn new() -> World {
        let rate = |count, seconds| Some(Rate { count, seconds });
        let plan = Limits {
            quota: rate(6, 5),
            burst: rate(4, 2),
        };
        let (mono, wall) = (1_000_000_000, 1_700_000_000_123_456);
        let mut file = CounterFile::new();
        let _ = file.reopen(now_at(mono, wall), 0);
        World {
            quota: Quota::new(),
            file,
            model: BTreeMap::new(),
            saved: BTreeMap::new(),
            unsaved: Vec::new(),
            saved_offset: wall as i64 - mono as i64,
            mono,
            wall,
            boot: 0,
            plans: [plan; 2],
        }
    }

    fn now(&self) -> Now {
        now_at(self.mono, self.wall)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Charge(request) => {
                let expected = self.charge(request);
                // SEEDS 8.3: a second less fails, sleeping it succeeds. A cost above a limit never passes.
                if expected.wait > 0 && self.is_possible(request) {
                    self.pass(u64::from(expected.wait - 1) * 1_000_000);
                    if expected.wait > 1 {
                        assert!(self.charge(request).wait > 0, "a second early");
                    }
                    self.pass(1_000_000);
                    let prompt = Request {
                        late: false,
                        ..request
                    };
                    assert_eq!(self.charge(prompt).wait, 0, "after Retry-After");
                }
            }
            Step::ChargeAtOnce {
                request,
                threads,
                each,
            } => self.charge_at_once(request, threads, each),
            Step::Wait(millis, micros) => self.pass(millis * 1_000 + micros),
            Step::SetWallClock(millis) => {
                self.wall = self.wall.saturating_add_signed(millis * 1_000);
            }
            Step::ChangePlan {
                of_keys,
                quota,
                burst,
            } => {
                let rate = |(count, seconds)| Rate { count, seconds };
                self.plans[usize::from(of_keys)] = Limits {
                    quota: quota.map(rate),
                    burst: burst.map(rate),
                };
            }
            Step::Save { fails } => self.save(fails),
            Step::Sweep => self.sweep(),
            Step::Restart => {
                self.save(false);
                self.start(0);
            }
            Step::Kill => self.start(0),
            Step::Reboot(millis) => {
                self.boot += 1;
                self.wall += millis * 1_000;
                self.mono = 3_000_000;
                self.start(self.saved_offset - (self.wall as i64 - self.mono as i64));
            }
        }
        self.assert_peeks_agree();
    }

    fn pass(&mut self, micros: u64) {
        self.mono += micros;
        self.wall += micros;
    }

    fn subjects(&self, request: Request) -> Vec<(Subject, Limits)> {
        let tenant = request
            .tenant
            .map(|tenant| (tenant_subject(tenant), self.plans[0]));
        let key = request
            .key
            .map(|key| (Subject::Key(key_id(key)), self.plans[1]));
        let limited =
            |(_, limits): &(Subject, Limits)| limits.quota.is_some() || limits.burst.is_some();
        tenant.into_iter().chain(key).filter(limited).collect()
    }

    fn is_possible(&self, request: Request) -> bool {
        self.subjects(request).iter().all(|(_, limits)| {
            let fits = |rate: Option<Rate>| rate.is_none_or(|rate| request.cost <= rate.count);
            fits(limits.quota) && fits(limits.burst)
        })
    }

    /// A moment that a thread read before others came in between.
    fn clock_of(&self, request: Request) -> Now {
        let back = if request.late { 700_000 } else { 0 };
        now_at(self.mono - back, self.wall - back)
    }

    /// Charges both sides and compares all that is said; what the model says.
    fn charge(&mut self, request: Request) -> Verdict {
        let now = self.clock_of(request);
        let expected = self.expect(request, now);
        assert_eq!(
            charge_product(&self.quota, &self.plans, request, now),
            expected,
            "{request:?}"
        );
        expected
    }

    fn expect(&mut self, request: Request, now: Now) -> Verdict {
        let subjects = self.subjects(request);
        let mut wait = 0;
        for (subject, limits) in &subjects {
            let history = self.model.entry(subject.clone()).or_default();
            history.look(limits, now);
            wait = wait.max(history.wait(limits, request.cost));
        }
        let mut said = Vec::new();
        for (subject, limits) in subjects {
            let history = self.model.entry(subject.clone()).or_default();
            if wait == 0 {
                history.take(&limits, request.cost, now);
                self.unsaved.push(subject.clone());
            }
            said.push(history.numbers(&subject, &limits, now));
        }
        Verdict {
            wait: up(wait) as u32,
            numbers: tightest(&said),
        }
    }

    /// S31: as many pass as if they had come one after another.
    fn charge_at_once(&mut self, request: Request, threads: usize, each: usize) {
        let now = self.clock_of(request);
        let expected = (0..threads * each).filter(|_| self.expect(request, now).wait == 0);
        let expected = expected.count();
        let (quota, plans) = (&self.quota, &self.plans);
        let passed: usize = std::thread::scope(|scope| {
            let work = || {
                (0..each)
                    .filter(|_| charge_product(quota, plans, request, now).wait == 0)
                    .count()
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(passed, expected, "{request:?} at once");
    }

    fn save(&mut self, fails: bool) {
        let changes = self.quota.export();
        if fails {
            self.quota.unexport(changes);
            return;
        }
        self.file
            .save(&changes.rows, &changes.removed, self.now(), self.boot);
        self.saved_offset = self.wall as i64 - self.mono as i64;
        for subject in self.unsaved.drain(..) {
            match self.model.get(&subject) {
                Some(history) => self.saved.insert(subject, history.clone()),
                None => self.saved.remove(&subject),
            };
        }
    }

    /// Whoever has had nothing for ten seconds goes, and goes from the file with the next save.
    fn sweep(&mut self) {
        self.quota.sweep(self.now());
        let at = self.mono as i64 - 10 * SECOND;
        self.drop_over(at);
    }

    fn start(&mut self, shift: i64) {
        let now = self.now();
        let rows = self.file.reopen(now, self.boot);
        self.quota = Quota::new();
        self.quota.restore(rows, now);
        self.saved_offset = if shift == 0 {
            self.saved_offset
        } else {
            self.wall as i64 - self.mono as i64
        };
        self.unsaved.clear();
        // On disk the times are moved once and for all; what was ahead of the clock is set right at each start.
        for history in self.saved.values_mut() {
            if let Some((begin, ..)) = &mut history.quota {
                *begin += shift;
            }
            history
                .burst
                .iter_mut()
                .for_each(|(time, _)| *time += shift);
        }
        let restore = |(subject, history): (&Subject, &History)| {
            (subject.clone(), history.clone().restored(now))
        };
        self.model = self.saved.iter().map(restore).collect();
        // What is over is not taken up again, and goes from the file with the next save.
        self.drop_over(now.mono.0 as i64);
    }

    fn drop_over(&mut self, at: i64) {
        let over = |(_, history): &(&Subject, &History)| history.is_over(at);
        let gone: Vec<Subject> = self
            .model
            .iter()
            .filter(over)
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in gone {
            self.model.remove(&subject);
            self.unsaved.push(subject);
        }
    }

    fn assert_peeks_agree(&self) {
        let now = self.now();
        let all = [
            (Some(1), None),
            (Some(2), None),
            (None, Some(1)),
            (None, Some(2)),
        ];
        for (key, tenant) in all {
            let request = Request {
                key,
                tenant,
                cost: 1,
                late: false,
            };
            let said: Vec<Numbers> = self
                .subjects(request)
                .into_iter()
                .map(|(subject, limits)| {
                    let mut history = self.model.get(&subject).cloned().unwrap_or_default();
                    history.look(&limits, now);
                    history.numbers(&subject, &limits, now)
                })
                .collect();
            let id = tenant.map(tenant_id);
            let charge = Charge {
                key: key.map(|key| (key_id(key), &self.plans[1])),
                tenant: id.as_ref().map(|id| (id, &self.plans[0])),
                cost: 1,
            };
            assert_eq!(
                self.quota.peek(&charge, now),
                tightest(&said),
                "{request:?}"
            );
        }
    }
}

fn charge_product(quota: &Quota, plans: &[Limits; 2], request: Request, now: Now) -> Verdict {
    let tenant = request.tenant.map(tenant_id);
    let charge = Charge {
        key: request.key.map(|key| (key_id(key), &plans[1])),
        tenant: tenant.as_ref().map(|id| (id, &plans[0])),
        cost: request.cost,
    };
    match quota.charge(&charge, now) {
        Ok(numbers) => Verdict { wait: 0, numbers },
        Err(refused) => Verdict {
            wait: refused.retry_after_seconds,
            numbers: refused.numbers,
        },
    }
}

fn now_at(mono: u64, wall: u64) -> Now {
    Now {
        mono: Mono(mono),
        wall: Wall(wall),
    }
}

fn key_id(number: u8) -> KeyId {
    KeyId([b'0' + number; 12])
}

fn tenant_id(number: u8) -> TenantId {
    TenantId::new(&format!("tenant-{number}")).unwrap()
}

fn tenant_subject(number: u8) -> Subject {
    Subject::Tenant(tenant_id(number))
}

/// For each window the subject with the least left; of equals the one that stays so the longest.
fn tightest(all: &[Numbers]) -> Numbers {
    let least = |window: fn(&Numbers) -> Option<WindowNumbers>| {
        let rank =
            |numbers: &WindowNumbers| (numbers.remaining, u32::MAX - numbers.reset_in_seconds);
        all.iter().filter_map(window).min_by_key(rank)
    };
    let quota = least(|numbers| numbers.quota);
    let mut limited: Vec<&Numbers> = all.iter().filter(|one| one.quota.is_some()).collect();
    let shown = limited.iter().position(|one| one.quota == quota);
    let shown = shown.map(|place| limited.remove(place));
    Numbers {
        quota,
        burst: least(|numbers| numbers.burst),
        other_quota: limited.first().and_then(|other| other.quota),
        quota_is_tenants: shown.is_some_and(|one| one.quota_is_tenants),
        fell: 0,
    }
}

/// Boxed throughout: the types of strategies within strategies take the compiler minutes.
fn request() -> BoxedStrategy<Request> {
    // Which key, which tenant; 0 is none, and both none is the first key.
    let subject = prop::sample::select(vec![
        (1, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]);
    let cost = prop::sample::select(vec![1, 1, 1, 1, 1, 2, 3, 5, 6]);
    let late = prop::bool::weighted(0.1);
    (subject, cost, late)
        .prop_map(|((key, tenant), cost, late)| Request {
            key: Some(key).filter(|key| *key > 0),
            tenant: Some(tenant).filter(|tenant| *tenant > 0),
            cost,
            late,
        })
        .boxed()
}

fn rate(seconds: &[u32]) -> BoxedStrategy<Option<(u32, u32)>> {
    let seconds = prop::sample::select(seconds.to_vec());
    prop::option::weighted(0.9, (1_u32..9, seconds)).boxed()
}

fn step() -> BoxedStrategy<Step> {
    let at_once = (request(), 2_usize..4, 1_usize..4).prop_map(|(request, threads, each)| {
        Step::ChargeAtOnce {
            request,
            threads,
            each,
        }
    });
    let millis = prop::sample::select(vec![0, 0, 1, 250, 500, 999, 1_000, 1_750, 3_000, 30_000]);
    let wait = (millis, 0_u64..3).prop_map(|(millis, micros)| Step::Wait(millis, micros));
    let set = prop::sample::select(vec![-3_600_000, -5_000, -777, 1, 4_321, 3_600_000]);
    let plan = (any::<bool>(), rate(&[1, 3, 5, 60]), rate(&[1, 2, 4])).prop_map(
        |(of_keys, quota, burst)| Step::ChangePlan {
            of_keys,
            quota,
            burst,
        },
    );
    let off = prop::sample::select(vec![0, 1, 500, 2_345, 5_000]);
    prop::strategy::Union::new_weighted(vec![
        (12, request().prop_map(Step::Charge).boxed()),
        (1, at_once.boxed()),
        (5, wait.boxed()),
        (1, set.prop_map(Step::SetWallClock).boxed()),
        (2, plan.boxed()),
        (
            2,
            prop::bool::weighted(0.2)
                .prop_map(|fails| Step::Save { fails })
                .boxed(),
        ),
        (1, Just(Step::Sweep).boxed()),
        (1, Just(Step::Restart).boxed()),
        (1, Just(Step::Kill).boxed()),
        (1, off.prop_map(Step::Reboot).boxed()),
    ])
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(768))]

    /// CHECK2, CHECK3, CHECK4, CHECK13, S30, S31: every verdict, `Remaining`, `Reset` and `Retry-After` is what the list of admissions says.
    #[test]
    fn check2_check3_check4_check13_s30_counters_do_what_a_list_of_admissions_says(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
    }
}
