//! The suite that every kind of counters has to pass: against a naive model that keeps the plain list of admissions, through any order of charges,
//! clocks, plans, saves, restarts and reboots. It is the same for those of one node, saved in SQLite, and for those that nodes share in Redis.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::clock::Now;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::model::tenant::TenantId;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::store::counters::Subject;

mod history;
mod in_redis;
mod on_disk;

use history::History;
use history::SECOND;
use history::tightest;
use history::up;
use in_redis::InRedis;
use on_disk::OnDisk;

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
    /// The gateway's wall clock is set by so many milliseconds.
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

/// What the headers and a refusal should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// Seconds to wait, 0 for admitted.
    wait: u32,
    numbers: Numbers,
}

/// The counters of one kind, with what keeps them and the clocks that they go by.
trait Side: Sized {
    /// New ones; `None`, loudly, where what they need is left out.
    fn new() -> Option<Self>;
    /// The time that counts for a request whose thread read the clock now, or late.
    fn now(&self, late: bool) -> Now;
    fn pass(&mut self, micros: u64);
    fn set_wall_clock(&mut self, millis: i64);
    fn charge(&mut self, charge: &Charge<'_>, late: bool) -> Verdict;
    /// How many of `threads` times `each` passed at once.
    fn charge_at_once(
        &mut self,
        charge: &Charge<'_>,
        late: bool,
        threads: usize,
        each: usize,
    ) -> usize;
    fn peek(&mut self, charge: &Charge<'_>) -> Numbers;
    /// Whether a crash forgets what was not saved.
    fn forgets(&self) -> bool;
    fn save(&mut self, fails: bool);
    fn sweep(&mut self);
    /// Starts after a crash, of the machine where `off` says for how many milliseconds. By how much the times of what was saved are moved.
    fn start(&mut self, off: Option<u64>) -> i64;
}

/// Both sides, and what should be there after a crash.
struct World<S> {
    side: S,
    model: BTreeMap<Subject, History>,
    saved: BTreeMap<Subject, History>,
    /// Charged, swept or found to be over since the last save.
    unsaved: Vec<Subject>,
    plans: [Limits; 2],
}

impl<S: Side> World<S> {
    fn new() -> Option<World<S>> {
        let rate = |count, seconds| Some(Rate { count, seconds });
        let plan = Limits {
            quota: rate(6, 5),
            burst: rate(4, 2),
        };
        Some(World {
            side: S::new()?,
            model: BTreeMap::new(),
            saved: BTreeMap::new(),
            unsaved: Vec::new(),
            plans: [plan; 2],
        })
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Charge(request) => {
                let expected = self.charge(request);
                // SEEDS 8.3: a second less fails, sleeping it succeeds. A cost above a limit never passes.
                if expected.wait > 0 && self.is_possible(request) {
                    self.side.pass(u64::from(expected.wait - 1) * 1_000_000);
                    if expected.wait > 1 {
                        assert!(self.charge(request).wait > 0, "a second early");
                    }
                    self.side.pass(1_000_000);
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
            Step::Wait(millis, micros) => self.side.pass(millis * 1_000 + micros),
            Step::SetWallClock(millis) => self.side.set_wall_clock(millis),
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
            // Whoever has had nothing for ten seconds goes, and goes from the file with the next save.
            Step::Sweep => {
                self.side.sweep();
                self.drop_over(self.now().mono.0 as i64 - 10 * SECOND);
            }
            Step::Restart => {
                self.save(false);
                self.start(None);
            }
            Step::Kill => self.start(None),
            Step::Reboot(millis) => self.start(Some(millis)),
        }
        self.assert_peeks_agree();
    }

    fn now(&self) -> Now {
        self.side.now(false)
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

    /// Charges both sides and compares all that is said; what the model says.
    fn charge(&mut self, request: Request) -> Verdict {
        let expected = self.expect(request);
        let side = &mut self.side;
        let told = with_charge(&self.plans, request, |charge| {
            side.charge(charge, request.late)
        });
        assert_eq!(told, expected, "{request:?}");
        expected
    }

    fn expect(&mut self, request: Request) -> Verdict {
        let now = self.side.now(request.late);
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
        let expected = (0..threads * each).filter(|_| self.expect(request).wait == 0);
        let expected = expected.count();
        let side = &mut self.side;
        let passed = with_charge(&self.plans, request, |charge| {
            side.charge_at_once(charge, request.late, threads, each)
        });
        assert_eq!(passed, expected, "{request:?} at once");
    }

    fn save(&mut self, fails: bool) {
        self.side.save(fails);
        if fails {
            return;
        }
        for subject in self.unsaved.drain(..) {
            match self.model.get(&subject) {
                Some(history) => self.saved.insert(subject, history.clone()),
                None => self.saved.remove(&subject),
            };
        }
    }

    fn start(&mut self, off: Option<u64>) {
        let shift = self.side.start(off);
        if !self.side.forgets() {
            return;
        }
        let now = self.now();
        self.unsaved.clear();
        // On disk the times are moved once and for all; what was ahead of the clock is set right at each start.
        for history in self.saved.values_mut() {
            history.moved(shift);
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

    fn assert_peeks_agree(&mut self) {
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
            let side = &mut self.side;
            let told = with_charge(&self.plans, request, |charge| side.peek(charge));
            assert_eq!(told, tightest(&said), "{request:?}");
        }
    }
}

/// Hands over what a request is charged to.
fn with_charge<T>(plans: &[Limits; 2], request: Request, done: impl FnOnce(&Charge<'_>) -> T) -> T {
    let tenant = request.tenant.map(tenant_id);
    done(&Charge {
        key: request.key.map(|key| (key_id(key), &plans[1])),
        tenant: tenant.as_ref().map(|id| (id, &plans[0])),
        cost: request.cost,
    })
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

/// Takes these steps on one side and on the list of admissions.
fn walk<S: Side>(steps: &[Step]) {
    let Some(mut world) = World::<S>::new() else {
        return;
    };
    for step in steps {
        world.step(step);
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
        walk::<OnDisk>(&steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::with_cases(48) })]

    /// The same steps and the same verdicts over two nodes and a real server: a crash of a node forgets nothing, and no clock of a node counts.
    #[test]
    fn check2_check3_check4_check11_shared_counters_do_what_a_list_of_admissions_says(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        walk::<InRedis>(&steps);
    }
}
