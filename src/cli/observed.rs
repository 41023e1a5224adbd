//! `limits observed`: whom rules that are only observed would have refused.

use http::Method;

use crate::admin::Report;
use crate::admin::Row;
use crate::cli::act::Place;
use crate::cli::args::At;
use crate::cli::args::Output;
use crate::cli::print;
use crate::store::VerbError;
use crate::store::error::EXIT_UNAVAILABLE;

const COLUMNS: [&str; 8] = [
    "KEY",
    "NAME",
    "TENANT",
    "ROUTE",
    "REASON",
    "COUNT",
    "FIRST SEEN",
    "LAST SEEN",
];

/// Asks the running gateway and prints.
///
/// # Errors
/// None is running, or why it cannot say.
pub(super) fn report(at: &At, form: Output) -> Result<(), VerbError> {
    let answer = Place::find(at)?.ask(Method::GET, "/cli/observed")?;
    let report: Report = serde_json::from_slice(&answer).map_err(|_| VerbError {
        text: "the running gateway is of another version: its report is not understood".to_owned(),
        exit: EXIT_UNAVAILABLE,
    })?;
    if form == Output::Json {
        return super::written(print::json_line(&report));
    }
    let since = &report.since;
    match report.rows.len() {
        0 => eprintln!("nobody would have been refused by an observed rule since {since}"),
        _ => eprintln!("would have been refused since {since}:"),
    }
    if report.not_listed > 0 {
        eprintln!(
            "note: {} requests more, for which there was no row any more",
            report.not_listed
        );
    }
    super::written(print::rows(&COLUMNS, report.rows.iter().map(row).collect()))
}

fn row(row: &Row) -> [String; 8] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        row.key_id.clone(),
        or_dash(&row.name),
        or_dash(&row.tenant),
        or_dash(&row.route),
        row.reason.clone(),
        row.count.to_string(),
        row.first_seen.clone(),
        row.last_seen.clone(),
    ]
}
