//! One worker's handles on the metrics it touches, so that a request looks nothing up in a shared table.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use foldhash::fast::RandomState;

use crate::metrics::Metrics;
use crate::metrics::RouteMetrics;
use crate::metrics::Share;
use crate::model::route::Route;

/// How many route handles are kept before the cache starts anew (a reload makes new routes).
const HANDLES_MAX: usize = 4096;

/// The label of requests that no route serves.
const NO_ROUTE: &str = "(none)";

/// A route and its numbers, found by the route's address, which the `Arc` kept here holds from being reused.
type Handle = (Arc<Route>, Rc<RouteMetrics>);

#[derive(Debug)]
pub(crate) struct Meters {
    metrics: Arc<Metrics>,
    /// Requests between their head and the end of their answer.
    pub(crate) in_flight: Share,
    unmatched: RouteMetrics,
    /// By pattern: those that have been served.
    patterns: RefCell<HashMap<String, Rc<RouteMetrics>, RandomState>>,
    routes: RefCell<HashMap<usize, Handle, RandomState>>,
    refusals: RefCell<Counters>,
    would_refuse: RefCell<Counters>,
    guards: RefCell<Counters>,
}

/// Counters by reason, of which all are ours.
type Counters = HashMap<&'static str, Arc<AtomicU64>, RandomState>;

impl Meters {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Meters {
        let unmatched = metrics.route(NO_ROUTE);
        Meters {
            in_flight: metrics.in_flight(),
            metrics,
            unmatched,
            patterns: RefCell::default(),
            routes: RefCell::default(),
            refusals: RefCell::default(),
            would_refuse: RefCell::default(),
            guards: RefCell::default(),
        }
    }

    pub(crate) fn request(
        &self,
        route: Option<&Arc<Route>>,
        status: u16,
        took: Duration,
        sent_bytes: u64,
    ) {
        let Some(route) = route else {
            return self.unmatched.record(status, took, sent_bytes);
        };
        let mut routes = self.routes.borrow_mut();
        if routes.len() >= HANDLES_MAX {
            routes.clear();
        }
        let address = Arc::as_ptr(route) as usize;
        let (_, handle) = routes
            .entry(address)
            .or_insert_with(|| (Arc::clone(route), self.of_pattern(&route.path)));
        handle.record(status, took, sent_bytes);
    }

    /// This worker's numbers of a pattern, made on first use.
    fn of_pattern(&self, pattern: &str) -> Rc<RouteMetrics> {
        let mut patterns = self.patterns.borrow_mut();
        let entry = patterns.entry(pattern.to_owned());
        Rc::clone(entry.or_insert_with(|| Rc::new(self.metrics.route(pattern))))
    }

    pub(crate) fn refusal(&self, reason: &'static str) {
        let mut refusals = self.refusals.borrow_mut();
        let counter = refusals
            .entry(reason)
            .or_insert_with(|| self.metrics.refusal(reason));
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn would_refuse(&self, reason: &'static str) {
        let mut observed = self.would_refuse.borrow_mut();
        let counter = observed
            .entry(reason)
            .or_insert_with(|| self.metrics.would_refuse(reason));
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn guard(&self, outcome: &'static str) {
        let mut guards = self.guards.borrow_mut();
        let counter = guards
            .entry(outcome)
            .or_insert_with(|| self.metrics.guard(outcome));
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
