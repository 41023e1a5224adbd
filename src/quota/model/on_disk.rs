//! Counters of one node, saved in SQLite.

use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::quota::Changes;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::quota::Quota;
use crate::store::properties::CounterFile;

use super::Side;
use super::Verdict;

pub(super) struct OnDisk {
    quota: Quota,
    file: CounterFile,
    mono: u64,
    wall: u64,
    boot: u32,
    /// Wall minus monotonic clock at the last save.
    saved_offset: i64,
}

impl OnDisk {
    fn offset(&self) -> i64 {
        self.wall as i64 - self.mono as i64
    }
}

impl Side for OnDisk {
    fn new() -> Option<OnDisk> {
        let mut side = OnDisk {
            quota: Quota::new(),
            file: CounterFile::new(),
            mono: 1_000_000_000,
            wall: 1_700_000_000_123_456,
            boot: 0,
            saved_offset: 0,
        };
        let _ = side.file.reopen(side.now(false), 0);
        side.saved_offset = side.offset();
        Some(side)
    }

    /// A late thread read its clock before others came in between.
    fn now(&self, late: bool) -> Now {
        let back = if late { 700_000 } else { 0 };
        Now {
            mono: Mono(self.mono - back),
            wall: Wall(self.wall - back),
        }
    }

    fn pass(&mut self, micros: u64) {
        self.mono += micros;
        self.wall += micros;
    }

    fn set_wall_clock(&mut self, millis: i64) {
        self.wall = self.wall.saturating_add_signed(millis * 1_000);
    }

    fn charge(&mut self, charge: &Charge<'_>, late: bool) -> Verdict {
        told(&self.quota, charge, self.now(late))
    }

    fn charge_at_once(
        &mut self,
        charge: &Charge<'_>,
        late: bool,
        threads: usize,
        each: usize,
    ) -> usize {
        let (quota, now) = (&self.quota, self.now(late));
        std::thread::scope(|scope| {
            let work = || {
                let passed = (0..each).filter(|_| told(quota, charge, now).wait == 0);
                passed.count()
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let passed = running.into_iter().map(|thread| thread.join().unwrap());
            passed.sum()
        })
    }

    fn peek(&mut self, charge: &Charge<'_>) -> Numbers {
        self.quota.peek(charge, self.now(false))
    }

    fn forgets(&self) -> bool {
        true
    }

    fn save(&mut self, fails: bool) {
        // As of many: only what is new, which the file has to put together again.
        let mut changes = Changes::default();
        let now = self.now(false);
        self.quota.export_new_from(1, &mut changes, now);
        if fails {
            self.quota.unexport(changes);
            return;
        }
        self.file
            .save(&changes.rows, &changes.removed, now, self.boot);
        self.saved_offset = self.offset();
    }

    fn sweep(&mut self) {
        self.quota.sweep(self.now(false));
    }

    fn start(&mut self, off: Option<u64>) -> i64 {
        let mut shift = 0;
        if let Some(millis) = off {
            self.boot += 1;
            self.wall += millis * 1_000;
            self.mono = 3_000_000;
            shift = self.saved_offset - self.offset();
            self.saved_offset = self.offset();
        }
        let now = self.now(false);
        let rows = self.file.reopen(now, self.boot);
        self.quota = Quota::new();
        self.quota.restore(rows, now);
        shift
    }
}

fn told(quota: &Quota, charge: &Charge<'_>, now: Now) -> Verdict {
    match quota.charge(charge, now) {
        Ok(numbers) => Verdict { wait: 0, numbers },
        Err(refused) => Verdict {
            wait: refused.retry_after_seconds,
            numbers: refused.numbers,
        },
    }
}
