//! A redis-server of a test's own; `PORTCULLIS_REDIS_SERVER` names another program to be run instead, such as `valkey-server`.

use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::Redis;

/// Killed when dropped.
pub(crate) struct Server {
    pub(crate) settings: Redis,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Server {
    /// An empty one; `None`, loudly, where `PORTCULLIS_WITHOUT` leaves it out.
    pub(crate) fn start() -> Option<Server> {
        let without = std::env::var("PORTCULLIS_WITHOUT").unwrap_or_default();
        if without.split(',').any(|word| word.trim() == "redis-server") {
            let words = "SKIPPED: everything that needs redis-server (PORTCULLIS_WITHOUT)";
            let _ = writeln!(std::io::stderr(), "{words}");
            return None;
        }
        let address = free_address();
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::var("PORTCULLIS_REDIS_SERVER");
        let mut child = Command::new(program.unwrap_or_else(|_| "redis-server".to_owned()))
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("this test needs redis-server; tests/run installs it, or leave it out by PORTCULLIS_WITHOUT=redis-server");
        for _ in 0..4_000 {
            if TcpStream::connect(address).is_ok() {
                break;
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let settings = Redis {
            servers: vec![address.to_string()],
            // A hundred thousand keys in one act take their time on a busy machine.
            timeout: Duration::from_secs(60),
            ..Redis::default()
        };
        Some(Server {
            settings,
            child,
            _directory: directory,
        })
    }
}

/// Where nobody listens, below the ports that the kernel hands out by itself and apart from those of the tests in `tests/`; another one each time.
fn free_address() -> SocketAddr {
    const FIRST: u16 = 31_000;
    const COUNT: u16 = 1_700;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97) as u16 % COUNT;
    let mut all = (0..COUNT).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        SocketAddr::from(([127, 0, 0, 1], FIRST + (start + step) % COUNT))
    });
    let free = all.find(|address| TcpListener::bind(address).is_ok());
    free.expect("a free port")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
