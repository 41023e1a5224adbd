//! Over strings, white space and words, many bytes at a time.

/// Where the string that begins at `at` is over, past its quote; `None` when that is not in this piece.
#[inline]
pub(super) fn past_text(piece: &[u8], mut at: usize, escaped: &mut bool) -> Option<usize> {
    if std::mem::take(escaped) {
        at += 1;
    }
    loop {
        let hit = find_quote(piece, at)?;
        if piece[hit] == b'"' {
            return Some(hit + 1);
        }
        at = hit + 2;
        if at > piece.len() {
            *escaped = true;
            return None;
        }
    }
}

/// The first quote or backslash from `at` on. Most strings are short: eight bytes at a time, and the long way only after 32.
#[inline]
pub(super) fn find_quote(piece: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..4 {
        let Some(eight) = piece.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            break;
        };
        let word = u64::from_le_bytes(*eight);
        let hits = zeros(word ^ QUOTES) | zeros(word ^ BACKSLASHES);
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = piece.get(at..)?;
    memchr::memchr2(b'"', b'\\', rest).map(|found| at + found)
}

/// A bit in each byte that is zero, exact in the lowest.
#[inline]
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

#[inline]
pub(super) fn past_space(piece: &[u8], mut at: usize) -> usize {
    while at < piece.len() && is_space(piece[at]) {
        at += 1;
    }
    at
}

#[inline]
pub(super) fn past_token(piece: &[u8], mut at: usize) -> usize {
    while at < piece.len() && is_token(piece[at]) {
        at += 1;
    }
    at
}

#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    CLASS[byte as usize] == SPACE
}

/// Whether it may stand in a number or a word. `NaN` and the like pass: some encoders write them, and they hide nothing.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    CLASS[byte as usize] == TOKEN
}

const ONES: u64 = 0x0101_0101_0101_0101;
const QUOTES: u64 = ONES * b'"' as u64;
const BACKSLASHES: u64 = ONES * b'\\' as u64;
const SPACE: u8 = 1;
const TOKEN: u8 = 2;

/// What each byte is outside of strings.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        class[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => SPACE,
            b'+' | b'-' | b'.' => TOKEN,
            _ if byte.is_ascii_alphanumeric() => TOKEN,
            _ => 0,
        };
        byte += 1;
    }
    class
};
