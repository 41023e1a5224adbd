//! Where the state of a key or a tenant lay when it was last found: a guess, which whoever follows it checks.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// The number of a seat (`quota/seats.rs`), beside what is known of its owner, so that his state is found without a search. Copies of a row
/// may guess differently, and a guess may be old: a seat says itself whose it is.
#[derive(Debug, Default)]
pub struct SeatHint(AtomicU32);

impl SeatHint {
    /// The guess that it is this one.
    #[must_use]
    pub fn at(number: u32) -> SeatHint {
        SeatHint(AtomicU32::new(number))
    }

    /// The number; 0 is no guess.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// The state was found there.
    pub fn set(&self, number: u32) {
        self.0.store(number, Ordering::Relaxed);
    }
}

impl Clone for SeatHint {
    fn clone(&self) -> SeatHint {
        SeatHint::at(self.number())
    }
}
