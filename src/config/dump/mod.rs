//! The meaning of a configuration written back as TOML, and which changes of it need a restart.
//!
//! `settings` writes the tables that stand once, `upstreams`, `routes` and `keys` what operators add; `writer` writes TOML.

mod keys;
mod routes;
mod settings;
mod upstreams;
mod writer;

pub(super) use writer::Writer;
pub(super) use writer::key;
pub(super) use writer::kinds;

use crate::config::Config;
use crate::config::dump::keys::dump_key;
use crate::config::dump::keys::dump_own_limits;
use crate::config::dump::keys::dump_scopes;
use crate::config::dump::settings::dump_errors;
use crate::config::dump::writer::mode;
use crate::config::dump::writer::rate;
use crate::config::entries::guard_words;
use crate::config::issuers;
use crate::config::values::show_size;
use crate::model::guard::Guard;
use crate::model::guard::Member;
use crate::model::key::Environment;

impl Config {
    /// The whole configuration in force as TOML, every key written out, in the order of the reference file. Parsing it
    /// gives the same configuration. It holds no secret: digests, and the paths of key files, are as much as there is.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut out = Writer::default();
        let names = self.environments.iter().map(String::as_str);
        out.list("environments", names);
        self.dump_edge(&mut out);
        self.dump_gate(&mut out);
        for plan in &self.plans {
            out.table(&format!("[plans.{}]", key(&plan.name)));
            out.text("quota", &rate(plan.limits.quota));
            out.text("burst", &rate(plan.limits.burst));
            out.list("scopes", plan.scopes.iter().map(|scope| scope.as_str()));
            out.bare("api_access", plan.api_access);
            out.text("mode", mode(plan.mode));
            out.bare("granular_scopes", plan.granular_scopes);
        }
        for tenant in &self.tenants {
            out.table("[[tenants]]");
            out.text("id", tenant.id.as_str());
            out.text("name", &tenant.name);
            out.text("plan", &tenant.plan);
            dump_scopes(&mut out, &tenant.scopes);
            dump_own_limits(&mut out, tenant.quota, tenant.burst);
            out.bare("suspended", tenant.suspended);
        }
        for key in &self.declared_keys {
            dump_key(&mut out, key);
        }
        for upstream in &self.upstreams {
            self.dump_upstream(&mut out, upstream);
        }
        for guard in &self.guards {
            dump_guard(&mut out, guard);
        }
        for issuer in &self.issuers {
            issuers::dump_issuer(&mut out, issuer, self.environment(issuer.environment));
        }
        for resource in &self.resources {
            issuers::dump_resource(&mut out, resource);
        }
        for host in &self.hosts {
            out.table("[[hosts]]");
            out.text("name", &host.name);
            out.text("environment", self.environment(host.environment));
            dump_errors(&mut out, "errors.", host.errors);
        }
        for route in &self.routes {
            self.dump_route(&mut out, route);
        }
        out.0
    }

    fn environment(&self, environment: Environment) -> &str {
        let name = self.environments.get(usize::from(environment.0));
        name.map_or("", String::as_str)
    }

    /// The keys that differ in `next` and are only read at start; a reload leaves them as they are until a restart.
    #[must_use]
    pub fn restart_needed(&self, next: &Config) -> Vec<&'static str> {
        let (listen, new) = (&self.listen, &next.listen);
        let differs = [
            ("listen.https", listen.https != new.https),
            ("listen.http", listen.http != new.http),
            ("listen.admin", listen.admin != new.admin),
            (
                "listen.admin_socket",
                listen.admin_socket != new.admin_socket,
            ),
            ("server.workers", self.server.workers != next.server.workers),
            ("store.path", self.store.path != next.store.path),
            ("store.kind", self.store.shared != next.store.shared),
            (
                "store.redis_servers and the keys beside it",
                self.store.redis != next.store.redis,
            ),
            ("log.access", self.log.access != next.log.access),
            (
                "log.queue_bytes_max",
                self.log.queue_bytes_max != next.log.queue_bytes_max,
            ),
        ];
        let changed = differs.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(key, _)| key).collect()
    }
}

fn dump_guard(out: &mut Writer, guard: &Guard) {
    out.table(&format!("[guards.{}]", key(&guard.name)));
    let named = |which: fn(&Member) -> bool| {
        let members = guard.answers.iter().filter(move |member| which(member));
        members.map(|member| member.name.as_str())
    };
    out.list("remove", named(|member| member.remove));
    out.list("watch", named(|member| member.watch));
    for (key, word) in guard_words(guard) {
        out.text(key, word);
    }
    out.text("mode", mode(guard.mode));
    out.text("bytes_held", &show_size(guard.bytes_held as u64));
    out.text("decoded_bytes_max", &show_size(guard.decoded_bytes_max));
    out.bare("decoded_ratio_max", guard.decoded_ratio_max);
    out.list("remove_headers", &guard.remove_headers);
    out.list("request_set", &guard.set);
    let removed = guard.requests.iter().map(|member| member.name.as_str());
    let removed = removed.filter(|name| !guard.set.iter().any(|set| set == name));
    out.list("request_remove", removed);
}
