//! `tenants …` as it is typed.

use clap::Args;
use clap::Subcommand;

use crate::store::Verb;
use crate::store::request::TenantUpdate;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Tenants {
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
        /// Servers of its own behind an upstream with isolation = "physical", for example legacy=http://10.0.0.7:3000/acme; several URLs are
        /// separated by spaces; may be repeated
        #[arg(long, value_name = "NAME=URL", value_parser = own_upstream)]
        upstream: Vec<(String, String)>,
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

#[derive(Debug, Args)]
pub(in crate::cli) struct UpdateTenant {
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
    pub(in crate::cli) fn verb(self) -> Verb {
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
