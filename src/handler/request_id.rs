//! `X-Request-Id`: a UUID version 7 (RFC 9562 section 5.7) for every request.

use std::cell::Cell;

use crate::clock::Wall;
use crate::model::request_id::RequestId;

/// One worker's source of ids: a random start, then a permutation of a counter. Unique, and not a secret.
#[derive(Debug)]
pub(crate) struct RequestIds {
    state: Cell<u64>,
}

impl Default for RequestIds {
    fn default() -> RequestIds {
        let mut seed = [0u8; 8];
        // Without entropy the ids still differ by time and counter.
        let _ = getrandom::fill(&mut seed);
        RequestIds {
            state: Cell::new(u64::from_le_bytes(seed)),
        }
    }
}

impl RequestIds {
    /// The next id, stamped with this time.
    pub(crate) fn next(&self, now: Wall) -> RequestId {
        let millis = now.0 / 1000;
        let (high, low) = (self.random(), self.random());
        let mut text = *b"00000000-0000-7000-0000-000000000000";
        hex(&mut text[..8], millis >> 16);
        hex(&mut text[9..13], millis);
        hex(&mut text[15..18], high);
        hex(&mut text[19..23], 0x8000 | (high >> 12 & 0x3fff));
        hex(&mut text[24..], low);
        RequestId::own(text)
    }

    /// SplitMix64 over a Weyl sequence.
    fn random(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The lowest bits of a number, four to a place. By hand: `write!` took 1,500 instructions of every request.
fn hex(places: &mut [u8], mut value: u64) {
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(value & 0xf) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_uuids_and_differ() {
        let ids = RequestIds::default();
        let (first, second) = (
            ids.next(Wall(1_795_305_600_000_000)),
            ids.next(Wall(1_795_305_600_000_000)),
        );
        let text = first.as_str();
        assert_ne!(text, second.as_str());
        assert_eq!(text.len(), 36);
        let value = first.to_value();
        assert_eq!(value.as_bytes(), text.as_bytes());
        assert!(value.is_sensitive(), "kept out of HPACK's table");
        let (high, low) = (1_795_305_600_000_u64 >> 16, 1_795_305_600_000_u64 & 0xffff);
        assert_eq!(text[..14], format!("{high:08x}-{low:04x}-"));
        assert_eq!(text.as_bytes()[14], b'7');
        assert!("89ab".contains(char::from(text.as_bytes()[19])));
    }
}
