//! Under what a token is remembered: a digest of its text, which for a JWT is a keyed one that costs little with every request.
//!
//! A JWT has some 700 bytes, and comes with each request of its bearer: SHA-256 of them alone cost more than all that is done for a key, and GMAC half as
//! much again as a key's digest. NH, which UMAC is built on (RFC 4418 section 5.2), is a sum of products; here of words of 64 bits, under a key that is
//! drawn at random, never leaves the process and is as long as the longest text. It is taken twice, the second time with the key shifted by one pair of
//! words: then two texts of one length meet with a chance of at most one in 2^128, whoever chose them (Black and others, UMAC, CRYPTO 1999, theorem
//! 2), and texts of two lengths never do. That is so as long as marks are shown to nobody: they stand neither in a log nor in an answer, and to hit another's
//! one would have to know it.
//!
//! Who reads the memory finds key and marks, and no text: a signature has 512 bits or more, of which a mark tells half, and the rest is as hard to find as
//! to sign. What is opaque may be as short as a mark, which such a sum would give away to who has the key; so that keeps SHA-256, which for so few
//! bytes is cheap.

use std::fmt;
use std::hash::Hash;
use std::hash::Hasher;
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::model::key::Digest;

/// What stands for the text of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Of a JWT, as this process alone makes it: both sums, their low words first, and how many bytes the text has.
    Jwt([u64; 4], u32),
    /// Of a text that only its issuer can read.
    Opaque(Digest),
}

impl Mark {
    /// Two numbers that are as good as random, to find it by. Nobody chooses those of a keyed one, or of a digest whose text an issuer made.
    pub(super) fn places(&self) -> [u64; 2] {
        match self {
            // The lowest bits of a product are more often 0 than 1, its highest too, and under some keys those of many texts are the same.
            Mark::Jwt([low, high, second_low, second_high], _) => [
                folded(low ^ high.rotate_left(32)),
                folded(second_low ^ second_high.rotate_left(32)),
            ],
            Mark::Opaque(digest) => {
                let [a, b, c, d, e, f, g, h, .., last] = digest.0;
                [u64::from_le_bytes([a, b, c, d, e, f, g, h]), last.into()]
            }
        }
    }
}

/// Has every bit of a number change any of the result.
fn folded(number: u64) -> u64 {
    let product = u128::from(number) * 0x9e37_79b9_7f4a_7c15;
    product as u64 ^ (product >> 64) as u64
}

impl Hash for Mark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.places()[0]);
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Mark(***)")
    }
}

/// Makes the marks of JWTs. The key is drawn when the first of them comes; `None` where the system gave none: then nothing is remembered, and all is
/// verified each time.
#[derive(Default)]
pub(super) struct Marker(OnceLock<Option<Key>>);

/// As many pairs of words as the longest text has, and two more.
type Key = Zeroizing<Vec<[u64; 2]>>;

impl fmt::Debug for Marker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Marker(***)")
    }
}

impl Marker {
    /// `None` too for what is longer than any token may be.
    pub(super) fn of_jwt(&self, text: &[u8]) -> Option<Mark> {
        let key = self.0.get_or_init(draw).as_ref()?;
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (pairs, rest) = text.as_chunks();
        let mut last = [0; PAIR_BYTES];
        last[..rest.len()].copy_from_slice(rest);
        let (first, second) = (&key[..], &key[1..]);
        let mut sums = [0_u128; 2];
        for ((pair, first), second) in pairs.iter().zip(first).zip(second) {
            add(&mut sums, *pair, first, second);
        }
        let end = pairs.len();
        add(&mut sums, last, &first[end], &second[end]);
        let [first, second] = sums;
        let low_and_high = |sum: u128| (sum as u64, (sum >> 64) as u64);
        let ((a, b), (c, d)) = (low_and_high(first), low_and_high(second));
        Some(Mark::Jwt([a, b, c, d], text.len() as u32))
    }
}

/// Adds the products of a pair of words to both sums.
fn add(sums: &mut [u128; 2], pair: [u8; PAIR_BYTES], first: &[u64; 2], second: &[u64; 2]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = pair;
    let left = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let right = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    for (sum, [key_left, key_right]) in sums.iter_mut().zip([first, second]) {
        // Two words of 64 bits: their product never overflows.
        let product =
            u128::from(left.wrapping_add(*key_left)) * u128::from(right.wrapping_add(*key_right));
        *sum = sum.wrapping_add(product);
    }
}

