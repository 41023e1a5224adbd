//! What is remembered of one request until its answer has ended, and then counted and logged once.

mod closing;
mod finding;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use http::StatusCode;
use http::Uri;
use http::Version;
use http::request::Parts;

use crate::clock::Mono;
use crate::clock::Now;
use crate::gate;
use crate::gate::Admission;
use crate::gate::Foreign;
use crate::gate::Peer;
use crate::gate::Preflight;
use crate::gate::Principal;
use crate::gate::Refused;
use crate::model::key::KeyId;
use crate::model::request_id::RequestId;
use crate::model::route::Route;
use crate::model::tenant::TenantId;
use crate::snapshot::Snapshot;
use crate::token::Verified;
use crate::usage::Counted;

use super::Worker;
use super::in_flight::Flight;

pub(crate) use finding::Deed;

/// The status that is logged when the client left before there was an answer.
const CLIENT_LEFT: u16 = 499;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The whole answer was handed to the client's connection.
    Complete,
    /// The client went away, or its stream was reset, before that.
    ClientLeft,
    /// The backend's body broke off; the client was cut too.
    UpstreamCut,
    /// The backend fell silent or the exchange ran out of time; the client was cut too.
    TimedOut,
    /// The client's own body failed while the answer flowed; the answer was cut.
    ClientFailed,
    /// The key was revoked, or its like, while the answer flowed; the answer was cut, a tunnel closed.
    Revoked,
    /// The process ended while a tunnel was open; it was closed.
    Drained,
    /// The route's guard found in the flowing answer what may not go on, and cut it.
    GuardCut,
}

impl End {
    /// As the log and the metrics write it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            End::Complete => "complete",
            End::ClientLeft => "client_left",
            End::UpstreamCut => "upstream_cut",
            End::TimedOut => "timed_out",
            End::ClientFailed => "client_failed",
            End::Revoked => "revoked",
            End::Drained => "drained",
            End::GuardCut => "guard_cut",
        }
    }
}

/// One request's bookkeeping. Dropping it counts the request and writes its log line, whatever happened.
#[derive(Debug)]
pub(crate) struct Account {
    worker: Rc<Worker>,
    start: Now,
    peer: Peer,
    request_id: RequestId,
    method: Method,
    uri: Uri,
    version: Version,
    grpc: bool,
    flight: Option<Rc<Flight>>,
    host: Option<String>,
    /// Where it was not admitted.
    route: Option<Arc<Route>>,
    key: Option<KeyId>,
    /// Where the key's state lies, as far as it is known.
    seat: u32,
    /// Under what an admitted request of a key is counted in the end.
    counted: Option<Counted>,
    token: Option<Arc<Verified>>,
    tenant: Option<(Arc<Snapshot>, u32)>,
    server: Option<Rc<str>>,
    detail: String,
    status: u16,
    decision: &'static str,
    reason: &'static str,
    would_refuse: &'static str,
    upstream_time: Duration,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) end: End,
}

impl Account {
    /// Boxed, since it goes with its answer from hand to hand into the connection.
    pub(crate) fn open(worker: Rc<Worker>, start: Now, peer: Peer, head: &Parts) -> Box<Account> {
        worker.meters.in_flight.up();
        Box::new(Account {
            request_id: gate::request_id(&peer, &head.headers)
                .unwrap_or_else(|| worker.request_ids.next(start.wall)),
            worker,
            start,
            peer,
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            // gRPC asks by POST alone.
            grpc: head.method == Method::POST && gate::is_grpc(&head.headers),
            flight: None,
            host: None,
            route: None,
            key: None,
            seat: 0,
            counted: None,
            token: None,
            tenant: None,
            server: None,
            detail: String::new(),
            status: CLIENT_LEFT,
            decision: "forwarded",
            reason: "",
            would_refuse: "",
            upstream_time: Duration::ZERO,
            sent_bytes: 0,
            received_bytes: 0,
            end: End::ClientLeft,
        })
    }

    /// It goes on: `head` has no use any more for the target that it was judged by, since another is written over it.
    pub(crate) fn admitted(
        &mut self,
        flight: &Rc<Flight>,
        counted: Option<Counted>,
        head: &mut Parts,
    ) {
        let admission = flight.admission();
        self.counted = counted;
        std::mem::swap(&mut self.uri, &mut head.uri);
        let principal = admission.principal();
        self.token = principal.and_then(Principal::token).cloned();
        self.key = principal
            .map(|principal| principal.key)
            .filter(|_| self.token.is_none());
        self.flight = Some(Rc::clone(flight));
        self.observed(admission.would_refuse());
    }

    /// The route that serves it, as far as that is known.
    fn route(&self) -> Option<&Arc<Route>> {
        let flight = self.flight.as_ref();
        let admitted = flight.map(|flight| flight.admission().route());
        admitted.or(self.route.as_ref())
    }

    pub(crate) fn refused(
        &mut self,
        snapshot: &Arc<Snapshot>,
        refused: Refused,
        status: StatusCode,
    ) {
        self.status = status.as_u16();
        self.decision = "refused";
        self.reason = refused.reason;
        self.host = refused.host;
        self.route = refused.route;
        (self.key, self.seat) = (refused.key, refused.seat);
        self.token = refused.token;
        self.observed(refused.would_refuse);
        self.tenant = refused.tenant.map(|tenant| (Arc::clone(snapshot), tenant));
        self.worker.meters.refusal(refused.reason);
    }

