//! What `[store]` says of the Redis or Valkey that several nodes share.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use crate::config::addresses;
use crate::config::dump::Writer;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::secrets;
use crate::config::settings::path;
use crate::config::values::Wrong;
use crate::config::values::show_duration;
use crate::config::values::wrong;
use crate::model::issuer::SecretSource;

/// The shared store; nothing but defaults where `kind = "sqlite"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// `host:port`: the one server, or, where `sentinel` is said, the Sentinels that know it. 1 to 16.
    pub servers: Vec<String>,
    /// The name under which Sentinels know the primary; `None` without Sentinel.
    pub sentinel: Option<String>,
    /// The ACL user; `None` is `default`.
    pub user: Option<String>,
    /// Its password; `None` is none.
    pub password: Option<SecretSource>,
    /// The ACL user of the Sentinels; `None` is `default`.
    pub sentinel_user: Option<String>,
    /// Their password, which is never that of the primary by itself; `None` is none.
    pub sentinel_password: Option<SecretSource>,
    /// Whether it is spoken to over TLS (the Sentinels too).
    pub tls: bool,
    /// Certificates that its own is checked against; `None` is the system's.
    pub ca: Option<PathBuf>,
    /// Every name there begins with this and a colon.
    pub prefix: String,
    /// The longest wait for a connection or an answer: 50ms to 10s.
    pub timeout: Duration,
    /// What people call this node; `None` is the machine's name.
    pub node: Option<String>,
    /// How long known keys still work without the shared store: 1min to 720h.
    pub max_stale: Duration,
    /// Whether limited requests get 503 without it (`limits_outage = "deny"`), instead of this node's share of each limit.
    pub deny_in_outage: bool,
    /// Whether nodes tell each other what keys did, through it.
    pub share_usage: bool,
}

impl Default for Redis {
    fn default() -> Redis {
        Redis {
            servers: Vec::new(),
            sentinel: None,
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            tls: false,
            ca: None,
            prefix: PREFIX.to_owned(),
            timeout: TIMEOUT.0,
            node: None,
            max_stale: MAX_STALE.0,
            deny_in_outage: false,
            share_usage: true,
        }
    }
}

