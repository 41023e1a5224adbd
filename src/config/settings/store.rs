//! `[store]`: where keys and counters are kept.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use crate::config::file::Reader;
use crate::config::redis::Redis;
use crate::config::settings::path;
use crate::config::values::wrong;

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    /// Whether keys and limits are shared with other nodes (`kind = "redis"`).
    pub shared: bool,
    /// Through what.
    pub redis: Redis,
    /// Directory of the SQLite files: the store itself, or this node's copy of the shared one.
    pub path: PathBuf,
    /// How often counters are written: the most that `kill -9` can forget. 100ms to 1min.
    pub flush_interval: Duration,
    /// Whether a request is forwarded only once what it was charged is on the disk (`durability = "strict"`).
    pub strict: bool,
}

/// `[store]`.
pub(in crate::config) fn store(root: &mut Reader<'_>, base: &Path) -> StoreConfig {
    root.table("store", "store", |table| {
        let kind = table.word("kind", |text| match text {
            "sqlite" => Ok(false),
            "redis" => Ok(true),
            _ => wrong(
                format!("\"{text}\" is no kind of store"),
                "write kind = \"sqlite\", or \"redis\" where several nodes share keys and limits",
            ),
        });
        let shared = kind.is_some_and(Spanned::into_inner);
        let state = table.word("path", |text| path(base, text));
        let redis = Redis::read(table, base, shared);
        let strict = table.choice(
            "durability",
            false,
            &[("interval", false), ("strict", true)],
        );
        Redis::check_durability(table, shared, strict);
        StoreConfig {
            shared,
            redis,
            path: state.map_or_else(|| base.join("state"), Spanned::into_inner),
            flush_interval: table.duration("flush_interval", "1s", ("100ms", "1min")),
            strict,
        }
    })
}
