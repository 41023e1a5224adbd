//! The command line as it is typed.

use std::path::PathBuf;

use clap::ArgGroup;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use clap_complete::Shell;

use crate::cli::expires;
use crate::cli::expires::Expires;
use crate::store::KeyFilter;
use crate::store::NewKey;
use crate::store::Verb;
use crate::store::request::KeyUpdate;
use crate::store::request::TenantUpdate;

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
    /// Limits and permissions of a request
    #[command(subcommand)]
    Limits(Limits),
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
    /// Keys, deleted ones only with --all
    List(Box<ListKeys>),
    /// One key
    Show(Id),
    /// Switch a key off; `activate` switches it on again
    Deactivate(Id),
    /// Switch a key on again
    Activate(Id),
    /// Change what a key is; the next request sees it
    Update(Box<UpdateKey>),
    /// A new text for the same key; the old one ends at once, or after --overlap
    Regenerate(Regenerate),
    /// A second key like the first one, which ends after --overlap
    Rotate {
        /// The key's id, as `keys list` shows it
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// How long the old one still works, unless it ends sooner
        #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = expires::span)]
        overlap: u64,
    },
    /// Take over keys that were issued elsewhere: all of a CSV file, or none
    #[command(after_help = IMPORT)]
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// End keys for good, at once, requests in flight included: one by its id, or many in one change
    Revoke(Revoke),
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
    /// Change what a tenant is; the next request of its keys sees it, and what they used stays used
    Update(Box<UpdateTenant>),
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

#[derive(Debug, Subcommand)]
pub(super) enum Limits {
    /// Which route, windows and scope a request would meet, their state, and why; nothing is charged
    Explain {
        /// The key's id, as `keys list` shows it
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// The path, for example /leases/7
        path: String,
        /// The method
        #[arg(long, default_value = "GET")]
        method: String,
        /// The host; routes that serve any host when left out
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
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
pub(super) struct Regenerate {
    /// Which, and whether to ask
    #[command(flatten)]
    pub(super) asked: Final,
    /// How long the old text still works; it ends at once when left out
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = expires::span)]
    pub(super) overlap: u64,
}

/// Which keys are meant.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// Of this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Whose text begins so, for example pk_live_
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Of this end user
    #[arg(long = "all-of-user", value_name = "SUBJECT")]
    all_of_user: Option<String>,
    /// Neither used nor made within this span, for example 30d
    #[arg(long, value_name = "SPAN", value_parser = expires::span)]
    unused_since: Option<u64>,
    /// Made at least so long ago, for example 90d
    #[arg(long, value_name = "SPAN", value_parser = expires::span)]
    older_than: Option<u64>,
}

impl Whose {
    /// What the store is asked for.
    pub(super) fn filter(self) -> KeyFilter {
        KeyFilter {
            tenant: self.tenant,
            prefix: self.prefix,
            subject: self.all_of_user,
            unused_since_seconds: self.unused_since,
            older_than_seconds: self.older_than,
            ..KeyFilter::default()
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ListKeys {
    /// Which
    #[command(flatten)]
    pub(super) whose: Whose,
    /// In this state
    #[arg(long, value_parser = ["active", "inactive", "expired", "revoked", "deleted"])]
    pub(super) status: Option<String>,
    /// Deleted ones too
    #[arg(long)]
    pub(super) all: bool,
    /// Which columns, in this order
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_enum)]
    pub(super) columns: Vec<Column>,
}

/// What `keys list` can show of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(
    missing_docs,
    reason = "each is named after the heading that it prints"
)]
pub(super) enum Column {
    Id,
    Name,
    Type,
    Environment,
    Tenant,
    Key,
    Plan,
    Quota,
    Burst,
    Scopes,
    Created,
    Expires,
    LastUsed,
    Status,
    Subject,
    Origins,
    Networks,
    Note,
    DeclaredIn,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["id", "tenant", "prefix", "all_of_user", "stdin"])))]
