//! `audit`: what administrators did, and whether the log of it is whole.

use serde_json::Value;

use crate::admin::AuditAsked;
use crate::cli::act::Place;
use crate::cli::args::At;
use crate::cli::args::Audit;
use crate::cli::args::Output;
use crate::cli::print;
use crate::store::VerbError;
use crate::store::audit::Line;
use crate::store::audit::Verdict;
use crate::store::error::EXIT_REFUSED;

const COLUMNS: [&str; 8] = [
    "LINE", "AT", "WHO", "FROM", "ACT", "SUBJECT", "REVISION", "CHANGED",
];

/// Asks and prints.
///
/// # Errors
/// The log cannot be read, or is not whole.
pub(super) fn audit(at: &At, form: Output, asked: Audit) -> Result<(), VerbError> {
    let place = Place::find(at)?;
    match asked {
        Audit::List(asked) => {
            let lines = place.audit(&AuditAsked::List(asked.which()))?.lines;
            super::written(match form {
                Output::Json => print::json_line(&lines),
                Output::Table => print::rows(&COLUMNS, lines.iter().map(row).collect()),
            })
        }
        Audit::Verify { expect } => {
            let expected = expect.as_ref().map(|(line, _)| *line);
            let answer = place.audit(&AuditAsked::Verify { expect })?;
            let Some(verdict) = answer.verdict else {
                return Err(VerbError::refused(
                    "the gateway did not say how the log stands",
                ));
            };
            match form {
                Output::Json => super::written(print::json_line(&verdict))?,
                Output::Table if verdict.whole => {
                    eprintln!("{}; the last one:", whole(&verdict, expected));
                    let head = format!("{}:{}\n", verdict.last_line, verdict.head);
                    super::written(print::raw(head.as_bytes()))?;
                }
                Output::Table => {}
            }
            match verdict.fault {
                None => Ok(()),
                Some(fault) => Err(VerbError {
                    text: format!(
                        "the audit log is not whole: {fault} ({} lines before are as they were written)",
                        verdict.lines
                    ),
                    exit: EXIT_REFUSED,
                }),
            }
        }
    }
}

/// What a log is that is whole, since when, and who vouches for that.
fn whole(verdict: &Verdict, expected: Option<u64>) -> String {
    let lines = format!("{} lines, all as they were written", verdict.lines);
    let by = verdict.pruned_by.unwrap_or(0);
    let vouched = match expected {
        Some(line) if line >= by => format!("as line {by} says, which line {line} vouches for"),
        Some(_) | None => format!(
            "as line {by} says; to have that vouched for, --expect that line, or a later one, of the gateway's own log"
        ),
    };
    match (&verdict.since, &verdict.pruned_at) {
        (Some(since), Some(pruned)) => format!(
            "{lines}, from line {} of {since} on; those before were let go, last at {pruned}, {vouched}",
            verdict.first_line
        ),
        (Some(since), None) => format!("{lines}, since {since}, when the log began"),
        (None, _) => lines,
    }
}

fn row(line: &Line) -> [String; 8] {
    [
        line.seq.to_string(),
        line.at.clone(),
        line.who.clone(),
        line.from.clone(),
        line.act.clone(),
        line.subject.clone(),
        line.revision.to_string(),
        changed(line),
    ]
}

/// The members that differ, as `name: before → after`; what is new as a whole needs no words.
fn changed(line: &Line) -> String {
    let (Some(Value::Object(before)), Some(Value::Object(after))) = (&line.before, &line.after)
    else {
        return "-".to_owned();
    };
    let differs = after
        .iter()
        .filter(|(name, value)| before.get(*name) != Some(*value));
    let words = differs.map(|(name, value)| match before.get(name) {
        Some(was) => format!("{name}: {} → {}", print::plain(was), print::plain(value)),
        None => name.clone(),
    });
    let words: Vec<String> = words.collect();
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join("; "),
    }
}
