//! Spans in microseconds, and the whole seconds that clients are told of them.

use crate::clock::Wall;

pub(super) fn length(seconds: u32) -> i64 {
    i64::from(seconds) * MICROS
}

pub(super) fn seconds_up(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0).div_ceil(MICROS as u64)
}

/// The beginning of a second.
pub(super) fn second_of(wall: Wall) -> Wall {
    Wall(wall.0 - wall.0 % MICROS as u64)
}

pub(super) fn unix_seconds_up(wall: Wall, micros: i64) -> u64 {
    wall.0.saturating_add_signed(micros).div_ceil(MICROS as u64)
}

pub(super) fn narrow(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

pub(super) const MICROS: i64 = 1_000_000;
