//! The rate-limit header fields of an answer.

use std::cell::RefCell;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

use crate::model::fields::Fields;
use crate::model::limit::Rate;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;

/// Which fields an answer gets.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub x: bool,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    pub ietf: bool,
    /// Whether `X-RateLimit-Reset` is the seconds that are left instead of the Unix time (C-23).
    pub reset_as_delta: bool,
}

/// Removes what the upstream says about limits of its own, then says ours (FA23).
///
/// `X-RateLimit-*` describe the quota, or the burst of a plan without quota (FF12); a plan with neither gets no field (PB21).
/// The policy names are `"burst"`, and for the quota its length: `"s"`, `"min"`, `"hour"`, `"day"`, or `"quota"` when it is none of these.
pub fn apply(headers: &mut HeaderMap, numbers: &Numbers, shown: &Shown) {
    strip(headers);
    add(headers, numbers, shown);
}

/// Says ours where nothing else speaks of limits, see `speaks_of_limits`.
pub fn add(headers: &mut HeaderMap, numbers: &Numbers, shown: &Shown) {
    say(numbers, shown, |name, said| {
        let value = match said {
            Said::New(value) => value,
            Said::Fixed(value) => value.clone(),
        };
        headers.append(name, value);
    });
}

/// Puts the same among the fields of an answer.
pub fn put(fields: &mut Fields<'_>, numbers: &Numbers, shown: &Shown) {
    say(numbers, shown, |name, said| match said {
        Said::New(value) => fields.put(name, value),
        Said::Fixed(value) => fields.keep(name, value),
    });
}

/// The value of a field of ours.
enum Said<'a> {
    /// Made for this answer.
    New(HeaderValue),
    /// The same in all answers to keys of the plan.
    Fixed(&'a HeaderValue),
}

fn say(numbers: &Numbers, shown: &Shown, mut tell: impl FnMut(&'static HeaderName, Said<'_>)) {
    let Some(reported) = numbers.quota.or(numbers.burst) else {
        return;
    };
    let mut text = Text::new();
    let remaining = text.part(|out| number(out, reported.remaining.into()));
    let reset = text.part(|out| reset(out, &reported, shown));
    let state = match shown.ietf {
        true => text.part(|out| each(out, numbers, state_item)),
        false => 0..0,
    };
    let bytes = Bytes::from(text.buffer);
    let mut set = |name: &'static HeaderName, range: Range<usize>, changes: bool| {
        if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes.slice(range)) {
            // Not secret, but worth no place in HTTP/2's compression table: the next answer says something else.
            value.set_sensitive(changes);
            tell(name, Said::New(value));
        }
    };
    if shown.x {
        set(&X_REMAINING, remaining, true);
        set(&X_RESET, reset, shown.reset_as_delta);
    }
    if shown.ietf {
        set(&STATE, state, true);
    }
    fixed(numbers, |fixed| {
        if shown.x {
            tell(&X_LIMIT, Said::Fixed(&fixed.limit));
        }
        if shown.ietf {
            tell(&POLICY, Said::Fixed(&fixed.policy));
        }
    });
}

/// Writes the same fields as lines behind what `out` holds. Whoever else speaks of limits there is to be left out by the caller, see `speaks_of_limits`.
pub fn write(numbers: &Numbers, shown: &Shown, out: &mut Vec<u8>) {
    let Some(reported) = numbers.quota.or(numbers.burst) else {
        return;
    };
    fixed(numbers, |fixed| {
        if shown.x {
            line(out, b"x-ratelimit-limit: ", |out| {
                out.extend_from_slice(fixed.limit.as_bytes());
            });
        }
        if shown.ietf {
            line(out, b"ratelimit-policy: ", |out| {
                out.extend_from_slice(fixed.policy.as_bytes());
            });
        }
    });
    if shown.x {
        line(out, b"x-ratelimit-remaining: ", |out| {
            number(out, reported.remaining.into());
        });
        line(out, b"x-ratelimit-reset: ", |out| {
            reset(out, &reported, shown)
        });
    }
    if shown.ietf {
        line(out, b"ratelimit: ", |out| each(out, numbers, state_item));
    }
}

fn reset(out: &mut Vec<u8>, reported: &WindowNumbers, shown: &Shown) {
    match shown.reset_as_delta {
        true => number(out, reported.reset_in_seconds.into()),
        false => number(out, reported.reset_unix_seconds),
    }
}

