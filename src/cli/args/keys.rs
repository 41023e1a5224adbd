//! `keys …` as it is typed.

use std::path::PathBuf;

use clap::ArgGroup;
use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::args::key_words::CreateKey;
use crate::cli::args::key_words::UpdateKey;
use crate::cli::expires;
use crate::store::KeyFilter;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Keys {
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

#[derive(Debug, Args)]
pub(in crate::cli) struct Id {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID")]
    pub(in crate::cli) id: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Final {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID")]
    pub(in crate::cli) id: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Regenerate {
    /// Which, and whether to ask
    #[command(flatten)]
    pub(in crate::cli) asked: Final,
    /// How long the old text still works; it ends at once when left out
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = expires::span)]
    pub(in crate::cli) overlap: u64,
}

/// Which keys are meant.
#[derive(Debug, Args)]
pub(in crate::cli) struct Whose {
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
    pub(in crate::cli) fn filter(self) -> KeyFilter {
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
pub(in crate::cli) struct ListKeys {
    /// Which
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// In this state
    #[arg(long, value_parser = ["active", "inactive", "expired", "revoked", "deleted"])]
    pub(in crate::cli) status: Option<String>,
    /// Deleted ones too
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Which columns, in this order
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', value_enum)]
    pub(in crate::cli) columns: Vec<Column>,
}

/// What `keys list` can show of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(
    missing_docs,
    reason = "each is named after the heading that it prints"
)]
pub(in crate::cli) enum Column {
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
pub(in crate::cli) struct Revoke {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KEY_ID", conflicts_with_all = ["tenant", "prefix", "all_of_user", "stdin", "unused_since", "older_than"])]
    pub(in crate::cli) id: Option<String>,
    /// Which, where many are meant
    #[command(flatten)]
    pub(in crate::cli) whose: Whose,
    /// Those that standard input lists: ids, or keys themselves, one to a line
    #[arg(long)]
    pub(in crate::cli) stdin: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

const IMPORT: &str = "\
The first line names the columns, in any order:
  value or sha256   the key itself, or the SHA-256 of all of it; one of the two (required)
  tenant, name      (required)
  scopes            separated by spaces, or inherit; left out: as [[key_defaults]] says
  kind, environment, plan, quota, burst, subject, note
  origins, cidrs    separated by spaces
  expires           never, a span such as 90d, or a date with time and offset";
