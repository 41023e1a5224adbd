//! `admin-tokens …` as it is typed.

use clap::Args;
use clap::Subcommand;
use clap::ValueEnum;

use crate::cli::args::keys::Final;
use crate::cli::expires;
use crate::store::NewAdminToken;
use crate::store::Verb;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AdminTokens {
    /// Make a token for the admin listener's API and dashboard; its text is printed once and kept nowhere
    Create(CreateAdminToken),
    /// All tokens, those that have ended included
    List,
    /// End a token at once, and every session that was begun with it
    Revoke(RevokeAdminToken),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateAdminToken {
    /// What people call it
    #[arg(long)]
    name: String,
    /// What it may do
    #[arg(
        long,
        value_enum,
        conflicts_with = "tenant",
        required_unless_present = "tenant"
    )]
    role: Option<Role>,
    /// It may see and change the keys of this tenant alone
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// When it ends: a span, or never
    #[arg(long, value_name = "SPAN", default_value = "90d", value_parser = expires::span_or_never)]
    expires: expires::SpanOrNever,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Role {
    /// Everything
    Full,
    /// See everything, change nothing
    ReadOnly,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeAdminToken {
    /// The token's id, as `admin-tokens list` shows it
    #[arg(value_name = "TOKEN_ID")]
    pub(in crate::cli) id: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

impl From<RevokeAdminToken> for Final {
    fn from(asked: RevokeAdminToken) -> Final {
        Final {
            id: asked.id,
            yes: asked.yes,
        }
    }
}

impl CreateAdminToken {
    /// What the store is asked for.
    pub(in crate::cli) fn verb(self) -> Verb {
        let role = match (&self.tenant, self.role) {
            (Some(_), _) => "tenant",
            (None, Some(Role::ReadOnly)) => "read-only",
            (None, _) => "full",
        };
        Verb::AdminTokenCreate(NewAdminToken {
            name: self.name,
            role: role.to_owned(),
            tenant: self.tenant,
            expires_in_seconds: self.expires.0,
        })
    }
}
