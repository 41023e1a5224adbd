//! Several nodes over one store through any order of requests, trips that are lost or late, deaths and a store that forgets: never over a limit.

use proptest::prelude::*;

use crate::model::limit::Limits;
use crate::quota::Charge;
use crate::store::counters::Subject;

use super::Ask;
use super::Verdict;
use super::testing::Cluster;
use super::testing::Fate;
use super::testing::key;
use super::testing::limits;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// So many requests of one key at one node, each at this cost.
    Requests {
        node: usize,
        key: u8,
        times: u32,
        cost: u32,
    },
    /// A node's thread has its turn; meanwhile as many requests come.
    Serve {
        node: usize,
        fate: Fate,
        meanwhile: u32,
    },
    /// All nodes are asked for one key without pause, and each has its turn again and again, with trips and pauses as long as these milliseconds.
    Load {
        rounds: u32,
        each: u32,
        cost: u32,
        trip: (u64, u64),
        pause: u64,
    },
    /// Microseconds pass.
    Wait(u64),
    /// The store's clock is set back by so many.
    SetBack(u64),
    GiveBack(usize),
    /// A node dies, or the store forgets everything: never both in one world, since then nobody knows what was admitted.
    Disaster(usize),
}

const NODES: usize = 3;

fn fate() -> BoxedStrategy<Fate> {
    prop_oneof![
        12 => (0..30_u64, 0..30_u64).prop_map(|(out, back)| Fate::Arrives(out, back)),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Late),
    ]
    .boxed()
}

fn step() -> BoxedStrategy<Step> {
    let node = 0..NODES;
    let many = (node.clone(), 0..2_u8, 1..60_u32, 1..9_u32);
    let many = many.prop_map(|(node, key, times, cost)| Step::Requests {
        node,
        key,
        times,
        cost,
    });
    let serve = (node.clone(), fate(), 0..20_u32);
    let serve = serve.prop_map(|(node, fate, meanwhile)| Step::Serve {
        node,
        fate,
        meanwhile,
    });
    prop_oneof![
        8 => many,
        10 => serve,
        4 => (0..400_000_u64).prop_map(Step::Wait),
        2 => (400_000..7_000_000_u64).prop_map(Step::Wait),
        1 => set_back(),
        1 => node.clone().prop_map(Step::GiveBack),
        1 => node.prop_map(Step::Disaster),
    ]
    .boxed()
}

fn set_back() -> BoxedStrategy<Step> {
    (0..40_000_000_u64).prop_map(Step::SetBack).boxed()
}

fn load() -> BoxedStrategy<Step> {
    let often_none = |max| prop_oneof![Just(0), 0..max];
    let pause = prop_oneof![Just(0), 0..60_u64, 50..400_u64];
    let times = (often_none(30_u64), 0..30_u64, pause);
    let load = (1..300_u32, 1..12_u32, 1..6_u32, times);
    load.prop_map(|(rounds, each, cost, (out, back, pause))| Step::Load {
        rounds,
        each,
        cost,
        trip: (out, back),
        pause,
    })
    .boxed()
}

fn plan() -> BoxedStrategy<Limits> {
    prop::sample::select(vec![
        limits(None, Some((600, 6))),
        limits(Some((1_200, 20)), Some((600, 6))),
        limits(Some((900, 5)), None),
        limits(Some((700, 9)), Some((800, 4))),
        // Too small for leases: each by itself.
        limits(Some((90, 8)), Some((60, 3))),
    ])
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::with_cases(32) })]

    /// DESIGN promise 2, CHECK11: over all nodes never one over, whatever becomes of what is sent.
    #[test]
    fn check11_leases_never_admit_one_over(
        plan in plan(),
        forgets in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let Some(mut cluster) = Cluster::start(NODES) else { return Ok(()) };
        for step in &steps {
            take(&mut cluster, step, &plan, forgets);
        }
        cluster.check(&plan);
    }

    /// The same at the limit for longer than its windows last: nothing counts for too short a time, however long a trip takes.
    #[test]
    fn check11_leases_never_admit_one_over_at_the_limit(
        plan in plan(),
        loads in prop::collection::vec(prop_oneof![4 => load(), 1 => set_back()], 1..5),
    ) {
        let Some(mut cluster) = Cluster::start(NODES) else { return Ok(()) };
        for load in &loads {
            take(&mut cluster, load, &plan, false);
        }
        cluster.check(&plan);
    }
}

