//! The text of an API key: how it is put together, recognised and turned into a digest.

use aws_lc_rs::digest;

use crate::model::key::Digest;

/// The 62 characters of random part and checksum, in the order of their values.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// How many random characters a key text has: 178 bits.
pub const RANDOM_LENGTH: usize = 30;

/// How many characters the checksum has; 62^6 is the first power that holds 32 bits.
const CHECKSUM_LENGTH: usize = 6;

/// Whether a text looks like a key that this gateway made (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Exactly our shape, and its checksum is right: look it up.
    Ours,
    /// Exactly our shape, but its checksum is wrong: a typing error or a guess, refused whatever is known of it.
    OursBadChecksum,
    /// Any other shape, for example a key issued before Portcullis: look it up.
    Foreign,
}

/// SHA-256 of the whole key text: the only trace of it that is kept (S13).
#[must_use]
pub fn digest_of(text: &[u8]) -> Digest {
    let sum = digest::digest(&digest::SHA256, text);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(sum.as_ref());
    Digest(bytes)
}

/// Recognises `<prefix>_<environment>_<30 base62><6 base62 CRC-32>` for any of these prefixes and environments.
#[must_use]
pub fn shape(text: &[u8], prefixes: &[&str], environments: &[String]) -> Shape {
    match prefixes
        .iter()
        .find_map(|prefix| tail(text, prefix, environments))
    {
        None => Shape::Foreign,
        Some((random, sum)) if checksum(random) == *sum => Shape::Ours,
        Some(_) => Shape::OursBadChecksum,
    }
}

/// Puts a key text together from 30 characters that `random_character` gave.
#[must_use]
pub fn make(prefix: &str, environment: &str, random: &[u8; RANDOM_LENGTH]) -> String {
    let sum = checksum(random);
    let tail = random.iter().chain(&sum).map(|byte| char::from(*byte));
    let mut text = format!("{prefix}_{environment}_");
    text.extend(tail);
    text
}

/// The base62 character that a random byte stands for; `None` for the eight bytes that would make some characters likelier than others: draw again.
#[must_use]
pub fn random_character(byte: u8) -> Option<u8> {
    let value = usize::from(byte);
    (value < ALPHABET.len() * 4).then(|| ALPHABET[value % ALPHABET.len()])
}

/// CRC-32/IEEE of the random characters alone, as base62, padded with `0` on the left.
fn checksum(random: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(random);
    let mut text = [b'0'; CHECKSUM_LENGTH];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    text
}

/// Random part and checksum, when the text begins with this prefix and one of these environments and ends in 36 base62 characters.
fn tail<'a>(
    text: &'a [u8],
    prefix: &str,
    environments: &[String],
) -> Option<(&'a [u8], &'a [u8; CHECKSUM_LENGTH])> {
    let rest = word(text, prefix)?;
    let rest = environments
        .iter()
        .filter_map(|name| word(rest, name))
        .find(|rest| is_tail(rest))?;
    rest.split_last_chunk::<CHECKSUM_LENGTH>()
}

fn is_tail(rest: &[u8]) -> bool {
    // All are looked at, since the processor does many at a time where nothing hangs on the one before.
    rest.len() == RANDOM_LENGTH + CHECKSUM_LENGTH
        && rest.iter().fold(true, |all, byte| all & is_base62(*byte))
}

fn is_base62(byte: u8) -> bool {
    let is_digit = byte.wrapping_sub(b'0') < 10;
    let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    is_digit | is_letter
}

/// What follows `<word>_`.
fn word<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    text.strip_prefix(word.as_bytes())?.strip_prefix(b"_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: &[u8; 30] = b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ";

    fn environments() -> Vec<String> {
        vec!["live".to_owned(), "test".to_owned()]
    }

    #[test]
    fn the_checksum_is_that_of_a_published_sample() {
        let text = make("fp", "live", RANDOM);
        assert_eq!(text, "fp_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17");
        assert_eq!(
            shape(text.as_bytes(), &["fp", "pk"], &environments()),
            Shape::Ours
        );
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let text = make("fp", "live", RANDOM);
        for place in "fp_live_".len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] = if bytes[place] == b'a' { b'b' } else { b'a' };
            assert_eq!(
                shape(&bytes, &["fp"], &environments()),
                Shape::OursBadChecksum
            );
        }
    }

    #[test]
    fn other_shapes_are_foreign() {
        let ours = make("fp", "live", RANDOM);
        let cases = [
            String::new(),
            "fp_live_".to_owned(),
            "sk_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17".to_owned(),
            "fp_prod_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17".to_owned(),
            "FP_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17".to_owned(),
            "fp_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxk-0mLq17".to_owned(),
            format!("{ours}0"),
            ours[..ours.len() - 1].to_owned(),
        ];
        for text in cases {
            assert_eq!(
                shape(text.as_bytes(), &["fp"], &environments()),
                Shape::Foreign,
                "{text}"
            );
        }
    }

    #[test]
    fn an_environment_with_an_underscore_is_recognised() {
        let names = vec!["live".to_owned(), "live_eu".to_owned()];
        let text = make("sk", "live_eu", RANDOM);
        assert_eq!(shape(text.as_bytes(), &["pk", "sk"], &names), Shape::Ours);
    }

    #[test]
    fn the_digest_is_sha_256() {
        let expected = [
            0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae,
            0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61,
            0xf2, 0x00, 0x15, 0xad,
        ];
        assert_eq!(digest_of(b"abc").0, expected);
    }

    #[test]
    fn every_character_is_equally_likely() {
        let mut seen = std::collections::HashMap::new();
        for byte in 0..=u8::MAX {
            if let Some(character) = random_character(byte) {
                *seen.entry(character).or_insert(0) += 1;
            }
        }
        assert_eq!(seen.len(), 62);
        assert!(seen.values().all(|count| *count == 4));
    }
}
