//! Commands as typed: words, help, manual pages, what a running gateway tells.

use std::fs;
use std::process::Command;

use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

#[test]
fn help_names_the_commands_and_the_signals() {
    let output = Command::new(BINARY).arg("--help").output().unwrap();
    assert_exit(&output, 0);
    let help = String::from_utf8(output.stdout).unwrap();
    for word in [
        "run", "check", "demo", "keys", "tenants", "reload", "status", "HUP", "TERM", "USR1",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

// DESIGN section 9: 2 is usage.
#[test]
fn wrong_usage_exits_2() {
    for words in [
        &["frobnicate"][..],
        &["keys", "create"],
        &["run", "--nope"],
        &["keys"],
    ] {
        let output = Command::new(BINARY).args(words).output().unwrap();
        assert_exit(&output, 2);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let page = |words: &[&str]| {
        let output = Command::new(BINARY).arg("man").args(words).output();
        output.unwrap()
    };
    let whole = String::from_utf8(page(&[]).stdout).unwrap();
    assert!(whole.contains("keys"), "{whole}");
    let output = page(&["keys", "create"]);
    assert_exit(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["portcullis", "inherit", "expires"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_exit(&page(&["keys", "mend"]), 2);
}

// The status tells what runs.
#[test]
fn status_tells_what_runs() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let output = site.command(&["status"]);
    assert_ne!(output.status.code(), Some(0));
    let running = site.start();
    let told = site.told(&["status"]);
    assert!(told.contains(&running.child.id().to_string()), "{told}");
    assert!(told.contains("uptime_seconds\t"), "{told}");
}

// At 2 a.m., with a file somebody broke: the message says where the running gateway still listens.
#[test]
fn a_broken_file_names_the_socket_of_the_running_gateway() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    let good = fs::read_to_string(&site.config).unwrap();
    fs::write(&site.config, good + "\n[broken").unwrap();
    let output = site.command(&["status"]);
    assert_exit(&output, 78);
    let text = errors(&output);
    let (_, socket) = text.trim_end().rsplit_once(' ').unwrap();
    let output = Command::new(BINARY)
        .args(["status", "--admin-socket", socket])
        .output()
        .unwrap();
    assert_exit(&output, 0);
}
