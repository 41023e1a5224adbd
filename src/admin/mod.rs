//! The admin plane: what the command line asks, on a unix socket; the API and the dashboard there and, for who shows an admin token, on TCP; health and metrics for anybody.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::alerts::Alerts;
use crate::alerts::unwritten::Unwritten;
use crate::clock::Clock;
use crate::clock::Wall;
use crate::observed::Observed;
use crate::quota::Quota;
use crate::snapshot::change::Keeper;
use crate::store::audit::Actor;
use crate::upstream::UpstreamReport;

mod audit;
mod command;
mod grant;
mod health;
mod nodes;
mod observed;
mod problem;
mod rest;
mod serve;
mod session;
mod site;
mod socket;
mod usage;

pub use audit::AuditAnswer;
pub use audit::AuditAsked;
pub use nodes::Sharing;
pub use observed::Report;
pub use observed::Row;
pub use serve::serve_socket;
pub use serve::serve_tcp;
pub use session::Sessions;
pub use socket::bind_socket;
pub use usage::Asked;
pub use usage::PAGE_MAX;
pub use usage::Usage;

/// Reads gateway.toml again in somebody's name.
pub type Reload = Arc<dyn Fn(&Actor) -> Result<String, String> + Send + Sync>;

/// What the admin plane needs of the running gateway.
#[derive(Clone)]
pub struct Admin {
    /// Carries verbs out.
    pub keeper: Arc<Keeper>,
    /// Looked at, never charged, to explain a request.
    pub quota: Arc<Quota>,
    /// Whom observed rules would have refused.
    pub observed: Arc<Observed>,
    /// When this process began to observe.
    pub started: Wall,
    /// The directory of the store.
    pub store: PathBuf,
    /// Writes what was counted so far; blocks.
    pub flush: Arc<dyn Fn() + Send + Sync>,
    /// Dates what they do.
    pub clock: Clock,
    /// Reads gateway.toml again; blocks. `Ok` is what changed, `Err` why the old one goes on.
    pub reload: Reload,
    /// What `portcullis status` shows.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Who is in and who is not behind each upstream.
    pub upstreams: Arc<dyn Fn() -> Vec<UpstreamReport> + Send + Sync>,
    /// Counts since the start, for the dashboard.
    pub overview: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Sessions of the dashboard.
    pub sessions: Arc<Sessions>,
    /// Told when somebody tries tokens.
    pub alerts: Alerts,
    /// Alerts that the store does not know yet.
    pub unwritten: Arc<Unwritten>,
    /// Where the admin plane listens over TCP.
    pub address: Option<SocketAddr>,
    /// The whole of `/metrics`, OpenMetrics text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Whether new requests are welcome.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
struct Caller {
    /// The user id of the unix socket's peer, as the kernel says.
    uid: Option<u32>,
    /// The address of a TCP peer; `None` on the socket.
    peer: Option<SocketAddr>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Admin")
    }
}
