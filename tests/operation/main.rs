//! Operation, shown with the real binary: restarts and reloads under load, drains, crashes, full and broken disks.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "test code fails by panicking, waits in real time, and its harness is not an API"
)]

#[path = "../gateway/support/mod.rs"]
mod support;

mod activated;
mod crash;
mod descriptors;
mod disk;
mod drain;
mod hygiene;
mod load;
mod lossless;
mod power;
mod stores;
mod usage;
mod watchdog;