fn take(cluster: &mut Cluster, step: &Step, plan: &Limits, forgets: bool) {
    match *step {
        Step::Requests {
            node,
            key: name,
            times,
            cost,
        } => {
            for _ in 0..times {
                cluster.request(node, key(name), plan, cost);
            }
        }
        Step::Serve {
            node,
            fate,
            meanwhile,
        } => cluster.serve(node, fate, |cluster| {
            for _ in 0..meanwhile {
                cluster.request(node, key(0), plan, 1);
            }
        }),
        Step::Load {
            rounds,
            each,
            cost,
            trip: (out, back),
            pause,
        } => {
            for round in 0..rounds {
                let node = round as usize % NODES;
                for _ in 0..each {
                    cluster.request(node, key(0), plan, cost);
                }
                cluster.serve(node, Fate::Arrives(out, back), |cluster| {
                    cluster.request(node, key(0), plan, 1);
                });
                cluster.advance(pause * 1_000);
            }
        }
        Step::Wait(micros) => cluster.advance(micros),
        Step::SetBack(micros) => cluster.set_back(micros),
        Step::GiveBack(node) => cluster.give_back(node),
        Step::Disaster(_) if forgets => cluster.flush(),
        Step::Disaster(node) => cluster.kill(node),
    }
}

/// So many requests of one key at a node, and then its turn.
fn served(cluster: &mut Cluster, plan: &Limits, node: usize, times: u32) {
    for _ in 0..times {
        cluster.request(node, key(1), plan, 1);
    }
    cluster.serve(node, Fate::Arrives(0, 0), |_| {});
}

/// A node is asked until ten milliseconds before the first window of its key ends.
fn until_the_end_of_a_window(cluster: &mut Cluster, plan: &Limits) {
    let mut ends = u64::MAX;
    while cluster.now() + 300_000 < ends - 10_000 {
        served(cluster, plan, 0, 30);
        ends = cluster.admitted[&key(1)][0].ends.unwrap() * 1_000_000;
        cluster.advance(300_000.min(ends - 10_000 - cluster.now()));
    }
    cluster.advance(ends - 10_000 - cluster.now());
}

/// The example of the page on leases: what one node holds and does not use comes back when it stops, and another may have it at once.
#[test]
fn what_is_given_back_is_free_at_once() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((1_000, 3_600)), Some((1_000, 60)));
    for _ in 0..20 {
        cluster.request(0, key(1), &plan, 1);
    }
    cluster.serve(0, Fate::Arrives(0, 0), |_| {});
    // Its rate is known now: this lease looks ahead.
    for _ in 0..40 {
        cluster.request(0, key(1), &plan, 1);
    }
    cluster.serve(0, Fate::Arrives(0, 0), |_| {});
    let used = cluster.admitted[&key(1)].len();
    assert_eq!(used, 60);
    let sum = |cluster: &mut Cluster| -> u64 {
        cluster.ask_store(&["GET", &format!("portcullis:ls:{}", Subject::Key(key(1)))])
    };
    assert!(sum(&mut cluster) > 60, "some are held");
    cluster.give_back(0);
    assert_eq!(sum(&mut cluster), 60);
    for _ in 0..1_000 {
        cluster.request(1, key(1), &plan, 1);
    }
    cluster.serve(1, Fate::Arrives(0, 0), |_| {});
    assert_eq!(cluster.admitted[&key(1)].len(), 1_000);
    cluster.check(&plan);
}

