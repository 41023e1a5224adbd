//! A backend's answer on its way to the client, or the tunnel that it opens.

use std::rc::Rc;

use http::Method;
use http::Response;
use http::StatusCode;
use http::header;
use http::response;

use crate::config::Auth;
use crate::gate::Admission;
use crate::gate::Manner;
use crate::refusal::UpstreamFailure;
use crate::upstream::Answer;
use crate::upstream::Forwarded;
use crate::upstream::Switched;
use crate::upstream::body::Hold;
use crate::upstream::body::ResponseBody;
use crate::upstream::body::Source;
use crate::upstream::deadline::Silence;
use crate::upstream::headers;
use crate::upstream::headers::Identity;
use crate::upstream::headers::Passing;
use crate::upstream::http1::Connection;
use crate::upstream::http1::SharedConnection;
use crate::upstream::location;
use crate::upstream::pool::Lease;
use crate::upstream::pool::Server;
use crate::upstream::tunnel::Opening;
use crate::upstream::websocket;

use super::Exchange;
use super::Sent;

impl Exchange<'_> {
    /// How the answer's fields go on line by line; `None` where a map is to be made of them.
    pub(super) fn passing(&self, status: StatusCode, connection: &Connection) -> Option<Passing> {
        let usual = status.as_u16() >= 200
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // Of an answer without a body the connection is given back at once, and with it goes what it keeps.
        let passes = self.by_line && usual && !connection.is_end_stream();
        passes.then(|| Passing::of(connection.lines(), self.keys()))?
    }

    pub(super) fn answered(
        &self,
        lease: Lease,
        connection: SharedConnection,
        head: response::Parts,
        passing: Option<Passing>,
    ) -> Sent {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(lease, connection, head);
        }
        let server = Rc::clone(lease.claimed());
        let source = Source::Own(Some(connection));
        let hold = Hold::Own(lease);
        let Some(passing) = passing else {
            return Sent::Answered(self.answer(head, source, hold, &server));
        };
        let mut body = self.body(source, hold);
        body.pass(passing);
        Sent::Answered(Forwarded::Answer(Answer {
            response: Response::from_parts(head, body),
            server: Rc::clone(&server.name),
        }))
    }

    /// An answer on its way to the client. The caller has seen to it that its status and framing can be passed on.
    pub(in crate::upstream) fn answer(
        &self,
        mut head: response::Parts,
        source: Source,
        hold: Hold,
        server: &Server,
    ) -> Forwarded {
        let body = self.body(source, hold);
        headers::clean(&mut head, body.identity(), self.keys());
        location::rewrite(&mut head, self.admission, server);
        Forwarded::Answer(Answer {
            response: Response::from_parts(head, body),
            server: Rc::clone(&server.name),
        })
    }

    /// On the heap: it goes from hand to hand into the connection.
    fn body(&self, source: Source, hold: Hold) -> Box<ResponseBody> {
        let identity = Identity::of(&self.admission.snapshot().config.headers);
        let silence = Silence::new(self.upstream.idle_timeout, self.end);
        let upload = Rc::clone(&self.upload);
        Box::new(ResponseBody::new(source, hold, upload, silence, identity))
    }

    /// A 101 opens a tunnel where it grants what was asked; any other is a backend's failure, and closes its connection (S7, S42).
    fn switch(
        &self,
        lease: Lease,
        connection: SharedConnection,
        mut head: response::Parts,
    ) -> Sent {
        let granted = self
            .handshake
            .as_ref()
            .is_some_and(|handshake| handshake.is_granted(&head));
        if !granted {
            let detail = "a 101 that does not grant what was asked";
            let kind = UpstreamFailure::UpgradeFailed;
            return Sent::Failed(self.backend_failed(kind, Some(lease.server()), detail));
        }
        let identity = Identity::of(&self.admission.snapshot().config.headers);
        headers::clean(&mut head, &identity, self.keys());
        head.headers.remove(header::CONTENT_LENGTH);
        websocket::restate(&mut head.headers);
        let server = Rc::clone(&lease.server().name);
        let opening = Opening::new(connection, lease, self.upstream.tunnel_idle_timeout);
        Sent::Answered(Forwarded::Switched(Box::new(Switched {
            head,
            server,
            opening,
        })))
    }

    /// Where this gateway takes keys from, if one was taken.
    pub(super) fn keys(&self) -> Option<&Auth> {
        let principal = self.admission.principal();
        principal.map(|_| &self.admission.snapshot().config.auth)
    }
}

/// Whether nobody on the way of the answer looks at its fields or changes them: no guard, no page of another origin. On a route that is tied to its
/// callers what is another's must look like what is not there, the order of the fields included (FM7), and some of its answers have to be looked at.
/// A `HEAD` is told a length that no body has.
pub(super) fn passes_by_line(admission: &Admission, method: &Method) -> bool {
    let route = admission.route();
    *method != Method::HEAD
        && route.guard.is_none()
        && route.bindings.is_none()
        && route.references.is_none()
        && *admission.manner() == Manner::default()
}
