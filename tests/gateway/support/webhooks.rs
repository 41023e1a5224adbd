//! A real receiver of webhooks, that answers as it is told and writes down what it saw.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use super::certs::Leaf;
use super::eventually;
use super::gateway::Setup;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A receiver that answers by these modes; killed when dropped.
pub struct Receiver {
    child: Child,
    log: PathBuf,
}

impl Receiver {
    /// Over HTTP.
    pub fn start(setup: &Setup, port: u16, modes: &str) -> Receiver {
        Receiver::listening(setup, port, modes, &[])
    }

    /// Over HTTPS, with this certificate.
    pub fn start_tls(setup: &Setup, port: u16, modes: &str, leaf: &Leaf) -> Receiver {
        let (certificate, key) = leaf.write(setup.directory(), "receiver");
        Receiver::listening(setup, port, modes, &[certificate, key])
    }

    fn listening(setup: &Setup, port: u16, modes: &str, tls: &[PathBuf]) -> Receiver {
        let log = setup.directory().join("webhooks.log");
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/real/webhook_receiver.py"
        );
        let child = Command::new("python3")
            .args([script, &port.to_string(), SECRET, modes])
            .arg(&log)
            .args(tls)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 starts");
        eventually("the receiver listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Receiver { child, log }
    }

    /// What it saw so far.
    pub fn seen(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until it has seen so many.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} webhooks"), || {
            let seen = self.seen();
            (seen.len() >= count).then_some(seen)
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// These settings, with alerts sent to a receiver at this port.
pub fn with_webhook(setup: Setup, port: u16) -> Setup {
    let secret = setup.directory().join("webhook.secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    setup
        .set(
            "alerts",
            "webhook",
            &format!(r#""http://127.0.0.1:{port}/hook?x=1""#),
        )
        .set("alerts", "webhook_secret", r#""webhook.secret""#)
}