/// The failure table's first line: what a killed node used at the very end of its lease, and never reported, counts for as long as it has to.
#[test]
fn what_a_killed_node_used_late_counts_long_enough() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(None, Some((600, 6)));
    let ask = |cluster: &mut Cluster, node, times| served(cluster, &plan, node, times);
    ask(&mut cluster, 0, 20);
    ask(&mut cluster, 0, 40);
    cluster.advance(700_000);
    // Without a turn of its thread: the store hears nothing of these.
    for _ in 0..40 {
        cluster.request(0, key(1), &plan, 1);
    }
    let before = cluster.admitted[&key(1)].len();
    assert!(before > 70, "{before}");
    cluster.kill(0);
    for _ in 0..60 {
        ask(&mut cluster, 1, 30);
        cluster.advance(200_000);
    }
    cluster.check(&plan);
    let (admitted, seconds) = (cluster.admitted[&key(1)].len(), 12);
    assert!(admitted > 600 * seconds / 6, "{admitted}");
}

/// A window that was over does not come back when the store's clock is set back and a node that had been silent says again what it admitted: the one
/// that is open would end with it.
#[test]
fn a_window_that_was_over_stays_over() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((90, 8)), None);
    served(&mut cluster, &plan, 1, 30);
    let used = is_over_and_stays_over(&mut cluster, &plan, 100);
    assert_eq!(used, 120);
}

/// The same of permits that were held of it, and used without another word.
#[test]
fn a_window_that_was_over_stays_over_for_leases() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((900, 8)), None);
    for times in [20, 40, 40] {
        served(&mut cluster, &plan, 1, times);
        cluster.advance(100_000);
    }
    // Cut off from the store meanwhile.
    cluster.request(1, key(1), &plan, 800);
    cluster.serve(1, Fate::Lost, |_| {});
    let (held, used) = (cluster.held(1, key(1)), cluster.admitted[&key(1)].len());
    assert!(held > 10, "{held}");
    for _ in 0..10 {
        cluster.request(1, key(1), &plan, 1);
    }
    assert_eq!(cluster.admitted[&key(1)].len(), used + 10);
    assert!(is_over_and_stays_over(&mut cluster, &plan, 1_000) > 900);
}

/// The first node uses the next window up before the clock is set back into the one before, and the second says again what it knows. Gives what had been
/// used by then.
fn is_over_and_stays_over(cluster: &mut Cluster, plan: &Limits, times: u32) -> usize {
    cluster.advance(9_500_000);
    served(cluster, plan, 0, times);
    let used = cluster.admitted[&key(1)].len();
    cluster.set_back(5_000_000);
    cluster.request(1, key(1), plan, times);
    cluster.serve(1, Fate::Lost, |_| {});
    for _ in 0..20 {
        served(cluster, plan, 1, 1);
        served(cluster, plan, 0, 100);
        cluster.advance(500_000);
    }
    cluster.check(plan);
    used
}

/// The same where the store's clock was set back meanwhile: a lease goes on that is of the time before.
#[test]
fn a_lease_outlives_a_clock_that_is_set_back() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(None, Some((1_200, 60)));
    let ask = |cluster: &mut Cluster, node, times| served(cluster, &plan, node, times);
    for times in [20, 40, 40] {
        ask(&mut cluster, 0, times);
        cluster.advance(100_000);
    }
    cluster.set_back(30_000_000);
    // The other node has the store learn, and then look at what stands ahead.
    for _ in 0..3 {
        ask(&mut cluster, 1, 1);
        cluster.advance(600_000);
    }
    cluster.advance(5_000_000);
    let held = cluster.held(0, key(1));
    assert!(held > 20, "{held}");
    for _ in 0..held {
        cluster.request(0, key(1), &plan, 1);
    }
    cluster.kill(0);
    for _ in 0..160 {
        ask(&mut cluster, 1, 40);
        cluster.advance(500_000);
    }
    cluster.check(&plan);
    assert!(cluster.admitted[&key(1)].len() > 1_200);
}

