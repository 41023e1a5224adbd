//! Active health checks: asks the servers of upstreams that want it, from the control side, and says who is down.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rustls_pki_types::ServerName;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::config::Config;
use crate::config::HealthCheck;
use crate::config::HostHeader;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::UpstreamServer;
use crate::snapshot::Snapshot;
use crate::snapshot::TenantTable;
use crate::upstream::backends::Backends;
use crate::upstream::deadline::after;
use crate::upstream::health::Health;
use crate::upstream::health::scattered;

/// Checks servers for as long as it is polled. `view` gives the snapshot in force.
pub async fn check_servers(
    backends: Arc<Backends>,
    view: impl Fn() -> Arc<Snapshot> + Send + 'static,
) {
    let mut watched = Watched::default();
    let mut running = JoinSet::new();
    loop {
        watched.follow(&view(), &backends);
        let now = Instant::now();
        let room = RUNNING_MAX.saturating_sub(running.len());
        for (target, server) in watched.due(now).into_iter().take(room) {
            server.due = after(now, jittered(server.rules.interval, backends.now()));
            server.asked_until = Some(after(now, server.rules.timeout + TICK));
            let (target, rules) = (target.clone(), server.rules.clone());
            let upstream = Arc::clone(&server.upstream);
            running.spawn(async move {
                let verdict = ask(&target.1, &upstream, &rules).await;
                (target, verdict)
            });
        }
        let pause = if watched.servers.is_empty() {
            PAUSE
        } else {
            TICK
        };
        let next = now + pause;
        while let Ok(Some(ended)) = tokio::time::timeout_at(next, running.join_next()).await {
            if let Ok((target, verdict)) = ended
                && let Some(server) = watched.servers.get_mut(&target)
            {
                server.note(verdict);
            }
        }
        tokio::time::sleep_until(next).await;
    }
}

/// An upstream's name and one of its servers.
type Target = (String, UpstreamServer);

/// The servers that are checked.
#[derive(Default)]
struct Watched {
    servers: HashMap<Target, Checked>,
    /// What they were taken from; the rest of the snapshot is not held.
    of: Option<(Arc<Config>, Arc<TenantTable>)>,
}

/// One server that is checked. It counts as up until checks have failed, so that neither a start nor a reload turns anybody away.
struct Checked {
    health: Arc<Health>,
    upstream: Arc<Upstream>,
    rules: HealthCheck,
    due: Instant,
    /// When the check that is under way has ended for certain.
    asked_until: Option<Instant>,
    /// Checks in a row that ended like the last one.
    row: u32,
    last_was_good: bool,
    is_down: bool,
}

impl Watched {
    /// Those that are to be asked now; who waits longest comes first.
    fn due(&mut self, now: Instant) -> Vec<(&Target, &mut Checked)> {
        let servers = self.servers.iter_mut();
        let mut due: Vec<_> = servers.filter(|(_, server)| server.is_due(now)).collect();
        due.sort_by_key(|(_, server)| server.due);
        due
    }

    fn follow(&mut self, snapshot: &Arc<Snapshot>, backends: &Backends) {
        if let Some((config, tenants)) = &self.of
            && Arc::ptr_eq(config, &snapshot.config)
            && Arc::ptr_eq(tenants, &snapshot.tenants)
        {
            return;
        }
        self.of = Some((Arc::clone(&snapshot.config), Arc::clone(&snapshot.tenants)));
        let mut before = std::mem::take(&mut self.servers);
        for (index, upstream) in snapshot.config.upstreams.iter().enumerate() {
            let Some(rules) = &upstream.health else {
                continue;
            };
            let places = snapshot.tenants.entries.iter().flat_map(|tenant| {
                let own = tenant.places.iter().filter(move |(of, _)| *of == index);
                own.flat_map(|(_, place)| &place.servers)
            });
            for server in upstream.servers.iter().chain(places) {
                let target = (upstream.name.clone(), server.clone());
                let known = before.remove(&target);
                let checked = self.servers.entry(target).or_insert_with(|| {
                    known.unwrap_or_else(|| Checked::new(backends, upstream, rules, server))
                });
                checked.rules = rules.clone();
                checked.upstream = Arc::clone(upstream);
            }
        }
        // Nobody says any more that these are down.
        for forgotten in before.into_values() {
            forgotten.health.set_down(false);
        }
    }
}

