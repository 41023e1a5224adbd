//! Results to standard output, talk to standard error.

use std::borrow::Cow;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::net::SocketAddr;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::cli::args::Column;
use crate::cli::args::Output;
use crate::config::Config;
use crate::model::display;
use crate::model::route::Access;
use crate::store::Outcome;
use crate::store::outcome::AdminTokenView;
use crate::store::outcome::DenialView;
use crate::store::outcome::KeyText;
use crate::store::outcome::KeyView;
use crate::store::outcome::TenantView;

/// Columns of `keys list` where none are chosen (FA5, FA7, FF5, C-27).
const KEY_COLUMNS: [Column; 10] = [
    Column::Id,
    Column::Name,
    Column::Type,
    Column::Environment,
    Column::Tenant,
    Column::Key,
    Column::Created,
    Column::Expires,
    Column::LastUsed,
    Column::Status,
];

const TOKEN_COLUMNS: [&str; 8] = [
    "ID",
    "NAME",
    "ROLE",
    "TENANT",
    "LAST FOUR",
    "CREATED",
    "EXPIRES",
    "STATUS",
];

const DENIAL_COLUMNS: [&str; 7] = [
    "DENIED BY",
    "VALUE",
    "ISSUER",
    "CREATED",
    "EXPIRES",
    "ISSUED UNTIL",
    "NOTE",
];

const TENANT_COLUMNS: [&str; 5] = ["ID", "NAME", "PLAN", "STATUS", "DECLARED IN"];

/// Writes what a verb did or found.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn outcome(outcome: &Outcome, form: Output, config: Option<&Config>) -> io::Result<()> {
    match form {
        Output::Json => json_line(&json_of(outcome)?),
        Output::Table => for_people(outcome, config),
    }
}

/// Writes an object as lines of `name  value`, or as it is.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn object(value: &Value, form: Output) -> io::Result<()> {
    match (form, value) {
        (Output::Table, Value::Object(fields)) => {
            let row = |(name, value): (&String, &Value)| [name.clone(), plain(value)];
            rows(&[], fields.iter().map(row).collect())
        }
        _ => json_line(value),
    }
}

/// Writes what a gateway says of itself: its numbers, and then each server of each upstream.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn status(value: &Value, form: Output) -> io::Result<()> {
    let mut numbers = value.clone();
    let upstreams = numbers
        .as_object_mut()
        .and_then(|all| all.remove("upstreams"));
    let (Output::Table, Some(Value::Array(upstreams))) = (form, upstreams) else {
        return object(value, form);
    };
    object(&numbers, form)?;
    let servers = upstreams.iter().flat_map(|upstream| {
        let servers = upstream["servers"].as_array().into_iter().flatten();
        servers.map(|server| server_row(&upstream["upstream"], server))
    });
    let servers: Vec<_> = servers.collect();
    if !servers.is_empty() {
        raw(b"\n")?;
        rows(&SERVER_COLUMNS, servers)?;
    }
    let busy = upstreams.iter().filter(|upstream| {
        let is_some = |name| upstream[name].as_u64().is_some_and(|count| count > 0);
        UPSTREAM_NUMBERS.iter().any(|name| is_some(*name))
    });
    for upstream in busy {
        let numbers = UPSTREAM_NUMBERS.map(|name| format!("{name} {}", plain(&upstream[name])));
        let line = format!("{}: {}\n", plain(&upstream["upstream"]), numbers.join(", "));
        raw(line.as_bytes())?;
    }
    Ok(())
}

const SERVER_COLUMNS: [&str; 5] = ["UPSTREAM", "SERVER", "STATE", "IN FLIGHT", "EJECTIONS"];

const UPSTREAM_NUMBERS: [&str; 4] = ["queued", "queue_refusals", "retries", "retries_refused"];

fn server_row(upstream: &Value, server: &Value) -> [String; 5] {
    let state = match server["retry_in_seconds"].as_u64() {
        Some(seconds) => format!("{} ({seconds} s)", plain(&server["state"])),
        None => plain(&server["state"]),
    };
    let number = |name| plain(&server[name]);
    [
        plain(upstream),
        number("server"),
        state,
        number("in_flight"),
        number("ejections"),
    ]
}

/// Writes text as it is.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