/// A lease that is renewed while its window ends keeps nothing of it for the next.
#[test]
fn nothing_is_kept_across_the_end_of_a_window() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((900, 5)), None);
    until_the_end_of_a_window(&mut cluster, &plan);
    // From what is held; and that is how it becomes time for a renewal, which arrives when the window is over.
    let before = cluster.admitted[&key(1)].len();
    cluster.request(0, key(1), &plan, 1);
    assert_eq!(cluster.admitted[&key(1)].len(), before + 1);
    let trips = cluster.trips;
    cluster.serve(0, Fate::Arrives(20, 5), |_| {});
    assert_eq!(cluster.trips, trips + 1, "it was renewed");
    for _ in 0..4 {
        for node in [0, 1] {
            for _ in 0..600 {
                cluster.request(node, key(1), &plan, 1);
            }
            cluster.serve(node, Fate::Arrives(0, 0), |_| {});
        }
        cluster.advance(300_000);
    }
    cluster.check(&plan);
    assert_eq!(cluster.admitted[&key(1)].len(), before + 1 + 900);
}

/// FF15: what other nodes used shows in the first number that a node says after it has heard of it, so that no alert is passed over.
#[test]
fn what_others_used_is_told_as_a_fall() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((2_000, 3_600)), None);
    let ask = |cluster: &mut Cluster, node, times| served(cluster, &plan, node, times);
    ask(&mut cluster, 0, 20);
    ask(&mut cluster, 0, 40);
    cluster.fell = 0;
    ask(&mut cluster, 0, 5);
    assert_eq!(cluster.fell, 1, "nobody else");
    ask(&mut cluster, 1, 300);
    cluster.fell = 0;
    for _ in 0..100 {
        ask(&mut cluster, 0, 3);
    }
    assert!(cluster.fell > 300, "{}", cluster.fell);
}

/// A request that waits while its window ends brings nothing along of what was held: it opens the next window with what it is given there alone.
#[test]
fn a_request_that_waits_across_the_end_of_a_window_brings_nothing_along() {
    let Some(mut cluster) = Cluster::start(2) else {
        return;
    };
    let plan = limits(Some((900, 5)), None);
    until_the_end_of_a_window(&mut cluster, &plan);
    let held = cluster.held(0, key(1));
    assert!((1..200).contains(&held), "{held}");
    cluster.request(0, key(1), &plan, 200);
    cluster.serve(0, Fate::Arrives(20, 5), |_| {});
    for (node, times) in [(1, 600), (0, 1), (0, 600), (1, 600)] {
        for _ in 0..times {
            cluster.request(node, key(1), &plan, 1);
        }
        cluster.serve(node, Fate::Arrives(0, 0), |_| {});
    }
    cluster.check(&plan);
}

/// What a node held and did not use in time counts nowhere any more, least of all in a store that is told anew.
#[test]
fn what_has_expired_is_not_claimed() {
    let Some(mut cluster) = Cluster::start(1) else {
        return;
    };
    let plan = limits(Some((6_000, 3_600)), Some((6_000, 60)));
    for times in [20, 40, 10] {
        for _ in 0..times {
            cluster.request(0, key(1), &plan, 1);
        }
        cluster.serve(0, Fate::Arrives(0, 0), |_| {});
        cluster.advance(100_000);
    }
    assert!(cluster.counted(key(1)).0 > 70, "some are held");
    cluster.advance(20_000_000);
    cluster.flush();
    let (used, log, _) = cluster.counted(key(1));
    assert_eq!((used, log), (70, 70));
}

