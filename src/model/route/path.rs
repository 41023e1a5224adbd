//! The one canonical spelling of a path, and what makes a path ambiguous.

use std::borrow::Cow;

/// A path as it is decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical<'a> {
    /// Encoded unreserved characters decoded and percent-hex in capitals, once; nothing else is changed, and nothing at all where an
    /// encoding is incomplete. Borrowed when nothing is changed.
    pub text: Cow<'a, str>,
    /// The first thing in `text` that two programs could read differently; `None` when there is nothing.
    pub doubt: Option<Doubt>,
}

/// What makes a path ambiguous (S18): programs behind the gateway might not see the path that was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Does not begin with `/`.
    NotAbsolute,
    /// `//`.
    EmptySegment,
    /// A segment `.` or `..`, plain, encoded or followed by `;`.
    DotSegment,
    /// A segment that ends in a dot or an encoded space, which some file systems drop.
    TrailingDotOrSpace,
    /// `;`, which some servers cut off with what follows.
    Semicolon,
    /// `\`, plain or encoded.
    Backslash,
    /// `%2F`.
    EncodedSlash,
    /// `#`.
    Fragment,
    /// A control character or a space, plain; or a control character, encoded (`%00`, `%0D`, `%7F` …).
    Control,
    /// A byte above 127 that is not percent-encoded.
    NotAscii,
    /// `%` without two hexadecimal digits.
    BadPercent,
    /// Percent-encoded bytes that are not UTF-8.
    BadUtf8,
}

impl Doubt {
    /// A sentence for the client; holds nothing that it sent.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Doubt::NotAbsolute => "The path does not begin with a slash.",
            Doubt::EmptySegment => "The path has an empty segment.",
            Doubt::DotSegment => "The path has a dot segment.",
            Doubt::TrailingDotOrSpace => "A path segment ends in a dot or a space.",
            Doubt::Semicolon => "The path has a semicolon.",
            Doubt::Backslash => "The path has a backslash.",
            Doubt::EncodedSlash => "The path has an encoded slash.",
            Doubt::Fragment => "The path has a fragment.",
            Doubt::Control => "The path has a control character.",
            Doubt::NotAscii => "The path has a character that must be percent-encoded.",
            Doubt::BadPercent => "The path has an incomplete percent-encoding.",
            Doubt::BadUtf8 => "The path has percent-encoded bytes that are not UTF-8.",
        }
    }

    /// A word for the log.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Doubt::NotAbsolute => "path_not_absolute",
            Doubt::EmptySegment => "path_empty_segment",
            Doubt::DotSegment => "path_dot_segment",
            Doubt::TrailingDotOrSpace => "path_trailing_dot_or_space",
            Doubt::Semicolon => "path_semicolon",
            Doubt::Backslash => "path_backslash",
            Doubt::EncodedSlash => "path_encoded_slash",
            Doubt::Fragment => "path_fragment",
            Doubt::Control => "path_control",
            Doubt::NotAscii => "path_not_ascii",
            Doubt::BadPercent => "path_bad_percent",
            Doubt::BadUtf8 => "path_bad_utf8",
        }
    }
}

/// Finds the canonical spelling of a path without its query. Decodes once: `%2541` stays `%2541`. A path without doubt is a fixed point.
#[must_use]
pub fn canonical(path: &str) -> Canonical<'_> {
    if is_everyday(path.as_bytes()) {
        return Canonical {
            text: Cow::Borrowed(path),
            doubt: None,
        };
    }
    read(path)
}