    pub(crate) fn preflight(&mut self, preflight: Preflight, status: StatusCode) {
        self.status = status.as_u16();
        self.decision = "preflight";
        self.host = Some(preflight.host);
        self.route = Some(preflight.route);
    }

    /// Metadata of a resource were asked for at this host.
    pub(crate) fn metadata(&mut self, host: String, status: StatusCode) {
        self.status = status.as_u16();
        self.decision = "metadata";
        self.host = Some(host);
    }

    fn observed(&mut self, would_refuse: Option<&'static str>) {
        if let Some(reason) = would_refuse {
            self.would_refuse = reason;
            self.worker.meters.would_refuse(reason);
            if let Some(key) = self.reported() {
                let route = self.route().map(|route| &**route);
                (self.worker.observed).note(key, route, reason, self.start.wall);
            }
        }
    }

    pub(crate) fn refused_in_clear(&mut self, exposed: Option<KeyId>, status: StatusCode) {
        self.status = status.as_u16();
        self.decision = "refused";
        self.reason = if exposed.is_some() {
            "key_seen_in_plaintext"
        } else {
            "plaintext"
        };
        self.key = exposed;
        self.worker.meters.refusal(self.reason);
    }

    /// The backend has answered or failed, at this time.
    pub(crate) fn answered(&mut self, at: Mono) {
        self.upstream_time = at.since(self.start.mono);
    }

    pub(crate) fn forwarded(&mut self, server: Rc<str>, status: StatusCode) {
        self.server = Some(server);
        self.status = status.as_u16();
    }

    /// The request was for another's: what the backend says of it is our refusal.
    pub(crate) fn foreign(&mut self, foreign: &Foreign) {
        self.decision = "refused";
        self.reason = foreign.reason;
        self.worker.meters.refusal(foreign.reason);
    }

    /// The request's body refers to another's, or to nothing, and no backend has seen it; never what it says there.
    pub(crate) fn refers_to_foreign(&mut self, reason: &'static str, detail: String) {
        self.decision = "refused";
        self.reason = reason;
        self.detail = detail;
        self.worker.meters.refusal(reason);
    }

    /// What was found out after the admission and only observed.
    pub(crate) fn observed_meanwhile(&mut self, admission: &Admission) {
        if self.would_refuse.is_empty() {
            self.observed(admission.would_refuse());
        }
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    pub(crate) fn server(&mut self, server: Option<Rc<str>>) {
        self.server = server;
    }

    pub(crate) fn failed(&mut self, reason: &'static str, detail: String, status: StatusCode) {
        self.status = status.as_u16();
        self.decision = "failed";
        self.reason = reason;
        self.detail = detail;
        self.worker.meters.refusal(reason);
    }

    /// The answer was dropped in its middle: we cut it because the key ended, or else the client left.
    pub(crate) fn left(&mut self) -> End {
        let Some(ended) = self.flight.as_ref().and_then(|flight| flight.ended()) else {
            return End::ClientLeft;
        };
        self.reason = ended.reason();
        self.worker.meters.refusal(self.reason);
        End::Revoked
    }

    /// The client has its 101, and bytes may flow.
    pub(crate) fn tunnel_opened(&self) {
        let open = &self.worker.metrics.tunnels_open;
        open.fetch_add(1, Ordering::Relaxed);
    }

    /// The tunnel that was open has ended, in a way and after bytes that are known by now.
    pub(crate) fn tunnel_closed(&self) {
        let metrics = &self.worker.metrics;
        metrics.tunnels_open.fetch_sub(1, Ordering::Relaxed);
        metrics
            .tunnel_received_bytes
            .fetch_add(self.received_bytes, Ordering::Relaxed);
        metrics
            .tunnel_sent_bytes
            .fetch_add(self.sent_bytes, Ordering::Relaxed);
        let ended = metrics.tunnel_end(self.end.word());
        ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    pub(crate) fn request_id(&self) -> &RequestId {
        &self.request_id
    }

    /// The path of the request.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether fields of the answer may be lines: over HTTP/1.1, where a body says how long it is.
    pub(crate) fn takes_lines(&self) -> bool {
        self.version < Version::HTTP_2 && !self.is_head()
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether an answer that has begun can still say how it ends: to gRPC over HTTP/2.
    pub(crate) fn ends_in_trailers(&self) -> bool {
        self.grpc && self.version == Version::HTTP_2
    }

    /// The request's place among those in flight.
    pub(crate) fn flight(&self) -> Option<&Rc<Flight>> {
        self.flight.as_ref()
    }

    /// A bit for each window that the answer tells of.
    pub(crate) fn windows(&self) -> u32 {
        let numbers = self
            .flight
            .as_ref()
            .and_then(|flight| flight.admission().numbers());
        numbers.map_or(0, |numbers| {
            u32::from(numbers.quota.is_some()) << 1 | u32::from(numbers.burst.is_some())
        })
    }

    fn tenant_id(&self) -> Option<&TenantId> {
        if let Some(tenant) = self
            .flight
            .as_ref()
            .and_then(|flight| flight.admission().tenant())
        {
            return Some(&tenant.id);
        }
        let (snapshot, index) = self.tenant.as_ref()?;
        Some(&snapshot.tenants.entries[*index as usize].id)
    }

    fn upstream_text(&self) -> &str {
        let Some(flight) = &self.flight else {
            return "";
        };
        let admission = flight.admission();
        &admission.snapshot().config.upstreams[admission.route().upstream].name
    }

    /// Under what the request is reported.
    fn reported(&self) -> Option<KeyId> {
        let token = self.token.as_ref();
        self.key.or(token.map(|token| token.reported))
    }
}
