//! The units of systemd.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support;
use crate::support::site::BINARY;
use crate::support::site::assert_exit;
use crate::support::site::errors;

// The units: accepted by systemd's own checks, and hardened.
#[test]
fn the_systemd_units_verify_and_are_hardened() {
    if support::real::left_out("systemd") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let directory = tempfile::tempdir().unwrap();
    let service = fs::read_to_string(root.join("portcullis.service")).unwrap();
    let exists = directory.path().join("portcullis");
    fs::copy(BINARY, &exists).unwrap();
    let installed = "/usr/bin/portcullis";
    assert!(service.contains(&format!("ExecStart={installed} run")));
    let copied = service.replace(installed, exists.to_str().unwrap());
    let unit = directory.path().join("portcullis.service");
    fs::write(&unit, copied).unwrap();
    let socket = directory.path().join("portcullis.socket");
    fs::copy(root.join("portcullis.socket"), &socket).unwrap();
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([&unit, &socket])
        .output()
        .expect("this test needs systemd-analyze; leave it out by PORTCULLIS_WITHOUT=systemd");
    let ours: Vec<String> = errors(&verify)
        .lines()
        .filter(|line| line.contains("portcullis"))
        .map(str::to_owned)
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(&unit)
        .output()
        .unwrap();
    assert_exit(&security, 0);
}