#[inline(always)]
fn line<const N: usize>(
    out: &mut Vec<u8>,
    name: &'static [u8; N],
    write: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(name);
    write(out);
    out.extend_from_slice(b"\r\n");
}

/// What the fields say of a plan, whoever asks: made once for each worker, and kept for the plans that were asked for last.
struct Fixed {
    of: [Option<Rate>; 2],
    limit: HeaderValue,
    policy: HeaderValue,
}

thread_local! {
    static FIXED: RefCell<[Option<Fixed>; PLANS]> = const { RefCell::new([const { None }; PLANS]) };
}

fn fixed(numbers: &Numbers, tell: impl FnOnce(&Fixed)) {
    let of = [numbers.quota, numbers.burst].map(|window| window.map(|window| window.rate));
    let counts = of.map(|rate| rate.map_or(0, |rate| rate.count ^ rate.seconds));
    let place = (counts[0] ^ counts[1].rotate_left(3)) as usize % PLANS;
    FIXED.with_borrow_mut(|plans| {
        let plan = &mut plans[place];
        if plan.as_ref().is_none_or(|fixed| fixed.of != of) {
            *plan = Fixed::new(of, numbers);
        }
        if let Some(fixed) = plan {
            tell(fixed);
        }
    });
}

impl Fixed {
    fn new(of: [Option<Rate>; 2], numbers: &Numbers) -> Option<Fixed> {
        let reported = of[0].or(of[1])?;
        let mut policy = Vec::new();
        each(&mut policy, numbers, policy_item);
        Some(Fixed {
            of,
            limit: HeaderValue::from(reported.count),
            policy: HeaderValue::try_from(policy).ok()?,
        })
    }
}

/// Removes every field whose name begins with `X-RateLimit` or `RateLimit`.
pub fn strip(headers: &mut HeaderMap) {
    let speaks = |name: &&HeaderName| speaks_of_limits(name.as_str().as_bytes());
    while let Some(name) = headers.keys().find(speaks).cloned() {
        headers.remove(name);
    }
}

/// Whether this name, in small letters, is one of those fields, or one that a backend would say the same with.
#[must_use]
pub fn speaks_of_limits(name: &[u8]) -> bool {
    name.strip_prefix(b"x-")
        .unwrap_or(name)
        .starts_with(b"ratelimit")
}

/// All values in one buffer, so that they cost one allocation.
struct Text {
    buffer: Vec<u8>,
}

impl Text {
    fn new() -> Text {
        Text {
            buffer: Vec::with_capacity(TEXT_BYTES),
        }
    }

    fn part(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.buffer.len();
        write(&mut self.buffer);
        start..self.buffer.len()
    }
}

fn each(out: &mut Vec<u8>, numbers: &Numbers, write: fn(&mut Vec<u8>, &str, &WindowNumbers)) {
    if let Some(quota) = &numbers.quota {
        write(out, quota_name(quota.rate.seconds), quota);
    }
    if numbers.quota.is_some() && numbers.burst.is_some() {
        out.extend_from_slice(b", ");
    }
    if let Some(burst) = &numbers.burst {
        write(out, "burst", burst);
    }
}

fn policy_item(out: &mut Vec<u8>, name: &str, window: &WindowNumbers) {
    item(
        out,
        name,
        (b";q=", window.rate.count),
        (b";w=", window.rate.seconds),
    );
}

fn state_item(out: &mut Vec<u8>, name: &str, window: &WindowNumbers) {
    item(
        out,
        name,
        (b";r=", window.remaining),
        (b";t=", window.reset_in_seconds),
    );
}

fn item(out: &mut Vec<u8>, name: &str, one: (&[u8], u32), other: (&[u8], u32)) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    for (label, value) in [one, other] {
        out.extend_from_slice(label);
        number(out, value.into());
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn quota_name(seconds: u32) -> &'static str {
    match seconds {
        1 => "s",
        60 => "min",
        3_600 => "hour",
        86_400 => "day",
        _ => "quota",
    }
}

/// Plans whose fixed values a worker remembers. With more they are made anew now and then.
const PLANS: usize = 16;
/// Enough for the values of an everyday plan; more only costs a second allocation.
const TEXT_BYTES: usize = 128;

