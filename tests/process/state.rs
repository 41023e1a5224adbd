//! What lies on the disk: counts over a crash, damage, keys in no file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::files_below;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::site::errors;
use crate::support::upstream::Upstream;
use crate::support::upstream::find;

// CHECK4, DESIGN section 1: after kill -9 at most one flush interval is forgotten; never a full new window.
#[test]
fn kill_9_forgets_at_most_one_flush_interval() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let mut running = site.start();
    let key = site.key();
    let send = |count: usize| {
        let mut client = Http1::tls(site.https);
        let request = Request::get("/any").bearer(&key);
        (0..count)
            .filter(|_| client.exchange(&request).status == 200)
            .count()
    };
    let counters = || -> Vec<(PathBuf, Vec<u8>)> {
        let files = files_below(&site.setup.directory().join("state"));
        let named = |path: &Path| path.to_string_lossy().contains("counters");
        files.into_iter().filter(|(path, _)| named(path)).collect()
    };
    let wait_for_flush_after = |count: usize| {
        let before = counters();
        assert_eq!(send(count), count);
        eventually("a flush", || (counters() != before).then_some(()));
    };
    // The first flush may hold a part of the 60; the second began after the first had ended, and so holds all of them.
    wait_for_flush_after(60);
    wait_for_flush_after(1);
    assert_eq!(send(12), 12);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    let _again = site.start();
    let admitted = send(100);
    assert!(
        (27..=27 + 13).contains(&admitted),
        "{admitted} admitted after 73 of 100"
    );
}

// CHECK4: counters that cannot be read are not taken for "nothing was used", and the file is left as it is.
#[test]
fn damaged_counters_are_not_overwritten() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let mut running = site.start();
    let key = site.key();
    site.get(&key).expect(200);
    running.signal(Signal::TERM);
    running.ended();
    let state = site.setup.directory().join("state");
    let path = state.join("counters.db");
    let _ = fs::remove_file(state.join("counters.db-wal"));
    fs::write(
        &path,
        "this is no database, and it is long enough to be looked at as one",
    )
    .unwrap();
    for command in ["run", "check"] {
        let output = site.command(&[command]);
        assert_eq!(
            output.status.code(),
            Some(78),
            "{command}: {}",
            errors(&output)
        );
    }
    assert!(fs::read(&path).unwrap().starts_with(b"this is no database"));
}

// CHECK9, FA4: the key is in no file, on no command line, in no memory that ps shows.
#[test]
fn the_key_is_in_no_file_and_on_no_command_line() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let running = site.start();
    let key = site.key();
    site.get(&key).expect(200);
    site.get(&format!("{key}x")).expect(401);
    let secret = key.as_bytes()[8..32].to_vec();
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", running.child.id())).unwrap();
        assert!(find(&bytes, &secret).is_none(), "{file}");
    }
    running.signal(Signal::TERM);
    let mut running = running;
    running.ended();
    for (path, bytes) in files_below(site.setup.directory()) {
        assert!(find(&bytes, &secret).is_none(), "{}", path.display());
    }
    for request in upstream.requests() {
        assert!(find(&request.raw, &secret).is_none());
    }
}

// The store's files are the owner's alone.
#[test]
fn the_store_is_readable_by_its_owner_only() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    site.key();
    let state = site.setup.directory().join("state");
    for (path, _) in files_below(&state) {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{} is {mode:o}", path.display());
    }
    let mode = fs::metadata(&state).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the directory is {mode:o}");
}
