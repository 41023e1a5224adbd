//! The command line as it is typed; a file for each topic.

use std::path::PathBuf;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap_complete::Shell;

mod admin_tokens;
mod audit;
mod key_words;
mod keys;
mod limits;
mod store;
mod tenants;
mod tokens;
mod usage;

pub(super) use admin_tokens::AdminTokens;
pub(super) use audit::Audit;
pub(super) use keys::Column;
pub(super) use keys::Final;
pub(super) use keys::Keys;
pub(super) use limits::Limits;
pub(super) use store::Kind;
pub(super) use store::Migrate;
pub(super) use store::Store;
pub(super) use tenants::Tenants;
pub(super) use tokens::Tokens;
pub(super) use usage::Usage;

/// A reverse-proxy gateway: TLS in, API keys checked, limits held, one trusted tenant header to the backend.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = CODES_AND_SIGNALS)]
pub(super) struct Arguments {
    /// Where the gateway is
    #[command(flatten)]
    pub(super) at: At,
    /// How results are written: for people, or for programs
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM",
        help_heading = COMMON
    )]
    pub(super) output: Output,
    /// What to do
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Which gateway is meant.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The configuration; `check` takes - for standard input
    #[arg(
        short,
        long,
        global = true,
        env = "PORTCULLIS_CONFIG",
        default_value = "gateway.toml",
        value_name = "FILE",
        help_heading = COMMON
    )]
    pub(super) config: PathBuf,
    /// Talk to the gateway on this socket, without reading the configuration
    #[arg(long, global = true, value_name = "PATH", help_heading = COMMON)]
    pub(super) admin_socket: Option<PathBuf>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Columns on a terminal, separated by tabs otherwise
    Table,
    /// One JSON value
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway
    #[command(after_help = SIGNALS)]
    Run,
    /// Check the configuration, its certificates and its store; bind nothing
    Check {
        /// Print the configuration in force, defaults included, secrets left out
        #[arg(long)]
        dump: bool,
    },
    /// Run with a built-in backend, a development certificate, a tenant and a key
    Demo,
    /// API keys
    #[command(subcommand)]
    Keys(Keys),
    /// Tenants
    #[command(subcommand)]
    Tenants(Tenants),
    /// Tokens for the admin listener's API and dashboard
    #[command(subcommand)]
    AdminTokens(AdminTokens),
    /// What administrators did
    #[command(subcommand)]
    Audit(Audit),
    /// What keys did: requests, errors, bytes, last use
    Usage(Usage),
    /// Access tokens and sessions: deny them before their time
    #[command(subcommand)]
    Tokens(Tokens),
    /// Limits and permissions of a request
    #[command(subcommand)]
    Limits(Limits),
    /// Where keys, tenants and the audit log are kept
    #[command(subcommand)]
    Store(Store),
    /// Make the running gateway read its configuration again; a bad one is refused and the old one stays
    Reload,
    /// What the running gateway is doing
    Status,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, of the whole or of one command, for `man -l -`
    Man {
        /// Which command, for example: keys create
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// Heading of what every command takes.
const COMMON: &str = "Common options";

const CODES_AND_SIGNALS: &str = "\
Exit codes:
   0  done
   1  refused, or failed
   2  wrong command line
  69  not running, in use, or not durable
  77  no permission
  78  wrong configuration or store

Signals of `run`:
  HUP  reload          TERM, INT  drain; a second one: now          USR1  reopen logs

Colours follow NO_COLOR and CLICOLOR.";

const SIGNALS: &str = "\
Signals:
  HUP   read the configuration again; a bad one is refused and the old one stays
  TERM  drain: take no new connections, end those in flight; a second TERM ends at once
  INT   as TERM
  USR1  reopen log files";
