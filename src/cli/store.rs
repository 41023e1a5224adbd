//! `store …`: from a node's own store to one that nodes share, and back; who shares it.

use crate::cli::args::At;
use crate::cli::args::Kind;
use crate::cli::args::Migrate;
use crate::cli::args::Output;
use crate::cli::args::Store as Asked;
use crate::cli::print;
use crate::clock::Clock;
use crate::config;
use crate::config::Config;
use crate::config::Redis;
use crate::quota::shared::carry_over;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::VerbError;
use crate::store::counters::Counters;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::error::EXIT_USAGE;
use crate::store::shared::Position;
use crate::store::shared::nodes::Node;
use crate::store::shared::nodes::Nodes;
use crate::store::shared::usage;

/// Carries it out.
///
/// # Errors
/// Why not.
pub(super) fn act(at: &At, form: Output, asked: &Asked) -> Result<(), VerbError> {
    let config = shared_config(at)?;
    match asked {
        Asked::Migrate(asked) => migrate(&config, *asked),
        Asked::Nodes => {
            let nodes = Nodes::new(&config.store.redis, "").beat(&Position::default(), false)?;
            super::written(match form {
                Output::Json => print::json_line(&nodes),
                Output::Table => print::rows(&COLUMNS, nodes.iter().map(row).collect()),
            })
        }
        Asked::Forget { id } => match forget(&config.store.redis, id)? {
            true => Ok(()),
            false => Err(VerbError::refused(format!(
                "no node has the id {id:?}; `portcullis store nodes` lists them"
            ))),
        },
    }
}

/// Nothing waits for it any more, neither a fence nor a report. Says whether it was known.
fn forget(settings: &Redis, id: &str) -> Result<bool, StoreError> {
    let told = usage::forget(settings, id)?;
    Ok(Nodes::new(settings, id).leave()? || told)
}

const COLUMNS: [&str; 5] = [
    "ID",
    "NAME",
    "CHANGE IN FORCE",
    "SILENT FOR",
    "MAY SERVE UNTIL",
];

fn row(node: &Node) -> [String; 5] {
    [
        node.id.clone(),
        node.name.clone(),
        match node.held_up {
            true => format!("{} (held up: see its log)", node.applied),
            false => node.applied.to_string(),
        },
        format!("{} s", node.silent_seconds),
        node.serves_until.clone(),
    ]
}

/// The configuration, which says where the shared store is.
fn shared_config(at: &At) -> Result<Config, VerbError> {
    let fault = |exit, text: String| VerbError { text, exit };
    let loaded = config::load(&at.config);
    let config = loaded
        .map_err(|problems| fault(EXIT_CONFIG, problems.to_string()))?
        .config;
    if !config.store.shared {
        let text = "[store] kind is \"sqlite\": write kind = \"redis\" and redis_servers, which say where the shared store is".to_owned();
        return Err(fault(EXIT_CONFIG, text));
    }
    Ok(config)
}

/// Moves everything, and says what comes next.
fn migrate(config: &Config, asked: Migrate) -> Result<(), VerbError> {
    let fault = |exit, text: String| VerbError { text, exit };
    if asked.from == asked.to {
        let text = "--from and --to are the same".to_owned();
        return Err(fault(EXIT_USAGE, text));
    }
    let now = Clock::system().now();
    match asked.to {
        Kind::Redis => {
            let mut store = Store::open(&config.store.path)?;
            let rows = store.migrate_to_shared(&config.store.redis)?;
            if Counters::exist(&config.store.path) {
                let opened = Counters::open(&config.store.path, now);
                let (_, windows) =
                    opened.map_err(|error| fault(EXIT_UNAVAILABLE, error.to_string()))?;
                carry_over(&config.store.redis, &windows, now)?;
            }
            eprintln!(
                "{rows} rows are in the shared store, each read back and compared; the directory is this node's copy\nNext: portcullis run; then the same gateway.toml, with an empty directory, on the other nodes"
            );
        }
        Kind::Sqlite => {
            let mut store = Store::open_for(&config.store)?;
            let rows = store.migrate_from_shared(now.wall)?;
            eprintln!(
                "{rows} rows are in keys.db, compared with the shared store; windows begin anew, and no other node may go on with that store\nNext: write kind = \"sqlite\" in [store], without redis_servers; portcullis run"
            );
        }
    }
    Ok(())
}
