//! What a route ties to its caller, and the tenants' own places behind an upstream: tables whose keys are the operator's.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;

use crate::config::Destination;
use crate::config::NotFound;
use crate::config::addresses;
use crate::config::entries::tenant_word;
use crate::config::file::Reader;
use crate::config::names;
use crate::config::values::Wrong;
use crate::config::values::listed;
use crate::config::values::wrong;
use crate::model::route::bind::Bindings;
use crate::model::route::bind::PathBinding;
use crate::model::route::bind::QueryBinding;
use crate::model::route::bind::Twin;
use crate::model::route::bind::TwinId;
use crate::model::route::bind::TwinSource;
use crate::model::route::bind::Whom;
use crate::model::route::pattern::parameters;
use crate::model::tenant::TenantId;

/// `bind`, `bind_query`, `bind_host`, `set_query` and the twin of a route; `None` where it has none of them.
pub(super) fn bindings(
    table: &mut Reader<'_>,
    path: Option<&str>,
    host: Option<&str>,
) -> Option<Box<Bindings>> {
    let of_path = |name: &str, texts: &[&str]| path_binding(path, name, whom(texts)?);
    let of_query = |name: &str, texts: &[&str]| {
        let name = names::query_parameter(name).and_then(|name| match name.is_empty() {
            true => wrong("a parameter has a name", QUERY_HELP),
            false => Ok(name),
        })?;
        let whom = whom(texts)?;
        Ok(QueryBinding { name, whom })
    };
    let bind_host = table.word("bind_host", |text| {
        let whom = whom(&[text])?;
        match host.is_some_and(|host| host.starts_with('*')) {
            true => Ok(whom),
            false => wrong(
                "the route's host has no wildcard to be bound",
                "write host = \"*.example.com\": what stands for the * must then name the caller",
            ),
        }
    });
    let bindings = Bindings {
        path: table.entries("bind", PATH_HELP, of_path),
        query: table.entries("bind_query", QUERY_HELP, of_query),
        host: bind_host.map(Spanned::into_inner),
        set_query: table.entries("set_query", QUERY_HELP, of_query),
        twin: twin(table),
    };
    both_ways(table, &bindings);
    if !bindings.demand() {
        for key in ["twin", "twin_id", "twin_echo"] {
            if let Some(at) = table.place(key).filter(|_| table.has(key)) {
                let help = "bind something to the caller, or take this out";
                let nothing = wrong::<()>("nothing is bound, so nobody is foreign here", help);
                table.refuse(at, key, nothing.err()?);
            }
        }
    }
    let is_used = bindings.demand() || !bindings.set_query.is_empty();
    is_used.then(|| Box::new(bindings))
}

fn path_binding(path: Option<&str>, name: &str, whom: Whom) -> Result<PathBinding, Wrong> {
    let Some(path) = path else {
        // The path is wrong, and that is reported already.
        return Ok(PathBinding {
            name: name.to_owned(),
            segment: 0,
            whom,
        });
    };
    let found = parameters(path).find(|(_, parameter)| *parameter == name);
    match found {
        Some((segment, name)) => Ok(PathBinding {
            name: name.to_owned(),
            segment,
            whom,
        }),
        None => {
            let known: Vec<&str> = parameters(path).map(|(_, name)| name).collect();
            let help = match known.is_empty() {
                true => "write the segment that names the caller as {name}".to_owned(),
                false => format!("there are: {}", listed(&known)),
            };
            wrong(format!("the path has no segment {{{name}}}"), help)
        }
    }
}

fn whom(texts: &[&str]) -> Result<Whom, Wrong> {
    match texts {
        ["tenant"] => Ok(Whom::Tenant),
        ["subject"] => Ok(Whom::Subject),
        _ => wrong(
            "this is nobody",
            "choose \"tenant\" (the caller's tenant) or \"subject\" (the end user of its key)",
        ),
    }
}

fn twin(table: &mut Reader<'_>) -> Twin {
    let sources = [
        ("backend", TwinSource::Backend),
        ("gateway", TwinSource::Gateway),
    ];
    let ids = [
        ("text", TwinId::Text),
        ("digits", TwinId::Digits),
        ("uuid", TwinId::Uuid),
    ];
    Twin {
        source: table.choice("twin", TwinSource::Backend, &sources),
        id: table.choice("twin_id", TwinId::Text, &ids),
        echo: table.flag("twin_echo", false),
    }
}

/// What the client must say is not set by the gateway too.
fn both_ways(table: &mut Reader<'_>, bindings: &Bindings) {
    for set in &bindings.set_query {
        if bindings.query.iter().any(|bound| bound.name == set.name) {
            let at = table.place("set_query").unwrap_or_default();
            let what = format!("\"{}\" is bound by bind_query already", set.name);
            let help = "choose one: bind_query has the client name its caller, set_query says it for the client";
            table.refuse(
                at,
                "set_query",
                Wrong {
                    what,
                    help: help.to_owned(),
                },
            );
        }
    }
}

/// `[upstreams.NAME.tenants]`.
pub(super) fn tenants(table: &mut Reader<'_>) -> BTreeMap<TenantId, Arc<Destination>> {
    const HELP: &str = "write tenants = { acme = \"http://127.0.0.1:3001\" }";
    let read = table.entries("tenants", HELP, |name, texts| {
        let id = tenant_word(TenantId::new(name), name)?;
        Ok((id, Arc::new(destination(texts)?)))
    });
    read.into_iter().collect()
}

/// One or more `http://host:port`, all with the same path or none.
pub(in crate::config) fn destination(texts: &[&str]) -> Result<Destination, Wrong> {
    let mut prefix = None;
    let mut servers = Vec::new();
    for text in texts {
        let (server, path) = addresses::server_with_path(text)?;
        if !servers.is_empty() && prefix != path {
            return wrong(
                "the servers of one tenant have different paths",
                "write the same path behind each",
            );
        }
        servers.push(server);
        prefix = path;
    }
    match servers.is_empty() {
        true => wrong("no server is named", "write \"http://127.0.0.1:3001\""),
        false => Ok(Destination { servers, prefix }),
    }
}

/// `not_found_body` and `not_found_type` of an upstream.
pub(super) fn not_found(table: &mut Reader<'_>) -> Option<NotFound> {
    let body = table.word("not_found_body", |text| {
        match text.len() <= BODY_BYTES_MAX {
            true => Ok(text.to_owned()),
            false => wrong("this is too long", "write at most 64 KiB"),
        }
    });
    let kind = table.word("not_found_type", names::content_type);
    let body = body
        .map(Spanned::into_inner)
        .filter(|body| !body.is_empty());
    body.map(|body| NotFound {
        content_type: kind.map_or_else(NotFound::json, Spanned::into_inner),
        body,
    })
}

const PATH_HELP: &str = "write bind = { org = \"tenant\" }, where {org} stands in the path";
const QUERY_HELP: &str = "write a table such as { org = \"tenant\" }";
const BODY_BYTES_MAX: usize = 64 * 1024;