static X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static STATE: HeaderName = HeaderName::from_static("ratelimit");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limit::Rate;

    fn shown(x: bool, ietf: bool) -> Shown {
        Shown {
            x,
            ietf,
            reset_as_delta: false,
        }
    }

    fn window(count: u32, seconds: u32, remaining: u32, reset_in_seconds: u32) -> WindowNumbers {
        WindowNumbers {
            rate: Rate { count, seconds },
            remaining,
            reset_unix_seconds: 1_800_000_000,
            reset_in_seconds,
        }
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    /// FA23, FF12, PB21.
    #[test]
    fn fields_describe_the_quota_or_else_the_burst() {
        let quota = Some(window(100, 3_600, 99, 3_600));
        let burst = Some(window(20, 60, 19, 60));
        let cases = [
            (
                quota,
                burst,
                r#""hour";q=100;w=3600, "burst";q=20;w=60"#,
                r#""hour";r=99;t=3600, "burst";r=19;t=60"#,
                [100, 99],
            ),
            (
                quota,
                None,
                r#""hour";q=100;w=3600"#,
                r#""hour";r=99;t=3600"#,
                [100, 99],
            ),
            (
                None,
                burst,
                r#""burst";q=20;w=60"#,
                r#""burst";r=19;t=60"#,
                [20, 19],
            ),
        ];
        for (quota, burst, policy, state, [limit, remaining]) in cases {
            let numbers = Numbers {
                quota,
                burst,
                ..Numbers::default()
            };
            for (x, ietf) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut headers = HeaderMap::new();
                apply(&mut headers, &numbers, &shown(x, ietf));
                let mut expected = Vec::new();
                if ietf {
                    expected.push(format!("ratelimit-policy: {policy}"));
                    expected.push(format!("ratelimit: {state}"));
                }
                if x {
                    expected.push(format!("x-ratelimit-limit: {limit}"));
                    expected.push(format!("x-ratelimit-remaining: {remaining}"));
                    expected.push("x-ratelimit-reset: 1800000000".to_owned());
                }
                expected.sort_unstable();
                assert_eq!(lines(&headers), expected);
            }
        }
        let mut headers = HeaderMap::new();
        apply(&mut headers, &Numbers::default(), &shown(true, true));
        assert_eq!(headers.len(), 0);
    }

    #[test]
    fn values_that_change_with_every_answer_stay_out_of_compression_tables() {
        let numbers = Numbers {
            quota: Some(window(100, 3_600, 99, 3_600)),
            ..Numbers::default()
        };
        for reset_as_delta in [false, true] {
            let mut headers = HeaderMap::new();
            let shown = Shown {
                reset_as_delta,
                ..shown(true, true)
            };
            apply(&mut headers, &numbers, &shown);
            for (name, changes) in [
                ("x-ratelimit-limit", false),
                ("x-ratelimit-remaining", true),
                ("x-ratelimit-reset", reset_as_delta),
                ("ratelimit-policy", false),
                ("ratelimit", true),
            ] {
                assert_eq!(headers[name].is_sensitive(), changes, "{name}");
            }
        }
    }

    #[test]
    fn quota_policies_are_named_by_their_length() {
        for (seconds, name) in [
            (1, "s"),
            (60, "min"),
            (3_600, "hour"),
            (86_400, "day"),
            (7_200, "quota"),
        ] {
            let numbers = Numbers {
                quota: Some(window(1_000_000_000, seconds, 1, 1)),
                ..Numbers::default()
            };
            let mut headers = HeaderMap::new();
            apply(&mut headers, &numbers, &shown(false, true));
            let policy = headers["ratelimit-policy"].to_str().unwrap();
            assert!(policy.starts_with(&format!("\"{name}\";")), "{policy}");
        }
    }

    /// FA23: the upstream's own fields are replaced, not doubled; every other field stays.
    #[test]
    fn upstream_limits_are_replaced() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-limit", "6"),
            ("x-ratelimit-limit-minute", "7"),
            ("ratelimit", "\"own\";r=1"),
            ("ratelimit-limit", "9"),
            ("x-rate", "kept"),
            ("retry-after", "kept"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let numbers = Numbers {
            quota: Some(window(100, 3_600, 99, 3_600)),
            ..Numbers::default()
        };
        apply(&mut headers, &numbers, &shown(true, false));
        assert_eq!(
            lines(&headers),
            [
                "retry-after: kept",
                "x-rate: kept",
                "x-ratelimit-limit: 100",
                "x-ratelimit-remaining: 99",
                "x-ratelimit-reset: 1800000000",
            ]
        );
    }
}
