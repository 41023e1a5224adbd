//! `store …` as it is typed.

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Store {
    /// Move keys, tenants and the audit log between a node's own store and one that nodes share; every row is read back and compared
    #[command(after_help = MIGRATE)]
    Migrate(Migrate),
    /// The nodes that share the store, and since when they are silent
    Nodes,
    /// Forget a node that will never come back: nothing waits for it any more. One that runs comes back by itself
    Forget {
        /// Its id, as `store nodes` shows it
        #[arg(value_name = "NODE_ID")]
        id: String,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(in crate::cli) struct Migrate {
    /// Where they are
    #[arg(long, value_enum, value_name = "KIND")]
    pub(in crate::cli) from: Kind,
    /// Where they go
    #[arg(long, value_enum, value_name = "KIND")]
    pub(in crate::cli) to: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// `keys.db` in the directory of [store] path
    Sqlite,
    /// The servers of [store] redis_servers
    Redis,
}

const MIGRATE: &str = "\
No gateway may run on the directory meanwhile; with systemd's socket units clients wait instead of being refused.
gateway.toml says kind = \"redis\" for both ways: before moving up it is written there, after moving down it is changed.
Moving up needs an empty store (or another redis_prefix) and takes the counts of open windows along; moving down
begins them anew. Either way keys.db stays where it is: moving up makes it this node's copy.";
