//! What must hold of counters restored from any file: fuzz target and proptest call the same function.

use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Charge;
use crate::quota::Quota;
use crate::store::counters::Subject;
use crate::store::properties::NOW;
use crate::store::properties::counter_rows;

/// Restores whatever `counter_rows` took: charging goes on within the limits, `Retry-After` is true, and no window outlives its length.
pub(crate) fn restored_counters(data: &[u8]) {
    let rows = counter_rows(data);
    let subjects: Vec<Subject> = rows.iter().map(|row| row.subject.clone()).collect();
    let quota = Quota::new();
    quota.restore(rows, NOW);
    let shape = data.last().copied().unwrap_or(0);
    let rate = |count, seconds| Some(Rate { count, seconds });
    let limits = Limits {
        quota: rate(1 + u32::from(shape), 3_600),
        burst: rate(1 + u32::from(shape) * 5, 60),
    };
    for subject in &subjects {
        let mut charge = Charge {
            key: None,
            tenant: None,
            cost: 1 + u32::from(shape & 3),
        };
        match subject {
            Subject::Key(id) => charge.key = Some((*id, &limits)),
            Subject::Tenant(id) => charge.tenant = Some((id, &limits)),
        }
        let numbers = quota.peek(&charge, NOW);
        let (window, burst) = (numbers.quota, numbers.burst);
        assert!(window.is_some_and(|window| window.reset_in_seconds <= 3_600));
        assert!(burst.is_some_and(|burst| burst.reset_in_seconds <= 61));
        let possible = limits.quota.is_some_and(|rate| charge.cost <= rate.count);
        if let Err(refused) = quota.charge(&charge, NOW) {
            let seconds = refused.retry_after_seconds;
            assert!((1..=3_600).contains(&seconds));
            if possible {
                let early = quota.charge(&charge, after(seconds - 1));
                assert!(seconds == 1 || early.is_err());
                assert!(quota.charge(&charge, after(seconds)).is_ok());
            }
        }
    }
    let changes = quota.export(NOW);
    quota.unexport(changes.clone());
    assert_eq!(quota.export(NOW), changes);
    // The last charge was at most an hour from now, and its window lasts another.
    quota.sweep(after(7_300));
    assert_eq!(quota.subjects(), 0);
}

fn after(seconds: u32) -> Now {
    let micros = u64::from(seconds) * 1_000_000;
    Now {
        mono: Mono(NOW.mono.0 + micros),
        wall: Wall(NOW.wall.0 + micros),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_024))]

        #[test]
        fn check4_any_file_is_counted_on_within_the_limits(data in prop::collection::vec(any::<u8>(), 0..400)) {
            restored_counters(&data);
        }
    }
}