pub(super) struct Revoke {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID", conflicts_with_all = ["tenant", "prefix", "all_of_user", "stdin", "unused_since", "older_than"])]
    pub(super) id: Option<String>,
    /// Which, where many are meant
    #[command(flatten)]
    pub(super) whose: Whose,
    /// Those that standard input lists: ids, or keys themselves, one to a line
    #[arg(long)]
    pub(super) stdin: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct UpdateKey {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID")]
    id: String,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// It may do exactly this; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',')]
    scope: Option<Vec<String>>,
    /// It may do this too; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',')]
    add_scope: Vec<String>,
    /// It may not do this any more; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',')]
    remove_scope: Vec<String>,
    /// It may do everything that its tenant may
    #[arg(long, conflicts_with_all = ["scope", "add_scope", "remove_scope"])]
    inherit: bool,
    /// When it ends, counted from now: never, 90d or 2027-01-31T00:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = Expires::parse)]
    expires: Option<Expires>,
    /// A plan of its own; "" for the tenant's
    #[arg(long)]
    plan: Option<String>,
    /// A quota of its own, for example 7/hour, or unlimited; "" for the plan's
    #[arg(long, value_name = "RATE")]
    quota: Option<String>,
    /// A burst limit of its own; "" for the plan's
    #[arg(long, value_name = "RATE")]
    burst: Option<String>,
    /// The end user that it acts for; "" for nobody
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// The browser origins it may be used from; "" for none
    #[arg(long, value_name = "ORIGIN", num_args = 1.., value_delimiter = ',')]
    origin: Option<Vec<String>>,
    /// The networks it may be used from; "" for any
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',')]
    cidr: Option<Vec<String>>,
    /// A remark for operators; "" for none
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl UpdateKey {
    /// What the store is asked for.
    pub(super) fn verb(self) -> Verb {
        Verb::KeyUpdate(Box::new(KeyUpdate {
            id: self.id,
            name: self.name,
            scopes: self.scope,
            add_scopes: self.add_scope,
            remove_scopes: self.remove_scope,
            inherit: self.inherit,
            plan: self.plan,
            quota: self.quota,
            burst: self.burst,
            expires: self.expires.map(Expires::expiry),
            subject: self.subject,
            origins: self.origin,
            cidrs: self.cidr,
            note: self.note,
        }))
    }
}

#[derive(Debug, Args)]
pub(super) struct UpdateTenant {
    /// Its id
    id: String,
    /// Display name
    #[arg(long)]
    name: Option<String>,
    /// Its plan, a table [plans.NAME] of the configuration
    #[arg(long)]
    plan: Option<String>,
    /// What its keys may do at most; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',')]
    scope: Option<Vec<String>>,
    /// Its keys may do everything that its plan grants
    #[arg(long, conflicts_with = "scope")]
    inherit: bool,
    /// A quota of its own, for example 7/hour, or unlimited; "" for the plan's
    #[arg(long, value_name = "RATE")]
    quota: Option<String>,
    /// A burst limit of its own; "" for the plan's
    #[arg(long, value_name = "RATE")]
    burst: Option<String>,
    /// Servers of its own behind an upstream with isolation = "physical", for example legacy=http://10.0.0.7:3000/acme; several URLs are
    /// separated by spaces, none takes them away; may be repeated
    #[arg(long, value_name = "NAME=URL", value_parser = own_upstream)]
    upstream: Vec<(String, String)>,
}

/// `NAME=URL`.
fn own_upstream(text: &str) -> Result<(String, String), String> {
    let (name, servers) = text
        .split_once('=')
        .ok_or_else(|| "write NAME=URL, for example legacy=http://10.0.0.7:3000".to_owned())?;
    Ok((name.to_owned(), servers.trim().to_owned()))
}

impl UpdateTenant {
    /// What the store is asked for.
    pub(super) fn verb(self) -> Verb {
        Verb::TenantUpdate(Box::new(TenantUpdate {
            id: self.id,
            name: self.name,
            plan: self.plan,
            scopes: self.scope,
            inherit: self.inherit,
            quota: self.quota,
            burst: self.burst,
            upstreams: self.upstream.into_iter().collect(),
        }))
    }
}

#[derive(Debug, Args)]
pub(super) struct CreateKey {
    /// The one tenant it belongs to
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// What people call it
    #[arg(long)]
    name: String,
    /// What it may do, for example leases:read; may be repeated
    #[arg(long, value_name = "SCOPE", num_args = 1.., value_delimiter = ',', conflicts_with = "inherit")]
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
    /// The end user that it acts for
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// A browser origin it may be used from, for example https://app.example.com; may be repeated
    #[arg(long, value_name = "ORIGIN", num_args = 1.., value_delimiter = ',')]
    origin: Vec<String>,
    /// A network it may be used from, for example 203.0.113.0/24; may be repeated
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',')]
    cidr: Vec<String>,
    /// A remark for operators
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
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
            default_scopes: !self.inherit && self.scope.is_empty(),
            scopes: (!self.inherit).then_some(self.scope),
            expires_in_seconds: self.expires.in_seconds(),
            expires_at_unix_seconds: self.expires.at_unix_seconds(),
            subject: self.subject,
            origins: self.origin,
            cidrs: self.cidr,
            note: self.note,
        })
    }
}

const IMPORT: &str = "\
The first line names the columns, in any order:
  value or sha256   the key itself, or the SHA-256 of all of it; one of the two (required)
  tenant, name      (required)
  scopes            separated by spaces, or inherit; left out: as [[key_defaults]] says
  kind, environment, plan, quota, burst, subject, note
  origins, cidrs    separated by spaces
  expires           never, a span such as 90d, or a date with time and offset";

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
