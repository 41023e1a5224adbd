//! Waits that cost nothing until somebody really waits: a timer exists only after the first pending poll.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

/// The longest silence that is borne on a body, and the end of the whole exchange.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    end: Option<Instant>,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Bears `limit` of silence at a time, and nothing after `end`.
    pub(super) fn new(limit: Duration, end: Option<Instant>) -> Silence {
        Silence {
            limit,
            end,
            since: None,
            timer: None,
        }
    }

    /// Something came: the silence is over.
    pub(super) fn broken(&mut self) {
        self.since = None;
    }

    /// Whether the end of the exchange has passed; asked where bytes flow so steadily that nobody ever waits.
    pub(super) fn past_end(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// To be polled after whatever is waited for was pending; ready when it was silent for too long.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let due = earliest(after(since, self.limit), self.end);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        // A timer left from an earlier wait fires early and is moved only then: most waits end in time and cost no timer operation.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

/// The point `span` after another; a span beyond all bounds is a century.
pub(super) fn after(point: Instant, span: Duration) -> Instant {
    point.checked_add(span).unwrap_or_else(|| point + CENTURY)
}

/// The earlier of a point and one that may not exist.
pub(super) fn earliest(point: Instant, end: Option<Instant>) -> Instant {
    end.map_or(point, |end| point.min(end))
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
