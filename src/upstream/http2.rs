//! One exchange with a backend over HTTP/2: a stream among others on a shared connection.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use h2::Reason;
use h2::RecvStream;
use http::HeaderMap;
use http::Method;
use http::Request;
use http::Response;
use http::Uri;
use http::header;
use http::request::Parts;
use http_body::Frame;
use http_body::SizeHint;

use crate::refusal::UpstreamFailure;
use crate::upstream::Failure;
use crate::upstream::Forwarded;
use crate::upstream::body::Hold;
use crate::upstream::body::Source;
use crate::upstream::deadline::Timer;
use crate::upstream::forward::Exchange;
use crate::upstream::forward::is_safe;
use crate::upstream::forward::story;
use crate::upstream::headers;
use crate::upstream::link::Ticket;
use crate::upstream::link::link;
use crate::upstream::payload::Payload;
use crate::upstream::pool::Claim;
use crate::upstream::pool::Server;
use crate::upstream::prepared::Prepared;
use crate::upstream::queue::Permit;
use crate::upstream::turn::turn;

/// What became of one try.
enum Sent {
    Answered(Forwarded),
    /// The server has not acted on it, for certain; it may be sent again.
    Unsent {
        failure: Failure,
        /// Whether on a connection that others had used, so that the next one may do better.
        reused: bool,
    },
    Failed(Failure),
}

impl Exchange<'_> {
    /// Tries servers until one has the request. What a server provably did not act on is sent once more to the same server, on another connection if
    /// that one closed, and then to others.
    pub(super) async fn run_http2(&self, request: Prepared) -> Result<Forwarded, Failure> {
        let permit = self.enter().await?;
        let Prepared { head, body } = request;
        let payload = Payload::new(body);
        let mut failed: Vec<usize> = Vec::new();
        let mut last = None;
        let mut again = None;
        let mut repeated = false;
        loop {
            let mut choice = match again.take() {
                Some(choice) => choice,
                None => self.next_try(&failed, last.take())?,
            };
            let server = &self.servers[choice.index];
            let failure = match self.try_on(server, permit.as_ref(), &head, &payload).await {
                Sent::Answered(answer) => {
                    self.judge(&mut choice, Ok(&answer));
                    return Ok(answer);
                }
                Sent::Failed(failure) => {
                    self.judge(&mut choice, Err(&failure));
                    return Err(failure);
                }
                Sent::Unsent { reused: true, .. } if !repeated => {
                    repeated = true;
                    again = Some(choice);
                    continue;
                }
                Sent::Unsent { failure, .. } => failure,
            };
            self.judge(&mut choice, Err(&failure));
            failed.push(choice.index);
            last = Some(failure);
        }
    }

    async fn try_on(
        &self,
        server: &Rc<Server>,
        permit: Option<&Rc<Permit>>,
        head: &Parts,
        payload: &Rc<Payload>,
    ) -> Sent {
        let claim = Claim::new(server, permit);
        turn().await;
        let (link, fresh) = match link(server, self.upstream, self.end).await {
            Ok(linked) => linked,
            Err(failure) => {
                let failure = self.backend_failed(failure.kind, Some(server), &failure.detail);
                let reused = false;
                return Sent::Unsent { failure, reused };
            }
        };
        let whole = payload.is_none();
        let (response, stream) = match link.begin(self.addressed(head, server), whole) {
            Ok(begun) => begun,
            Err(error) => {
                let kind = UpstreamFailure::ConnectionTerminated;
                let failure = self.backend_failed(kind, Some(server), &story(&error));
                let reused = !fresh;
                return Sent::Unsent { failure, reused };
            }
        };
        let mut ticket = Ticket::new(claim, &link);
        if !whole {
            let sending = tokio::task::spawn_local(Rc::clone(payload).send(stream));
            ticket.sends(sending.abort_handle());
        }
        match self
            .head_of(response, &mut Timer::default(), |_, first| first)
            .await
        {
            Some(Ok(response)) => {
                payload.is_settled();
                self.http2_answer(server, ticket, response)
            }
            Some(Err(error)) => {
                self.after_http2_error(server, &head.method, payload, &error, fresh)
            }
            None => {
                link.doubt();
                Sent::Failed(self.timed_out(server))
            }
        }
    }

    /// The head for this server: what HTTP/1.1 says in `Host` stands in the target.
    fn addressed(&self, head: &Parts, server: &Server) -> Request<()> {
        let host = self.host(server);
        let authority = host.unwrap_or(server.name.as_bytes());
        let scheme = if server.secure.is_some() {
            "https"
        } else {
            "http"
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path)
            .build();
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = target.unwrap_or_else(|_| head.uri.clone());
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(header::HOST);
        request
    }

    fn http2_answer(
        &self,
        server: &Server,
        ticket: Ticket,
        response: Response<RecvStream>,
    ) -> Sent {
        let headers = response.headers();
        if headers.len() > self.upstream.header_count_max
            || bytes_of(headers) > self.upstream.head_bytes_max
        {
            let kind = UpstreamFailure::HeadTooLarge;
            let detail = "the answer's header fields are too large or too many";
            return Sent::Failed(self.backend_failed(kind, Some(ticket.server()), detail));
        }
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let (head, stream) = response.into_parts();
        if let Some(kind) = headers::fault(&head) {
            let detail = "the answer's status or framing cannot be passed on";
            return Sent::Failed(self.backend_failed(kind, Some(server), detail));
        }
        let source = Source::Shared(Stream { stream, length });
        Sent::Answered(self.answer(head, source, Hold::Shared(Box::new(ticket)), server))
    }

    fn after_http2_error(
        &self,
        server: &Server,
        method: &Method,
        payload: &Payload,
        error: &h2::Error,
        fresh: bool,
    ) -> Sent {
        if let Some(fault) = self.upload.fault() {
            return Sent::Failed(self.client_failed(fault, Some(server)));
        }
        let untouched = is_untouched(error);
        let kind = match error.reason() {
            _ if untouched => UpstreamFailure::Unavailable,
            Some(_) if error.is_library() => UpstreamFailure::ProtocolError,
            _ => UpstreamFailure::ConnectionTerminated,
        };
        let failure = self.backend_failed(kind, Some(server), &story(error));
        // A connection that broke under a request may have been stale: as over HTTP/1.1, only what is safe and has no body is asked again (S36).
        let stale = !fresh && is_safe(method) && payload.is_none() && error.is_io();
        if stale || (untouched && payload.can_be_sent_again()) {
            let reused = !fresh;
            return Sent::Unsent { failure, reused };
        }
        Sent::Failed(failure)
    }
}

/// Whether the server says that it has not acted on the request and will not: it refused the stream, or closes the connection and names a stream
/// before this one as the last that it looked at (RFC 9113 section 8.7).
fn is_untouched(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// As RFC 9113 section 6.5.2 counts.
fn bytes_of(headers: &HeaderMap) -> usize {
    let lines = headers.iter();
    lines
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// A backend's body over HTTP/2.
#[derive(Debug)]
pub(super) struct Stream {
    stream: RecvStream,
    /// What `Content-Length` says.
    length: Option<u64>,
}

impl Stream {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Taken now, since the next is only asked for when the client's connection has room again. Refused only where the stream is gone.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx));
                Poll::Ready(
                    trailers
                        .map(|trailers| trailers.map(Frame::trailers))
                        .transpose(),
                )
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}
