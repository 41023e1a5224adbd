//! `limits explain`: which route, windows and scope a request would meet, in words.

use crate::cli::act::Place;
use crate::cli::args::At;
use crate::cli::args::Output;
use crate::cli::print;
use crate::gate::Explanation;
use crate::gate::Question;
use crate::store::VerbError;

/// Asks and prints.
///
/// # Errors
/// Why it cannot be said.
pub(super) fn explain(at: &At, form: Output, question: &Question) -> Result<(), VerbError> {
    let explanation = Place::find(at)?.explain(question)?;
    super::written(match form {
        Output::Json => print::json_line(&explanation),
        Output::Table => print::rows(&[], lines(question, &explanation)),
    })
}

/// Lines of `what  how it is`.
fn lines(question: &Question, said: &Explanation) -> Vec<[String; 2]> {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push([name.to_owned(), text]);
    let host = question.host.as_deref().unwrap_or("");
    line(
        "request",
        format!("{} {host}{}", question.method, question.path),
    );
    line(
        "key",
        format!(
            "{} of tenant {}, plan {} of the {}",
            said.key, said.tenant, said.plan, said.plan_of
        ),
    );
    line("route", route(said));
    line("verdict", verdict(said));
    line(
        "cost",
        match said.cost {
            Some(cost) => cost.to_string(),
            None => "not charged".to_owned(),
        },
    );
    line(
        "limits",
        format!("by {}, {}", said.limits_subject, said.limits_mode),
    );
    for window in &said.windows {
        let state = match &window.state {
            None => String::new(),
            Some(state) => format!(
                ": {} used, {} left, resets in {} s at {}",
                state.used, state.remaining, state.reset_in_seconds, state.reset_at
            ),
        };
        line(
            &format!("{} of the {}", window.window, window.subject),
            format!("{} by {}{state}", window.limit, window.from),
        );
    }
    match &said.scope {
        None => line("scope", "none is demanded".to_owned()),
        Some(scope) => {
            let missing = match scope.granted {
                true => "granted".to_owned(),
                false => format!("lacking in {}", scope.lacking.join(", ")),
            };
            line(
                "scope",
                format!("{}, {missing}, {}", scope.demanded, scope.mode),
            );
            line("scope: key", scope.key.clone());
            line("scope: tenant", scope.tenant.clone());
            line("scope: plan", scope.plan.clone());
        }
    }
    if let Some(isolation) = &said.isolation {
        let servers = match isolation.servers.is_empty() {
            true => "no place for this tenant".to_owned(),
            false => isolation.servers.join(" "),
        };
        line(
            "upstream",
            format!(
                "{}, isolation {}: {servers}",
                isolation.upstream, isolation.level
            ),
        );
        for bound in &isolation.bound {
            line("bound", bound.clone());
        }
    }
    for note in &said.notes {
        line("note", note.clone());
    }
    lines
}

fn route(said: &Explanation) -> String {
    let Some(route) = &said.route else {
        return "none".to_owned();
    };
    let methods = match route.methods.is_empty() {
        true => "every method".to_owned(),
        false => route.methods.join(" "),
    };
    let host = route.host.as_deref().unwrap_or("any host, ");
    format!("{host}{}, {methods}, {}", route.path, route.access)
}

fn verdict(said: &Explanation) -> String {
    let observed = match said.observed.is_empty() {
        true => String::new(),
        false => format!(" (only observed: {})", said.observed.join(", ")),
    };
    match (said.refused, &said.reason) {
        (Some(status), Some(reason)) => format!("refused, {status} {reason}{observed}"),
        _ => format!("forwarded{observed}"),
    }
}
