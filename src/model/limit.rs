//! What a plan allows: a quota (fixed window) and a burst (sliding window).

use std::fmt;

/// `count` requests per `seconds`, written `"100/hour"`, `"50/10s"`; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests admitted per window; 1 to 1,000,000,000.
    pub count: u32,
    /// Length of the window in seconds; 1 to 366 days.
    pub seconds: u32,
}

/// Units of a window with their seconds, longest first.
const UNITS: [(&str, u32); 4] = [("day", 86_400), ("hour", 3_600), ("min", 60), ("s", 1)];

impl Rate {
    /// Reads `N/[k]{s,min,hour,day}`, for example `100/hour` or `50/10s`.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong and what a rate looks like.
    pub fn parse(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!(
                "\"{text}\" is not a rate; write for example \"100/hour\", \"20/min\" or \"50/10s\" (units: s, min, hour, day)"
            )
        };
        let (count, window) = text.split_once('/').ok_or_else(wrong)?;
        let digits = window.len()
            - window
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .len();
        let (factor, unit) = window.split_at(digits);
        let factor = if factor.is_empty() {
            Some(1)
        } else {
            number(factor)
        };
        let unit = UNITS.iter().find(|(name, _)| *name == unit);
        let (Some(count), Some(factor), Some((_, seconds))) = (number(count), factor, unit) else {
            return Err(wrong());
        };
        let seconds = factor.saturating_mul(*seconds);
        if !(1..=1_000_000_000).contains(&count) || !(1..=366 * 86_400).contains(&seconds) {
            return Err(format!(
                "\"{text}\": a rate allows 1 to 1000000000 requests in 1 second to 366 days"
            ));
        }
        Ok(Rate { count, seconds })
    }
}

/// Plain digits only: no sign, no space.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, length)| self.seconds.is_multiple_of(*length));
        let (name, length) = unit.copied().unwrap_or(("s", 1));
        match self.seconds / length {
            1 => write!(out, "{}/{name}", self.count),
            factor => write!(out, "{}/{factor}{name}", self.count),
        }
    }
}

/// Whether a rule holds or is only tried out (DESIGN section 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Requests that break it are refused.
    #[default]
    Enforce,
    /// They pass, and it is counted and logged that they would have been refused.
    Observe,
}

/// The limits of one subject. `None` is the configured word `"unlimited"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Fixed window, opened by the subject's first charged request, reported in `X-RateLimit-*`.
    pub quota: Option<Rate>,
    /// Sliding window: no span of its length ever contains more admissions than its count.
    pub burst: Option<Rate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back_as_they_are_written() {
        let cases = [
            ("100/hour", 100, 3600),
            ("20/min", 20, 60),
            ("50/10s", 50, 10),
            ("1/366day", 1, 31_622_400),
        ];
        for (text, count, seconds) in cases {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(rate, Rate { count, seconds });
            assert_eq!(rate.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "100",
            "/hour",
            "100/",
            "100/fortnight",
            "0/hour",
            "5/0s",
            "+5/min",
            "5/ min",
            "1/367day",
            "1000000001/s",
            "99999999999/s",
        ] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }
}