impl Checked {
    fn new(
        backends: &Backends,
        upstream: &Arc<Upstream>,
        rules: &HealthCheck,
        server: &UpstreamServer,
    ) -> Checked {
        Checked {
            health: backends.health(&upstream.name, server),
            upstream: Arc::clone(upstream),
            rules: rules.clone(),
            due: Instant::now(),
            asked_until: None,
            row: 0,
            last_was_good: true,
            is_down: false,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due <= now && self.asked_until.is_none_or(|until| until <= now)
    }

    fn note(&mut self, verdict: Result<(), String>) {
        self.asked_until = None;
        let good = verdict.is_ok();
        self.row = match good == self.last_was_good {
            true => self.row.saturating_add(1),
            false => 1,
        };
        self.last_was_good = good;
        let (upstream, server) = (&self.health.upstream, &self.health.server);
        match verdict {
            Err(why) if !self.is_down && self.row >= self.rules.unhealthy => {
                self.is_down = true;
                self.health.set_down(true);
                tracing::warn!(
                    upstream,
                    server,
                    checks = self.row,
                    why,
                    "server_down: its health checks fail"
                );
            }
            Ok(()) if self.is_down && self.row >= self.rules.healthy => {
                self.is_down = false;
                self.health.set_down(false);
                tracing::info!(
                    upstream,
                    server,
                    checks = self.row,
                    "server_up: its health checks are good again"
                );
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Asks once; why the answer is not a good one.
async fn ask(
    server: &UpstreamServer,
    upstream: &Upstream,
    rules: &HealthCheck,
) -> Result<(), String> {
    let asked = tokio::time::timeout(rules.timeout, status_of(server, upstream, rules));
    let status = asked.await.map_err(|_| "no answer in time".to_owned())??;
    let (low, high) = rules.status;
    match (low..=high).contains(&status) {
        true => Ok(()),
        false => Err(format!("status {status}")),
    }
}

async fn status_of(
    server: &UpstreamServer,
    upstream: &Upstream,
    rules: &HealthCheck,
) -> Result<u16, String> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let host = host_of(server, upstream, rules);
    let Some(tls) = upstream.tls.as_ref().filter(|_| server.tls) else {
        return exchange(stream, "http", upstream.protocol, &host, &rules.path).await;
    };
    let Some(prepared) = &tls.prepared.0 else {
        return Err("TLS was not made ready".to_owned());
    };
    let name = tls.server_name.clone();
    let name = ServerName::try_from(name.unwrap_or_else(|| server.host.clone()));
    let name = name.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::clone(&prepared.client_config));
    let stream = connector.connect(name, stream).await;
    let stream = stream.map_err(|error| format!("TLS: {error}"))?;
    exchange(stream, "https", upstream.protocol, &host, &rules.path).await
}

/// What `Host` says: there is no client whose word could be passed on.
fn host_of(server: &UpstreamServer, upstream: &Upstream, rules: &HealthCheck) -> String {
    let fixed = match &upstream.host_header {
        HostHeader::Fixed(value) => Some(value),
        HostHeader::Client | HostHeader::Server => None,
    };
    let said = rules.host.as_ref().or(fixed).map(HeaderValue::to_str);
    match said {
        Some(Ok(host)) => host.to_owned(),
        Some(Err(_)) | None => server.to_string(),
    }
}

async fn exchange<T>(
    stream: T,
    scheme: &str,
    protocol: UpstreamProtocol,
    host: &str,
    path: &str,
) -> Result<u16, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match protocol {
        UpstreamProtocol::Http1 => over_http1(stream, host, path).await,
        UpstreamProtocol::Http2 => {
            let target = format!("{scheme}://{host}{path}");
            over_http2(stream, &target).await
        }
    }
}

/// Neither tenant nor key: it is the gateway itself that asks.
async fn over_http1(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Result<u16, String> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(|error| error.to_string())?;
    // Over TLS what was written may still wait.
    stream.flush().await.map_err(|error| error.to_string())?;
    let mut line = [0; STATUS_LINE_BYTES];
    let mut length = 0;
    while length < line.len() {
        let read = stream.read(&mut line[length..]).await;
        match read.map_err(|error| error.to_string())? {
            0 => break,
            count => length += count,
        }
    }
    let status = status_in(&line[..length]).ok_or_else(|| "no HTTP/1.1 answer".to_owned())?;
    // The rest is taken off the wire, or the server would see its connection reset.
    let mut rest = stream.take(REST_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let _ = tokio::time::timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut nowhere)).await;
    Ok(status)
}

/// `HTTP/1.1 200`, and then a space or the end of the line.
fn status_in(line: &[u8]) -> Option<u16> {
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, end) = rest.split_at_checked(3)?;
    let ends = matches!(end.first(), Some(b' ' | b'\r'));
    let plain = ends && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
    digits.parse().ok()
}

async fn over_http2<T>(stream: T, target: &str) -> Result<u16, String>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: h2::Error| format!("HTTP/2: {error}");
    let (mut sender, connection) = (h2::client::Builder::new().enable_push(false))
        .handshake::<T, Bytes>(stream)
        .await
        .map_err(said)?;
    let request = http::Request::get(target)
        .version(http::Version::HTTP_2)
        .header(http::header::USER_AGENT, AGENT)
        .body(());
    let request = request.map_err(|error| error.to_string())?;
    let (response, _) = sender.send_request(request, true).map_err(said)?;
    let mut response = std::pin::pin!(response);
    let answer = tokio::select! {
        answer = &mut response => answer,
        // What came before the end is there all the same.
        _ = connection => response.await,
    };
    Ok(answer.map_err(said)?.status().as_u16())
}

/// An interval, longer or shorter by up to a tenth, so that several gateways do not ask in step.
fn jittered(interval: Duration, chance: u64) -> Duration {
    let tenth = interval / 10;
    let part = u32::try_from(scattered(chance) & 0xff).unwrap_or(0);
    interval - tenth + tenth * 2 * part / 256
}

const AGENT: &str = "portcullis-health";
/// How often due checks are looked for.
const TICK: Duration = Duration::from_millis(50);
/// The same while nothing is to be checked.
const PAUSE: Duration = Duration::from_millis(500);
/// Checks under way at once: what the control side has file descriptors for (`descriptors.rs`).
const RUNNING_MAX: usize = 64;
/// Most of an answer that is read and thrown away, and for how long.
const REST_BYTES_MAX: u64 = 64 * 1024;
const REST_TIMEOUT: Duration = Duration::from_millis(100);
/// As much of an answer as is looked at.
const STATUS_LINE_BYTES: usize = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_line_of_http1_is_one() {
        for (line, status) in [
            ("HTTP/1.1 200 ", Some(200)),
            ("HTTP/1.0 503\r", Some(503)),
            ("HTTP/1.1 2000", None),
            ("HTTP/1.1 20", None),
            ("HTTP/2 200 OK", None),
            ("SSH-2.0-Open", None),
            ("", None),
        ] {
            assert_eq!(status_in(line.as_bytes()), status, "{line}");
        }
    }
}
