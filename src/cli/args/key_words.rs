//! What may be said of a key: when it is made, and when it is changed.

use clap::Args;

use crate::cli::expires::Expires;
use crate::store::NewKey;
use crate::store::Verb;
use crate::store::request::KeyUpdate;

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateKey {
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
    pub(in crate::cli) fn verb(self) -> Verb {
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

#[derive(Debug, Args)]
pub(in crate::cli) struct UpdateKey {
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
    pub(in crate::cli) fn verb(self) -> Verb {
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
