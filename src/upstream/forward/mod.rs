//! One exchange with a backend: send, bound every wait, retry only what is provably safe, stream the answer back.

mod answering;
mod failing;

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::task::ready;

use http::HeaderMap;
use http::HeaderValue;
use http::Method;
use http::Response;
use http::header;
use http::request::Parts;
use http_body::Body;
use tokio::time::Instant;

use crate::config::HostHeader;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::gate::Admission;
use crate::model::limit::Mode;
use crate::snapshot::place::Place;
use crate::upstream::ClientRequest;
use crate::upstream::Failure;
use crate::upstream::Forwarded;
use crate::upstream::body::BodyFault;
use crate::upstream::body::RequestBody;
use crate::upstream::body::Upload;
use crate::upstream::connect::connect;
use crate::upstream::deadline::Silence;
use crate::upstream::deadline::Timer;
use crate::upstream::deadline::after;
use crate::upstream::deadline::earliest;
use crate::upstream::drain::Unread;
use crate::upstream::drain::drain;
use crate::upstream::headers;
use crate::upstream::headers::Own;
use crate::upstream::http1::Connection;
use crate::upstream::http1::SharedConnection;
use crate::upstream::inject::Inject;
use crate::upstream::inject::forget_digests;
use crate::upstream::json_form;
use crate::upstream::pool::Claim;
use crate::upstream::pool::Directory;
use crate::upstream::pool::Idle;
use crate::upstream::pool::Keeping;
use crate::upstream::pool::Lease;
use crate::upstream::pool::Server;
use crate::upstream::pool::Servers;
use crate::upstream::prepared::Prepared;
use crate::upstream::queue::Permit;
use crate::upstream::references;
use crate::upstream::turn::turn;
use crate::upstream::websocket;
use crate::upstream::websocket::Handshake;

use answering::passes_by_line;
pub(super) use failing::story;

/// Sends an admitted request and waits for the head of the answer.
///
/// # Errors
/// `Failure` when no answer head came.
pub(super) fn forward<'a>(
    directory: &'a Directory,
    admission: &'a Admission,
    own: Own<'a>,
    by_line: bool,
    request: ClientRequest,
) -> impl Future<Output = Result<Forwarded, Failure>> + use<'a> {
    // Prepared before the future is made, which would else keep room for the request as it came in and as it goes out.
    let mut exchange = Exchange::new(directory, admission, own, &request);
    exchange.by_line = by_line && passes_by_line(admission, &request.head.method);
    let request = exchange.request(request);
    async move {
        let mut request = request?;
        if let Some(rules) = references::of(admission, &request.head.method) {
            // Boxed: both are rare.
            Box::pin(references::check(&exchange, rules, &mut request)).await?;
        } else if admission.route().json_as_form {
            Box::pin(json_form::turn(&exchange, &mut request)).await?;
        } else if request.body.is_rewritten() {
            Box::pin(exchange.gather(&mut request)).await?;
        }
        if exchange.upstream.protocol == UpstreamProtocol::Http2 {
            // Boxed, so that no exchange over HTTP/1.1 pays for its room.
            return Box::pin(exchange.run_http2(request)).await;
        }
        exchange.run(request).await
    }
}

/// What stays the same over all tries of one request.
pub(super) struct Exchange<'a> {
    pub(super) admission: &'a Admission,
    pub(super) upstream: &'a Upstream,
    pub(super) servers: Servers,
    pub(super) upload: Rc<Upload>,
    /// What the gateway says, where it does not stand among the fields of the request: it is written behind them then.
    own: Option<Own<'a>>,
    /// Whether the answer's fields may go on line by line.
    by_line: bool,
    /// The WebSocket that the client asks for.
    handshake: Option<Handshake>,
    /// When all of it must be over.
    pub(super) end: Option<Instant>,
    /// Whether that is the client's doing.
    pub(super) hurried: bool,
}

/// What became of one try.
enum Sent {
    Answered(Forwarded),
    /// The connection was stale; here is the body, to be sent again on a fresh one.
    Again(Box<RequestBody>),
    /// Not a byte was sent, although the connection was fresh.
    Unsent(Box<RequestBody>, Failure),
    Failed(Failure),
}