/// A report that a server was not ready for is said again as a claim, and what is kept counts once.
#[test]
fn what_is_held_while_the_store_learns_counts_once() {
    let Some(mut cluster) = Cluster::start(1) else {
        return;
    };
    let plan = limits(None, Some((6_000, 60)));
    for times in [20, 40, 10] {
        for _ in 0..times {
            cluster.request(0, key(1), &plan, 1);
        }
        cluster.serve(0, Fate::Arrives(0, 0), |_| {});
        cluster.advance(100_000);
    }
    cluster.flush();
    // More than is held, so that the store is asked; it learns still.
    cluster.request(0, key(1), &plan, 1_000);
    cluster.serve(0, Fate::Arrives(0, 0), |_| {});
    cluster.advance(1_000_000);
    cluster.request(0, key(1), &plan, 1_000);
    cluster.serve(0, Fate::Arrives(0, 0), |_| {});
    cluster.check(&plan);
    assert_eq!(
        cluster.admitted[&key(1)].last().map(|last| last.cost),
        Some(1_000)
    );
    let held = cluster.held(0, key(1));
    let (_, log, _) = cluster.counted(key(1));
    assert_eq!(log, 1_070 + held, "{held} are held");
}

/// CHECK4: what an earlier run of a node admitted, and what one admitted that is cut off, an emptied store hears of those who heard it; and once it is
/// said by who it was, it counts once.
#[test]
fn check4_an_emptied_store_hears_of_those_who_cannot_speak() {
    let Some(mut cluster) = Cluster::start(3) else {
        return;
    };
    let plan = limits(Some((100, 3_600)), None);
    let ask = |cluster: &mut Cluster, node: usize, times: u32| {
        for _ in 0..times {
            cluster.request(node, key(1), &plan, 1);
        }
        cluster.serve(node, Fate::Arrives(0, 0), |_| {});
        cluster.admitted[&key(1)].len()
    };
    assert_eq!(ask(&mut cluster, 0, 40), 40);
    assert_eq!(ask(&mut cluster, 1, 30), 70);
    cluster.kill(0);
    assert_eq!(ask(&mut cluster, 2, 5), 75);
    // Neither the first run of node 0 nor node 1 says anything.
    cluster.forget();
    for node in [0, 2] {
        cluster.greet(node);
    }
    cluster.advance(1_100_000);
    assert_eq!(ask(&mut cluster, 0, 60), 100);
    cluster.greet(1);
    assert_eq!(cluster.counted(key(1)).0, 100);
    assert_eq!(ask(&mut cluster, 1, 10), 100);
    cluster.check(&plan);
}

/// `limits_outage = "share"`: a request that costs more than is held is judged beside what is held, since that may be used at any time.
#[test]
fn what_is_held_counts_beside_what_a_share_admits() {
    let Some(mut cluster) = Cluster::start(3) else {
        return;
    };
    let plan = limits(Some((900, 3_600)), None);
    for times in [20, 40, 40] {
        served(&mut cluster, &plan, 0, times);
        cluster.advance(100_000);
    }
    let used = cluster.admitted[&key(1)].len() as u32;
    let held = cluster.held(0, key(1)) as u32;
    assert!(held > 0 && used + 2 * held < 300, "{used}, {held}");
    let verdict = |cluster: &mut Cluster, cost: u32| {
        let mono = cluster.mono();
        let counting = &mut cluster.nodes[0].counting;
        counting.settings.deny_in_outage = false;
        counting
            .nodes
            .store(3, std::sync::atomic::Ordering::Relaxed);
        let charge = Charge {
            key: Some((key(1), &plan)),
            tenant: None,
            cost,
        };
        counting.without_store(&Ask::of(&charge).unwrap(), mono)
    };
    let room = 300 - used - held;
    let refused = verdict(&mut cluster, room + 1);
    assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
    let admitted = verdict(&mut cluster, room);
    assert!(matches!(admitted, Verdict::Admitted(_)), "{admitted:?}");
}
