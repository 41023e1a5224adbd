//! Three unmodified real backends on free loopback ports: nginx, a Python WSGI server, a Node server.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use tempfile::TempDir;

use crate::support::PATIENCE;
use crate::support::certs;
use crate::support::gateway::Gateway;
use crate::support::ports::free_port;

/// A running backend process; killed when dropped.
pub struct Backend {
    /// What it is called in messages.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    _directory: TempDir,
}

/// All three, or those that are not left out by name in `PORTCULLIS_WITHOUT` (comma-separated).
#[track_caller]
pub fn all() -> Vec<Backend> {
    let starters = [
        ("nginx", nginx as fn() -> Backend),
        ("python3", wsgi),
        ("nodejs", node),
    ];
    starters
        .into_iter()
        .filter(|(name, _)| !left_out(name))
        .map(|(_, start)| start())
        .collect()
}

/// Whether the person who runs the tests has left this component out; says so loudly.
pub fn left_out(name: &str) -> bool {
    let without = std::env::var("PORTCULLIS_WITHOUT").unwrap_or_default();
    let out = without.split(',').any(|word| word.trim() == name);
    if out {
        // Past the test runner's capture: what is not tested must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: everything that needs {name} (PORTCULLIS_WITHOUT)"
        );
    }
    out
}

/// A program that `tests/run` installs from PyPI or npm, below `target/test-tools`.
#[track_caller]
pub fn tool(name: &str, path: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/test-tools")
        .join(path);
    assert!(
        place.exists(),
        "this test needs {name} at {}; tests/run installs it, or leave it out by PORTCULLIS_WITHOUT={name}",
        place.display()
    );
    place
}

