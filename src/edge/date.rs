//! The `Date` of answers that have none (RFC 9110 section 6.6.1), written anew when the sweep's clock has moved, and not for every answer.

use std::cell::RefCell;

use http::HeaderValue;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::clock::Clock;

/// A date as text, and when it was written.
#[derive(Debug, Default)]
struct Written {
    tick: u32,
    text: String,
    /// The same for HTTP/2, whose fields are no text yet; made by the first who asks.
    value: Option<HeaderValue>,
}

thread_local! {
    static DATE: RefCell<Written> = RefCell::default();
}

/// Writes the date behind what `out` holds; `tick` is the worker's, which moves four times a second.
pub(super) fn write(tick: u32, out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|written| {
        written.follow(tick);
        out.extend_from_slice(written.text.as_bytes());
    });
}

/// The date as a field's value; `tick` is the worker's.
pub(super) fn value(tick: u32) -> HeaderValue {
    DATE.with_borrow_mut(|written| {
        written.follow(tick);
        let text = &written.text;
        let value = written.value.get_or_insert_with(|| {
            // A date is made of characters that a field may have.
            let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
            // A new one each second is worth no place in HTTP/2's compression table.
            value.set_sensitive(true);
            value
        });
        value.clone()
    })
}

impl Written {
    fn follow(&mut self, tick: u32) {
        if self.tick != tick || self.text.is_empty() {
            self.text = now();
            self.value = None;
            self.tick = tick;
        }
    }
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