impl<'a> Exchange<'a> {
    fn new(
        directory: &'a Directory,
        admission: &'a Admission,
        own: Own<'a>,
        request: &ClientRequest,
    ) -> Exchange<'a> {
        let ClientRequest { head, body } = request;
        let snapshot = admission.snapshot();
        let route = admission.route();
        let upstream = &*snapshot.config.upstreams[route.upstream];
        let allowed = route.total_timeout.or(upstream.total_timeout);
        let mut total = allowed;
        if upstream.protocol == UpstreamProtocol::Http2 {
            let wanted = headers::grpc_timeout(&head.headers);
            total = total.into_iter().chain(wanted).min();
        }
        Exchange {
            admission,
            upstream,
            servers: match admission.place() {
                Place::Shared(_) => directory.servers(snapshot, route.upstream),
                Place::Own(place) => {
                    let tenant = admission.tenant().map(|tenant| &tenant.id);
                    directory.servers_at(place, upstream, tenant)
                }
                Place::Nowhere => directory.none(),
            },
            upload: Rc::default(),
            own: Some(own),
            by_line: false,
            // Over HTTP/2 a WebSocket would be an extended CONNECT, which is not spoken: the Upgrade is taken out like any other.
            handshake: Some(upstream.protocol)
                .filter(|protocol| *protocol == UpstreamProtocol::Http1)
                .and_then(|_| Handshake::asked(head, body)),
            end: total.map(|total| after(Instant::now(), total)),
            hurried: total != allowed,
        }
    }

    /// Room for another request of the same caller, to the same servers, that must be over when this one is.
    pub(super) fn beside(&self) -> Exchange<'a> {
        Exchange {
            servers: Rc::clone(&self.servers),
            upload: Rc::default(),
            own: None,
            by_line: false,
            handshake: None,
            ..*self
        }
    }

    /// The request as it goes out, but for `Host`. Refuses a body that is announced as too large before anybody is contacted.
    fn request(&mut self, request: ClientRequest) -> Result<Prepared, Failure> {
        let ClientRequest { mut head, body } = request;
        let config = &self.admission.snapshot().config;
        let route_max = self.admission.route().body_bytes_max;
        let bytes_max = route_max.unwrap_or(config.http.body_bytes_max);
        let length = body.size_hint().exact();
        let unread = Unread::of(&head.headers, &config.connections);
        if length.is_some_and(|length| length > bytes_max) {
            drain(body, unread);
            return Err(self.client_failed(BodyFault::TooLarge, None));
        }
        let Ok(inject) = self.inject(&head, length) else {
            drain(body, unread);
            return Err(self.type_unfit());
        };
        let http2 = self.upstream.protocol == UpstreamProtocol::Http2;
        let takes_trailers = http2 && headers::takes_trailers(&head.headers);
        headers::clear(&mut head, self.admission);
        // Who looks things up among the fields finds ours there, too.
        let looks = http2
            || self.admission.route().json_as_form
            || references::of(self.admission, &head.method).is_some();
        if let Some(own) = self.own.take_if(|_| looks) {
            own.insert(&mut head.headers, self.admission);
        }
        let length = length.filter(|_| inject.is_none());
        if http2 {
            headers::frame_http2(&mut head, length, takes_trailers);
        } else {
            headers::frame(&mut head, length);
        }
        if self.handshake.is_some() {
            websocket::restate(&mut head.headers);
        }
        let silence = Silence::new(config.connections.stall_timeout, self.end);
        let upload = Rc::clone(&self.upload);
        let body = RequestBody::new(body, upload, bytes_max, silence, unread);
        let mut body = Box::new(body);
        if let Some(inject) = inject {
            forget_digests(&mut head.headers);
            body.rewrite(inject);
        }
        Ok(Prepared { head, body })
    }

    /// What rewrites the body, where the route's guard wants that and there is one (FM9).
    fn inject(&self, head: &Parts, length: Option<u64>) -> Result<Option<Box<Inject>>, ()> {
        let guard = self.admission.route().guard.as_deref();
        let guard = guard.filter(|guard| {
            guard.changes_requests() && guard.mode == Mode::Enforce && length != Some(0)
        });
        let tenant = self.admission.tenant().map(|tenant| tenant.id.as_str());
        guard.map_or(Ok(None), |guard| Inject::new(guard, tenant, &head.headers))
    }

    /// Holds a body that is rewritten until its length is known, if it is short: many backends cannot read chunks.
    async fn gather(&self, request: &mut Prepared) -> Result<(), Failure> {
        let body = &mut request.body;
        let length = std::future::poll_fn(|cx| body.poll_gather(cx)).await;
        let length = length.map_err(|fault| self.client_failed(fault, None))?;
        if let Some(length) = length {
            headers::restate_length(&mut request.head.headers, length);
        }
        Ok(())
    }

    /// Tries servers until one has the request. A server that could not be reached is not tried again; what was sent once is sent again
    /// only where `after_fault` says so.
    pub(super) async fn run(&self, request: Prepared) -> Result<Forwarded, Failure> {
        let permit = self.enter().await?;
        let Prepared { mut head, mut body } = request;
        let mut failed: Vec<usize> = Vec::new();
        let mut last = None;
        let mut again = None;
        let mut fresh_only = false;
        loop {
            let mut choice = match again.take() {
                Some(choice) => choice,
                None => self.next_try(&failed, last.take())?,
            };
            let server = &self.servers[choice.index];
            self.set_host(&mut head.headers, server);
            let failure = match self.lease(server, permit.as_ref(), fresh_only).await {
                Ok((lease, connection)) => {
                    match self.send(lease, connection, &mut head, body).await {
                        Sent::Answered(answer) => {
                            self.judge(&mut choice, Ok(&answer));
                            return Ok(answer);
                        }
                        Sent::Failed(failure) => {
                            self.judge(&mut choice, Err(&failure));
                            return Err(failure);
                        }
                        Sent::Again(unsent) => {
                            body = unsent;
                            fresh_only = true;
                            again = Some(choice);
                            continue;
                        }
                        Sent::Unsent(unsent, failure) => {
                            body = unsent;
                            failure
                        }
                    }
                }
                Err(failure) => failure,
            };
            self.judge(&mut choice, Err(&failure));
            failed.push(choice.index);
            last = Some(failure);
        }
    }

    fn set_host(&self, headers: &mut HeaderMap, server: &Server) {
        if self.own.is_some() {
            return;
        }
        let host = self.host(server);
        match host.and_then(|host| HeaderValue::from_bytes(host).ok()) {
            Some(host) => headers.insert(header::HOST, host),
            None => headers.remove(header::HOST),
        };
    }

    /// The host that this server is asked for.
    pub(super) fn host<'s>(&'s self, server: &'s Server) -> Option<&'s [u8]> {
        match &self.upstream.host_header {
            HostHeader::Client => Some(self.admission.host().as_bytes()),
            HostHeader::Server => server.host_header.as_ref().map(HeaderValue::as_bytes),
            HostHeader::Fixed(value) => Some(value.as_bytes()),
        }
    }

    /// An idle connection, or a new one.
    async fn lease(
        &self,
        server: &Rc<Server>,
        permit: Option<&Rc<Permit>>,
        fresh_only: bool,
    ) -> Result<(Lease, SharedConnection), Failure> {
        let claim = Claim::new(server, permit);
        let keeping = Keeping::of(self.upstream);
        if !fresh_only {
            let mut idle = server.take_idle();
            if idle.is_none() {
                turn().await;
                idle = server.take_idle();
            }
            if let Some(Idle { connection, until }) = idle {
                return Ok((Lease::new(claim, keeping, Some(until)), connection));
            }
        }
        // Boxed: it is rare, and would make every request's future larger.
        match Box::pin(connect(server, self.upstream, self.end)).await {
            Ok(connection) => Ok((Lease::new(claim, keeping, None), connection)),
            Err(failure) => Err(self.backend_failed(failure.kind, Some(server), &failure.detail)),
        }
    }

    async fn send(
        &self,
        lease: Lease,
        connection: SharedConnection,
        head: &mut Parts,
        body: Box<RequestBody>,
    ) -> Sent {
        let has_body = !body.is_end_stream();
        match &self.own {
            None => connection.borrow_mut().begin(head, None, body),
            Some(own) => {
                let host = self.host(lease.server());
                let write = |out: &mut Vec<u8>| own.write(host, self.admission, out);
                connection.borrow_mut().begin(head, Some(&write), body);
            }
        }
        let mut unbegun = lease.unbegun(&connection);
        let answered = std::future::poll_fn(|cx| Connection::poll_answered(&connection, cx));
        let begun = |now, _| connection.borrow().begun(now);
        let answered = self.head_of(answered, &mut unbegun.timer, begun).await;
        drop(unbegun);
        let fault = match answered {
            Some(Ok(status)) => {
                let passing = self.passing(status, &connection.borrow());
                // The room of the request's fields becomes that of the answer's.
                head.headers.clear();
                let mapped = match passing {
                    Some(_) => Ok(()),
                    None => connection.borrow_mut().map_lines(&mut head.headers),
                };
                match mapped {
                    Ok(()) => {
                        let mut answer = Response::new(()).into_parts().0;
                        answer.status = status;
                        answer.headers = std::mem::take(&mut head.headers);
                        return self.answered(lease, connection, answer, passing);
                    }
                    Err(fault) => fault,
                }
            }
            Some(Err(fault)) => fault,
            None => return Sent::Failed(self.timed_out(lease.server())),
        };
        let may_repeat = !has_body && is_safe(&head.method);
        self.after_fault(&lease, &mut connection.borrow_mut(), fault, may_repeat)
    }

    /// Waits for the answer's head; `None` when it did not come in time. The backend's time runs from the last piece of the request that its
    /// connection took, and not while the client is the one who is waited for. `begun` says from when on at the earliest, of now and of the first look.
    pub(super) async fn head_of<T>(
        &self,
        sent: impl Future<Output = T>,
        timer: &mut Timer,
        begun: impl Fn(Instant, Instant) -> Instant,
    ) -> Option<T> {
        let mut sent = pin!(sent);
        let mut started = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = sent.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            let started = *started.get_or_insert_with(|| {
                let now = Instant::now();
                timer.fire_by(self.head_due(now, now));
                now
            });
            ready!(timer.poll_due(cx, |now| self.head_due(begun(now, started), now)));
            Poll::Ready(None)
        })
        .await
    }

    fn head_due(&self, begun: Instant, now: Instant) -> Instant {
        let from = if self.upload.awaits_client() {
            now
        } else {
            self.upload
                .progressed()
                .map_or(begun, |progressed| progressed.max(begun))
        };
        earliest(after(from, self.upstream.first_byte_timeout), self.end)
    }
}

/// Whether it may be asked twice without harm.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