fn draw() -> Option<Key> {
    let mut bytes = Zeroizing::new(vec![0; TEXT_BYTES_MAX + 2 * PAIR_BYTES]);
    getrandom::fill(&mut bytes).ok()?;
    let (words, _) = bytes.as_chunks();
    let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
    let pair = || Some([words.next()?, words.next()?]);
    // Of its full length from the start: growing would leave pieces of it behind.
    let mut key = Zeroizing::new(Vec::with_capacity(bytes.len() / PAIR_BYTES));
    key.extend(std::iter::from_fn(pair));
    Some(key)
}

/// Two words.
const PAIR_BYTES: usize = 16;

/// `tokens.bytes_max` allows no more.
const TEXT_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Every bit of a text counts, its length too, and each process marks in its own way.
    #[test]
    fn marks_differ_wherever_texts_do() {
        let marker = Marker::default();
        let text: Vec<u8> = (0..700).map(|at| b'A' + (at % 26) as u8).collect();
        let mark = |text: &[u8]| marker.of_jwt(text).unwrap();
        let mut seen = HashSet::from([mark(&text)]);
        for bit in 0..8 * text.len() {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(mark(&other)), "bit {bit}");
        }
        for length in 0..text.len() {
            assert!(seen.insert(mark(&text[..length])), "length {length}");
        }
        let padded = [text.as_slice(), &[0]].concat();
        assert!(seen.insert(mark(&padded)));
        assert_eq!(mark(&text), mark(&text.clone()));
        assert!(seen.insert(Marker::default().of_jwt(&text).unwrap()));
        assert_eq!(format!("{:?}", mark(&text)), "Mark(***)");
    }

    /// A model of one sum, straight from its definition: words of a text that ends in zeros, whose length is told beside it.
    fn sum(key: &[[u64; 2]], text: &[u8]) -> u128 {
        let word = |at: usize| {
            let bytes = (8 * at..8 * at + 8).map(|at| text.get(at).copied().unwrap_or(0));
            bytes
                .rev()
                .fold(0_u64, |word, byte| word << 8 | u64::from(byte))
        };
        let pairs = text.len() / PAIR_BYTES + 1;
        (0..pairs).fold(0, |sum: u128, at| {
            let [left, right] = key[at];
            let left = u128::from(word(2 * at).wrapping_add(left));
            sum.wrapping_add(left * u128::from(word(2 * at + 1).wrapping_add(right)))
        })
    }

    #[test]
    fn a_mark_is_two_sums_and_a_length() {
        let marker = Marker::default();
        let text: Vec<u8> = (0..TEXT_BYTES_MAX + 1)
            .map(|at| b'A' + (at % 23) as u8)
            .collect();
        for length in [
            0,
            1,
            15,
            16,
            17,
            31,
            32,
            700,
            TEXT_BYTES_MAX - 1,
            TEXT_BYTES_MAX,
        ] {
            let text = &text[..length];
            let Some(Mark::Jwt([a, b, c, d], told)) = marker.of_jwt(text) else {
                panic!("no mark at {length}");
            };
            let key = marker.0.get().unwrap().as_ref().unwrap();
            let whole = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
            assert_eq!(whole(a, b), sum(key, text), "{length}");
            assert_eq!(whole(c, d), sum(&key[1..], text), "{length}");
            assert_eq!(told as usize, length);
        }
        assert_eq!(marker.of_jwt(&text), None);
        assert_eq!(format!("{marker:?}"), "Marker(***)");
    }

    /// By what they are found is spread as random numbers are, for short texts that differ in a digit too.
    #[test]
    fn marks_are_spread() {
        let marker = Marker::default();
        let marks = (0..4_096).map(|index| format!("e30.{index:04}.c2ln"));
        let places = marks.map(|text| marker.of_jwt(text.as_bytes()).unwrap().places());
        let places: Vec<[u64; 2]> = places.collect();
        for which in [0, 1] {
            for shift in [0, 57] {
                let mut of = [0; 64];
                for place in &places {
                    of[(place[which] >> shift) as usize % 64] += 1;
                }
                // 64 each; nine times the deviation to both sides.
                assert!(of.iter().all(|count| (1..136).contains(count)), "{of:?}");
            }
        }
    }
}