/// Whether it is seen at one look to be canonical and beyond doubt: letters, digits and `-_~`, slashes and dots between them.
fn is_everyday(path: &[u8]) -> bool {
    let mut before = b'a';
    for &byte in path {
        let is_mark = matches!(byte, b'/' | b'.');
        let fits = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        if !(fits || is_mark && !matches!(before, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    path.first() == Some(&b'/') && before != b'.'
}

fn read(path: &str) -> Canonical<'_> {
    let text = decode_unreserved(path);
    let doubt = first_doubt(&text);
    Canonical { text, doubt }
}

/// Whether two segments are different spellings of the same text: equal once every `%XX` is decoded.
#[must_use]
pub fn same_when_decoded(one: &str, other: &str) -> bool {
    decoded(one).eq(decoded(other))
}

fn decode_unreserved(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(place) = rest.find('%') {
        text.push_str(&rest[..place]);
        rest = &rest[place..];
        let Some(byte) = encoded_byte(rest.as_bytes()) else {
            // Decoding the rest could complete this `%`: `%%34%31` would become `%41`.
            return Cow::Borrowed(path);
        };
        if is_unreserved(byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&rest[..3].to_ascii_uppercase());
        }
        rest = &rest[3..];
    }
    text.push_str(rest);
    if text == path {
        return Cow::Borrowed(path);
    }
    Cow::Owned(text)
}

fn first_doubt(text: &str) -> Option<Doubt> {
    let Some(relative) = text.strip_prefix('/') else {
        return Some(Doubt::NotAbsolute);
    };
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Some(Doubt::EmptySegment);
        }
        let doubt = doubt_of_bytes(segment.as_bytes()).or_else(|| doubt_of_dots(segment));
        if doubt.is_some() {
            return doubt;
        }
    }
    None
}

fn doubt_of_bytes(segment: &[u8]) -> Option<Doubt> {
    let mut place = 0;
    while place < segment.len() {
        let (doubt, length) = match segment[place] {
            b'%' => doubt_of_encoded(&segment[place..]),
            byte => (doubt_of_plain(segment, byte), 1),
        };
        if doubt.is_some() {
            return doubt;
        }
        place += length;
    }
    None
}

fn doubt_of_plain(segment: &[u8], byte: u8) -> Option<Doubt> {
    match byte {
        b'\\' => Some(Doubt::Backslash),
        b'#' => Some(Doubt::Fragment),
        // `..;` is a dot segment to a server that cuts the parameter off.
        b';' if segment.starts_with(b".") => Some(Doubt::DotSegment),
        b';' => Some(Doubt::Semicolon),
        0..=0x20 | 0x7f => Some(Doubt::Control),
        0x80.. => Some(Doubt::NotAscii),
        _ => None,
    }
}

/// The doubt in the encoded character at the beginning of `text`, and how long it is there.
fn doubt_of_encoded(text: &[u8]) -> (Option<Doubt>, usize) {
    let Some(first) = encoded_byte(text) else {
        return (Some(Doubt::BadPercent), 1);
    };
    let doubt = match first {
        b'/' => Some(Doubt::EncodedSlash),
        b'\\' => Some(Doubt::Backslash),
        0..=0x1f | 0x7f => Some(Doubt::Control),
        0x80.. => return doubt_of_utf8(text, first),
        _ => None,
    };
    (doubt, 3)
}

fn doubt_of_utf8(text: &[u8], first: u8) -> (Option<Doubt>, usize) {
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return (Some(Doubt::BadUtf8), 3),
    };
    let mut bytes = [0; 4];
    for (place, byte) in bytes.iter_mut().take(length).enumerate() {
        *byte = text.get(place * 3..).and_then(encoded_byte).unwrap_or(0);
    }
    let doubt = match std::str::from_utf8(&bytes[..length]) {
        Err(_) => Some(Doubt::BadUtf8),
        // U+0080 to U+009F: a terminal reads them as control codes.
        Ok(character) if character.chars().any(char::is_control) => Some(Doubt::Control),
        Ok(_) => None,
    };
    (doubt, length * 3)
}

fn doubt_of_dots(segment: &str) -> Option<Doubt> {
    // A server that decodes before it cuts parameters off sees `..;` in `..%3B`.
    let name = segment
        .split_once("%3B")
        .map_or(segment, |(before, _)| before);
    if name == "." || name == ".." {
        return Some(Doubt::DotSegment);
    }
    (segment.ends_with('.') || segment.ends_with("%20")).then_some(Doubt::TrailingDotOrSpace)
}

