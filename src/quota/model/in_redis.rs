//! Counters that two nodes share in a real server, each request charged by itself. (What is held by lease is judged by `shared/model.rs`: how much a
//! node holds is its own affair, so that no list can say what it should answer.)

use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::quota::shared;
use crate::quota::shared::testing::Cluster;

use super::Side;
use super::Verdict;

pub(super) struct InRedis {
    cluster: Cluster,
    /// The latest time that the server has counted by: its clock may be set back, and time does not go with it.
    latest: u64,
    /// Who is asked next.
    turn: usize,
}

const NODES: usize = 2;

impl InRedis {
    fn ask(
        &mut self,
        charge: &Charge<'_>,
        late: bool,
        times: usize,
        charges: bool,
    ) -> Vec<shared::Verdict> {
        let at = self.now(late).mono.0;
        // The server's clock runs late, and is put right again.
        let back = if late { LATE } else { 0 };
        self.cluster.set_time(self.cluster.now() - back);
        self.turn += 1;
        let told = self
            .cluster
            .verdicts(self.turn % NODES, charge, times, charges);
        self.cluster.set_time(self.cluster.now());
        self.latest = at;
        told
    }
}

impl Side for InRedis {
    fn new() -> Option<InRedis> {
        let mut cluster = Cluster::start(NODES)?;
        let latest = cluster.now();
        // Until who comes late does not come while it learns.
        cluster.advance(LATE);
        Some(InRedis {
            cluster,
            latest,
            turn: 0,
        })
    }

    fn now(&self, late: bool) -> Now {
        let back = if late { LATE } else { 0 };
        let counts = self.latest.max(self.cluster.now() - back);
        Now {
            mono: Mono(counts),
            wall: Wall(counts),
        }
    }

    fn pass(&mut self, micros: u64) {
        self.cluster.advance(micros);
    }

    /// Of the nodes. What becomes of a server's clock that is set, tests/gateway/cluster_clocks.rs shows.
    fn set_wall_clock(&mut self, millis: i64) {
        self.cluster.clock.set_wall_by(millis / 1_000);
    }

    fn charge(&mut self, charge: &Charge<'_>, late: bool) -> Verdict {
        match self.ask(charge, late, 1, true).pop() {
            Some(shared::Verdict::Admitted(numbers)) => Verdict { wait: 0, numbers },
            Some(shared::Verdict::Refused(refused)) => Verdict {
                wait: refused.retry_after_seconds,
                numbers: refused.numbers,
            },
            // Nothing is limited, and nobody is asked.
            None => Verdict {
                wait: 0,
                numbers: Numbers::default(),
            },
            Some(shared::Verdict::Unknown) => panic!("the server is there"),
        }
    }

    fn charge_at_once(
        &mut self,
        charge: &Charge<'_>,
        late: bool,
        threads: usize,
        each: usize,
    ) -> usize {
        let mut told = Vec::new();
        for _ in 0..threads {
            told.extend(self.ask(charge, late, each, true));
        }
        let passed = |verdict: &&shared::Verdict| matches!(verdict, shared::Verdict::Admitted(_));
        match told.is_empty() {
            true => threads * each,
            false => told.iter().filter(passed).count(),
        }
    }

    fn peek(&mut self, charge: &Charge<'_>) -> Numbers {
        match self.ask(charge, false, 1, false).pop() {
            Some(shared::Verdict::Admitted(numbers)) => numbers,
            Some(shared::Verdict::Refused(refused)) => refused.numbers,
            _ => Numbers::default(),
        }
    }

    /// What was admitted is in the server when it is answered.
    fn forgets(&self) -> bool {
        false
    }

    fn save(&mut self, _fails: bool) {}

    fn sweep(&mut self) {
        self.cluster.sweep();
    }

    fn start(&mut self, off: Option<u64>) -> i64 {
        self.cluster.advance(off.unwrap_or(0) * 1_000);
        for node in 0..NODES {
            self.cluster.kill(node);
        }
        self.latest = self.cluster.now();
        0
    }
}

/// How late a clock may be read, in microseconds.
const LATE: u64 = 700_000;
