//! Quantities of gateway.toml, each read from a word and written back: durations, sizes, dates, digests.

use std::fmt;
use std::time::Duration;

use crate::clock::Wall;
use crate::model::key::Digest;
use crate::model::limit::Rate;

/// Why a word is refused, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What is wrong, to follow the name of the key.
    pub(super) what: String,
    /// The way out.
    pub(super) help: String,
}

/// Shorthand for a refusal of a word.
pub(super) fn wrong<T>(what: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        what: what.into(),
        help: help.into(),
    })
}

/// A whole number directly followed by `ms`, `s`, `min` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    const HELP: &str = "a duration is a whole number and a unit, ms, s, min or h: \"500ms\", \"30s\", \"2min\", \"1h\"";
    let (digits, unit) = split_number(text);
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "min" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    if let (Ok(number), "") = (digits.parse::<u64>(), unit) {
        return wrong(
            format!("\"{number}\" has no unit"),
            format!("write \"{number}s\" for seconds; units are ms, s, min and h"),
        );
    }
    match (digits.parse::<u64>(), millis) {
        (Ok(number), Some(millis)) => Ok(Duration::from_millis(
            number.checked_mul(millis).ok_or_else(|| Wrong {
                what: format!("\"{text}\" is too long"),
                help: HELP.into(),
            })?,
        )),
        _ => wrong(format!("\"{text}\" is not a duration"), HELP),
    }
}

/// Writes a duration in the largest unit that gives a whole number.
pub(super) fn show_duration(span: Duration) -> String {
    let millis = span.as_millis();
    for (unit, size) in [("h", 3_600_000), ("min", 60_000), ("s", 1_000)] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    match millis {
        0 => "0s".into(),
        _ => format!("{millis}ms"),
    }
}

/// A whole number directly followed by `B`, `KiB`, `MiB` or `GiB`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    const HELP: &str =
        "a size is a whole number and a unit, B, KiB, MiB or GiB: \"512B\", \"32KiB\", \"10MiB\"";
    let (digits, unit) = split_number(text);
    let Ok(number) = digits.parse::<u64>() else {
        return wrong(format!("\"{text}\" is not a size"), HELP);
    };
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "" => {
            return wrong(
                format!("\"{number}\" has no unit"),
                format!("write \"{number}B\" for bytes; units are B, KiB, MiB and GiB"),
            );
        }
        _ => {
            let help = match unit.to_ascii_lowercase().as_bytes().first() {
                Some(letter @ (b'k' | b'm' | b'g')) => format!(
                    "write \"{number}{}iB\" (1 KiB is 1024 bytes)",
                    char::from(letter.to_ascii_uppercase())
                ),
                _ => HELP.into(),
            };
            return wrong(format!("\"{text}\" has no unit that is known"), help);
        }
    };
    match number.checked_mul(1 << shift) {
        Some(bytes) => Ok(bytes),
        None => wrong(format!("\"{text}\" is too large"), HELP),
    }
}

/// Writes a size in the largest unit that gives a whole number; `u64::MAX` is `unlimited`.
pub(super) fn show_size(bytes: u64) -> String {
    if bytes == u64::MAX {
        return "unlimited".into();
    }
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// A rate, in the words of `Rate::parse`.
pub(super) fn rate(text: &str) -> Result<Rate, Wrong> {
    Rate::parse(text).map_err(|not_a_rate| Wrong {
        what: not_a_rate.what,
        help: not_a_rate.help,
    })
}

/// `sha256:` and 64 hexadecimal digits. No message repeats the text: it may be a key.
pub(super) fn digest(text: &str) -> Result<Digest, Wrong> {
    let hex = text
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.is_ascii());
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0_u8; 32];
    let complete = hex.is_some_and(|hex| {
        bytes
            .iter_mut()
            .zip(hex.as_bytes().chunks_exact(2))
            .all(|(byte, pair)| match (nibble(pair[0]), nibble(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = u8::try_from(high * 16 + low).unwrap_or_default();
                    true
                }
                _ => false,
            })
    });
    match complete {
        true => Ok(Digest(bytes)),
        false => wrong(
            "this is not a digest",
            "write \"sha256:\" and 64 hexadecimal digits, never the key itself: printf %s \"$KEY\" | sha256sum",
        ),
    }
}

/// An RFC 3339 date and time with its offset; `never` is `None`.
pub(super) fn expiry(text: &str) -> Result<Option<Wall>, Wrong> {
    if text == "never" {
        return Ok(None);
    }
    let micros = text
        .parse::<jiff::Timestamp>()
        .ok()
        .and_then(|stamp| u64::try_from(stamp.as_microsecond()).ok());
    match micros {
        Some(micros) => Ok(Some(Wall(micros))),
        None => wrong(
            format!("\"{text}\" is not a date and time"),
            "write RFC 3339 with an offset, \"2027-01-31T00:00:00Z\", or \"never\"",
        ),
    }
}