fn for_people(outcome: &Outcome, config: Option<&Config>) -> io::Result<()> {
    match outcome {
        Outcome::KeyIssued { key, text, notes } => issued(key, text, notes, config),
        Outcome::KeyChanged { said, notes, .. } | Outcome::TenantChanged { said, notes, .. } => {
            for note in notes {
                eprintln!("note: {note}");
            }
            eprintln!("{said}");
            Ok(())
        }
        Outcome::DenialChanged { said, .. } => {
            eprintln!("{said}");
            Ok(())
        }
        Outcome::Denials { denials } => {
            rows(&DENIAL_COLUMNS, denials.iter().map(denial_row).collect())
        }
        Outcome::KeyRotated {
            key,
            text,
            old,
            notes,
        } => {
            eprintln!("{} ({}) is replaced by {}", old.id, old.name, key.id);
            issued(key, text, notes, config)
        }
        Outcome::KeysChanged { ids, said, notes } => {
            for note in notes {
                eprintln!("note: {note}");
            }
            eprintln!("{said}");
            raw(ids
                .iter()
                .map(|id| format!("{id}\n"))
                .collect::<String>()
                .as_bytes())
        }
        Outcome::Keys { keys } => self::keys(keys, &[]),
        Outcome::Key { key } => object(&serde_json::to_value(key)?, Output::Table),
        Outcome::Tenants { tenants } => {
            rows(&TENANT_COLUMNS, tenants.iter().map(tenant_row).collect())
        }
        Outcome::AdminTokenIssued { token, text } => {
            let expires = token.expires_at.as_deref().unwrap_or("never");
            let whose = token.tenant.as_ref();
            let whose = whose.map_or_else(String::new, |tenant| format!(" for tenant {tenant}"));
            eprintln!(
                "{} ({}), {}{whose}, expires: {expires}",
                token.id, token.name, token.role
            );
            eprintln!("this is the only time that the token is shown:");
            raw(format!("{}\n", text.reveal()).as_bytes())
        }
        Outcome::AdminTokenChanged { said, .. } => {
            eprintln!("{said}");
            Ok(())
        }
        Outcome::AdminTokens { tokens } => {
            rows(&TOKEN_COLUMNS, tokens.iter().map(token_row).collect())
        }
        Outcome::Replayed { id } => raw(format!("{id}\n").as_bytes()),
    }
}

/// The key alone on standard output, so that it can be piped; all else beside it.
fn issued(
    key: &KeyView,
    text: &KeyText,
    notes: &[String],
    config: Option<&Config>,
) -> io::Result<()> {
    let expires = key.expires_at.as_deref().unwrap_or("never");
    eprintln!(
        "{} ({}) of tenant {}, expires: {expires}",
        key.id, key.name, key.tenant
    );
    for note in notes {
        eprintln!("note: {note}");
    }
    eprintln!("this is the only time that the key is shown:");
    raw(format!("{}\n", text.reveal()).as_bytes())?;
    if let Some(line) = config.and_then(curl_line) {
        eprintln!("next, with the key in $KEY: {line}");
    }
    Ok(())
}

/// A line that uses a key on the first route that wants one.
fn curl_line(config: &Config) -> Option<String> {
    let wanted = config
        .routes
        .iter()
        .find(|route| route.access != Access::Public)?;
    let address = config.listen.https.first()?;
    let host = match &wanted.host {
        Some(host) if !host.starts_with("*.") => host.clone(),
        _ => host_of(address),
    };
    let method = match wanted.methods.first().map(String::as_str) {
        None | Some("GET") => String::new(),
        Some(method) => format!("-X {method} "),
    };
    let segments = wanted.path.split('/').filter_map(|segment| {
        let rest = segment.starts_with("{*");
        let parameter = segment.starts_with('{');
        (!rest).then_some(if parameter { "1" } else { segment })
    });
    let path = segments.collect::<Vec<_>>().join("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some(format!(
        "curl {method}-H \"Authorization: Bearer $KEY\" https://{host}:{}{slash}{path}",
        address.port()
    ))
}

fn host_of(address: &SocketAddr) -> String {
    match address {
        address if address.ip().is_unspecified() => "localhost".to_owned(),
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

fn json_of(outcome: &Outcome) -> io::Result<Value> {
    let with = |view: Value, more: Value| match (view, more) {
        (Value::Object(mut view), Value::Object(more)) => {
            view.extend(more);
            Value::Object(view)
        }
        (view, _) => view,
    };
    Ok(match outcome {
        Outcome::KeyIssued { key, text, notes } => with(
            serde_json::to_value(key)?,
            json!({ "text": text, "notes": notes }),
        ),
        Outcome::KeyRotated {
            key,
            text,
            old,
            notes,
        } => with(
            serde_json::to_value(key)?,
            json!({ "text": text, "old": old, "notes": notes }),
        ),
        Outcome::KeysChanged { ids, notes, .. } => {
            json!({ "ids": ids, "count": ids.len(), "notes": notes })
        }
        Outcome::KeyChanged {
            key,
            changed,
            notes,
            ..
        } => with(
            serde_json::to_value(key)?,
            json!({ "changed": changed, "notes": notes }),
        ),
        Outcome::TenantChanged {
            tenant,
            changed,
            notes,
            ..
        } => with(
            serde_json::to_value(tenant)?,
            json!({ "changed": changed, "notes": notes }),
        ),
        Outcome::Keys { keys } => serde_json::to_value(keys)?,
        Outcome::Key { key } => serde_json::to_value(key)?,
        Outcome::Tenants { tenants } => serde_json::to_value(tenants)?,
        Outcome::AdminTokenIssued { token, text } => {
            with(serde_json::to_value(token)?, json!({ "text": text }))
        }
        Outcome::AdminTokenChanged { token, changed, .. } => {
            with(serde_json::to_value(token)?, json!({ "changed": changed }))
        }
        Outcome::AdminTokens { tokens } => serde_json::to_value(tokens)?,
        Outcome::Replayed { id } => json!({ "id": id }),
        Outcome::DenialChanged {
            denial, changed, ..
        } => with(serde_json::to_value(denial)?, json!({ "changed": changed })),
        Outcome::Denials { denials } => serde_json::to_value(denials)?,
    })
}

pub(super) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    raw(&text)
}

/// Writes keys as a table of these columns; of the usual ones when none are named.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn keys(keys: &[KeyView], columns: &[Column]) -> io::Result<()> {
    let columns = match columns {
        [] => &KEY_COLUMNS,
        columns => columns,
    };
    let heading: Vec<&str> = columns.iter().map(|column| heading_of(*column)).collect();
    let row = |key: &KeyView| columns.iter().map(|column| cell(key, *column)).collect();
    table(&heading, keys.iter().map(row).collect())
}

