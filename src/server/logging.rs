//! The gateway's own messages: lines on standard error, at a level that a reload can change.

use std::sync::OnceLock;

use tracing_subscriber::Registry;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

/// The level of this process.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Begins to write. A second call in one process only sets the level.
pub(crate) fn start(level: tracing::Level) {
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = LEVEL.set(handle);
    } else {
        set_level(level);
    }
}

/// Writes from now on what is of this level or worse; does nothing in a process that did not `start`.
pub(crate) fn set_level(level: tracing::Level) {
    if let Some(handle) = LEVEL.get() {
        // Fails only when the subscriber is gone, and a global one never goes.
        let _ = handle.modify(|filter| *filter = LevelFilter::from_level(level));
    }
}
