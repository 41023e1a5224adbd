//! What a plan allows: a quota (fixed window) and a burst (sliding window).

/// `count` requests per `seconds`, written `"100/hour"`, `"50/10s"`; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests admitted per window; 1 to 1,000,000,000.
    pub count: u32,
    /// Length of the window in seconds; 1 to 366 days.
    pub seconds: u32,
}

/// The limits of one subject. `None` is the configured word `"unlimited"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Fixed window, opened by the subject's first charged request, reported in `X-RateLimit-*`.
    pub quota: Option<Rate>,
    /// Sliding window: no span of its length ever contains more admissions than its count.
    pub burst: Option<Rate>,
}