/// nginx, with `X_Tenant_Id` allowed as an alias: the worst case.
#[track_caller]
pub fn nginx() -> Backend {
    nginx_of("nginx.conf.in", SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// nginx as a server that is attacked, over TLS.
#[track_caller]
pub fn nginx_attacked() -> Backend {
    nginx_of(
        "nginx_attacked.conf.in",
        SocketAddr::from(([127, 0, 0, 1], 0)),
    )
}

/// nginx as a cache that clients share, before the gateway at this address.
#[track_caller]
pub fn nginx_cache(gateway: SocketAddr) -> Backend {
    nginx_of("nginx_cache.conf.in", gateway)
}

#[track_caller]
fn nginx_of(template: &str, gateway: SocketAddr) -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let template = fs::read_to_string(source(template)).unwrap();
    let config = template
        .replace("@DIRECTORY@", directory.path().to_str().unwrap())
        .replace("@GATEWAY@", &gateway.to_string())
        .replace("@PORT@", &port.to_string());
    certs::usual().write(directory.path(), "cert");
    let path = directory.path().join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(first_found("nginx", &["/usr/sbin/nginx", "nginx"]));
    command.arg("-c").arg(&path).arg("-p").arg(directory.path());
    command.arg("-e").arg(directory.path().join("error.log"));
    begin("nginx", command, port, directory)
}

/// nginx as a backend over TLS and HTTP/2, each on a port of its own.
pub struct SecureNginx {
    /// The process; its address is that of `https`.
    pub backend: Backend,
    /// HTTP/1.1 over TLS, certificate for `localhost` and 127.0.0.1.
    pub https: SocketAddr,
    /// The same, for clients with a certificate of the test authority.
    pub mutual: SocketAddr,
    /// HTTP/2 or HTTP/1.1 over TLS.
    pub http2: SocketAddr,
    /// HTTP/2 in clear.
    pub clear: SocketAddr,
    /// HTTP/1.1 over TLS, certificate expired.
    pub expired: SocketAddr,
}

/// That nginx, or `None` where nginx is left out.
#[track_caller]
pub fn secure_nginx() -> Option<SecureNginx> {
    if left_out("nginx") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let [https, mutual, http2, clear, expired] = [(); 5].map(|()| free_port());
    certs::usual().write(directory.path(), "cert");
    certs::expired(&["localhost", "127.0.0.1"]).write(directory.path(), "expired");
    fs::write(directory.path().join("ca.pem"), &certs::authority().pem).unwrap();
    let mut config = fs::read_to_string(source("nginx_tls.conf.in")).unwrap();
    for (name, port) in [
        ("@HTTPS@", https),
        ("@MUTUAL@", mutual),
        ("@HTTP2@", http2),
        ("@CLEAR@", clear),
        ("@EXPIRED@", expired),
    ] {
        config = config.replace(name, &port.to_string());
    }
    let config = config.replace("@DIRECTORY@", directory.path().to_str().unwrap());
    let path = directory.path().join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(first_found("nginx", &["/usr/sbin/nginx", "nginx"]));
    command.arg("-c").arg(&path).arg("-p").arg(directory.path());
    command.arg("-e").arg(directory.path().join("error.log"));
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Some(SecureNginx {
        backend: begin("nginx", command, https, directory),
        https: at(https),
        mutual: at(mutual),
        http2: at(http2),
        clear: at(clear),
        expired: at(expired),
    })
}

/// Python's own WSGI server, where `X_Tenant_Id` and `X-Tenant-Id` become one variable.
#[track_caller]
pub fn wsgi() -> Backend {
    let port = free_port();
    let mut command = Command::new("python3");
    command.arg(source("wsgi_app.py")).arg(port.to_string());
    begin("python3", command, port, tempfile::tempdir().unwrap())
}

/// A Python server that does as it is told at `/mood/…`: `well`, `503`, `hang` or `reset`; see `tests/real/moody_app.py`.
#[track_caller]
pub fn moody(port: u16) -> Backend {
    let mut command = Command::new("python3");
    command.arg(source("moody_app.py")).arg(port.to_string());
    begin("python3", command, port, tempfile::tempdir().unwrap())
}

/// A multi-tenant application over SQLite that leaks on purpose; see `tests/real/leaky_app.py` for its modes. It holds the rows of these
/// tenants, `acme` and `bravo` if none is named.
#[track_caller]
pub fn leaky(mode: &str, tenants: &[&str]) -> Backend {
    let port = free_port();
    let mut command = Command::new("python3");
    command.arg(source("leaky_app.py"));
    command.arg(port.to_string()).arg(mode).args(tenants);
    begin("python3", command, port, tempfile::tempdir().unwrap())
}

/// Node's own HTTP server.
#[track_caller]
pub fn node() -> Backend {
    let port = free_port();
    let mut command = Command::new(first_found("nodejs", &["/usr/bin/node", "node"]));
    command.arg(source("node_app.js")).arg(port.to_string());
    begin("nodejs", command, port, tempfile::tempdir().unwrap())
}

/// Servers that speak HTTP/2 known beforehand, in clear: nghttp2's, which sends uploads back and has a file `/any/x`, and Node's, which says what
/// it got; without those that are left out.
#[track_caller]
pub fn http2() -> Vec<Backend> {
    let starters = [
        ("nghttp2-server", nghttpd as fn() -> Backend),
        ("nodejs", node_http2),
    ];
    starters
        .into_iter()
        .filter(|(name, _)| !left_out(name))
        .map(|(_, start)| start())
        .collect()
}

#[track_caller]
fn nghttpd() -> Backend {
    let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
    fs::create_dir(directory.path().join("any")).unwrap();
    fs::write(directory.path().join("any/x"), "a file").unwrap();
    let mut command = Command::new(first_found("nghttpd", &["/usr/sbin/nghttpd", "nghttpd"]));
    command.args(["--no-tls", "--echo-upload", "--address=127.0.0.1", "-d"]);
    command.arg(directory.path()).arg(port.to_string());
    begin("nghttp2-server", command, port, directory)
}

#[track_caller]
fn node_http2() -> Backend {
    let port = free_port();
    let mut command = Command::new(first_found("nodejs", &["/usr/bin/node", "node"]));
    command.arg(source("node_http2.js")).arg(port.to_string());
    begin("nodejs", command, port, tempfile::tempdir().unwrap())
}

/// A real WebSocket server, Python's `websockets`; `None` when it is left out.
#[track_caller]
pub fn websockets() -> Option<Backend> {
    if left_out("python3-websockets") {
        return None;
    }
    let port = free_port();
    let mut command = debian_python();
    command.arg(source("ws_server.py")).arg(port.to_string());
    let directory = tempfile::tempdir().unwrap();
    Some(begin("python3-websockets", command, port, directory))
}

/// A real WebSocket client that tries everything and says line by line what it sees; killed when dropped.
pub struct WebsocketClient {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl WebsocketClient {
    /// Starts it towards `/any/ws` of this gateway, with this key.
    #[track_caller]
    pub fn start(gateway: &Gateway, key: &str) -> WebsocketClient {
        let authority = gateway.directory().join("ws-ca.pem");
        fs::write(&authority, &certs::authority().pem).unwrap();
        let url = format!("wss://localhost:{}/any/ws", gateway.https().port());
        let mut command = debian_python();
        command.arg(source("ws_client.py")).arg(url);
        command.arg(authority).arg(key);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 starts");
        let lines = BufReader::new(child.stdout.take().unwrap());
        WebsocketClient { child, lines }
    }

    /// The next line that it says; its own waits are bounded.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for WebsocketClient {
    fn drop(&mut self) {
        // An nginx takes its workers with it only if it is asked; who does not go is killed.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that Debian's packages are for, where there is one: another may stand before it in PATH and know none of them.
fn debian_python() -> Command {
    Command::new(first_found(
        "python3-websockets",
        &["/usr/bin/python3", "python3"],
    ))
}

/// HAProxy as a balancer that passes TLS through to the gateway, with these words behind its `server` line. Connects from 127.0.0.1.
#[track_caller]
pub fn haproxy(gateway: SocketAddr, options: &str) -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
         listen edge\n bind 127.0.0.1:{port}\n server gateway {gateway} {options}\n"
    );
    let path = directory.path().join("haproxy.cfg");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(first_found("haproxy", &["/usr/sbin/haproxy"]));
    command.arg("-db").arg("-f").arg(&path);
    begin("haproxy", command, port, directory)
}

/// An OpenID Provider at this port, which signs with this private key (a JWK); `None` where it is left out.
#[track_caller]
pub fn oidc_provider(port: u16, key: &str, audience: &str) -> Option<Backend> {
    if left_out("oidc-provider") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.json");
    fs::write(&file, key).unwrap();
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oidc-provider");
    assert!(
        modules.join("node_modules/oidc-provider").is_dir(),
        "this test needs the npm package oidc-provider in {}; tests/run installs it, or leave it out by PORTCULLIS_WITHOUT=oidc-provider",
        modules.display()
    );
    let mut command = Command::new("node");
    command.arg(source("oidc_provider.mjs")).arg(modules);
    command.arg(port.to_string()).arg(file).arg(audience);
    Some(begin("oidc-provider", command, port, directory))
}

#[track_caller]
fn begin(name: &'static str, mut command: Command, port: u16, directory: TempDir) -> Backend {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = child.unwrap_or_else(|error| {
        panic!("this test needs {name}, which does not start ({error}); install it, or leave it out by PORTCULLIS_WITHOUT={name}")
    });
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let backend = Backend {
        name,
        address,
        child,
        _directory: directory,
    };
    // A whole program starts: on a busy machine that takes its time.
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        let late = begun.elapsed() > 6 * PATIENCE;
        assert!(!late, "waited in vain for: {name} listens on {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
    backend
}

impl Drop for Backend {
    fn drop(&mut self) {
        // An nginx takes its workers with it only if it is asked; who does not go is killed.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first of these that is a file, or else the last, which PATH knows; `name` where there is none.
fn first_found(name: &str, places: &[&str]) -> PathBuf {
    let there = |place: &&&str| Path::new(place).is_file();
    let last = places.last().unwrap_or(&name);
    PathBuf::from(places.iter().find(there).unwrap_or(last))
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/real")
        .join(file)
}