fn heading_of(column: Column) -> &'static str {
    match column {
        Column::Id => "ID",
        Column::Name => "NAME",
        Column::Type => "TYPE",
        Column::Environment => "ENV",
        Column::Tenant => "TENANT",
        Column::Key => "KEY",
        Column::Plan => "PLAN",
        Column::Quota => "QUOTA",
        Column::Burst => "BURST",
        Column::Scopes => "SCOPES",
        Column::Created => "CREATED",
        Column::Expires => "EXPIRES",
        Column::LastUsed => "LAST USED",
        Column::Status => "STATUS",
        Column::Subject => "SUBJECT",
        Column::Origins => "ORIGINS",
        Column::Networks => "NETWORKS",
        Column::Note => "NOTE",
        Column::DeclaredIn => "DECLARED IN",
    }
}

fn cell(key: &KeyView, column: Column) -> String {
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let list = |words: &[String], none: &str| match words {
        [] => none.to_owned(),
        words => words.join(" "),
    };
    match column {
        Column::Id => key.id.clone(),
        Column::Name => key.name.clone(),
        Column::Type => key.kind.clone(),
        Column::Environment => key.environment.clone(),
        Column::Tenant => key.tenant.clone(),
        Column::Key => or(&key.key, "-"),
        Column::Plan => or(&key.plan, "-"),
        Column::Quota => or(&key.quota, "-"),
        Column::Burst => or(&key.burst, "-"),
        Column::Scopes => {
            (key.scopes.as_ref()).map_or_else(|| "inherit".to_owned(), |scopes| list(scopes, "-"))
        }
        Column::Created => or(&key.created_at, "-"),
        Column::Expires => or(&key.expires_at, "never"),
        Column::LastUsed => or(&key.last_used_at, "never"),
        // A gateway of an older version says none.
        Column::Status if key.status_label.is_empty() => key.status.clone(),
        Column::Status => key.status_label.clone(),
        Column::Subject => or(&key.subject, "-"),
        Column::Origins => list(&key.origins, "-"),
        Column::Networks => list(&key.cidrs, "any"),
        Column::Note => or(&key.note, "-"),
        Column::DeclaredIn => key.declared_in.clone(),
    }
}

fn token_row(token: &AdminTokenView) -> [String; 8] {
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    [
        token.id.clone(),
        token.name.clone(),
        token.role.clone(),
        or(&token.tenant, "-"),
        token.last_four.clone(),
        token.created_at.clone(),
        or(&token.expires_at, "never"),
        token.status.clone(),
    ]
}

fn denial_row(denial: &DenialView) -> [String; 7] {
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    [
        denial.denied_by.clone(),
        denial.value.clone(),
        or(&denial.issuer, "any"),
        denial.created_at.clone(),
        or(&denial.expires_at, "never"),
        or(&denial.issued_until, "-"),
        or(&denial.note, "-"),
    ]
}

fn tenant_row(tenant: &TenantView) -> [String; 5] {
    [
        tenant.id.clone(),
        tenant.name.clone(),
        tenant.plan.clone(),
        tenant.status.clone(),
        tenant.declared_in.clone(),
    ]
}

/// Columns under a heading on a terminal; tabs and no heading for whatever reads a pipe.
pub(super) fn rows<const WIDTH: usize>(
    heading: &[&str],
    rows: Vec<[String; WIDTH]>,
) -> io::Result<()> {
    table(heading, rows.into_iter().map(Vec::from).collect())
}

/// The same for rows of any width.
pub(super) fn table(heading: &[&str], mut rows: Vec<Vec<String>>) -> io::Result<()> {
    // What would move a cursor or turn a line around is shown for what it is, whoever wrote it and when.
    for cell in rows.iter_mut().flatten() {
        if let Cow::Owned(shown) = display::shown(cell) {
            *cell = shown;
        }
    }
    if !io::stdout().is_terminal() {
        let lines = rows.iter().map(|row| row.join("\t") + "\n");
        return raw(lines.collect::<String>().as_bytes());
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    if !heading.is_empty() {
        table.set_header(heading.to_vec());
    }
    for row in rows {
        table.add_row(row);
    }
    raw(format!("{}\n", table.trim_fmt()).as_bytes())
}

/// A value in one line.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
