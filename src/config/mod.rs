//! What gateway.toml means once it is checked: plain values, every reference resolved; all problems at once otherwise.
//!
//! `load` is the way from the text to the values. `file` reads tables, `typed` their values, `values`, `names` and `addresses` read words, `settings` and `entries`
//! hold one function per table, `check` looks across tables, `doubts` for what can never matter, `problem` prints what is wrong, `dump` writes the
//! meaning back.

mod addresses;
mod check;
mod doubts;
mod dump;
mod entries;
mod file;
mod isolation;
mod issuers;
mod load;
mod names;
mod problem;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod redis;
pub mod secrets;
mod settings;
mod typed;
mod upstream;
mod values;

use std::sync::Arc;

use crate::model::guard::Guard;
use crate::model::issuer::Issuer;
use crate::model::key::ApiKey;
use crate::model::key::Environment;
use crate::model::resource::Resource;
use crate::model::route::Route;
use crate::model::scope::ScopeRules;
use crate::model::tenant::Plan;
use crate::model::tenant::Tenant;

pub use crate::config::load::Loaded;
pub use crate::config::load::load;
pub use crate::config::load::load_piped;
pub use crate::config::load::parse;
pub use crate::config::problem::Problems;
pub use crate::config::redis::Redis;
pub use crate::config::settings::answers::Errors;
pub use crate::config::settings::answers::LimitSubject;
pub use crate::config::settings::answers::LimitsConfig;
pub use crate::config::settings::answers::Revocation;
pub use crate::config::settings::connections::Connections;
pub use crate::config::settings::connections::Http;
pub use crate::config::settings::connections::Server;
pub use crate::config::settings::connections::TrustedProxies;
pub use crate::config::settings::credentials::Auth;
pub use crate::config::settings::credentials::Sessions;
pub use crate::config::settings::credentials::Tokens;
pub use crate::config::settings::headers::Headers;
pub use crate::config::settings::keys::KeyDefault;
pub use crate::config::settings::keys::KeyFormat;
pub use crate::config::settings::keys::KeyLabels;
pub use crate::config::settings::keys::KeyRules;
pub use crate::config::settings::listen::AdminConfig;
pub use crate::config::settings::listen::Listen;
pub use crate::config::settings::records::AccessLog;
pub use crate::config::settings::records::AlertRules;
pub use crate::config::settings::records::AuditRules;
pub use crate::config::settings::records::Log;
pub use crate::config::settings::records::Webhook;
pub use crate::config::settings::store::StoreConfig;
pub use crate::config::settings::tls::CertificateFiles;
pub use crate::config::settings::tls::SniCertificate;
pub use crate::config::settings::tls::Tls;
pub use crate::config::upstream::Destination;
pub use crate::config::upstream::Ejection;
pub use crate::config::upstream::HealthCheck;
pub use crate::config::upstream::HostHeader;
pub use crate::config::upstream::NotFound;
pub use crate::config::upstream::Prepared;
pub use crate::config::upstream::PreparedTls;
pub use crate::config::upstream::RetryBudget;
pub use crate::config::upstream::Upstream;
pub use crate::config::upstream::UpstreamProtocol;
pub use crate::config::upstream::UpstreamServer;
pub use crate::config::upstream::UpstreamTls;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses; a change needs a restart.
    pub listen: Listen,
    /// What the admin listener is called.
    pub admin: AdminConfig,
    /// Threads and the drain; a change of `workers` needs a restart.
    pub server: Server,
    /// Bounds on client connections.
    pub connections: Connections,
    /// Load balancers in front of us, and what they are believed.
    pub trusted_proxies: Arc<TrustedProxies>,
    /// Bounds on HTTP messages.
    pub http: Http,
    /// Certificates.
    pub tls: Tls,
    /// The store; a change of `path` needs a restart.
    pub store: StoreConfig,
    /// Where credentials are looked for and how they are refused.
    pub auth: Auth,
    /// Bounds on access tokens.
    pub tokens: Tokens,
    /// Sessions of browsers.
    pub sessions: Sessions,
    /// How key texts are made.
    pub keys: KeyFormat,
    /// What new keys must be.
    pub key_rules: KeyRules,
    /// What lists call the states of keys.
    pub key_labels: KeyLabels,
    /// `[[key_defaults]]`: what keys may do for which nothing was said.
    pub key_defaults: Vec<KeyDefault>,
    /// Header names: the tenant's, and what is cleaned.
    pub headers: Headers,
    /// What scopes carry with them.
    pub scopes: ScopeRules,
    /// Shape of the gateway's own answers.
    pub errors: Errors,
    /// Limits in general.
    pub limits: LimitsConfig,
    /// What a key's end does to its requests.
    pub revocation: Revocation,
    /// What operators are told at once, and where.
    pub alerts: AlertRules,
    /// How much of the audit log is kept.
    pub audit: AuditRules,
    /// Logs.
    pub log: Log,
    /// Names of environments, 1 to 16; index 0 is the default, `live` unless the file says otherwise.
    pub environments: Vec<String>,
    /// `[plans.NAME]`, sorted by name.
    pub plans: Vec<Plan>,
    /// `[[tenants]]`.
    pub tenants: Vec<Tenant>,
    /// `[[keys]]`: digests, never keys. The id follows from tenant and name; `created` is 0, `prefix` and `last_four` are
    /// empty, since the file does not know them.
    pub declared_keys: Vec<ApiKey>,
    /// `[upstreams.NAME]`, sorted by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// `[guards.NAME]`, sorted by name.
    pub guards: Vec<Arc<Guard>>,
    /// `[issuers.NAME]`, sorted by name.
    pub issuers: Vec<Arc<Issuer>>,
    /// `[[resources]]`: what OAuth clients are told (RFC 9728).
    pub resources: Vec<Arc<Resource>>,
    /// `[[hosts]]`: what differs by host name.
    pub hosts: Vec<Host>,
    /// `[[routes]]`.
    pub routes: Vec<Arc<Route>>,
}

#[cfg(test)]
impl Config {
    /// Every key at its default, and one upstream, `legacy`, that nobody listens on; with these tables beside.
    pub(crate) fn for_tests(more: &str) -> Config {
        let least = "[tls]\ncertificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n\
            [upstreams.legacy]\nservers = [\"http://127.0.0.1:3000\"]\n";
        let loaded = parse(
            &format!("{least}{more}"),
            std::path::Path::new("gateway.toml"),
        );
        loaded.expect("a test's tables are good ones").config
    }
}

/// `[[hosts]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Exact or `*.` wildcard name, lower case.
    pub name: String,
    /// Its error shape.
    pub errors: Errors,
    /// Which keys may use it.
    pub environment: Environment,
}
