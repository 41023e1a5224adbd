//! Under what a token is remembered: a digest of its text, which for a JWT is a keyed one that costs little with every request.
//!
//! A JWT has some 700 bytes, and comes with each request of its bearer: SHA-256 of them alone cost more than all that is done for a key. GMAC
//! (NIST SP 800-38D) under a key that is drawn at the start and never leaves the process takes a tenth. That two texts meet has a chance of at most
//! one in 2^118 each (8 KiB are 512 blocks of a 128-bit field), whoever chose them, for its marks are shown to nobody: neither in a log nor in an
//! answer, and to hit another's mark one would have to know it. For that very reason the nonce may stay the same.
//!
//! Who reads the memory finds key and marks, and no text: a signature has four times the bits that a mark has, or more. What is opaque may be as short
//! as a mark, and GMAC can be solved for so little by who has its key; so that keeps SHA-256, which for so few bytes is cheap.

use std::fmt;

use aws_lc_rs::aead::AES_128_GCM;
use aws_lc_rs::aead::Aad;
use aws_lc_rs::aead::LessSafeKey;
use aws_lc_rs::aead::NONCE_LEN;
use aws_lc_rs::aead::Nonce;
use aws_lc_rs::aead::UnboundKey;
use zeroize::Zeroizing;

use crate::model::key::Digest;

/// What stands for the text of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// Of a JWT, as this process alone makes it.
    Jwt(u128),
    /// Of a text that only its issuer can read.
    Opaque(Digest),
}

impl fmt::Debug for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Mark(***)")
    }
}

/// Makes the marks of JWTs. `None` where the system gave no random key: then nothing is remembered, and all is verified each time.
#[derive(Debug)]
pub(super) struct Marker(Option<LessSafeKey>);

impl Default for Marker {
    fn default() -> Marker {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let drawn = getrandom::fill(&mut *key);
        let key = drawn
            .ok()
            .and_then(|()| UnboundKey::new(&AES_128_GCM, &*key).ok());
        Marker(key.map(LessSafeKey::new))
    }
}

impl Marker {
    pub(super) fn of_jwt(&self, text: &[u8]) -> Option<Mark> {
        let key = self.0.as_ref()?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(text), &mut []);
        let tag = tag.ok()?;
        let bytes = tag.as_ref().first_chunk()?;
        Some(Mark::Jwt(u128::from_le_bytes(*bytes)))
    }
}

const KEY_BYTES: usize = 16;

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
}
