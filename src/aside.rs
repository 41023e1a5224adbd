//! Long work that no request waits for, done beside those that may need the same processor.

use std::cell::Cell;
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Mono;

/// Lets whoever else is ready run, every so often; to be called for each small piece of a long work, with its number. A worker on the same processor
/// would else wait until all of it is done, or its slice is over: milliseconds, which is what the slowest of a hundred requests then takes.
pub fn give_way(piece: usize) {
    if piece % PIECES == PIECES - 1 {
        step_aside();
    }
}

/// Lets whoever else is ready run, but where others had the processor for long only just now: who gives way to a worker that is never done would come to
/// an end after minutes, and what it writes down would be as old.
pub fn step_aside() {
    let (back, away) = LAST.get();
    let before = Clock::system().mono();
    if before.since(back) < (away / SHARE).min(STRETCH_MAX) {
        return;
    }
    std::thread::yield_now();
    let back = Clock::system().mono();
    LAST.set((back, back.since(before)));
}

thread_local! {
    /// When this thread had the processor again, and for how long it had not.
    static LAST: Cell<(Mono, Duration)> = const { Cell::new((Mono(0), Duration::ZERO)) };
}

/// Pieces of a microsecond or two between one look at who waits and the next.
const PIECES: usize = 32;

/// So much of the time that others had is worked before they are let run again.
const SHARE: u32 = 4;
/// But no longer than this, which is what somebody may wait.
const STRETCH_MAX: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Four milliseconds away are one of work, ten seconds two; after that, whoever is ready is let run again.
    #[test]
    fn who_gave_way_for_long_works_on_for_a_while() {
        for (away, stretch) in [(4_000, 1_000), (10_000_000, 2_000)] {
            let away = Duration::from_micros(away);
            // As if it had only just come back, by far: the machine may stand still meanwhile.
            let just_now = Mono(Clock::system().mono().0 + 1_000_000);
            LAST.set((just_now, away));
            step_aside();
            assert_eq!(LAST.get(), (just_now, away));
            let long_ago = Mono(Clock::system().mono().0 - stretch - 1);
            LAST.set((long_ago, away));
            step_aside();
            assert_ne!(LAST.get(), (long_ago, away));
        }
    }
}
