//! `tokens …` as it is typed.

use clap::Args;
use clap::Subcommand;

use crate::cli::expires;
use crate::store::Verb;
use crate::store::request::TokenDenial;
use crate::store::request::TokenNames;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Tokens {
    /// Deny access tokens and sessions before their time; none is admitted from then on, and requests in flight with them end
    Deny(DenyTokens),
    /// Take an entry back
    Allow {
        #[command(flatten)]
        names: Names,
    },
    /// What is denied
    List,
}

#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct Names {
    /// One token, by its own id; the access log shows it as token.id
    #[arg(long, value_name = "ID", group = "which")]
    jti: Option<String>,
    /// All tokens of a user
    #[arg(long, value_name = "NAME", group = "which")]
    subject: Option<String>,
    /// All tokens of a client
    #[arg(long, value_name = "NAME", group = "which")]
    client: Option<String>,
    /// Of this issuer alone, as iss says it; of any when left out
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DenyTokens {
    #[command(flatten)]
    names: Names,
    /// How long, for example 24h or 30d; a token by its id as long as any token may live (lifetime_max), all else until it is allowed again
    #[arg(long = "for", value_name = "SPAN", value_parser = expires::span)]
    span: Option<u64>,
    /// Only tokens that were issued until now: who logs in again is let in
    #[arg(long)]
    issued_until_now: bool,
    /// A remark for operators
    #[arg(long)]
    note: Option<String>,
}

impl Tokens {
    /// What the store is asked for.
    pub(in crate::cli) fn verb(self) -> Verb {
        match self {
            Tokens::Deny(asked) => Verb::TokenDeny(Box::new(TokenDenial {
                names: asked.names.names(),
                for_seconds: asked.span,
                issued_until_now: asked.issued_until_now,
                note: asked.note,
            })),
            Tokens::Allow { names } => Verb::TokenAllow(names.names()),
            Tokens::List => Verb::TokenDenials,
        }
    }
}

impl Names {
    fn names(self) -> TokenNames {
        TokenNames {
            jti: self.jti,
            subject: self.subject,
            client: self.client,
            issuer: self.issuer,
        }
    }
}
