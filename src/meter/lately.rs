//! How many requests a key made within the last five minutes, and how many of them failed: in 22 bytes, since a million keys may be in use.

/// Requests of the last minutes. Up to 65,535 a minute are counted one by one; beyond that in units of two, of four and so on, and what a flush adds is
/// rounded to them. A unit is then at most 1/32,768 of the busiest minute.
#[derive(Debug, Default)]
pub(super) struct Lately {
    /// The newest first: all requests, and those that failed.
    minutes: [(u16, u16); MINUTES],
    /// The minute that the first one is of, as far as a byte tells.
    newest: u8,
    /// What a unit is: two to the power of this.
    scale: u8,
}

/// Error rates are those of so many minutes.
pub(super) const MINUTES: usize = 5;

/// Who is this far ahead is behind.
const LATE: u8 = u8::MAX - MINUTES as u8;

impl Lately {
    /// Lets go of what has passed in this minute. To be called more often than every 250 minutes, or it takes an old one for a new one. Who comes a little
    /// later than others, with a minute from before theirs, changes nothing.
    pub(super) fn roll(&mut self, minute: u64) {
        let passed = (minute as u8).wrapping_sub(self.newest);
        if self.are_none() {
            self.newest = minute as u8;
            return;
        }
        if passed == 0 || passed > LATE {
            return;
        }
        self.newest = minute as u8;
        let passed = usize::from(passed).min(MINUTES);
        self.minutes.rotate_right(passed);
        self.minutes[..passed].fill((0, 0));
        let most = self.minutes.iter().map(|(requests, _)| *requests);
        match most.max() {
            None | Some(0) => self.scale = 0,
            Some(most) => self.finer(most),
        }
    }

    /// Counts requests of the newest minute.
    pub(super) fn add(&mut self, requests: u64, failed: u64) {
        if requests == 0 {
            return;
        }
        loop {
            let units = |count: u64, there: u16| {
                let more = count.saturating_add((1 << self.scale) >> 1) >> self.scale;
                u16::try_from(more.saturating_add(there.into()))
            };
            let (there, failed_there) = self.minutes[0];
            // Not more failed than there were.
            if let (Ok(requests), Ok(failed)) =
                (units(requests, there), units(failed, failed_there))
            {
                self.minutes[0] = (requests, failed);
                return;
            }
            self.coarser();
        }
    }

    /// All requests, and those that failed.
    pub(super) fn sums(&self) -> (u64, u64) {
        let sum = |which: fn(&(u16, u16)) -> u16| -> u64 {
            let units = self.minutes.iter().map(which).map(u64::from);
            units.sum::<u64>() << self.scale
        };
        (sum(|minute| minute.0), sum(|minute| minute.1))
    }

    pub(super) fn are_none(&self) -> bool {
        self.minutes.iter().all(|(requests, _)| *requests == 0)
    }

    fn coarser(&mut self) {
        self.scale += 1;
        for (requests, failed) in &mut self.minutes {
            *requests = requests.div_ceil(2);
            *failed = failed.div_ceil(2);
        }
    }

    /// As fine as the busiest minute lets it be.
    fn finer(&mut self, most: u16) {
        let by = most.leading_zeros().min(self.scale.into());
        for (requests, failed) in &mut self.minutes {
            *requests <<= by;
            *failed <<= by;
        }
        self.scale -= by as u8;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minutes_pass_one_by_one() {
        let mut lately = Lately::default();
        for minute in 1_000..1_300 {
            lately.roll(minute);
            lately.add(minute, 1);
            let last = minute.saturating_sub(4).max(1_000)..=minute;
            assert_eq!(lately.sums().0, last.clone().sum::<u64>(), "{minute}");
            assert_eq!(lately.sums().1, last.count() as u64);
        }
        lately.roll(1_303);
        assert_eq!(lately.sums(), (1_299, 1));
        lately.roll(1_302);
        assert_eq!(lately.sums(), (1_299, 1), "a late one");
        lately.roll(1_304);
        assert!(lately.are_none());
    }

    /// Whoever was busy and is not any more is counted one by one again.
    #[test]
    fn a_busy_minute_passes_too() {
        let mut lately = Lately::default();
        lately.add(u64::from(u32::MAX) * 4, 7);
        let (requests, failed) = lately.sums();
        assert!(requests.abs_diff(u64::from(u32::MAX) * 4) <= 1 << 19 && failed == 0);
        for minute in 1..5 {
            lately.roll(minute);
            lately.add(1 << 30, 1 << 20);
        }
        for minute in 5..9 {
            lately.roll(minute);
            lately.add(1 << 12, 1 << 10);
        }
        lately.roll(9);
        for _ in 0..1_000 {
            lately.add(3, 1);
        }
        assert_eq!(lately.sums(), (3_000, 1_000), "less than a unit before");
        lately.roll(20);
        lately.add(1_000_000, 10_000);
        for minute in 21..25 {
            lately.roll(minute);
            lately.add(2_000, 16);
        }
        lately.roll(25);
        for _ in 0..1_000 {
            lately.add(3, 1);
        }
        assert_eq!(lately.sums(), (8_000 + 3_000, 64 + 1_000));
    }

    /// A little of much is neither lost nor made more of, flush by flush.
    #[test]
    fn what_a_flush_adds_is_rounded() {
        let mut lately = Lately::default();
        for _ in 0..60 {
            lately.add(20_000, 28);
        }
        let (requests, failed) = lately.sums();
        assert!(requests.abs_diff(60 * 20_000) < 2_000, "{requests}");
        assert!(failed.abs_diff(60 * 28) < 60 * 28 / 5, "{failed}");
    }

    proptest! {
        /// However much comes in however many flushes: never more failed than there were, and both are right to a unit for each flush.
        #[test]
        fn what_is_told_is_near_what_was(
            flushes in prop::collection::vec((0_u64..2, 0_u64..5_000_000, 0_u64..=100), 1..60),
        ) {
            let mut lately = Lately::default();
            let mut minute = 0;
            let mut all = Vec::new();
            for (passed, requests, percent) in flushes {
                minute += passed;
                let failed = requests * percent / 100;
                lately.roll(minute);
                lately.add(requests, failed);
                all.push((minute, requests, failed, lately.scale));
                all.retain(|(at, ..)| at + MINUTES as u64 > minute);
                let expected = all.iter().fold((0, 0), |sum, flush| (sum.0 + flush.1, sum.1 + flush.2));
                // Half of one for each flush, and each time that units are doubled.
                let coarsest = all.iter().map(|flush| flush.3).max().unwrap_or(0);
                let off = ((1 << coarsest) - 1) * (all.len() as u64 + MINUTES as u64 * 2);
                let told = lately.sums();
                prop_assert!(told.1 <= told.0);
                prop_assert!(told.0.abs_diff(expected.0) <= off, "{told:?} {expected:?}");
                prop_assert!(told.1.abs_diff(expected.1) <= off, "{told:?} {expected:?}");
            }
        }
    }
}
