//! Looks for keys that do much more within an hour than they did the day before: page by page, so that a look ends soon however many keys are in use.

use crate::alerts::Alert;
use crate::alerts::rules;
use crate::clock::Wall;
use crate::config::AlertRules;
use crate::model::key::KeyId;
use crate::store::counters::CountersError;
use crate::store::history::History;
use crate::store::history::hour_of;

/// Keys of a page: a fraction of a second where all of them are busy.
pub(super) const PAGE: usize = 10_000;

/// Looks at the keys behind this one, in the order of their ids, at most so many of those that did something within this hour. Gives what there is to tell
/// and the key that the next page begins behind; `None` is that there is none.
///
/// # Errors
/// What they did cannot be read.
pub(super) fn look(
    history: &History,
    rules: &AlertRules,
    at: Wall,
    after: Option<KeyId>,
    most: usize,
) -> Result<(Vec<Alert>, Option<KeyId>), CountersError> {
    let hour = hour_of(at);
    let page = history.page(hour, hour, after, most)?;
    let last = page.last().filter(|_| page.len() == most);
    let next = last.map(|(key, _)| *key);
    let least = u64::from(rules.unusual_requests);
    let busy = page
        .iter()
        .filter(|(_, tally)| tally.requests() >= least)
        .map(|(key, _)| *key);
    let busy: Vec<KeyId> = busy.collect();
    if busy.is_empty() {
        return Ok((Vec::new(), next));
    }
    let did = history.hours_of_each(&busy, hour.saturating_sub(rules::MEAN_HOURS), hour)?;
    let unusual = did.into_iter().filter_map(|(key, hours)| {
        let sum = |of_now: bool| -> u64 {
            let of = hours.iter().filter(|(at, _)| (*at == hour) == of_now);
            of.map(|(_, tally)| tally.requests()).sum()
        };
        rules::unusual(rules, key, sum(true), sum(false), at)
    });
    Ok((unusual.collect(), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::store::counters::Batch;
    use crate::store::counters::Counters;
    use crate::store::history::HourRow;
    use crate::store::history::Tally;
    use crate::store::history::start_of;

    const HOUR: u32 = 500_000;

    fn row(key: u8, hour: u32, success: u64) -> HourRow {
        HourRow {
            key: KeyId([key; 12]),
            hour,
            tally: Tally {
                success,
                ..Tally::default()
            },
        }
    }

    /// FF15: every key is looked at once, whatever the pages, and the last page says that it is.
    #[test]
    fn pages_cover_all_keys() {
        let directory = tempfile::tempdir().unwrap();
        let now = Now {
            mono: Mono(1),
            wall: start_of(HOUR),
        };
        let (mut counters, _) = Counters::open(directory.path(), now).unwrap();
        let keys = b'a'..=b'h';
        let before = keys.clone().map(|key| row(key, HOUR - 1, 24));
        // Every other key does much.
        let did = |key: u8| if key.is_multiple_of(2) { 200 } else { 9 };
        let rows: Vec<HourRow> = (before.chain(keys.map(|key| row(key, HOUR, did(key))))).collect();
        let batch = Batch {
            usage: &rows,
            ..Batch::default()
        };
        counters.save(&batch, now).unwrap();
        let history = History::open(directory.path()).unwrap().unwrap();
        let rules = AlertRules {
            unusual_factor: 10,
            unusual_requests: 100,
            ..AlertRules::default()
        };
        for most in [1, 2, 3, 4, 7, 8, 9] {
            let (mut told, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let (alerts, next) = look(&history, &rules, now.wall, after, most).unwrap();
                told.extend(alerts.into_iter().map(|alert| alert.once));
                pages += 1;
                after = next;
                if after.is_none() {
                    break;
                }
            }
            let all = [b'b', b'd', b'f', b'h'].map(|key| format!("{} {HOUR}", KeyId([key; 12])));
            assert_eq!(told, all, "{most} a page");
            assert_eq!(pages, 8 / most + 1);
        }
    }
}
