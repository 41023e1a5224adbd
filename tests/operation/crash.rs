//! `kill -9` at any moment, under load and while keys are made and revoked: what was told holds, what was counted is bounded.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::load::Load;
use crate::load::Tally;
use crate::load::used;
use crate::power::Power;
use crate::support::Over;
use crate::support::client::Http1;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

const FLUSH: Duration = Duration::from_millis(100);

/// A machine with other work may flush late by this much; where it is later still, what goes by is when it did (`Flushes`).
const SLACK: Duration = Duration::from_millis(600);

// OP4, CHECK4, ASKS 4: counts lost are at most those of one flush interval.
#[test]
fn kill_9_under_load_and_edits() {
    kill_often(6, "interval", None);
}

// OP4, DESIGN section 1, promise 2: `durability = "strict"` forgets nothing that was forwarded.
#[test]
fn kill_9_under_load_and_edits_when_strict() {
    kill_often(6, "strict", None);
}

#[test]
#[ignore = "takes minutes: tests/run --long"]
fn a_hundred_times_kill_9() {
    kill_often(50, "interval", None);
    kill_often(50, "strict", None);
}

/// Kills, and may take the power with it.
pub fn kill_often(rounds: u64, durability: &str, power: Option<&Power>) {
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "100000000/hour", "unlimited")
        .set("store", "flush_interval", r#""100ms""#)
        .set("store", "durability", &format!("{durability:?}"));
    let site = Site::of(setup);
    let keys: Vec<String> = (0..3).map(|_| site.key()).collect();
    let mut books: HashMap<&str, u64> = keys.iter().map(|key| (key.as_str(), 0)).collect();
    let edits = Edits::default();
    let (mut flushes_seen, mut sent) = (0, 0);
    for round in 0..rounds {
        if let Some(power) = power {
            power.begin(&site);
        }
        let mut running = site.start_with(|gateway| watch(power, &site, gateway));
        let (load, over) = (Load::until_killed(), AtomicBool::new(false));
        let flushes = Flushes::default();
        let (tallies, killed) = std::thread::scope(|scope| {
            scope.spawn(|| flushes.watch(&site, &over));
            let clients: Vec<_> = keys
                .iter()
                .map(|key| scope.spawn(|| load.http1(site.https, key)))
                .collect();
            scope.spawn(|| edits.go_on(&site, &over, power));
            let _ends = (load.until_dropped(), Over(&over));
            load.goes_on(30);
            // Another point of the flush and of the edits in each round.
            std::thread::sleep(Duration::from_millis(37 * (round % 11)));
            over.store(true, Ordering::SeqCst);
            running.child.kill().unwrap();
            let killed = Instant::now();
            running.child.wait().unwrap();
            load.stop();
            let tallies = clients.into_iter().map(|client| client.join().unwrap());
            (tallies.collect::<Vec<Tally>>(), killed)
        });
        load.expect_none_failed();
        if let Some(power) = power {
            power.fail(&site);
        }
        let again = site.start();
        for (key, tally) in keys.iter().zip(&tallies) {
            let before = books[key.as_str()];
            let kept = used(&site.get(key)) - 1 - before;
            let answered = tally.answers.len() as u64;
            let kept_by = flushes.kept_by();
            let late = |at: &&Instant| {
                let soon = killed.duration_since(**at) <= FLUSH + SLACK;
                soon || kept_by.is_none_or(|kept_by| **at >= kept_by)
            };
            let forgivable = match durability {
                "strict" => 0,
                _ => tally.answers.iter().filter(late).count() as u64,
            };
            assert!(
                (answered - forgivable..=tally.sent).contains(&kept),
                "round {round}: {kept} kept of {answered} answered and {} sent, {forgivable} may be lost",
                tally.sent
            );
            books.insert(key, before + kept + 1);
            sent += tally.sent + 1;
        }
        flushes_seen += flushes.0.lock().unwrap().len();
        edits.hold(&site);
        counted(&site, &books, sent, round + 1);
        // A clean end between the rounds, so that the books begin even.
        again.signal(rustix::process::Signal::TERM);
        let mut again = again;
        assert_eq!(again.ended(), Some(0));
    }
    assert!(flushes_seen > 0, "or nothing would ever count as kept");
}