/// A word that `parse` understands, between two others, both included.
pub(super) fn bounded<T: PartialOrd>(
    text: &str,
    (min, max): (&str, &str),
    parse: impl Fn(&str) -> Result<T, Wrong>,
) -> Result<T, Wrong> {
    let value = parse(text)?;
    if value < parse(min)? || value > parse(max)? {
        return wrong(
            format!("\"{text}\" is out of bounds"),
            format!("write a value from \"{min}\" to \"{max}\""),
        );
    }
    Ok(value)
}

/// The known word nearest to `text`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = text.to_ascii_lowercase();
    known
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&lower, word), *word))
        .filter(|(distance, word)| {
            let shared_start = !lower.is_empty() && word.starts_with(&lower);
            *distance <= (word.chars().count() / 3).max(1) || shared_start
        })
        .min()
        .map(|(_, word)| word)
}

/// Known words as a sentence part: at most twenty, then how many more.
pub(super) fn listed<T: fmt::Display>(words: &[T]) -> String {
    let mut text = words
        .iter()
        .take(LISTED_MAX)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if words.len() > LISTED_MAX {
        text.push_str(&format!(" and {} more", words.len() - LISTED_MAX));
    }
    text
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Whether the text is one or more ASCII digits, without a sign.
pub(super) fn digits_only(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

const LISTED_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_a_whole_number_and_a_unit() {
        let good = [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
        ];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let bad = [
            "",
            "30",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            " 1s",
            "1S",
            "1m",
            "1d",
            "1hour",
            "1s ",
            "1h30min",
            "99999999999999999999s",
            "18446744073709551615h",
            "٣s",
        ];
        for text in bad {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("30").unwrap_err().help.contains("\"30s\""));
    }

    #[test]
    fn sizes_are_binary() {
        let good = [
            ("0B", 0),
            ("512B", 512),
            ("32KiB", 32 << 10),
            ("10MiB", 10 << 20),
            ("3GiB", 3 << 30),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "10",
            "10K",
            "10KB",
            "10kib",
            "-1B",
            "1.5MiB",
            "1 MiB",
            "99999999999999999999B",
            "18446744073709551615GiB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        for (text, fix) in [
            ("10", "\"10B\""),
            ("10MB", "\"10MiB\""),
            ("10g", "\"10GiB\""),
            ("8kb", "\"8KiB\""),
        ] {
            assert!(size(text).unwrap_err().help.contains(fix), "{text}");
        }
    }

    #[test]
    fn digests_are_64_hexadecimal_digits_and_never_repeated() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let read = digest(&format!("sha256:{hex}")).unwrap();
        assert_eq!(read.0[..4], [0, 0x11, 0x22, 0x33]);
        assert_eq!(read.0[31], 0xff);
        let short = format!("sha256:{}", &hex[1..]);
        let long = format!("sha256:{hex}0");
        let odd = format!("sha256:{}g", &hex[1..]);
        let wide = format!("sha256:{}é", &hex[2..]);
        for text in [hex, &short, &long, &odd, &wide, "sha512:00", ""] {
            let wrong = digest(text).unwrap_err();
            assert!(
                text.is_empty() || !format!("{wrong:?}").contains(text),
                "{text}"
            );
        }
    }

    #[test]
    fn expiry_needs_date_time_and_offset() {
        assert_eq!(expiry("never"), Ok(None));
        let day = Some(Wall::from_unix_seconds(1_800_000_000));
        assert_eq!(expiry("2027-01-15T08:00:00Z"), Ok(day));
        assert_eq!(expiry("2027-01-15T09:00:00+01:00"), Ok(day));
        for text in [
            "",
            "2027-01-15",
            "2027-01-15T08:00:00",
            "tomorrow",
            "1969-01-01T00:00:00Z",
            "2027-02-30T00:00:00Z",
            "Never",
        ] {
            assert!(expiry(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let known = ["plans", "tenants", "upstreams"];
        let cases = [
            ("plan", Some("plans")),
            ("Plans", Some("plans")),
            ("tennants", Some("tenants")),
            ("up", Some("upstreams")),
            ("colour", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(nearest(text, &known), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 0..100_000_000_u64, bytes in 0..u64::MAX) {
            let span = Duration::from_millis(millis);
            prop_assert_eq!(duration(&show_duration(span)), Ok(span));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_word_panics(text in "\\PC*|[0-9]{1,25}/?[0-9]{0,25}[a-zA-Z]{0,5}") {
            let _ = (duration(&text), size(&text), rate(&text), digest(&text), expiry(&text), nearest(&text, &["s", "min"]));
        }
    }
}
