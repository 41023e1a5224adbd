//! The watchdog of the service manager: fed by the data path, and by nothing else.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

/// Stops one thread and no other, as a thread would stand still that hangs; it goes on when standard input closes.
const HOLD: &str = r#"
import ctypes, os, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
thread = int(sys.argv[1])
for request in (SEIZE, INTERRUPT):
    if ptrace(request, thread, None, None) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, WALL)
print("held", flush=True)
sys.stdin.readline()
"#;

/// A held thread; let go when dropped.
struct Held(Child);

impl Held {
    fn hold(pid: u32, name: &str) -> Held {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let named = |path: &std::path::Path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let thread = threads.map(|entry| entry.path()).find(|path| named(path));
        let thread = thread.unwrap_or_else(|| panic!("a thread called {name}"));
        let mut child = Command::new("python3")
            .args(["-c", HOLD])
            .arg(thread.file_name().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let _ = BufReader::new(child.stdout.take().unwrap()).read_line(&mut said);
        assert_eq!(
            said, "held\n",
            "this test traces a process of its own: it needs CAP_SYS_PTRACE"
        );
        Held(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

// OP3, DESIGN section 11: one worker that stands still stops the feed, although the others and the control side go on; systemd then ends the process.
#[test]
fn a_worker_that_hangs_stops_the_watchdogs_feed() {
    if real::left_out("python3") {
        return;
    }
    let upstream = Upstream::start();
    let site = Site::of(Setup::usual(&upstream));
    let path = site.setup.directory().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let fed_within = |patience: Duration| {
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(count) = socket.recv(&mut buffer) {
            if buffer[..count].starts_with(b"WATCHDOG=1") {
                return true;
            }
        }
        false
    };
    let running = site.start_with(|command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000");
    });
    for _ in 0..2 {
        assert!(fed_within(PATIENCE), "fed while all workers turn");
    }
    // Where it is held amid something that other threads wait for, it is let go and held again.
    let held = eventually("the gateway notices", || {
        let held = Held::hold(running.child.id(), "worker-1");
        let noticed = (0..800).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            running.stderr().contains("a worker has stood still")
        });
        noticed.then_some(held)
    });
    // What was sent before it noticed is read away.
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    assert!(
        !fed_within(Duration::from_millis(2500)),
        "not fed for longer than the watchdog waits"
    );
    assert_eq!(
        site.command(&["status"]).status.code(),
        Some(0),
        "the control side goes on"
    );
    drop(held);
    assert!(fed_within(PATIENCE), "fed again");
}
