//! `[[routes]]`.

use crate::config::Config;
use crate::config::dump::writer::Writer;
use crate::config::dump::writer::key;
use crate::config::dump::writer::kinds;
use crate::config::dump::writer::mode;
use crate::config::dump::writer::quoted;
use crate::config::dump::writer::rate;
use crate::config::values::show_duration;
use crate::config::values::show_size;
use crate::model::route::Access;
use crate::model::route::Route;
use crate::model::route::bind::Bindings;
use crate::model::route::bind::QueryBinding;
use crate::model::route::bind::TwinId;
use crate::model::route::bind::TwinSource;
use crate::model::route::bind::Whom;
use crate::model::route::reference::References;

impl Config {
    pub(super) fn dump_route(&self, out: &mut Writer, route: &Route) {
        out.table("[[routes]]");
        out.text("path", &route.path);
        if let Some(host) = &route.host {
            out.text("host", host);
        }
        out.list("methods", &route.methods);
        match &route.access {
            Access::Public => out.text("access", "public"),
            Access::AnyKey => out.text("access", "any-key"),
            Access::Scope(scope) => out.text("scope", scope.as_str()),
        }
        if route.access != Access::Public {
            out.list("credentials", kinds(route.credentials));
        }
        let upstream = self.upstreams.get(route.upstream);
        out.text("upstream", upstream.map_or("", |upstream| &upstream.name));
        out.bare("cost", route.cost);
        out.text("environment", self.environment(route.environment));
        if let Some(bytes) = route.body_bytes_max {
            out.text("body_bytes_max", &show_size(bytes));
        }
        if let Some(span) = route.total_timeout {
            out.text("total_timeout", &show_duration(span));
        }
        out.bare("raw_path", route.raw_path);
        out.list("origins", &route.origins);
        out.text("mode", mode(route.mode));
        if let Some(bindings) = &route.bindings {
            dump_bindings(out, bindings);
        }
        if let Some(guard) = &route.guard {
            out.text("guard", &guard.name);
        }
        if let Some(references) = &route.references {
            dump_references(out, references);
        }
        if route.access == Access::Public {
            out.text("address_limit", &rate(route.address_limit));
            let passes = route.pass_authorization;
            out.text("authorization", if passes { "pass" } else { "remove" });
        }
        out.bare("json_as_form", route.json_as_form);
    }
}

fn dump_bindings(out: &mut Writer, bindings: &Bindings) {
    let table = |entries: Vec<String>| format!("{{ {} }}", entries.join(", "));
    let entry = |name: &str, whom: Whom| format!("{} = {}", key(name), quoted(whom.as_str()));
    let of_query = |bound: &QueryBinding| entry(&bound.name, bound.whom);
    if !bindings.path.is_empty() {
        let path = bindings.path.iter();
        out.bare(
            "bind",
            table(path.map(|bound| entry(&bound.name, bound.whom)).collect()),
        );
    }
    if !bindings.query.is_empty() {
        out.bare(
            "bind_query",
            table(bindings.query.iter().map(of_query).collect()),
        );
    }
    if let Some(whom) = bindings.host {
        out.text("bind_host", whom.as_str());
    }
    if !bindings.set_query.is_empty() {
        out.bare(
            "set_query",
            table(bindings.set_query.iter().map(of_query).collect()),
        );
    }
    if bindings.demand() {
        let backend = bindings.twin.source == TwinSource::Backend;
        out.text("twin", if backend { "backend" } else { "gateway" });
        let id = match bindings.twin.id {
            TwinId::Text => "text",
            TwinId::Digits => "digits",
            TwinId::Uuid => "uuid",
        };
        out.text("twin_id", id);
        out.bare("twin_echo", bindings.twin.echo);
    }
}

fn dump_references(out: &mut Writer, references: &References) {
    let members = references.members.iter();
    let members: Vec<String> = members
        .map(|one| format!("{} = {}", key(&one.member), quoted(one.place.text())))
        .collect();
    out.bare("references", format!("{{ {} }}", members.join(", ")));
    let bytes = show_size(references.body_bytes_max as u64);
    out.text("references_bytes_max", &bytes);
    out.text("references_mode", mode(references.mode));
}
