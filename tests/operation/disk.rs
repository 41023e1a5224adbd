//! A disk that is full or takes no writes: what runs goes on, what cannot be kept says so and is kept later.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::io::Write;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;

use crate::load::used;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::ports::free_port;
use crate::support::request::Request;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;
use crate::support::webhooks::Receiver;
use crate::support::webhooks::with_webhook;

/// A shell that alone sees a small disk of its own (a tmpfs) where the store is.
struct Room {
    child: Child,
    orders: Option<ChildStdin>,
    said: Lines<BufReader<ChildStdout>>,
    gateway: Option<Pid>,
}

const SHELL: &str = r#"
mkdir -p "$1" && mount -t tmpfs -o size=1m,mode=700 none "$1" || exit 1
echo ready
while read -r line; do eval "$line"; echo "done $?"; done
"#;

impl Room {
    /// `None`, loudly, where this user may not mount.
    fn open(store: &Path) -> Option<Room> {
        let mut child = Command::new("unshare")
            .args(["--mount", "/bin/sh", "-c", SHELL, "room"])
            .arg(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare (util-linux) runs");
        let orders = child.stdin.take();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = said
            .next()
            .is_some_and(|line| line.is_ok_and(|line| line == "ready"));
        let room = Room {
            child,
            orders,
            said,
            gateway: None,
        };
        if !ready {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: full disks, which need the right to mount (root)"
            );
        }
        ready.then_some(room)
    }

    /// Runs a line of shell; its exit code.
    fn say(&mut self, line: &str) -> i32 {
        writeln!(self.orders.as_mut().unwrap(), "{line}").unwrap();
        loop {
            let said = self.said.next().expect("the shell answers").unwrap();
            if let Some(pid) = said.strip_prefix("pid ") {
                self.gateway = Pid::from_raw(pid.parse().unwrap());
            } else if let Some(code) = said.strip_prefix("done ") {
                return code.parse().unwrap();
            }
        }
    }

    fn start(&mut self, site: &Site) {
        let directory = site.setup.directory().display();
        let config = site.config.display();
        self.say(&format!("{BINARY} run --config {config} </dev/null >/dev/null 2>>{directory}/stderr.log & echo pid $!"));
        eventually("the gateway accepts", || {
            client::tls(site.https, "localhost", client::tls_config(&[])).ok()
        });
    }

    fn kill(&mut self) {
        if let Some(pid) = self.gateway.take() {
            let _ = kill_process(pid, Signal::KILL);
        }
        self.say("wait");
    }

    fn fill(&mut self, store: &Path) {
        assert_ne!(
            self.say(&format!(
                "cat /dev/zero >{}/filler 2>/dev/null",
                store.display()
            )),
            0
        );
    }

