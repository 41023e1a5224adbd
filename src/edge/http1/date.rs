//! The `Date` of answers that have none (RFC 9110 section 6.6.1), written anew when the sweep's clock has moved, and not for every answer.

use std::cell::RefCell;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::clock::Clock;

/// A date as text, and when it was written.
#[derive(Debug, Default)]
struct Written {
    tick: u32,
    text: String,
}

thread_local! {
    static DATE: RefCell<Written> = RefCell::default();
}

/// Writes the date behind what `out` holds; `tick` is the worker's, which moves four times a second.
pub(super) fn write(tick: u32, out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|written| {
        if written.tick != tick || written.text.is_empty() {
            written.text = now();
            written.tick = tick;
        }
        out.extend_from_slice(written.text.as_bytes());
    });
}

fn now() -> String {
    let seconds = Clock::system().now().wall.unix_seconds();
    let now = i64::try_from(seconds).ok();
    let now = now.and_then(|seconds| Timestamp::from_second(seconds).ok());
    // A year that the format has no room for is nobody's, and a date of 1970 does not mislead a cache into keeping.
    let now = now.unwrap_or(Timestamp::UNIX_EPOCH);
    let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
    text.unwrap_or_default()
}
