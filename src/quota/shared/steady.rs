//! What leases cost and what they lose, request by request, under loads that the design was simulated with.

use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Charge;
use crate::quota::Quota;

use super::testing::Cluster;
use super::testing::Fate;
use super::testing::key;
use super::testing::limits;

/// How requests come.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// At random, as many per second throughout.
    Steady,
    /// A minute's requests within the second before and after its beginning.
    OnTheMinute,
}

/// One key's requests over some nodes.
#[derive(Clone, Copy, Debug)]
struct Load {
    nodes: usize,
    plan: Limits,
    /// Times what the plan allows.
    times: f64,
    seconds: f64,
    /// Or the first node gets the most.
    is_even: bool,
    pattern: Pattern,
}

/// What came of it.
#[derive(Debug)]
struct Seen {
    /// Of what one exact counter without delay would have admitted, percent missing.
    under: f64,
    trips_per_request: f64,
    /// Microseconds that a script took in the store.
    script: f64,
}

/// A stream of chances that is the same each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// `None` where there is no store to be had.
fn run(load: &Load) -> Option<Seen> {
    let Load { nodes, plan, .. } = load;
    let (nodes, pattern) = (*nodes, load.pattern);
    let mut cluster = Cluster::start(nodes)?;
    let exact = Quota::new();
    let mut chance = Chance(7);
    let rate = |rate: Rate| f64::from(rate.count) / f64::from(rate.seconds);
    let allowed = plan
        .burst
        .map_or(f64::MAX, rate)
        .min(plan.quota.map_or(f64::MAX, rate));
    let weights: Vec<f64> = (0..nodes)
        .map(|node| {
            if load.is_even {
                1.0
            } else {
                1.0 / (node + 1) as f64
            }
        })
        .collect();
    let (mut asked, mut could) = (0, 0);
    let mut elapsed = 0.0;
    while elapsed < load.seconds {
        let (speed, skip) = match pattern {
            Pattern::Steady => (1.0, 0.0),
            Pattern::OnTheMinute if elapsed % 60.0 < 1.0 || elapsed % 60.0 > 59.0 => (30.0, 0.0),
            Pattern::OnTheMinute => (30.0, 59.0 - elapsed % 60.0),
        };
        let pause = skip + -(1.0 - chance.next()).ln() / (allowed * load.times * speed);
        pass(&mut cluster, pause);
        elapsed += pause;
        let mut place = chance.next() * weights.iter().sum::<f64>();
        let node = weights.iter().position(|weight| {
            place -= weight;
            place < 0.0
        });
        let node = node.unwrap_or(0);
        let charge = Charge {
            key: Some((key(1), plan)),
            tenant: None,
            cost: 1,
        };
        could += usize::from(exact.charge(&charge, cluster.clock.now()).is_ok());
        cluster.ask(node, key(1), &charge);
        asked += 1;
        if cluster.is_due(node) {
            cluster.serve(node, Fate::Arrives(0, 0), |_| {});
        }
    }
    cluster.check(plan);
    let info: String = cluster.ask_store(&["INFO", "commandstats"]);
    let script = info
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    let script = script.and_then(|line| {
        line.split(',')
            .find_map(|word| word.strip_prefix("usec_per_call="))
    });
    let admitted = cluster.admitted.get(&key(1)).map_or(0, Vec::len);
    Some(Seen {
        under: 100.0 * (1.0 - admitted as f64 / could as f64),
        trips_per_request: cluster.trips as f64 / f64::from(asked),
        script: script.map_or(0.0, |micros| micros.parse().unwrap()),
    })
}

/// Time passes, and what ends meanwhile is told to the store when it does.
fn pass(cluster: &mut Cluster, seconds: f64) {
    let mut left = (seconds * 1e6) as u64;
    while left > 0 {
        let step = left.min(20_000);
        cluster.advance(step);
        left -= step;
        for node in 0..cluster.nodes.len() {
            if cluster.is_due(node) {
                cluster.serve(node, Fate::Arrives(0, 0), |_| {});
            }
        }
    }
}

/// Issue 9: under-admission at steady load, and trips per request of a hot key; never over (`check`).
#[test]
fn leases_lose_little_and_ask_seldom() {
    let usual = Load {
        nodes: 3,
        plan: limits(None, Some((6_000, 60))),
        times: 0.8,
        seconds: 90.0,
        is_even: true,
        pattern: Pattern::Steady,
    };
    let quota = limits(Some((10_800, 120)), Some((6_000, 60)));
    let short = limits(None, Some((1_000, 1)));
    let uneven = Load {
        times: 1.0,
        is_even: false,
        ..usual
    };
    let many = Load {
        times: 3.0,
        seconds: 120.0,
        ..usual
    };
    let on_the_minute = Load {
        times: 1.2,
        seconds: 140.0,
        pattern: Pattern::OnTheMinute,
        ..usual
    };
    let second = Load {
        plan: short,
        seconds: 10.0,
        ..usual
    };
    // Percent missing and trips per request, at most.
    for (name, load, under, trips) in [
        ("0.8, 1 node", Load { nodes: 1, ..usual }, 0.5, 0.01),
        ("0.8", usual, 0.5, 0.03),
        (
            "0.8, quota",
            Load {
                plan: quota,
                seconds: 130.0,
                ..usual
            },
            0.5,
            0.03,
        ),
        ("1.0, uneven", uneven, 2.0, 0.06),
        ("3.0", many, 2.0, 0.06),
        ("1.2, on the minute", on_the_minute, 5.0, 0.06),
        (
            "0.5 of 1000/s",
            Load {
                times: 0.5,
                ..second
            },
            0.5,
            0.2,
        ),
        ("0.8 of 1000/s", second, 2.0, 0.5),
    ] {
        let Some(seen) = run(&load) else { return };
        println!(
            "{name}: {:.2} % under, {:.4} trips per request",
            seen.under, seen.trips_per_request
        );
        assert!(seen.under <= under, "{name}: {seen:?}");
        assert!(seen.trips_per_request <= trips, "{name}: {seen:?}");
    }
}

/// How it goes on with more nodes, for `benches/README.md`.
#[test]
#[ignore = "prints a table, and takes a minute"]
fn growth() {
    for (name, plan, times, seconds) in [
        (
            "0.8 of 60000/min",
            limits(None, Some((60_000, 60))),
            0.8,
            30.0,
        ),
        (
            "3.0 of 12000/min",
            limits(None, Some((12_000, 60))),
            3.0,
            75.0,
        ),
    ] {
        for nodes in [1, 3, 16, 64] {
            let load = Load {
                nodes,
                plan,
                times,
                seconds,
                is_even: true,
                pattern: Pattern::Steady,
            };
            let Some(seen) = run(&load) else { return };
            println!(
                "| {name} | {nodes} | {:.2} | {:.4} | {:.0} |",
                seen.under, seen.trips_per_request, seen.script
            );
        }
    }
}
