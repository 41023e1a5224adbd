//! What the lines of one subject say in the end.

use smallvec::SmallVec;

use crate::model::key::KeyId;
use crate::store::history::HOURS_KEPT;
use crate::store::history::HourRow;
use crate::store::history::Tally;

use super::Row;
use super::SavedBurst;
use super::SavedQuota;
use super::Subject;
use super::lines::BEHIND;
use super::lines::BURST;
use super::lines::Bases;
use super::lines::Burst;
use super::lines::COUNT_MAX;
use super::lines::HOURS;
use super::lines::LAST_USED;
use super::lines::LIMITS;
use super::lines::Limits;
use super::lines::Line;
use super::lines::QUOTA;
use super::lines::Reader;
use super::lines::UNKNOWN;
use super::lines::USAGE;
use super::lines::WHOLE;
use super::lines::Whose;
use super::lines::fields_of;
use super::lines::length;

/// The windows that are left, and what the key did.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    /// Whether any of them says something of windows.
    pub(super) told: bool,
    pub(super) quota: Option<SavedQuota>,
    /// The length of the burst's window; nothing of it is left without.
    pub(super) seconds: Option<u32>,
    /// The times within which the last line stayed, if it came behind others.
    behind: Option<(i64, i64)>,
    pub(super) log: Vec<(i64, u32)>,
    /// By hour, each once.
    pub(super) usage: Vec<HourRow>,
}

impl Line<'_> {
    /// Whether it says of a burst only what is new.
    pub(super) fn is_behind(&self) -> bool {
        self.flags & BURST == BEHIND
    }
}

impl Sum {
    pub(super) fn clear(&mut self) {
        (self.told, self.quota, self.seconds, self.behind) = (false, None, None, None);
        self.log.clear();
        self.usage.clear();
    }

    /// Begins with what the tables say.
    pub(super) fn begin(&mut self, row: Option<Row>) {
        self.told = true;
        if let Some(burst) = row.and_then(|row| row.burst) {
            self.seconds = Some(burst.seconds);
            self.log = burst.log.into_vec();
        }
    }

    /// Takes a line in, which was saved after those before. `None` where no save can have written it.
    pub(super) fn take_in(&mut self, mut line: Line<'_>, bases: Bases) -> Option<()> {
        self.take_in_usage(&mut line, bases)?;
        let rest = &mut line.rest;
        match line.flags & (LIMITS | QUOTA | BURST) {
            0 => {}
            says if says & LIMITS == 0 => return None,
            says => {
                self.told = true;
                self.quota = match says & QUOTA {
                    0 => None,
                    _ => Some(rest.quota(bases)?),
                };
                self.take_in_burst(says & BURST, rest, bases)?;
            }
        }
        (rest.left() == 0).then_some(())
    }

    /// Takes in what a line says of usage, and leaves the rest of it.
    pub(super) fn take_in_usage(&mut self, line: &mut Line<'_>, bases: Bases) -> Option<()> {
        let rest = &mut line.rest;
        let hours = match line.flags & (USAGE | HOURS | UNKNOWN) {
            0 => 0,
            USAGE => 1,
            HOURS => rest.number()?,
            _ => return None,
        };
        for _ in 0..hours {
            let Whose::Key(id) = line.whose else {
                return None;
            };
            let did = rest.usage(bases, KeyId(id))?;
            let hours = self.usage.len();
            match self.usage.iter_mut().find(|known| known.hour == did.hour) {
                Some(known) => {
                    are_below(&known.tally, SUM_MAX).then_some(())?;
                    known.tally = known.tally.and(&did.tally);
                }
                None if hours < HOURS_KEPT as usize => self.usage.push(did),
                None => return None,
            }
        }
        Some(())
    }

    fn take_in_burst(&mut self, kind: u8, rest: &mut Reader<'_>, bases: Bases) -> Option<()> {
        match kind {
            0 => self.seconds = None,
            WHOLE => {
                self.seconds = Some(length(rest.small()?)?);
                self.behind = None;
                self.log.clear();
                let first = rest.signed()?.wrapping_add(bases.mono);
                rest.times(first, &mut self.log)?;
            }
            BEHIND => self.go_on(rest, bases)?,
            _ => return None,
        }
        Some(())
    }

    /// Takes in what is new of a burst. What has passed is still there: `settle` lets go of that, since the next line may move the first time further.
    fn go_on(&mut self, rest: &mut Reader<'_>, bases: Bases) -> Option<()> {
        self.seconds?;
        let first = rest.signed()?.wrapping_add(bases.mono);
        let last = first.checked_add_unsigned(rest.number()?)?;
        // Most often the last of all.
        if self.log.last().is_none_or(|(at, _)| *at != last) {
            let stays = self.log.partition_point(|(at, _)| *at <= last);
            self.log.truncate(stays);
        }
        let found = self.log.last().is_some_and(|(at, _)| *at == last);
        let forward = self.behind.is_none_or(|(before, _)| before <= first);
        rest.times(last, &mut self.log)?;
        self.behind = Some((first, last));
        (found && forward).then_some(())
    }