/// The byte that `%XX` at the beginning of `text` stands for.
fn encoded_byte(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else {
        return None;
    };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn decoded(segment: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = segment.as_bytes();
    std::iter::from_fn(move || {
        let (byte, length) = match encoded_byte(rest) {
            Some(byte) => (byte, 3),
            None => (*rest.first()?, 1),
        };
        rest = &rest[length..];
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn s18_every_spelling_has_one_meaning_or_none() {
        let kept = [
            "/",
            "/a",
            "/a/",
            "/a/b",
            "/a/b/",
            "/A",
            "/a-b_c~d.e",
            "/.well-known/x",
            "/.a",
            "/..a",
            "/a..b",
            "/a.b",
            "/a:b",
            "/a@b",
            "/a!$&'()*+,=b",
            "/a%20b",
            "/%20a",
            "/a%3Ab",
            "/a%40b",
            "/a%3Bb",
            "/a%23b",
            "/a%3Fb",
            "/%25",
            "/%252F",
            "/%252e%252e",
            "/%2541",
            "/%25zz",
            "/caf%C3%A9",
            "/%E2%82%AC",
            "/%F0%9F%98%80",
            "/a%7Cb",
            "/a|b",
        ];
        for path in kept {
            let Canonical { text, doubt } = canonical(path);
            assert_eq!(doubt, None, "{path}");
            assert_eq!(text, path);
            assert!(matches!(text, Cow::Borrowed(_)), "{path}");
        }
        let changed = [
            ("/%61", "/a"),
            ("/%41%2d%5f%7e", "/A-_~"),
            ("/%7Euser", "/~user"),
            ("/a%3ab", "/a%3Ab"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%2Eb", "/a.b"),
            ("/%30", "/0"),
            ("/x%252f%61", "/x%252fa"),
        ];
        for (path, expected) in changed {
            let Canonical { text, doubt } = canonical(path);
            assert_eq!((&*text, doubt), (expected, None), "{path}");
        }
    }

    #[test]
    fn s18_ambiguous_paths_are_told_apart() {
        let cases = [
            ("", Doubt::NotAbsolute),
            ("*", Doubt::NotAbsolute),
            ("a/b", Doubt::NotAbsolute),
            ("//", Doubt::EmptySegment),
            ("//a", Doubt::EmptySegment),
            ("/a//b", Doubt::EmptySegment),
            ("/a//", Doubt::EmptySegment),
            ("/.", Doubt::DotSegment),
            ("/..", Doubt::DotSegment),
            ("/./a", Doubt::DotSegment),
            ("/a/.", Doubt::DotSegment),
            ("/a/../b", Doubt::DotSegment),
            ("/a/..", Doubt::DotSegment),
            ("/%2e", Doubt::DotSegment),
            ("/%2e%2E/a", Doubt::DotSegment),
            ("/.%2e/a", Doubt::DotSegment),
            ("/a/..;/b", Doubt::DotSegment),
            ("/a/..;x=1/b", Doubt::DotSegment),
            ("/a/.;/b", Doubt::DotSegment),
            ("/a/%2e%2e;/b", Doubt::DotSegment),
            ("/a/..%3b/b", Doubt::DotSegment),
            ("/a/...", Doubt::TrailingDotOrSpace),
            ("/a.", Doubt::TrailingDotOrSpace),
            ("/a%2e", Doubt::TrailingDotOrSpace),
            ("/a./b", Doubt::TrailingDotOrSpace),
            ("/a%20", Doubt::TrailingDotOrSpace),
            ("/a%20/b", Doubt::TrailingDotOrSpace),
            ("/a;b", Doubt::Semicolon),
            ("/a;jsessionid=1", Doubt::Semicolon),
            ("/;", Doubt::Semicolon),
            ("/a\\b", Doubt::Backslash),
            ("/a%5cb", Doubt::Backslash),
            ("/a%5Cb", Doubt::Backslash),
            ("/..\\a", Doubt::Backslash),
            ("/a%2fb", Doubt::EncodedSlash),
            ("/a%2Fb", Doubt::EncodedSlash),
            ("/..%2fadmin", Doubt::EncodedSlash),
            ("/a#b", Doubt::Fragment),
            ("/a%00", Doubt::Control),
            ("/a%00.png", Doubt::Control),
            ("/a%0d%0ab", Doubt::Control),
            ("/a%0a", Doubt::Control),
            ("/a%09b", Doubt::Control),
            ("/a%7f", Doubt::Control),
            ("/a%C2%85", Doubt::Control),
            ("/a\0", Doubt::Control),
            ("/a\tb", Doubt::Control),
            ("/a b", Doubt::Control),
            ("/a\x7f", Doubt::Control),
            ("/café", Doubt::NotAscii),
            ("/a%", Doubt::BadPercent),
            ("/a%2", Doubt::BadPercent),
            ("/a%zz", Doubt::BadPercent),
            ("/a%2/b", Doubt::BadPercent),
            ("/%%32%66", Doubt::BadPercent),
            ("/%%34%31", Doubt::BadPercent),
            ("/%4%31", Doubt::BadPercent),
            ("/%u002f", Doubt::BadPercent),
            ("/a%+1", Doubt::BadPercent),
            ("/%80", Doubt::BadUtf8),
            ("/%FF", Doubt::BadUtf8),
            ("/%C0%AF", Doubt::BadUtf8),
            ("/%C0%AE%C0%AE/", Doubt::BadUtf8),
            ("/%E0%80%AF", Doubt::BadUtf8),
            ("/%F0%80%80%AF", Doubt::BadUtf8),
            ("/%C3", Doubt::BadUtf8),
            ("/%C3/%A9", Doubt::BadUtf8),
            ("/%ED%A0%80", Doubt::BadUtf8),
            ("/%F4%90%80%80", Doubt::BadUtf8),
        ];
        for (path, doubt) in cases {
            assert_eq!(canonical(path).doubt, Some(doubt), "{path:?}");
        }
    }

    #[test]
    fn spellings_of_one_segment_are_recognised() {
        assert!(same_when_decoded("jobs:run", "jobs%3Arun"));
        assert!(same_when_decoded("a", "a"));
        assert!(!same_when_decoded("jobs:run", "jobs%253Arun"));
        assert!(!same_when_decoded("a", "ab"));
    }

    /// Paths made of what is dangerous, so that few cases find much.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just(";".to_owned()),
            Just("%".to_owned()),
            Just("\\".to_owned()),
            "[a-zA-Z0-9]",
            "%[0-9a-fA-F]{2}",
            "%(25)?(2e|2f|5c|00|3b|41)",
            "\\PC",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_path_without_doubt_is_a_fixed_point(path in paths()) {
            let once = canonical(&path);
            if once.doubt.is_none() {
                let twice = canonical(&once.text);
                prop_assert_eq!(&twice.text, &once.text);
                prop_assert_eq!(twice.doubt, None);
                prop_assert!(once.text.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }

        #[test]
        fn a_path_without_doubt_means_the_same_however_it_is_read(path in paths()) {
            let once = canonical(&path);
            if once.doubt.is_none() {
                let all = decoded(&once.text).collect::<Vec<u8>>();
                let slashes = all.iter().filter(|byte| **byte == b'/').count();
                prop_assert_eq!(slashes, path.matches('/').count());
                prop_assert!(String::from_utf8(all.clone()).is_ok());
                let segments = all.split(|byte| *byte == b'/');
                for segment in segments {
                    let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
                    prop_assert!(name != b"." && name != b"..");
                }
            }
        }

        #[test]
        fn an_everyday_path_is_read_as_any(path in prop_oneof![paths(), "/[a./]{0,4}"]) {
            prop_assert_eq!(canonical(&path), read(&path));
        }

        #[test]
        fn no_text_panics(path in "\\PC*") {
            let _ = canonical(&path);
        }
    }
}