impl Redis {
    /// Reads the keys of `[store]` that are about it; `shared` is `kind = "redis"`.
    pub(super) fn read(table: &mut Reader<'_>, base: &Path, shared: bool) -> Redis {
        let servers = table.list("redis_servers", addresses::host_and_port);
        let servers: Vec<String> = servers
            .unwrap_or_default()
            .into_iter()
            .map(Spanned::into_inner)
            .collect();
        let mut name = |key: &'static str| {
            let read = table.word(key, |text| match text {
                "" => Ok(None),
                text => word(text).map(Some),
            });
            read.and_then(Spanned::into_inner)
        };
        let (sentinel, user, node) = (name("redis_sentinel"), name("redis_user"), name("node"));
        let sentinel_user = name("redis_sentinel_user");
        let mut password = |key: &'static str| {
            if let Some(at) = table.place(key).filter(|_| table.has(key)) {
                // It may be the secret itself.
                table.notes().hide(at);
            }
            let read = table.word(key, |text| match text {
                "" => Ok(None),
                text => secrets::source(text, base).map(Some),
            });
            read.and_then(Spanned::into_inner)
        };
        let (own, of_sentinel) = (
            password("redis_password"),
            password("redis_sentinel_password"),
        );
        let ca = table.word("redis_ca", |text| match text {
            "" => Ok(None),
            text => path(base, text).map(Some),
        });
        let prefix = table.word("redis_prefix", word);
        let redis = Redis {
            servers,
            sentinel,
            user,
            node,
            password: own,
            sentinel_user,
            sentinel_password: of_sentinel,
            tls: table.flag("redis_tls", false),
            ca: ca.and_then(Spanned::into_inner),
            prefix: prefix.map_or_else(|| PREFIX.to_owned(), Spanned::into_inner),
            timeout: table.duration("redis_timeout", TIMEOUT.1, ("50ms", "10s")),
            max_stale: table.duration("max_stale", MAX_STALE.1, ("1min", "720h")),
            deny_in_outage: table.choice(
                "limits_outage",
                false,
                &[("share", false), ("deny", true)],
            ),
            share_usage: table.flag("share_usage", true),
        };
        redis.check(table, shared);
        redis
    }

    /// `durability = "strict"` is about `counters.db`, which a shared store does not count in.
    pub(super) fn check_durability(table: &Reader<'_>, shared: bool, strict: bool) {
        if shared && strict {
            table.notes().error(Problem::context(
                table.place("durability"),
                "[store] durability = \"strict\" is about counts on this node's disk, and kind = \"redis\" counts in Redis",
                "write durability = \"interval\"; how durable counts are, appendonly and appendfsync of the server say",
            ));
        }
    }

    fn check(&self, table: &Reader<'_>, shared: bool) {
        let refuse = |key: &str, what: &str, help: &str| {
            let what = format!("[store] {what}");
            let problem = Problem::context(table.place(key), what, help);
            table.notes().error(problem);
        };
        if !shared && *self != Redis::default() {
            let said = KEYS.into_iter().find(|key| table.has(key));
            refuse(
                said.unwrap_or("kind"),
                "this is about a shared store, and kind = \"sqlite\" has none",
                "write kind = \"redis\", or take it out",
            );
            return;
        }
        if shared && self.servers.is_empty() && table.list_is_empty("redis_servers") {
            refuse(
                "redis_servers",
                "kind = \"redis\" needs a server",
                "write redis_servers = [\"127.0.0.1:6379\"]",
            );
        }
        if self.servers.len() > SERVERS_MAX {
            refuse(
                "redis_servers",
                "these are too many",
                "16 Sentinels are enough to find a primary",
            );
        }
        if self.sentinel.is_none() && self.servers.len() > 1 {
            refuse(
                "redis_servers",
                "several servers without Sentinel: nobody knows which of them is the primary",
                "name the primary alone, or write redis_sentinel = \"NAME\" and the addresses of the Sentinels; Redis Cluster is not supported",
            );
        }
        if self.user.is_some() && self.password.is_none() {
            refuse(
                "redis_user",
                "redis_user has no password",
                "write redis_password = \"env:NAME\" or \"file:PATH\"",
            );
        }
        if self.sentinel_user.is_some() && self.sentinel_password.is_none() {
            refuse(
                "redis_sentinel_user",
                "redis_sentinel_user has no password",
                "write redis_sentinel_password = \"env:NAME\" or \"file:PATH\"",
            );
        }
        if self.sentinel_password.is_some() && self.sentinel.is_none() {
            refuse(
                "redis_sentinel_password",
                "redis_sentinel_password is of no use without Sentinel",
                "write redis_sentinel = \"NAME\", or take it out; the password of the server itself is redis_password",
            );
        }
        if self.ca.is_some() && !self.tls {
            refuse(
                "redis_ca",
                "redis_ca is of no use without TLS",
                "write redis_tls = true",
            );
        }
    }

    pub(super) fn dump(&self, out: &mut Writer) {
        let name = |name: &Option<String>| name.clone().unwrap_or_default();
        out.list("redis_servers", &self.servers);
        out.text("redis_sentinel", &name(&self.sentinel));
        out.text("redis_user", &name(&self.user));
        let password = |from: &Option<SecretSource>| {
            let shown = from.as_ref().map(secrets::show);
            shown.unwrap_or_default()
        };
        out.text("redis_password", &password(&self.password));
        out.text("redis_sentinel_user", &name(&self.sentinel_user));
        out.text(
            "redis_sentinel_password",
            &password(&self.sentinel_password),
        );
        out.bare("redis_tls", self.tls);
        out.path("redis_ca", self.ca.as_deref().unwrap_or(Path::new("")));
        out.text("redis_prefix", &self.prefix);
        out.text("redis_timeout", &show_duration(self.timeout));
        out.text("node", &name(&self.node));
        out.text("max_stale", &show_duration(self.max_stale));
        let outage = if self.deny_in_outage { "deny" } else { "share" };
        out.text("limits_outage", outage);
        out.bare("share_usage", self.share_usage);
    }
}

/// A name that can stand in a command, a key of Redis and a log line.
fn word(text: &str) -> Result<String, Wrong> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(good) {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is no name"),
            "use 1 to 64 letters, digits and . _ - :",
        ),
    }
}

const KEYS: [&str; 14] = [
    "redis_servers",
    "redis_sentinel",
    "redis_user",
    "redis_password",
    "redis_sentinel_user",
    "redis_sentinel_password",
    "redis_tls",
    "redis_ca",
    "redis_prefix",
    "redis_timeout",
    "node",
    "max_stale",
    "limits_outage",
    "share_usage",
];
const PREFIX: &str = "portcullis";
const TIMEOUT: (Duration, &str) = (Duration::from_millis(500), "500ms");
const MAX_STALE: (Duration, &str) = (Duration::from_secs(86_400), "24h");
const SERVERS_MAX: usize = 16;
