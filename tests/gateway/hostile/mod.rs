//! What no honest client sends: framing tricks, path tricks, floods, and backends that answer garbage. The rows of SECURITY.

mod backends;
mod bounds;
mod framing;
mod heads;
mod http2;
mod log;
pub mod targets;

use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::upstream::Upstream;

fn usual() -> (Upstream, Gateway) {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    (upstream, gateway)
}

/// Sends bytes that must be refused with one of these statuses, or by closing without a word; nothing may reach the backend
/// and nothing that follows on the connection may be taken for a request.
#[track_caller]
fn assert_refused(upstream: &Upstream, gateway: &Gateway, bytes: &str, statuses: &[u16]) {
    let before = upstream.hits();
    let mut client = gateway.connect();
    client.send(bytes);
    if let Some(answer) = client.try_read_for("GET") {
        assert!(statuses.contains(&answer.status), "{bytes:?}: {answer:?}");
    }
    let rest = client.read_to_end();
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "{bytes:?}: {rest:?}");
    assert_eq!(upstream.hits(), before, "{bytes:?}");
}
