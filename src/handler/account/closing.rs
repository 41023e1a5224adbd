//! The end of a request: counted for its route and its key, and written to the log.

use std::time::Duration;

use http::Version;

use crate::access_log::Entry;
use crate::access_log::TokenEntry;
use crate::gate::Admission;
use crate::token::Verified;

use super::Account;

/// The status of a tunnel, and of nothing else.
const SWITCHED: u16 = 101;

/// A request that takes less is no long one.
const PROMPT: Duration = Duration::from_secs(1);

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(flight) = &self.flight {
            self.worker.in_flight.leave(flight);
        }
        let took = self.worker.clock.mono().since(self.start.mono);
        let route = self.route();
        // A tunnel of hours is no slow answer, and its bytes are no body's: what its route is told of is the 101.
        let (answered, body_bytes) = match self.status {
            SWITCHED => (self.upstream_time, 0),
            _ => (took, self.sent_bytes),
        };
        self.worker
            .meters
            .request(route, self.status, answered, body_bytes);
        self.count_for_key(answered);
        self.worker.meters.in_flight.down();
        self.write_log(took);
    }
}

impl Account {
    /// Counts the request for its key, or for its tenant's tokens. What was refused for being another's was admitted and paid for, and counts by its status.
    fn count_for_key(&self, answered: Duration) {
        let (received, sent) = (self.received_bytes, self.sent_bytes);
        let usage = &self.worker.usage;
        match (&self.counted, self.reported()) {
            (Some(counted), _) => usage.ended(counted, self.status, answered, received, sent),
            (None, Some(key)) => {
                usage.refused(key, self.seat, self.start.wall, received, sent);
            }
            (None, None) => {}
        }
    }

    /// When the request ended, in microseconds since the Unix epoch. The clock is read for a long one only, in whose time it may have been set.
    fn ended_unix_micros(&self, took: Duration) -> u64 {
        match took < PROMPT {
            true => self.start.wall.0.saturating_add(whole_micros(took)),
            false => self.worker.clock.now().wall.0,
        }
    }

    fn write_log(&self, took: Duration) {
        let host = match &self.flight {
            Some(flight) => host_asked_for(flight.admission()),
            None => self.host.as_deref().unwrap_or(""),
        };
        self.worker.log.record(&Entry {
            unix_micros: self.ended_unix_micros(took),
            request_id: &self.request_id,
            client: self.peer.address.ip(),
            method: self.method.as_str(),
            host,
            path: self.uri.path(),
            protocol: protocol(self.version),
            status: self.status,
            decision: self.decision,
            reason: self.reason,
            would_refuse: self.would_refuse,
            route: self.route().map_or("", |route| &route.path),
            tenant: self.tenant_id(),
            key_id: self.key.as_ref(),
            token: self.token.as_deref().map(token_entry),
            upstream: self.upstream_text(),
            server: self.server.as_deref().unwrap_or(""),
            detail: &self.detail,
            request_bytes: self.received_bytes,
            response_bytes: self.sent_bytes,
            total_micros: whole_micros(took),
            upstream_micros: whole_micros(self.upstream_time),
            end: self.end.word(),
        });
    }
}

fn host_asked_for(admission: &Admission) -> &str {
    let replaced = admission
        .foreign()
        .and_then(|foreign| foreign.host.as_deref());
    replaced.unwrap_or(admission.host())
}

fn token_entry(token: &Verified) -> TokenEntry<'_> {
    let identity = &token.identity;
    TokenEntry {
        kind: token.kind.as_str(),
        issuer: &identity.issuer,
        subject: identity.subject.as_deref().unwrap_or(""),
        client: identity.client.as_deref().unwrap_or(""),
        jti: identity.jti.as_deref().unwrap_or(""),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn whole_micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
