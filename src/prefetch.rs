//! Has memory brought that is wanted soon, so that nobody waits for it then.

use prefetch_index::prefetch_index;

/// Asks for all that this takes, and goes on at once: memory that is far away takes longer to come than a request has work to do before it needs it, and
/// so a look at it would be a wait.
#[inline]
pub(crate) fn prefetch<T>(what: &T) {
    let start = std::ptr::from_ref(what).addr();
    for line in 0..size_of::<T>().div_ceil(LINE) {
        line_of(start + line * LINE);
    }
    // What begins within a line may end in one more.
    if align_of::<T>() < LINE && size_of::<T>() > 1 {
        line_of(start + size_of::<T>() - 1);
    }
}

#[inline]
fn line_of(place: usize) {
    // An index is a distance from wherever; what has none of its elements is not read.
    let from: &[u8] = &[];
    prefetch_index(from, place.wrapping_sub(from.as_ptr().addr()));
}

/// Bytes that come together.
const LINE: usize = 64;
