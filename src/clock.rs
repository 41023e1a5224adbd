//! The only place that reads the time; everything else takes it as an argument.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A point on the machine's monotonic clock (CLOCK_BOOTTIME: it counts suspended time too), in microseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// This point, `span` later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(micros(span)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A point on the wall clock, in microseconds since the Unix epoch. It dates expiry, `Reset` and log lines; it never measures a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl Wall {
    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The wall-clock point of a Unix time in whole seconds.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Wall {
        Wall(seconds.saturating_mul(1_000_000))
    }
}

/// Both clocks, read together once per request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For spans and windows.
    pub mono: Mono,
    /// For dates.
    pub wall: Wall,
}

/// Where the time comes from: the machine, or the machine plus a shift that a test moves.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// `None` outside tests.
    shift: Option<Arc<Shift>>,
}

/// What is added to the machine's clocks, in microseconds.
#[derive(Debug, Default)]
struct Shift {
    /// Instead of the machine's clocks, where time is to pass by `advance` alone.
    still: Option<Now>,
    /// To both.
    both: AtomicI64,
    /// To the wall clock besides.
    wall: AtomicI64,
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Clock {
        Clock { shift: None }
    }

    /// The machine's clocks plus a shift of zero that `advance` moves. No command line or configuration reaches this.
    #[must_use]
    pub fn movable() -> Clock {
        Clock {
            shift: Some(Arc::default()),
        }
    }

    /// A movable clock that stands still by itself: what a test does takes no time, however busy the machine is.
    #[must_use]
    pub fn still(now: Now) -> Clock {
        Clock {
            shift: Some(Arc::new(Shift {
                still: Some(now),
                ..Shift::default()
            })),
        }
    }

    /// Moves a movable clock and all its clones forward; does nothing to the system clock.
    pub fn advance(&self, span: Duration) {
        if let Some(shift) = &self.shift {
            shift.both.fetch_add(micros(span) as i64, Ordering::SeqCst);
        }
    }

    /// Sets the wall clock of a movable clock and all its clones forward or, below zero, back, as an operator or NTP would: the
    /// monotonic clock goes on. Does nothing to the system clock.
    pub fn set_wall_by(&self, seconds: i64) {
        if let Some(shift) = &self.shift {
            shift.wall.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
        }
    }

    /// Reads the monotonic clock alone, for a span that has ended.
    #[must_use]
    pub fn mono(&self) -> Mono {
        if self.shift.is_some() {
            return self.now().mono;
        }
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Mono(timespec_micros(boot, 0))
    }

    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let (both, besides) = self.shift.as_ref().map_or((0, 0), |shift| {
            let read = |micros: &AtomicI64| micros.load(Ordering::SeqCst);
            (read(&shift.both), read(&shift.wall))
        });
        if let Some(still) = self.shift.as_ref().and_then(|shift| shift.still) {
            return Now {
                mono: Mono(still.mono.0.saturating_add_signed(both)),
                wall: Wall(still.wall.0.saturating_add_signed(both + besides)),
            };
        }
        Now {
            mono: Mono(timespec_micros(boot, both)),
            wall: Wall(timespec_micros(wall, both + besides)),
        }
    }
}

/// The processor time that the calling thread has used so far: what it takes, and not what it waits for.
#[must_use]
pub fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::from_micros(timespec_micros(used, 0))
}

fn timespec_micros(time: rustix::time::Timespec, shift: i64) -> u64 {
    let micros = time.tv_sec * 1_000_000 + time.tv_nsec / 1_000 + shift;
    u64::try_from(micros).unwrap_or(0)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
