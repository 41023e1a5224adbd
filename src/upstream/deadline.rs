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

/// A timer that is kept from one wait to the next: nearly all end in time, and to set one and take it back costs more than to let it fire now and then for
/// nobody.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Sees to it that it fires at this point, or before.
    pub(super) fn fire_by(&mut self, due: Instant) {
        match &mut self.0 {
            Some(sleep) if sleep.deadline() <= due => {}
            Some(sleep) => sleep.as_mut().reset(due),
            None => self.0 = Some(Box::pin(tokio::time::sleep_until(due))),
        }
    }

    /// Ready at this point and no earlier. Which point that is may change from one call to the next.
    pub(super) fn poll_due(
        &mut self,
        cx: &mut Context<'_>,
        due: impl Fn(Instant) -> Instant,
    ) -> Poll<()> {
        let Some(sleep) = &mut self.0 else {
            return Poll::Pending;
        };
        while sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = due(now);
            if now >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
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

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::poll_fn;

    const MILLI: Duration = Duration::from_millis(1);

    /// How long a wait lasts that is to last so long, in milliseconds.
    async fn wait(timer: &mut Timer, millis: u32) -> Duration {
        let begun = Instant::now();
        let due = begun + MILLI * millis;
        timer.fire_by(due);
        poll_fn(|cx| timer.poll_due(cx, |_| due)).await;
        begun.elapsed()
    }

    /// Left from waits that ended in time it stands at an earlier point than the next wait needs, or at a later one.
    #[tokio::test]
    async fn a_kept_timer_is_neither_early_nor_late() {
        let mut timer = Timer::default();
        for (left, millis) in [(30_000, 40), (10, 60), (60, 60), (30_000, 20)] {
            timer.fire_by(Instant::now() + MILLI * left);
            let lasted = wait(&mut timer, millis).await;
            assert!(lasted >= MILLI * millis, "{lasted:?} of {millis}");
            assert!(lasted < MILLI * 10_000, "{lasted:?} of {millis}");
        }
    }
}
