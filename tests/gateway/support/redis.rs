//! Real redis-server processes on free loopback ports, to be killed, frozen, emptied and promoted. `PORTCULLIS_REDIS_SERVER` names another
//! program to be run instead, such as `valkey-server`.

use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::ports::free_port;
use crate::support::real;

/// A running redis-server; killed when dropped.
pub struct Redis {
    /// Where it listens.
    pub port: u16,
    more: Vec<String>,
    directory: TempDir,
    /// What is preloaded, and the file that says what its wall clock is ahead.
    clock: Option<[PathBuf; 2]>,
    child: Child,
}

/// Whether it is left out; says so loudly.
pub fn left_out() -> bool {
    real::left_out("redis-server")
}

impl Redis {
    /// An empty one that keeps nothing on disk.
    #[track_caller]
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// The same with more words of command line.
    #[track_caller]
    pub fn start_with(more: &[&str]) -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        let child = run(port, &more, &directory, None);
        Redis {
            port,
            more,
            directory,
            clock: None,
            child,
        }
    }

    /// An empty one with a clock of its own; `set_clock_by` sets it.
    #[track_caller]
    pub fn start_with_clock() -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let clock = ["clock.so", "clock.shift"].map(|name| directory.path().join(name));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&clock[0])
            .arg(source);
        assert!(cc.status().unwrap().success(), "{cc:?}");
        std::fs::write(&clock[1], 0_i64.to_ne_bytes()).unwrap();
        let port = free_port();
        let child = run(port, &[], &directory, Some(&clock));
        Redis {
            port,
            more: Vec::new(),
            directory,
            clock: Some(clock),
            child,
        }
    }

    /// Its wall clock is as many seconds before or behind the machine's from now on.
    #[track_caller]
    pub fn set_clock_by(&self, seconds: i64) {
        let [_, shift] = self.clock.as_ref().expect("it has a clock of its own");
        let shift = std::fs::OpenOptions::new().write(true).open(shift).unwrap();
        let micros = (seconds * 1_000_000).to_ne_bytes();
        // In place: the server has it in its memory.
        shift.write_all_at(&micros, 0).unwrap();
    }

    /// One that is spoken to over TLS alone, by the user `gateway` alone, who may do what a gateway needs with names that begin `pc:live:`.
    #[track_caller]
    pub fn start_tls(certificate: &Path, key: &Path, authority: &Path) -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = server();
        command
            .args(["--port", "0", "--tls-port", &port.to_string()])
            .args(["--bind", "127.0.0.1", "--tls-auth-clients", "no"])
            .arg("--tls-cert-file")
            .arg(certificate)
            .arg("--tls-key-file")
            .arg(key)
            .arg("--tls-ca-cert-file")
            .arg(authority)
            .args(["--save", "", "--user", "default", "off"])
            .args(["--user", "gateway", "on", ">open sesame", "~pc:live:*"])
            .args(["-@all", "+@hash", "+@stream", "+@sortedset", "+@string"])
            .args([
                "+@keyspace",
                "+@scripting",
                "+@transaction",
                "+@connection",
                "+info",
                "+time",
            ]);
        let child = begin(command, port, &directory);
        Redis {
            port,
            more: Vec::new(),
            directory,
            clock: None,
            child,
        }
    }

    /// A replica of `primary`, in step with it.
    #[track_caller]
    pub fn replica_of(primary: &Redis) -> Redis {
        let port = primary.port.to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        eventually("the replica is in step", || {
            let info: String = redis::cmd("INFO").query(&mut replica.connect()).unwrap();
            info.contains("master_link_status:up").then_some(())
        });
        replica
    }

    /// A Sentinel that watches `primary` under the name `portcullis`, alone, and takes half a second of silence for death.
    #[track_caller]
    pub fn sentinel_of(primary: &Redis) -> Redis {
        Redis::sentinel_with(primary, "")
    }

    /// The same with more lines of its file.
    #[track_caller]
    pub fn sentinel_with(primary: &Redis, lines: &str) -> Redis {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor portcullis 127.0.0.1 {} 1\nsentinel down-after-milliseconds portcullis 500\nsentinel failover-timeout portcullis 5000\n{lines}",
            primary.port
        );
        std::fs::write(&file, text).unwrap();
        let mut command = server();
        command.arg(&file).arg("--sentinel");
        let child = begin(command, port, &directory);
        Redis {
            port,
            more: Vec::new(),
            directory,
            clock: None,
            child,
        }
    }

    /// A connection of the test's own.
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap();
        client.get_connection().unwrap()
    }

    /// What it answers.
    #[track_caller]
    pub fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut self.connect()).unwrap()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, with nothing in it, unless it keeps what it has (`--appendonly yes`).
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.child = run(self.port, &self.more, &self.directory, self.clock.as_ref());
    }

    /// Keeps it from answering, without closing a connection.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// This setup as the node with this name, sharing this server. It waits for it for long: on a busy machine a server that is well may answer late, and
    /// most tests are of what is exact while it is there. Those of one that is silent say how long is too long.
    pub fn node(&self, setup: Setup, name: &str) -> Setup {
        setup
            .set("store", "redis_timeout", r#""3s""#)
            .set("store", "kind", r#""redis""#)
            .set(
                "store",
                "redis_servers",
                &format!(r#"["127.0.0.1:{}"]"#, self.port),
            )
            .set("store", "node", &format!("{name:?}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn server() -> Command {
    let name = std::env::var("PORTCULLIS_REDIS_SERVER");
    Command::new(name.unwrap_or_else(|_| "redis-server".to_owned()))
}

#[track_caller]
fn run(port: u16, more: &[String], directory: &TempDir, clock: Option<&[PathBuf; 2]>) -> Child {
    let mut command = server();
    if let Some([library, shift]) = clock {
        command.env("LD_PRELOAD", library).env("CLOCK_SHIFT", shift);
    }
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0"])
        .args(more);
    begin(command, port, directory)
}

#[track_caller]
fn begin(mut command: Command, port: u16, directory: &TempDir) -> Child {
    let log = std::fs::File::create(directory.path().join("redis.log")).unwrap();
    let child = command
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("this test needs redis-server ({error}); tests/run installs it, or leave it out by PORTCULLIS_WITHOUT=redis-server")
        });
    eventually("redis-server listens", || {
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok()
    });
    child
}
