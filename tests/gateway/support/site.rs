//! The real binary on ports of its own, and what runs of it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use crate::support::client;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::ports::free_port;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// A configuration on ports of its own, and what runs on it.
pub struct Site {
    /// What it was written from.
    pub setup: Setup,
    /// Where clients come in.
    pub https: SocketAddr,
    /// Its gateway.toml.
    pub config: PathBuf,
    /// Where plain HTTP is refused.
    http: SocketAddr,
    /// Health and metrics.
    admin: SocketAddr,
}

/// A running gateway process; killed when dropped.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Where its standard error goes.
    pub errors: PathBuf,
}

impl Site {
    /// A limited tenant in front of this backend.
    pub fn new(upstream: &Upstream) -> Site {
        Site::of(Setup::limited(upstream, "100/hour", "unlimited"))
    }

    /// These settings, on ports of their own.
    pub fn of(setup: Setup) -> Site {
        let ports = [free_port(), free_port(), free_port()];
        let setup = setup
            .set("listen", "https", &format!(r#"["127.0.0.1:{}"]"#, ports[0]))
            .set("listen", "http", &format!(r#"["127.0.0.1:{}"]"#, ports[1]))
            .set("listen", "admin", &format!(r#""127.0.0.1:{}""#, ports[2]));
        let config = setup.write();
        let [https, http, admin] = ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Site {
            setup,
            https,
            config,
            http,
            admin,
        }
    }

    /// Where plain HTTP is refused.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Health and metrics.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The value of a metric without labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let request = Request::get("/metrics").header("Connection", "close");
        let text = Http1::plain(self.admin).exchange(&request).text();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.find_map(|rest| rest.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("{name} in {text}"))
            .parse()
            .unwrap()
    }

    /// What the gateway has said on standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.setup.directory().join("stderr.log")).unwrap_or_default()
    }

    /// `portcullis WORDS --config …`, to its end.
    pub fn command(&self, words: &[&str]) -> Output {
        self.command_with(words, |_| {})
    }

    /// The same, with a command adjusted first.
    pub fn command_with(&self, words: &[&str], adjust: impl FnOnce(&mut Command)) -> Output {
        let mut command = Command::new(BINARY);
        command
            .args(words)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null());
        adjust(&mut command);
        command.output().unwrap()
    }

    /// The same, which must succeed; its standard output.
    #[track_caller]
    pub fn told(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert_exit(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts it and waits until it accepts.
    pub fn start(&self) -> Running {
        self.start_with(|_| {})
    }

    /// The same, with a command adjusted first.
    #[track_caller]
    pub fn start_with(&self, adjust: impl FnOnce(&mut Command)) -> Running {
        let errors = self.setup.directory().join("stderr.log");
        let mut command = Command::new(BINARY);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        adjust(&mut command);
        command.stderr(fs::File::create(&errors).unwrap());
        let mut running = Running {
            child: command.spawn().unwrap(),
            errors,
        };
        eventually("the gateway accepts", || {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("the gateway ended ({status}): {}", running.stderr());
            }
            client::tls(self.https, "localhost", client::tls_config(&[])).ok()
        });
        running
    }

    /// GET of `/any` with this key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Answer {
        Http1::tls(self.https).exchange(&Request::get("/any").bearer(key))
    }

    /// A key of tenant `acme` that inherits everything.
    #[track_caller]
    pub fn key(&self) -> String {
        let words = [
            "keys",
            "create",
            "--tenant",
            "acme",
            "--name",
            "test",
            "--inherit",
        ];
        self.told(&words).trim().to_owned()
    }

    /// Another such key: its text and its id.
    #[track_caller]
    pub fn key_and_id(&self) -> (String, String) {
        let words = "keys create --tenant acme --name test --inherit --output json";
        let words: Vec<&str> = words.split(' ').collect();
        let made: serde_json::Value = serde_json::from_str(&self.told(&words)).unwrap();
        let said = |name: &str| made[name].as_str().unwrap().to_owned();
        (said("text"), said("id"))
    }
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// What it has said on standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Waits for the end; the exit code.
    pub fn ended(&mut self) -> Option<i32> {
        eventually("the gateway ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails, showing everything, unless a command ended with this code.
#[track_caller]
pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a command said on standard error.
pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
