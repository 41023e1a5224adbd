//! Has memory brought that is wanted soon, so that nobody waits for it then.

use prefetch_index::prefetch_index;

/// Asks for all that this takes, and goes on at once: memory that is far away takes longer to come than a request has work to do before it needs it, and
/// so a look at it would be a wait.
#[inline]
pub(crate) fn prefetch<T>(what: &T) {
    let start = std::ptr::from_ref(what).addr();
    for line in 0..size_of::<T>().div_ceil(LINE) {
        // An index is a distance from wherever; what has none of its elements is not read.
        let from: &[u8] = &[];
        let distance = (start + line * LINE).wrapping_sub(from.as_ptr().addr());
        prefetch_index(from, distance);
    }
}

/// Bytes that come together.
const LINE: usize = 64;
