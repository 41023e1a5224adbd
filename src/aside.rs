//! Long work that no request waits for, done beside those that may need the same processor.

/// Lets whoever else is ready run, every so often; to be called for each small piece of a long work, with its number. A worker on the same processor
/// would else wait until all of it is done, or its slice is over: milliseconds, which is what the slowest of a hundred requests then takes.
pub fn give_way(piece: usize) {
    if piece % PIECES == PIECES - 1 {
        std::thread::yield_now();
    }
}

/// Pieces of a microsecond or two between one look at who waits and the next.
const PIECES: usize = 32;
