//! Usage as it stands in the shared store: some forty bytes for what a key did in an hour.

use serde::Deserialize;
use serde::Serialize;

use crate::model::key::KeyId;
use crate::store::counters::key_text;
use crate::store::counters::parse_key;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;

#[derive(Serialize, Deserialize)]
struct Line {
    key: [u8; 12],
    /// Seconds of the hour until the last use, and one; 0 is none.
    used: u64,
    /// Successes, client errors, server errors, refusals, bytes received, bytes sent.
    counts: [u64; 6],
    latency: [u64; LATENCY_BUCKETS],
}

/// What these keys did in this hour.
pub(super) fn keys(hour: u32, keys: &[(KeyId, Tally)]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(1 + keys.len() * 40);
    packed.push(FORMAT);
    for (key, did) in keys {
        add(&mut packed, hour, key.0, did);
    }
    packed
}

/// What all of them did together.
pub(super) fn sum(hour: u32, did: &Tally) -> Vec<u8> {
    let mut packed = vec![FORMAT];
    add(&mut packed, hour, NOBODY.0, did);
    packed
}

fn add(packed: &mut Vec<u8>, hour: u32, key: [u8; 12], did: &Tally) {
    let used = match did.last_used_unix_seconds {
        0 => 0,
        // By a clock that was set back it may be before its hour; then it is told as the hour's beginning.
        at => at.saturating_sub(begin(hour)) + 1,
    };
    let line = Line {
        key,
        used,
        counts: [
            did.success,
            did.client_error,
            did.server_error,
            did.refused,
            did.received_bytes,
            did.sent_bytes,
        ],
        latency: did.latency,
    };
    // Into memory, which cannot fail.
    packed.extend(postcard::to_allocvec(&line).unwrap_or_default());
}

/// Reads it again; of nothing, nothing.
///
/// # Errors
/// It is none of this: cut, of a later portcullis, or another's.
pub(super) fn read(
    hour: u32,
    packed: &[u8],
    each: &mut dyn FnMut(KeyId, &Tally),
) -> Result<(), String> {
    let mut left = match packed.split_first() {
        None => return Ok(()),
        Some((&FORMAT, left)) => left,
        Some((other, _)) => return Err(format!("format {other} is not known")),
    };
    while !left.is_empty() {
        let (line, rest) =
            postcard::take_from_bytes::<Line>(left).map_err(|_| "it is cut".to_owned())?;
        let (key, did) = line
            .read(hour)
            .ok_or_else(|| "there is no such key".to_owned())?;
        each(key, &did);
        left = rest;
    }
    Ok(())
}

impl Line {
    fn read(&self, hour: u32) -> Option<(KeyId, Tally)> {
        // So that sums of whatever stands there cannot run over.
        let most = |count: u64| count.min(COUNT_MAX);
        let last_used = match self.used {
            0 => 0,
            used => begin(hour) + most(used) - 1,
        };
        let tally = Tally::of(last_used, self.counts.map(most), self.latency.map(most));
        let key = parse_key(&key_text(KeyId(self.key)))?;
        Some((key, tally))
    }
}

fn begin(hour: u32) -> u64 {
    u64::from(hour) * 3_600
}

const FORMAT: u8 = 1;
/// Whose the sum is.
const NOBODY: KeyId = KeyId(*b"000000000000");
const COUNT_MAX: u64 = 1 << 48;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u32 = 491_000;

    fn tally() -> impl Strategy<Value = Tally> {
        let count = || prop_oneof![0..3_u64, 0..COUNT_MAX];
        let counts = [count(), count(), count(), count(), count(), count()];
        let latency = [count(), count(), count(), count(), count(), count()];
        let used = prop_oneof![Just(0), begin(HOUR)..begin(HOUR) + 7_200];
        (used, counts, latency).prop_map(|(last_used_unix_seconds, counts, latency)| Tally {
            last_used_unix_seconds,
            success: counts[0],
            client_error: counts[1],
            server_error: counts[2],
            refused: counts[3],
            received_bytes: counts[4],
            sent_bytes: counts[5],
            latency,
        })
    }

    fn all(packed: &[u8]) -> Result<Vec<(KeyId, Tally)>, String> {
        let mut found = Vec::new();
        read(HOUR, packed, &mut |key, did| found.push((key, *did)))?;
        Ok(found)
    }

    proptest! {
        /// What was packed is read as it was, and cut anywhere it is never half of that in silence.
        #[test]
        fn what_is_packed_is_read(did in prop::collection::vec((b'a'..=b'z', tally()), 0..9), cut in 0..400_usize) {
            let given: Vec<(KeyId, Tally)> = did.into_iter().map(|(letter, did)| (KeyId([letter; 12]), did)).collect();
            let packed = keys(HOUR, &given);
            prop_assert_eq!(all(&packed).unwrap(), given.clone());
            if let Ok(found) = all(&packed[..cut.min(packed.len())]) {
                prop_assert_eq!(&found[..], &given[..found.len()]);
            }
            let sum_of = given.iter().fold(Tally::default(), |sum, (_, did)| sum.and(did));
            prop_assert_eq!(sum(HOUR, &sum_of).len() > 13, true);
        }

        /// Bytes of another's hand are refused or read, and never add up to more than fits.
        #[test]
        fn other_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), after_format in any::<bool>()) {
            let mut bytes = bytes;
            if after_format {
                bytes.insert(0, FORMAT);
            }
            if let Ok(found) = all(&bytes) {
                let sum = found.iter().fold(Tally::default(), |sum, (_, did)| sum.and(did));
                prop_assert!(sum.requests() < u64::MAX);
            }
        }
    }

    #[test]
    fn what_is_of_a_later_portcullis_is_not_guessed_at() {
        assert_eq!(all(&[]), Ok(Vec::new()));
        assert_eq!(all(&[2, 1]), Err("format 2 is not known".to_owned()));
        assert_eq!(all(&[FORMAT, 1]), Err("it is cut".to_owned()));
        let mut packed = keys(HOUR, &[(KeyId([b'a'; 12]), Tally::default())]);
        packed[1] = b'/';
        assert_eq!(all(&packed), Err("there is no such key".to_owned()));
    }

    /// A use by a clock that was set back counts as one at the beginning of its hour.
    #[test]
    fn a_use_before_its_hour_is_one() {
        let did = Tally {
            last_used_unix_seconds: 7,
            ..Tally::default()
        };
        let found = all(&keys(HOUR, &[(KeyId([b'a'; 12]), did)])).unwrap();
        assert_eq!(found[0].1.last_used_unix_seconds, begin(HOUR));
    }
}
