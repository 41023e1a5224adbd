//! `--expires`: never, a span, or a date with its time and offset.

use jiff::Timestamp;

use crate::model::key::Lifetime;
use crate::store::request::Expiry;

/// When a key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expires {
    /// Only by revocation.
    Never,
    /// This many seconds after it is made.
    In(u64),
    /// At this Unix second.
    At(u64),
}

/// Seconds, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpanOrNever(pub(super) Option<u64>);

/// Reads a span such as `90d`, or `never`.
///
/// # Errors
/// What it should look like.
pub(super) fn span_or_never(text: &str) -> Result<SpanOrNever, String> {
    match Lifetime::parse(text) {
        Ok(lifetime) if lifetime.seconds != Some(0) => Ok(SpanOrNever(lifetime.seconds)),
        Ok(_) => Err("it would have ended before it began".to_owned()),
        Err(why) => Err(why.to_owned()),
    }
}

impl Expires {
    /// Reads what an operator types.
    ///
    /// # Errors
    /// What it should look like.
    pub(super) fn parse(text: &str) -> Result<Expires, String> {
        if let Ok(lifetime) = Lifetime::parse(text) {
            return Ok(lifetime.seconds.map_or(Expires::Never, Expires::In));
        }
        let unix = text.parse::<Timestamp>().ok().map(Timestamp::as_second);
        unix.and_then(|unix| u64::try_from(unix).ok())
            .map(Expires::At)
            .ok_or_else(|| {
                "write never, a span such as 30d, 90d or 1y (units: s, min, h, d, y), or a date with time and offset such as 2027-01-31T00:00:00Z".to_owned()
            })
    }

    /// The same for a key that there is.
    pub(super) fn expiry(self) -> Expiry {
        match self {
            Expires::Never => Expiry::Never,
            Expires::In(seconds) => Expiry::InSeconds(seconds),
            Expires::At(unix) => Expiry::AtUnixSeconds(unix),
        }
    }

    /// The span, if it is one.
    pub(super) fn in_seconds(self) -> Option<u64> {
        match self {
            Expires::In(seconds) => Some(seconds),
            Expires::Never | Expires::At(_) => None,
        }
    }

    /// The date, if it is one.
    pub(super) fn at_unix_seconds(self) -> Option<u64> {
        match self {
            Expires::At(unix) => Some(unix),
            Expires::Never | Expires::In(_) => None,
        }
    }
}

/// A span such as `24h`, in seconds.
///
/// # Errors
/// What it should look like.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let seconds = Lifetime::parse(text)
        .ok()
        .and_then(|lifetime| lifetime.seconds);
    seconds
        .ok_or_else(|| "write a span such as 30min, 24h or 90d (units: s, min, h, d, y)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_spans_and_dates_are_read() {
        let cases = [
            ("never", Expires::Never),
            ("2s", Expires::In(2)),
            ("5min", Expires::In(300)),
            ("12h", Expires::In(43_200)),
            ("90d", Expires::In(90 * 86_400)),
            ("1y", Expires::In(365 * 86_400)),
            ("2027-01-31T00:00:00Z", Expires::At(1_801_353_600)),
            ("2027-01-31T01:00:00+01:00", Expires::At(1_801_353_600)),
        ];
        for (text, expected) in cases {
            assert_eq!(Expires::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in [
            "",
            "90",
            "d",
            "90 d",
            "-1d",
            "3m",
            "2027-01-31",
            "2027-01-31T00:00:00",
            "1900-01-01T00:00:00Z",
            "99999999999999999999d",
            "tomorrow",
        ] {
            assert!(Expires::parse(text).is_err(), "{text}");
        }
    }
}
