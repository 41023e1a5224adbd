//! `[[resources]]`: what OAuth clients are told of what is served (RFC 9728).

use std::sync::Arc;

use toml::Spanned;

use crate::config::addresses;
use crate::config::entries::Placed;
use crate::config::entries::inner;
use crate::config::entries::scope_word;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::values;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::issuer::Issuer;
use crate::model::resource::Resource;
use crate::model::scope::Scope;

/// `[[resources]]`.
pub(in crate::config) fn resources(
    root: &mut Reader<'_>,
    issuers: &[Placed<Arc<Issuer>>],
) -> Vec<Arc<Resource>> {
    let mut seen = Vec::new();
    let read = root.each("resources", "resources", |table| {
        let identifier = table.required("resource", HELP, identifier);
        let listed = table.list("issuers", |text| issuer(text, issuers));
        if listed.is_none() || table.list_is_empty("issuers") {
            let help = "write issuers = [\"NAME\"], of tables [issuers.NAME]";
            table.missing("issuers", help);
        }
        let listed = inner(listed);
        let scopes = table.list("scopes", |text| {
            scope_word(Scope::new(text), text).map(|scope| scope.as_str().to_owned())
        });
        let name = optional(table, "name", name);
        let documentation = optional(table, "documentation", documentation);
        let identifier = identifier?;
        once(table, &mut seen, &identifier);
        let (host, path) = parts(identifier.get_ref());
        Some(Arc::new(Resource {
            host: host.to_ascii_lowercase(),
            path: path.to_owned(),
            servers: listed.iter().map(|one| one.issuer.clone()).collect(),
            issuers: listed.iter().map(|one| one.name.clone()).collect(),
            scopes: inner(scopes),
            name,
            documentation,
            identifier: identifier.into_inner(),
        }))
    });
    read.into_iter().flatten().collect()
}

fn once(table: &Reader<'_>, seen: &mut Vec<Spanned<String>>, identifier: &Spanned<String>) {
    let mut others = seen.iter();
    if let Some(first) = others.find(|other| other.get_ref() == identifier.get_ref()) {
        let what = "[[resources]] resource: this one is declared twice".to_owned();
        let problem = Problem::here(identifier.span(), what, "take one out");
        table
            .notes()
            .error(problem.beside(first.span(), "the first"));
    }
    seen.push(Spanned::new(
        identifier.span(),
        identifier.get_ref().clone(),
    ));
}

/// An empty text is none.
fn optional(
    table: &mut Reader<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<String, Wrong>,
) -> Option<String> {
    let read = table.word(key, |text| match text {
        "" => Ok(None),
        text => parse(text).map(Some),
    });
    read.and_then(Spanned::into_inner)
}

fn issuer(text: &str, issuers: &[Placed<Arc<Issuer>>]) -> Result<Arc<Issuer>, Wrong> {
    let found = issuers.iter().find(|one| one.value.name == text);
    let known: Vec<&str> = issuers.iter().map(|one| one.value.name.as_str()).collect();
    match found {
        Some(found) => Ok(Arc::clone(&found.value)),
        None if known.is_empty() => wrong(
            format!("no issuer is called \"{text}\""),
            "there are none; declare it with [issuers.NAME]",
        ),
        None => wrong(
            format!("no issuer is called \"{text}\""),
            format!("there are: {}", values::listed(&known)),
        ),
    }
}

/// Host, without port, and path.
fn parts(identifier: &str) -> (&str, &str) {
    let rest = identifier.strip_prefix("https://").unwrap_or(identifier);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let end = match authority.rfind(']') {
        Some(end) => end + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    (&authority[..end], path)
}

/// RFC 9728 section 1.2: an `https` URL without fragment; a query would have no place in the metadata's address. What can mean something in a
/// header or a path goes in neither.
fn identifier(text: &str) -> Result<String, Wrong> {
    let refuse = |why: &str| wrong(format!("\"{text}\" identifies no resource: {why}"), HELP);
    let Some(rest) = text.strip_prefix("https://") else {
        return refuse("it does not begin with https://");
    };
    let (host, path) = parts(text);
    let port = rest[host.len()..rest.len() - path.len()].strip_prefix(':');
    let authority_is_host = rest.len() == host.len() + path.len();
    if addresses::host_pattern(host).is_err() || host.starts_with('*') {
        return refuse("its host is none");
    }
    if !authority_is_host && port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return refuse("its port is none");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    if !path.bytes().all(plain) || path.contains("//") || dots || path.ends_with('/') {
        return refuse(
            "its path must be letters, digits and - . _ ~ between single slashes, without one at its end",
        );
    }
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, Wrong> {
    match text.chars().count() <= 128 && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => wrong("it is no name", "write at most 128 characters"),
    }
}

fn documentation(text: &str) -> Result<String, Wrong> {
    let plain = text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && text.starts_with("https://") {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" is no address for people"),
            "write \"https://docs.example.org/api\"",
        ),
    }
}

const HELP: &str = "write resource = \"https://api.example.org\", or with a path behind";
