//! A connection after its 101: the tunnel in it, and the account that closes when it ends.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use http::Response;

use crate::upstream::ClientStream;
use crate::upstream::Ending;
use crate::upstream::Opening;
use crate::upstream::Switched;
use crate::upstream::Tunnel;

use super::account::Account;
use super::account::End;
use super::answer;
use super::body::Body;
use super::in_flight::Flight;
use super::in_flight::Passage;

/// The 101 for the client, behind which the tunnel opens when the client has it.
pub(crate) fn open(
    account: Box<Account>,
    flight: &Rc<Flight>,
    switched: Switched,
) -> Response<Body> {
    let Switched { head, opening, .. } = switched;
    let head = answer::switch(head, flight.admission(), &account);
    let through = Through {
        account,
        flight: Rc::clone(flight),
        tunnel: None,
        ending: None,
    };
    flight.hand_over(Passage::new(move |client| {
        Box::pin(through.carry(opening, client))
    }));
    Response::from_parts(head, Body::none())
}

/// What goes through. Dropping it, at its end or before, counts and logs the request.
#[derive(Debug)]
struct Through {
    account: Box<Account>,
    flight: Rc<Flight>,
    /// There once it is open.
    tunnel: Option<Tunnel>,
    ending: Option<Ending>,
}

impl Through {
    async fn carry(mut self, opening: Opening, client: ClientStream) {
        self.tunnel = Some(opening.open(client));
        self.flight.tunnels();
        self.account.tunnel_opened();
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let dismissed = self.flight.poll_dismissed(cx);
        let Some(tunnel) = &mut self.tunnel else {
            return Poll::Ready(());
        };
        let polled = tunnel.poll(cx, dismissed);
        polled.map(|ending| self.ending = Some(ending))
    }
}

impl Drop for Through {
    fn drop(&mut self) {
        self.account.end = match self.ending {
            Some(Ending::Closed) => End::Complete,
            Some(Ending::ClientBroke) => End::ClientLeft,
            Some(Ending::BackendBroke) => End::UpstreamCut,
            Some(Ending::Silent) => End::TimedOut,
            Some(Ending::Dismissed) | None => match self.flight.ended() {
                None if self.flight.must_leave() => End::Drained,
                _ => self.account.left(),
            },
        };
        let Some(tunnel) = self.tunnel.take() else {
            return;
        };
        self.account.received_bytes = tunnel.received_bytes();
        self.account.sent_bytes = tunnel.sent_bytes();
        self.account.tunnel_closed();
        if self.ending.is_some() {
            tunnel.end();
        }
    }
}
