//! The times of a burst, in order: a few beside everything else that a charge touches, more of them on the heap.

use std::collections::VecDeque;

/// Admissions that share a time. Packed to 12 bytes: there may be 512 for each of a million keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(Rust, packed(4))]
pub(super) struct Stamp {
    pub(super) at: i64,
    pub(super) count: u32,
}

/// Times in order. Most keys are used a few times within a burst's length: then no other memory is asked for, and none has to come from far away.
#[derive(Clone, Debug)]
pub(super) enum Log {
    /// As many as this of the first.
    Few(u8, [Stamp; FEW]),
    Many(VecDeque<Stamp>),
}

impl Log {
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Log::Few(count, _) => usize::from(*count),
            Log::Many(stamps) => stamps.len(),
        }
    }

    #[inline]
    pub(super) fn first(&self) -> Option<Stamp> {
        match self {
            Log::Few(count, stamps) => (*count > 0).then_some(stamps[0]),
            Log::Many(stamps) => stamps.front().copied(),
        }
    }

    #[inline]
    pub(super) fn last(&self) -> Option<Stamp> {
        match self {
            Log::Few(count, stamps) => stamps.get(before(*count)).copied(),
            Log::Many(stamps) => stamps.back().copied(),
        }
    }

    #[inline]
    pub(super) fn last_mut(&mut self) -> Option<&mut Stamp> {
        match self {
            Log::Few(count, stamps) => stamps.get_mut(before(*count)),
            Log::Many(stamps) => stamps.back_mut(),
        }
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Stamp> {
        match self {
            Log::Few(count, stamps) => stamps[..usize::from(*count)].get(index).copied(),
            Log::Many(stamps) => stamps.get(index).copied(),
        }
    }

    /// The stamp with this number, of those that there are.
    #[inline]
    pub(super) fn at_mut(&mut self, index: usize) -> Option<&mut Stamp> {
        match self {
            Log::Few(count, stamps) => stamps[..usize::from(*count)].get_mut(index),
            Log::Many(stamps) => stamps.get_mut(index),
        }
    }

    /// All from this number on.
    pub(super) fn from(&self, first: usize) -> impl Iterator<Item = Stamp> {
        (first..self.len()).filter_map(|index| self.get(index))
    }

    #[inline]
    pub(super) fn push(&mut self, stamp: Stamp) {
        match self {
            Log::Few(count, stamps) if usize::from(*count) < FEW => {
                stamps[usize::from(*count)] = stamp;
                *count += 1;
            }
            Log::Few(..) => self.push_to_heap(stamp),
            Log::Many(stamps) => stamps.push_back(stamp),
        }
    }

    #[cold]
    #[inline(never)]
    fn push_to_heap(&mut self, stamp: Stamp) {
        let mut stamps: VecDeque<Stamp> = self.from(0).collect();
        stamps.push_back(stamp);
        *self = Log::Many(stamps);
    }

    /// Lets go of the first; of the last, also of the heap.
    #[inline]
    pub(super) fn pop_first(&mut self) {
        match self {
            Log::Few(count, stamps) => {
                let [_, second, third, fourth] = *stamps;
                *stamps = [second, third, fourth, Stamp::default()];
                *count = count.saturating_sub(1);
            }
            Log::Many(stamps) => {
                stamps.pop_front();
                if stamps.is_empty() {
                    *self = Log::default();
                }
            }
        }
    }

    pub(super) fn truncate(&mut self, kept: usize) {
        match self {
            Log::Few(count, _) => *count = (*count).min(u8::try_from(kept).unwrap_or(u8::MAX)),
            Log::Many(stamps) => stamps.truncate(kept),
        }
    }
}

/// The number of the last of so many; of none, one that nothing has.
fn before(count: u8) -> usize {
    usize::from(count).wrapping_sub(1)
}

impl Default for Log {
    fn default() -> Log {
        Log::Few(0, [Stamp::default(); FEW])
    }
}

impl PartialEq for Log {
    fn eq(&self, other: &Log) -> bool {
        self.from(0).eq(other.from(0))
    }
}

impl Eq for Log {}

/// As many as make a burst's window one cache line; the heap gives no fewer at a time.
const FEW: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Log {
        pub(in crate::quota::window) fn heap_bytes(&self) -> usize {
            match self {
                Log::Few(..) => 0,
                Log::Many(stamps) => stamps.capacity() * size_of::<Stamp>(),
            }
        }
    }

    #[test]
    fn few_times_are_in_place() {
        assert_eq!(size_of::<Log>(), 56);
        let mut log = Log::default();
        for at in 0..=FEW as i64 {
            assert_eq!(log.heap_bytes(), 0);
            log.push(Stamp { at, count: 1 });
        }
        assert!(log.heap_bytes() > 0);
        (0..=FEW).for_each(|_| log.pop_first());
        assert_eq!(log.heap_bytes(), 0);
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Push,
        Pop,
        Truncate(usize),
        Raise(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => Just(Act::Push),
            3 => Just(Act::Pop),
            1 => (0..9_usize).prop_map(Act::Truncate),
            1 => (0..9_usize).prop_map(Act::Raise),
        ]
    }

    proptest! {
        /// Short or long, in place or on the heap, and back.
        #[test]
        fn a_log_is_a_queue(acts in prop::collection::vec(act(), 0..80)) {
            let (mut log, mut queue) = (Log::default(), VecDeque::new());
            for (at, act) in acts.into_iter().enumerate() {
                let stamp = Stamp { at: at as i64, count: 1 };
                match act {
                    Act::Push => {
                        log.push(stamp);
                        queue.push_back(stamp);
                    }
                    Act::Pop => {
                        log.pop_first();
                        queue.pop_front();
                    }
                    Act::Truncate(kept) => {
                        log.truncate(kept);
                        queue.truncate(kept);
                    }
                    Act::Raise(index) => {
                        prop_assert_eq!(log.at_mut(index).copied(), queue.get(index).copied());
                        log.at_mut(index).into_iter().for_each(|stamp| stamp.count += 1);
                        queue.get_mut(index).into_iter().for_each(|stamp| stamp.count += 1);
                    }
                }
                prop_assert_eq!(log.len(), queue.len());
                prop_assert_eq!(log.first(), queue.front().copied());
                prop_assert_eq!(log.last(), queue.back().copied());
                prop_assert_eq!(log.last_mut().copied(), queue.back().copied());
                prop_assert!(log.from(0).eq(queue.iter().copied()));
                prop_assert!(log.from(2).eq(queue.iter().skip(2).copied()));
            }
        }
    }
}
