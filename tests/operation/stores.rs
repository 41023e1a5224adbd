//! Damaged stores: named, left as they are, and never taken for empty ones.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::PATIENCE;
use crate::support::gateway::Setup;
use crate::support::gateway::files_below;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

type Spoil = fn(&mut Vec<u8>);

/// Ways in which a file is not what it was. SQLite's pages are 4,096 bytes here.
const DAMAGES: [(&str, Spoil); 6] = [
    ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
    ("cut within a page", |bytes| {
        bytes.truncate(bytes.len() - 5_000)
    }),
    ("garbage in front", |bytes| bytes[..100].fill(0xA5)),
    ("a page overwritten", |bytes| bytes[4_096..8_192].fill(0)),
    ("the last page overwritten", |bytes| {
        let at = bytes.len() - 4_096;
        bytes[at..].fill(0x5A);
    }),
    ("emptied", Vec::clear),
];

/// A command that is to end, but may run on where the damage is not seen.
fn bounded(site: &Site, words: &[&str]) -> Output {
    let mut child = Command::new(BINARY)
        .args(words)
        .arg("--config")
        .arg(&site.config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

/// A site whose store holds some keys and counts, cleanly closed.
fn used_site(upstream: &Upstream) -> (Site, String) {
    let site = Site::of(Setup::limited(upstream, "20/hour", "unlimited"));
    let mut running = site.start();
    let key = site.key();
    for _ in 0..3 {
        site.key();
        site.get(&key).expect(200);
    }
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
    (site, key)
}

fn store_of(site: &Site) -> PathBuf {
    site.setup.directory().join("state")
}

fn databases(store: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = files_below(store);
    found.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "db"));
    found.sort();
    found
}

// OP6, CHECK4, ASKS 27: a damaged store is named, no command starts on it, not a byte of it changes, and the way out is the one that is printed.
#[test]
fn a_damaged_store_is_named_and_left_as_it_is() {
    let upstream = Upstream::start();
    let (site, key) = used_site(&upstream);
    let store = store_of(&site);
    for name in ["keys.db", "counters.db"] {
        let path = store.join(name);
        let good = fs::read(&path).unwrap();
        for (damage, spoil) in DAMAGES {
            let mut bad = good.clone();
            spoil(&mut bad);
            fs::write(&path, &bad).unwrap();
            let before = databases(&store);
            let mut commands = vec![&["run"][..], &["check"]];
            if name == "keys.db" {
                commands.push(&["keys", "list"]);
                commands.push(&[
                    "keys",
                    "create",
                    "--tenant",
                    "acme",
                    "--name",
                    "x",
                    "--inherit",
                ]);
            }
            for command in commands {
                let output = bounded(&site, command);
                assert_exit(&output, 78);
                let said = errors(&output);
                assert!(said.contains(name), "{damage}: {said}");
                assert!(
                    said.contains("move it away") || said.contains("move the file away"),
                    "{damage}: {said}"
                );
                let kept = databases(&store);
                let same = before.iter().all(|file| kept.contains(file));
                assert!(same, "{name}, {damage}: {command:?} changed it");
            }
        }
        fs::write(&path, &good).unwrap();
    }
    let running = site.start();
    site.get(&key).expect(200);
    drop(running);
    // The way out: without the file it starts, and the keys that it held are unknown.
    fs::rename(store.join("keys.db"), store.join("keys.db.damaged")).unwrap();
    let _ = fs::remove_file(store.join("keys.db-wal"));
    let _ = fs::remove_file(store.join("keys.db-shm"));
    let _running = site.start();
    site.get(&key).expect(401);
}

// ASKS 1, CHECK4: a log that is lost with a crash, or broken, takes no revocation with it: what was answered stands in keys.db itself.
#[test]
fn a_lost_log_brings_no_revoked_key_back() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let mut running = site.start();
    let key = site.key();
    let id = site.told(&["keys", "list", "--columns", "id"]);
    site.told(&["keys", "revoke", id.trim(), "--yes"]);
    site.get(&key).expect(401);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let store = store_of(&site);
    for name in ["keys.db-wal", "keys.db-shm"] {
        fs::write(store.join(name), [0xA5; 5_000]).unwrap();
    }
    let _running = site.start();
    site.get(&key).expect(401);
    assert!(site.told(&["keys", "list", "--all"]).contains("revoked"));
}
