//! The command line as it is typed.

use std::path::PathBuf;

use clap::ArgGroup;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap_complete::Shell;

use crate::cli::expires::Expires;
use crate::store::NewKey;
use crate::store::Verb;

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

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key; its text is printed once and kept nowhere
    Create(Box<CreateKey>),
    /// All keys but deleted ones
    List {
        /// Only this tenant's
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
    },
    /// One key
    Show(Id),
    /// Switch a key off; `activate` switches it on again
    Deactivate(Id),
    /// Switch a key on again
    Activate(Id),
    /// A new text for the same key; the old one ends at once
    Regenerate(Final),
    /// End a key for good, at once, requests in flight included
    Revoke(Final),
    /// End a key for good and take it off the lists
    Delete(Final),
}

#[derive(Debug, Subcommand)]
pub(super) enum Tenants {
    /// Make a tenant
    Create {
        /// Its id, as backends see it: 1 to 64 of A-Z a-z 0-9 . _ -
        id: String,
        /// Its plan, a table [plans.NAME] of the configuration
        #[arg(long)]
        plan: String,
        /// Display name
        #[arg(long)]
        name: Option<String>,
    },
    /// All tenants
    List,
    /// Answer requests with its keys 403
    Suspend {
        /// Its id
        id: String,
    },
    /// Let its keys work again
    Resume {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Id {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Final {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID")]
    pub(super) id: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("rights").required(true).args(["scope", "inherit"])))]
pub(super) struct CreateKey {
    /// The one tenant it belongs to
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// What people call it
    #[arg(long)]
    name: String,
    /// What it may do, for example leases:read; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',')]
    scope: Vec<String>,
    /// It may do everything that its tenant may
    #[arg(long)]
    inherit: bool,
    /// For servers, or fit to stand in a browser
    #[arg(long, value_name = "KIND", value_parser = ["secret", "public"], default_value = "secret")]
    kind: String,
    /// Where it is valid; the first of the configured environments when left out
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// When it ends: never, 90d, 2s, 1y or 2027-01-31T00:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = Expires::parse)]
    expires: Expires,
    /// A plan of its own instead of the tenant's
    #[arg(long)]
    plan: Option<String>,
    /// A quota of its own, for example 7/hour, or unlimited
    #[arg(long, value_name = "RATE")]
    quota: Option<String>,
    /// A burst limit of its own, for example 20/min, or unlimited
    #[arg(long, value_name = "RATE")]
    burst: Option<String>,
}

impl CreateKey {
    /// What the store is asked for.
    pub(super) fn verb(self) -> Verb {
        Verb::KeyCreate(NewKey {
            tenant: self.tenant,
            name: self.name,
            kind: self.kind,
            environment: self.environment,
            plan: self.plan,
            quota: self.quota,
            burst: self.burst,
            scopes: (!self.inherit).then_some(self.scope),
            expires_in_seconds: self.expires.in_seconds(),
            expires_at_unix_seconds: self.expires.at_unix_seconds(),
        })
    }
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
