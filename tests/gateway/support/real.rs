//! Three unmodified real backends on free loopback ports: nginx, a Python WSGI server, a Node server.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::eventually;
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

/// nginx, with `X_Tenant_Id` allowed as an alias: the worst case.
#[track_caller]
pub fn nginx() -> Backend {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let template = fs::read_to_string(source("nginx.conf.in")).unwrap();
    let config = template
        .replace("@DIRECTORY@", directory.path().to_str().unwrap())
        .replace("@PORT@", &port.to_string());
    let path = directory.path().join("nginx.conf");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(first_found("nginx", &["/usr/sbin/nginx", "nginx"]));
    command.arg("-c").arg(&path).arg("-p").arg(directory.path());
    command.arg("-e").arg(directory.path().join("error.log"));
    begin("nginx", command, port, directory)
}

/// Python's own WSGI server, where `X_Tenant_Id` and `X-Tenant-Id` become one variable.
#[track_caller]
pub fn wsgi() -> Backend {
    let port = free_port();
    let mut command = Command::new("python3");
    command.arg(source("wsgi_app.py")).arg(port.to_string());
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
    eventually(&format!("{name} listens on {address}"), || {
        TcpStream::connect(address).ok()
    });
    backend
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first_found(name: &str, places: &[&str]) -> PathBuf {
    let there = |place: &&&str| Path::new(place).is_file();
    PathBuf::from(places.iter().find(there).unwrap_or(&name))
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/real")
        .join(file)
}
