//! What must hold of the first byte and of any HTTP/2 bytes under watch: fuzz targets and proptests call the same functions.

use crate::edge::frames::Scanner;
use crate::edge::frames::Seen;
use crate::edge::watched::NotTls;

#[cfg(fuzzing)]
pub(crate) use crate::edge::http1::properties::requests;

/// S21, S22: however the bytes are cut, the watch says of them what a reader of the whole says.
pub(crate) fn frames(data: &[u8]) {
    let (cut, bytes) = data.split_first().unwrap_or((&1, &[]));
    if bytes.is_empty() {
        return;
    }
    let mut scanner = Scanner::default();
    let mut seen = Seen::OpenBlock;
    for piece in bytes.chunks(usize::from(*cut).max(1)) {
        seen = scanner.scan(piece, 1);
    }
    let (open, control_frames) = read_whole(bytes);
    assert_eq!(
        seen != Seen::Whole,
        open,
        "{seen:?} after {} bytes",
        bytes.len()
    );
    assert_eq!(scanner.control_frames, control_frames);
    let mut at_once = Scanner::default();
    let seen = at_once.scan(bytes, 1);
    assert_eq!(seen != Seen::Whole, open);
    assert_eq!(format!("{at_once:?}"), format!("{scanner:?}"));
}

/// Whether the client owes the rest of a preface, a header block or a frame that is not DATA; and how many control frames began.
fn read_whole(bytes: &[u8]) -> (bool, u32) {
    let Some(mut rest) = bytes.get(24..) else {
        return (true, 0);
    };
    let (mut in_block, mut control_frames) = (false, 0);
    loop {
        let [high, middle, low, kind, flags, _, _, _, _, after @ ..] = rest else {
            return (in_block || !rest.is_empty(), control_frames);
        };
        let length = usize::from(*high) * 65_536 + usize::from(*middle) * 256 + usize::from(*low);
        control_frames += u32::from(!matches!(kind, 0 | 1 | 3 | 8 | 9));
        in_block |= *kind == 1;
        let Some(after) = after.get(length..) else {
            return (in_block || *kind != 0, control_frames);
        };
        if matches!(kind, 1 | 9) && flags & 4 != 0 {
            in_block = false;
        }
        rest = after;
    }
}

/// S25: only a handshake record opens TLS; whatever could be a request line is told so in clear.
pub(crate) fn first_bytes(data: &[u8]) {
    for byte in data {
        let expected = match byte {
            22 => None,
            b'A'..=b'Z' | b'a'..=b'z' => Some(NotTls::Text),
            _ => Some(NotTls::Garbage),
        };
        assert_eq!(NotTls::told_by(*byte), expected);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn s21_the_watch_sees_what_a_reader_of_the_whole_sees(
            cut in 1_u8..60,
            frames in prop::collection::vec((0_u8..12, prop::sample::select(vec![0_u8, 1, 4, 5]), 0_usize..40), 0..10),
            missing in 0_usize..60,
        ) {
            let mut data = vec![cut];
            data.extend([0xaa; 24]);
            for (kind, flags, length) in frames {
                data.extend([0, 0, length as u8, kind, flags, 0, 0, 0, 1]);
                data.extend(vec![0xbb; length]);
            }
            data.truncate(data.len().saturating_sub(missing).max(1));
            super::frames(&data);
        }

        #[test]
        fn any_bytes_are_read_alike(data: Vec<u8>) {
            super::frames(&data);
        }
    }

    #[test]
    fn s25_every_first_byte_is_told() {
        first_bytes(&(0..=u8::MAX).collect::<Vec<u8>>());
    }
}
