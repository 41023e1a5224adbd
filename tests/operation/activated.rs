//! The gateway under real socket activation: somebody else holds its sockets while it comes and goes.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use crate::support::eventually;
use crate::support::site::Site;

/// `systemd-socket-activate` (which opens two sockets and hands them over), and after it a shell in the place of PID 1: it keeps the sockets
/// and runs whatever binary it is told to, one after the other.
pub struct Activated {
    child: Child,
    orders: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
    pid: i32,
}

/// LISTEN_PID must name the process that takes the sockets: the shell that becomes the gateway.
const KEEPER: &str = r#"
while read -r binary; do
  sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec "$0" run --config "$1"' "$binary" "$1" </dev/null >/dev/null 2>>"$2" &
  echo "pid $!"
  wait $!
  echo "ended $?"
done
"#;

impl Activated {
    /// Opens the sockets of `site` and starts `binary` on them.
    pub fn start(site: &Site, binary: &Path) -> Activated {
        let mut command = Command::new("systemd-socket-activate");
        let log = fs::File::create(site.setup.directory().join("activate.log")).unwrap();
        command.args(["--fdname=edge:plain", "-l"]);
        command
            .arg(site.https.to_string())
            .arg("-l")
            .arg(site.http().to_string());
        command.args(["/bin/sh", "-c", KEEPER, "keeper"]);
        command
            .arg(&site.config)
            .arg(site.setup.directory().join("stderr.log"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().expect(
            "this test needs systemd-socket-activate; leave it out by PORTCULLIS_WITHOUT=systemd",
        );
        // It hands over when the first connection comes; that one waits in the queue meanwhile.
        let knock = eventually("the sockets are open", || {
            TcpStream::connect(site.https).ok()
        });
        let orders = child.stdin.take();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut activated = Activated {
            child,
            orders,
            said,
            pid: 0,
        };
        activated.run(site, binary);
        drop(knock);
        activated
    }

    /// Drains the gateway that runs, waits for its end, and starts `binary` in its place.
    pub fn restart(&mut self, site: &Site, binary: &Path) {
        self.signal(Signal::TERM);
        assert_eq!(self.line(), "ended 0", "{}", site.stderr());
        self.run(site, binary);
    }

    /// Sends the gateway a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid).unwrap(), signal).unwrap();
    }

    /// The gateway's process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    fn run(&mut self, site: &Site, binary: &Path) {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{}", binary.display()).unwrap();
        let line = self.line();
        self.pid = line.strip_prefix("pid ").unwrap().parse().unwrap();
        let pid = format!("pid\t{}\n", self.pid);
        eventually("the gateway answers on its admin socket", || {
            let output = site.command(&["status"]);
            String::from_utf8_lossy(&output.stdout)
                .contains(&pid)
                .then_some(())
        });
    }

    fn line(&mut self) -> String {
        self.said.next().expect("the keeper speaks").unwrap()
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // First the orders, so that nothing is started again; then what runs.
        drop(self.orders.take());
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
