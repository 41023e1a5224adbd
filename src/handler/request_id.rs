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
        // 48 bits of time, then the version, 12 random bits, the variant and 62 random bits.
        let first = millis << 16 | 0x7000 | high & 0xfff;
        let last = 0x8000 << 48 | (high >> 12 & 0x3fff) << 48 | low & 0xffff_ffff_ffff;
        let [time_high, time_low] = hex(first);
        let [variant, node] = hex(last);
        text[..8].copy_from_slice(&time_high);
        text[9..13].copy_from_slice(&time_low[..4]);
        text[14..18].copy_from_slice(&time_low[4..]);
        text[19..23].copy_from_slice(&variant[..4]);
        text[24..28].copy_from_slice(&variant[4..]);
        text[28..].copy_from_slice(&node);
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

/// A number in 16 hexadecimal digits, eight and eight. By hand: `write!` took 1,500 instructions of every request.
fn hex(value: u64) -> [[u8; 8]; 2] {
    [value >> 32, value & 0xffff_ffff].map(|half| {
        // Four bits to a byte each, the highest in the byte that is written first.
        let spread = (half << 16 | half) & 0x0000_ffff_0000_ffff;
        let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
        let spread = (spread << 4 | spread) & 0x0f0f_0f0f_0f0f_0f0f;
        // One in each byte above nine, whose digits are letters.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        (spread + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
    })
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