    /// Lets go of what has passed. `None` where nothing is left, or not what was said, or more than there can be.
    pub(super) fn settle(&mut self) -> Option<()> {
        if self.seconds.is_none() {
            self.log.clear();
            return Some(());
        }
        let last = self.log.last()?.0;
        let first = match self.behind.take() {
            Some((begins, _)) => {
                let passed = self.log.partition_point(|(at, _)| *at < begins);
                self.log.drain(..passed);
                (self.log.first()?.0 == begins).then_some(begins)?
            }
            None => self.log.first()?.0,
        };
        // As far as the tables can tell times apart.
        last.checked_sub(first)?;
        let mut counts = self.log.iter().map(|(_, count)| *count);
        counts.try_fold(0_u32, u32::checked_add).map(|_| ())
    }

    /// The same with its times moved. `None` where they are more than there can be.
    pub(super) fn moved(&self, by: i64) -> Option<Sum> {
        let mut moved = self.clone();
        if let Some(quota) = &mut moved.quota {
            quota.opened_micros = quota.opened_micros.checked_add(by)?;
        }
        for (at, _) in &mut moved.log {
            *at = at.checked_add(by)?;
        }
        Some(moved)
    }

    /// Whether it can be a line again.
    pub(super) fn fits(&self) -> bool {
        let mut tallies = self.usage.iter().map(|row| &row.tally);
        tallies.all(|tally| are_below(tally, COUNT_MAX))
    }

    /// What is said of the windows, if anything is.
    pub(super) fn limits(&self) -> Option<Limits<'_>> {
        self.told.then_some(Limits {
            quota: self.quota,
            burst: self.seconds.map(|seconds| Burst {
                seconds,
                behind: None,
                log: &self.log,
            }),
        })
    }

    /// The windows that are left.
    pub(super) fn row(&self, subject: &Subject) -> Option<Row> {
        let burst = self.seconds.map(|seconds| SavedBurst {
            seconds,
            behind: None,
            log: SmallVec::from_slice(&self.log),
        });
        (self.quota.is_some() || burst.is_some()).then(|| Row {
            subject: subject.clone(),
            quota: self.quota,
            burst,
        })
    }
}

/// Whether all that is counted is so much at most.
fn are_below(tally: &Tally, most: u64) -> bool {
    let mut fields = fields_of(tally).into_iter().enumerate();
    fields.all(|(place, field)| place == LAST_USED || field <= most)
}

/// So much of anything at most is gone on from: with what one line says it is still a number.
const SUM_MAX: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::clock::Wall;
    use crate::store::counters::lines::Lines;

    proptest! {
        /// Whatever is packed is read again as it was, wherever the clocks stood; whatever is cut or changed is refused, or is something else.
        #[test]
        fn what_was_packed_is_read_again(
            clocks in (any::<u64>(), any::<u64>()),
            quota in prop::option::of((any::<i64>(), 0..1_u64 << 63, 1_u32.., any::<u32>())),
            burst in prop::option::of((1_u32.., any::<i64>(), prop::collection::vec((0_i64..1 << 61, any::<u32>()), 1..4))),
            hours in prop::collection::vec((any::<u64>(), prop::array::uniform12(0..=COUNT_MAX)), 0..3),
            (place, byte) in (any::<prop::sample::Index>(), any::<u8>()),
        ) {
            let now = Now { mono: Mono(clocks.0), wall: Wall(clocks.1) };
            let quota = quota.map(|(opened_micros, wall, seconds, used)| SavedQuota { opened_micros, opened_wall: Wall(wall), seconds, used });
            let burst = burst.map(|(seconds, first, steps)| {
                // Times go forward, as far as there are any.
                let first = first >> 1;
                let log = steps.iter().scan(first, |at, (step, count)| {
                    *at = at.saturating_add(*step);
                    Some((*at, *count))
                });
                SavedBurst { seconds, behind: None, log: log.collect() }
            });
            let usage: Vec<HourRow> = hours.iter().zip(0..).map(|((last, counts), hour)| did(*last, counts, hour * 1_000_003)).collect();
            let subject = Subject::Key(KEY);
            let row = Row { subject: subject.clone(), quota, burst };
            let bases = Bases::at(now);
            let mut lines = Lines::default();
            lines.add(bases, Whose::Key(KEY.0), Some(Limits::of(&row)), &usage);
            let sum = read(lines.packed()).unwrap();
            let expected = (row.quota.is_some() || row.burst.is_some()).then_some(row);
            prop_assert_eq!(sum.row(&subject), expected);
            prop_assert_eq!(sum.usage, usage);
            let mut other = lines.packed().to_vec();
            let place = place.index(other.len());
            prop_assert!(read(&other[..place]).is_none());
            other[place] = byte;
            // Something or nothing, and no panic.
            let _ = read(&other);
        }
    }

    const KEY: KeyId = KeyId(*b"a0b1c2d3e4f5");

    fn did(last_used_unix_seconds: u64, counts: &[u64; 12], hour: u32) -> HourRow {
        let tally = Tally {
            last_used_unix_seconds,
            success: counts[0],
            client_error: counts[1],
            server_error: counts[2],
            refused: counts[3],
            received_bytes: counts[4],
            sent_bytes: counts[5],
            latency: std::array::from_fn(|bucket| counts[6 + bucket]),
        };
        HourRow {
            key: KEY,
            hour,
            tally,
        }
    }

    fn read(packed: &[u8]) -> Option<Sum> {
        let (bases, mut lines) = Reader::save(packed)?;
        let mut sum = Sum::default();
        sum.take_in(lines.line()?, bases)?;
        (lines.left() == 0).then_some(sum)
    }
}
