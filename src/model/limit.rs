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

/// Why a text is no rate, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARate {
    /// What is wrong, as the end of a sentence that begins with the name of the setting.
    pub what: String,
    /// The way out.
    pub help: String,
}

impl fmt::Display for NotARate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {}", self.what, self.help)
    }
}

impl std::error::Error for NotARate {}

/// Units of a window with their seconds, longest first.
const UNITS: [(&str, u64); 4] = [("day", 86_400), ("hour", 3_600), ("min", 60), ("s", 1)];
const COUNT_MAX: u64 = 1_000_000_000;
const SECONDS_MAX: u64 = 366 * 86_400;

impl Rate {
    /// Reads `N/[k]{s,min,hour,day}`, for example `100/hour` or `50/10s`.
    ///
    /// # Errors
    /// What is wrong, and what a rate looks like.
    pub fn parse(text: &str) -> Result<Rate, NotARate> {
        const HELP: &str = "a rate is N/[k]{s,min,hour,day}: \"100/hour\", \"20/min\", \"50/10s\"; or \"unlimited\"";
        let not_a_rate = |help: String| NotARate {
            what: format!("\"{text}\" is not a rate"),
            help,
        };
        let Some((count, window)) = text.split_once('/') else {
            return Err(not_a_rate(match text.parse::<u32>() {
                Ok(number) => format!("write \"{number}/hour\", or /s, /min, /day"),
                Err(_) => HELP.to_owned(),
            }));
        };
        let digits = window
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(window.len());
        let (times, unit) = window.split_at(digits);
        let Some((_, length)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(NotARate {
                what: format!("\"{text}\" is not a rate: \"{unit}\" is no unit of time"),
                help: match unit_meant(unit) {
                    Some(near) => {
                        format!("write \"{count}/{times}{near}\"; units are s, min, hour and day")
                    }
                    None => HELP.to_owned(),
                },
            });
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(not_a_rate(HELP.to_owned()));
        }
        let times = if times.is_empty() { "1" } else { times };
        let seconds = times
            .parse::<u64>()
            .ok()
            .and_then(|times| times.checked_mul(*length));
        match (count.parse::<u64>().ok(), seconds) {
            (Some(count @ 1..=COUNT_MAX), Some(seconds @ 1..=SECONDS_MAX)) => Ok(Rate {
                count: u32::try_from(count).unwrap_or(u32::MAX),
                seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            }),
            _ => Err(NotARate {
                what: format!("\"{text}\" is out of bounds"),
                help: "a rate is 1 to 1000000000 requests in 1 second to 366 days; to refuse everybody set api_access = false"
                    .to_owned(),
            }),
        }
    }
}

/// The unit that `h`, `hours`, `seconds` … stand for.
fn unit_meant(text: &str) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let same = |unit: &&str| text.starts_with(unit) || unit.starts_with(&text);
    match text.is_empty() {
        true => None,
        false => ["s", "min", "hour", "day"].into_iter().find(same),
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = u64::from(self.seconds);
        let unit = UNITS
            .iter()
            .find(|(_, length)| seconds.is_multiple_of(*length));
        let (name, length) = unit.copied().unwrap_or(("s", 1));
        match seconds / length {
            1 => write!(out, "{}/{name}", self.count),
            factor => write!(out, "{}/{factor}{name}", self.count),
        }
    }
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_those_of_price_lists() {
        let good = [
            ("100/hour", 100, 3_600),
            ("20/min", 20, 60),
            ("50/10s", 50, 10),
            ("1/s", 1, 1),
            ("1000000000/366day", 1_000_000_000, 31_622_400),
        ];
        for (text, count, seconds) in good {
            let rate = Rate::parse(text).unwrap();
            assert_eq!(rate, Rate { count, seconds }, "{text}");
            assert_eq!(rate.to_string(), text);
        }
        let bad = [
            "",
            "/",
            "100",
            "100/",
            "/hour",
            "100/fortnight",
            "100/h",
            "100/hours",
            "100/Hour",
            "100 /hour",
            "100/ hour",
            "-1/s",
            "+1/s",
            "0/s",
            "1/0s",
            "1000000001/s",
            "1/367day",
            "1/99999999999999999999s",
            "99999999999999999999/s",
            "1/2/s",
            "1.5/s",
            "1e3/s",
            "unlimited",
        ];
        for text in bad {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
        for (text, fix) in [
            ("100", "100/hour"),
            ("100/hours", "\"100/hour\""),
            ("5/2mins", "\"5/2min\""),
            ("5/h", "\"5/hour\""),
            ("5/Seconds", "\"5/s\""),
        ] {
            let help = Rate::parse(text).unwrap_err().help;
            assert!(help.contains(fix), "{text}: {help}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(count in 1..=1_000_000_000_u32, seconds in 1..=31_622_400_u32) {
            let rate = Rate { count, seconds };
            prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }
    }
}
