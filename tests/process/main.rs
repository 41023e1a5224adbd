//! The real binary: its commands, exit codes, signals, and what it writes where.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "test code fails by panicking, waits in real time, and its harness is not an API"
)]

mod abuse;
mod backend;
mod check;
mod commands;
mod demo;
mod explain;
mod keys;
mod long;
mod media;
mod p99;
mod signals;
mod soak;
mod start;
mod state;
#[path = "../gateway/support/mod.rs"]
mod support;
mod units;

use std::fs;

use support::site::BINARY;
use support::site::Running;
use support::site::Site;
use support::site::assert_exit;
use support::site::errors;
use support::upstream::find;

/// What a process holds in memory, bytes.
fn resident_bytes(running: &Running) -> usize {
    let statm = fs::read_to_string(format!("/proc/{}/statm", running.child.id())).unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
