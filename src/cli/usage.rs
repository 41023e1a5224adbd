//! `usage`: what keys did, as a table, as comma-separated values, or as JSON.

use crate::admin;
use crate::cli::act::Place;
use crate::cli::args::At;
use crate::cli::args::Output;
use crate::cli::args::Usage;
use crate::cli::print;
use crate::store::VerbError;
use crate::usage::report::Figures;
use crate::usage::report::HourFigures;
use crate::usage::report::KeyFigures;
use crate::usage::report::Report;

/// The figures, under the names that CSV and the table show.
const FIGURES: [(&str, &str); 10] = [
    ("requests", "REQUESTS"),
    ("success", "SUCCESS"),
    ("client_error", "CLIENT ERR"),
    ("server_error", "SERVER ERR"),
    ("refused", "REFUSED"),
    ("success_rate_percent", "SUCCESS %"),
    ("error_rate_percent", "ERROR %"),
    ("received_bytes", "IN BYTES"),
    ("sent_bytes", "OUT BYTES"),
    ("last_used_at", "LAST USED"),
];

const OF_KEY: [(&str, &str); 3] = [("key_id", "KEY"), ("name", "NAME"), ("tenant", "TENANT")];

const OF_HOUR: [(&str, &str); 1] = [("hour", "HOUR")];

/// Asks and prints.
///
/// # Errors
/// There is no such key or tenant, or it cannot be said.
pub(super) fn usage(at: &At, form: Output, asked: &Usage) -> Result<(), VerbError> {
    let usage = whole(&Place::find(at)?, asked)?;
    let report = &usage.report;
    of_nodes(report);
    let (names, rows): (Vec<(&str, &str)>, Vec<Vec<String>>) = match asked.by_hour() {
        true => (
            OF_HOUR.iter().chain(&FIGURES).copied().collect(),
            report.hours.iter().map(of_hour).collect(),
        ),
        false => (
            OF_KEY.iter().chain(&FIGURES).copied().collect(),
            report.keys.iter().map(of_key).collect(),
        ),
    };
    if asked.csv {
        return super::written(print::raw(csv(&names, &rows).as_bytes()));
    }
    if form == Output::Json {
        return super::written(print::json_line(&usage));
    }
    introduce(&usage);
    let heading: Vec<&str> = names.iter().map(|(_, shown)| *shown).collect();
    super::written(print::table(&heading, rows))
}

/// All pages, the busiest key first. The gateway holds one of them at a time.
fn whole(place: &Place, asked: &Usage) -> Result<admin::Usage, VerbError> {
    let mut page = asked.asked();
    let mut usage = place.usage(&page)?;
    while let Some(after) = usage.report.next.take() {
        page.after = Some(after);
        let mut more = place.usage(&page)?.report;
        usage.report.keys.append(&mut more.keys);
        usage.report.next = more.next;
    }
    (usage.report.keys).sort_by_key(|key| {
        let figures = &key.figures;
        std::cmp::Reverse(figures.requests + figures.refused)
    });
    Ok(usage)
}

/// Whose part is in it, where there are several nodes, and whose may not be.
fn of_nodes(report: &Report) {
    if let Some(why) = &report.others_missing {
        eprintln!("of this node alone: what others did is not in it, {why}");
    }
    if report.nodes.len() > 1 {
        eprintln!("of {} nodes", report.nodes.len());
    }
    for node in report.nodes.iter().filter(|node| node.may_lack) {
        let name = node.name.as_deref().unwrap_or("-");
        eprintln!(
            "{name} ({id}) told last at {}: what it did since is not in it (`portcullis store forget {id}` once it is gone for good)",
            node.told_at,
            id = node.id
        );
    }
}

fn introduce(usage: &admin::Usage) {
    let Some(total) = &usage.report.total else {
        return;
    };
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{share} %"));
    eprintln!(
        "since {}: {} requests, success {}, errors {}, refused {}, last used {}",
        usage.report.since,
        total.requests,
        percent(total.success_rate_percent),
        percent(total.error_rate_percent),
        total.refused,
        total.last_used_at.as_deref().unwrap_or("never"),
    );
    for window in &usage.windows {
        let (subject, name, limit) = (&window.subject, &window.window, &window.limit);
        if let Some(state) = &window.state {
            eprintln!(
                "{subject}'s {name} {limit}: {} used, {} left, resets at {}",
                state.used, state.remaining, state.reset_at
            );
        }
    }
}

fn of_key(key: &KeyFigures) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut row = vec![key.key_id.clone(), or_dash(&key.name), or_dash(&key.tenant)];
    row.extend(figures(&key.figures));
    row
}

fn of_hour(hour: &HourFigures) -> Vec<String> {
    let mut row = vec![hour.hour.clone()];
    row.extend(figures(&hour.figures));
    row
}

fn figures(figures: &Figures) -> [String; 10] {
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| share.to_string());
    [
        figures.requests.to_string(),
        figures.success.to_string(),
        figures.client_error.to_string(),
        figures.server_error.to_string(),
        figures.refused.to_string(),
        percent(figures.success_rate_percent),
        percent(figures.error_rate_percent),
        figures.received_bytes.to_string(),
        figures.sent_bytes.to_string(),
        figures
            .last_used_at
            .clone()
            .unwrap_or_else(|| "-".to_owned()),
    ]
}

/// RFC 4180. What a spreadsheet would run as a formula is a text to it by the apostrophe before it: names are for others to choose.
fn csv(names: &[(&str, &str)], rows: &[Vec<String>]) -> String {
    let heading = names.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<String> = row.iter().map(|cell| csv_cell(cell)).collect();
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}

fn csv_cell(cell: &str) -> String {
    let formula = cell.len() > 1 && cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = match formula {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    };
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_would_break_it_and_disarms_formulas() {
        let cases = [
            ("plain", "plain"),
            ("-", "-"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "'=1+1"),
            ("@cmd,x", "\"'@cmd,x\""),
        ];
        for (cell, expected) in cases {
            assert_eq!(csv_cell(cell), expected);
        }
    }
}