/// When the counters were written to the disk, as far as it was seen.
#[derive(Default)]
struct Flushes(Mutex<Vec<Instant>>);

impl Flushes {
    fn watch(&self, site: &Site, over: &AtomicBool) {
        let state = site.setup.directory().join("state");
        let written = || {
            let files = std::fs::read_dir(&state).unwrap().flatten();
            // What SQLite shares in memory also changes when somebody reads.
            let own = files.filter(|file| {
                let name = file.file_name().to_string_lossy().into_owned();
                name.starts_with("counters") && !name.ends_with("-shm")
            });
            own.filter_map(|file| file.metadata().ok()?.modified().ok())
                .max()
        };
        let mut before = written();
        while !over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
            let now = written();
            if now != before {
                self.0.lock().unwrap().push(Instant::now());
                before = now;
            }
        }
    }

    /// What was counted before then was flushed for certain: a flush shows as one write or two, the last one may be half there, and the one before it
    /// holds what was counted before it began, which is after the end of the one before that.
    fn kept_by(&self) -> Option<Instant> {
        self.0.lock().unwrap().iter().rev().nth(5).copied()
    }
}

fn watch(power: Option<&Power>, site: &Site, program: &mut Command) {
    if let Some(power) = power {
        power.watch(site, program);
    }
}

/// FF14: usage is written with the counters, and so loses no more than they do: what was charged has ended and is counted, but for what each
/// client had in flight at each kill. It is taken after they are, and so may have a little more, but nothing that was not sent.
fn counted(site: &Site, books: &HashMap<&str, u64>, sent: u64, kills: u64) {
    let said = site.told(&["usage", "--output", "json"]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let keys = said["keys"].as_array().unwrap().iter();
    let of_clients = keys.filter(|key| key["name"] == "test");
    let counted: u64 = of_clients
        .map(|key| key["requests"].as_u64().unwrap())
        .sum();
    let charged: u64 = books.values().sum();
    let in_flight = kills * books.len() as u64;
    assert!(
        (charged - in_flight..=sent).contains(&counted),
        "{counted} counted, {charged} charged, {in_flight} in flight at kills, {sent} sent"
    );
}

/// What the command line has told of keys.
#[derive(Default)]
struct Edits {
    /// Text and id of keys that were printed and not yet revoked.
    made: Mutex<Vec<(String, String)>>,
    /// Texts of keys whose revocation was confirmed.
    revoked: Mutex<Vec<String>>,
}

impl Edits {
    /// Makes keys, and revokes each second one, until it is over. A command that fails has told nothing.
    fn go_on(&self, site: &Site, over: &AtomicBool, power: Option<&Power>) {
        let words = [
            "keys",
            "create",
            "--tenant",
            "acme",
            "--name",
            "x",
            "--inherit",
            "--output",
            "json",
        ];
        let mut revokes = false;
        while !over.load(Ordering::SeqCst) {
            let output = site.command_with(&words, |command| watch(power, site, command));
            let Ok(made) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
                continue;
            };
            let text = |name: &str| made[name].as_str().unwrap().to_owned();
            revokes = !revokes;
            if !revokes {
                self.made.lock().unwrap().push((text("text"), text("id")));
                continue;
            }
            let words = ["keys", "revoke", &text("id"), "--yes"];
            let output = site.command_with(&words, |command| watch(power, site, command));
            if output.status.success() {
                self.revoked.lock().unwrap().push(text("text"));
            }
        }
    }

    /// A key that was printed is there, and one that was revoked is gone.
    fn hold(&self, site: &Site) {
        let mut client = Http1::tls(site.https);
        let mut status = |key: &str| client.exchange(&Request::get("/any").bearer(key)).status;
        for (text, id) in self.made.lock().unwrap().iter() {
            assert_eq!(status(text), 200, "{id} was printed");
        }
        for text in self.revoked.lock().unwrap().iter() {
            assert_eq!(status(text), 401, "a key that was revoked is alive");
        }
    }
}