    fn free(&mut self, store: &Path) {
        assert_eq!(self.say(&format!("rm {}/filler", store.display())), 0);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(pid) = self.gateway {
            let _ = kill_process(pid, Signal::KILL);
        }
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

fn site(upstream: &Upstream, quota: &str) -> Site {
    Site::of(Setup::limited(upstream, quota, "unlimited").set(
        "store",
        "flush_interval",
        r#""100ms""#,
    ))
}

// OP5, FF15, DESIGN section 11: the disk is full. Requests and limits go on in memory, with an alarm and one alert; a revocation is in force and exits 69 "in force, not
// durable"; nothing new is made; and once there is room all of it is written, so that not even kill -9 brings the revoked key back.
#[test]
fn a_full_disk_stops_neither_requests_nor_revocations() {
    let upstream = Upstream::start();
    let port = free_port();
    let setup = site(&upstream, "20/hour").setup.clone();
    let site = Site::of(with_webhook(setup, port).set("alerts", "limit_percent", "0"));
    let receiver = Receiver::start(&site.setup, port, "ok");
    let store = site.setup.directory().join("state");
    let Some(mut room) = Room::open(&store) else {
        return;
    };
    room.start(&site);
    let (key, _) = site.key_and_id();
    let (lost, lost_id) = site.key_and_id();
    let words = [
        "admin-tokens",
        "create",
        "--name",
        "ops",
        "--role",
        "read-only",
    ];
    let token = site.told(&words).trim().to_owned();
    site.get(&lost).expect(200);
    site.get(&key).expect(200);
    room.fill(&store);
    let mut count = 1;
    eventually("the alarm", || {
        (site.metric("portcullis_counter_flush_failing") == 1.0)
            .then_some(())
            .or_else(|| {
                count += 1;
                site.get(&key).expect(200);
                None
            })
    });
    assert!(
        site.stderr().contains("counters not written"),
        "{}",
        site.stderr()
    );
    // FF15: it is told of although the alert itself finds no room either.
    let told = receiver.wait_for(1);
    assert_eq!(told[0]["valid"], true);
    assert_eq!(told[0]["body"]["type"], "store.trouble");
    // And the list shows it, from memory, with what became of it.
    let listed = || -> Vec<[String; 3]> {
        let request = Request::get("/v1/alerts").header("Connection", "close");
        let answer = Http1::plain(site.admin()).exchange(&request.bearer(&token));
        let alerts = answer.expect(200).json()["alerts"]
            .as_array()
            .unwrap()
            .clone();
        let words = ["id", "kind", "delivery"];
        let shown = alerts
            .iter()
            .map(|alert| words.map(|word| alert[word].as_str().unwrap().to_owned()));
        shown.collect()
    };
    let shown = eventually("the list shows the alert, delivered", || {
        let shown = listed();
        (shown.first()?[2] == "done").then_some(shown)
    });
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0][0], told[0]["id"].as_str().unwrap());
    assert_eq!(shown[0][1], "store.trouble");
    let output = site.command(&["keys", "revoke", &lost_id, "--yes"]);
    assert_exit(&output, 69);
    assert!(
        errors(&output).contains("in force, not durable"),
        "{}",
        errors(&output)
    );
    site.get(&lost).expect(401);
    assert_eq!(site.metric("portcullis_changes_not_durable"), 1.0);
    let output = site.command(&[
        "keys",
        "create",
        "--tenant",
        "acme",
        "--name",
        "y",
        "--inherit",
    ]);
    assert_exit(&output, 69);
    assert!(
        output.stdout.is_empty(),
        "a key that is not kept is not shown"
    );
    while count < 20 {
        count += 1;
        assert_eq!(used(site.get(&key).expect(200)), count);
    }
    site.get(&key).expect(429);
    site.told(&["reload"]);
    room.free(&store);
    eventually("all is written", || {
        let open = site.metric("portcullis_changes_not_durable");
        (open + site.metric("portcullis_counter_flush_failing") == 0.0).then_some(())
    });
    assert_eq!(receiver.seen().len(), 1, "once, not with each second");
    let said = site.stderr().matches("the store cannot be written").count();
    assert_eq!(said, 1, "{}", site.stderr());
    // What was held in memory lies on the disk now, and outlives the process.
    room.kill();
    room.start(&site);
    assert_eq!(listed(), shown);
    site.get(&lost).expect(401);
    site.get(&key).expect(429);
    site.key_and_id();
}

// DESIGN section 1, promise 2: strict means that a request whose count cannot be kept is not forwarded; it goes on by itself once there is room.
#[test]
fn a_full_disk_refuses_what_a_strict_gateway_cannot_record() {
    let upstream = Upstream::start();
    let strict = site(&upstream, "1000000/hour");
    let setup = strict
        .setup
        .clone()
        .set("store", "durability", r#""strict""#);
    let site = Site::of(setup);
    let store = site.setup.directory().join("state");
    let Some(mut room) = Room::open(&store) else {
        return;
    };
    room.start(&site);
    let (key, _) = site.key_and_id();
    site.get(&key).expect(200);
    room.fill(&store);
    let refused = eventually("a refusal", || {
        let answer = site.get(&key);
        (answer.status != 200).then_some(answer)
    });
    refused.expect(503);
    assert_eq!(refused.json()["code"], "not_recorded", "{}", refused.text());
    let hits = upstream.hits();
    site.get(&key).expect(503);
    assert_eq!(upstream.hits(), hits);
    room.free(&store);
    eventually("it goes on", || {
        (site.get(&key).status == 200).then_some(())
    });
}

// OP5: a read-only file system: nothing starts on it, and what is to be done stands in the message.
#[test]
fn a_read_only_store_is_named() {
    let upstream = Upstream::start();
    let site = site(&upstream, "20/hour");
    let store = site.setup.directory().join("state");
    let Some(mut room) = Room::open(&store) else {
        return;
    };
    let directory = site.setup.directory().display();
    let run = format!(
        "{BINARY} run --config {} 2>{directory}/said",
        site.config.display()
    );
    let check = run.replace(" run ", " check ");
    let again = format!("mount -o remount,ro {}", store.display());
    for made in [false, true] {
        if made {
            assert_eq!(
                room.say(&format!("mount -o remount,rw {}", store.display())),
                0
            );
            room.start(&site);
            site.key_and_id();
            room.kill();
        }
        assert_eq!(room.say(&again), 0);
        for command in [&run, &check] {
            assert_eq!(room.say(command), 77);
            let said = std::fs::read_to_string(site.setup.directory().join("said")).unwrap();
            assert!(
                said.contains("state") && said.contains("read and write access"),
                "{said}"
            );
        }
    }
}
