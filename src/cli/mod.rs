//! The command line: what was typed, to an act, to an exit code.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::Parser;
use clap_complete::Shell;
use http::Method;

use crate::cli::act::Place;
use crate::cli::args::AdminTokens;
use crate::cli::args::Arguments;
use crate::cli::args::At;
use crate::cli::args::Command;
use crate::cli::args::Final;
use crate::cli::args::Keys;
use crate::cli::args::Limits;
use crate::cli::args::Output;
use crate::cli::args::Tenants;
use crate::gate::Question;
use crate::model::key::KeyId;
use crate::server;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::error::EXIT_REFUSED;
use crate::store::error::EXIT_USAGE;

mod act;
mod args;
mod audit;
mod client;
mod confirm;
mod expires;
mod explain;
mod import;
mod many;
mod observed;
mod print;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod store;
mod usage;

/// Reads the command line of this process and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    server::protect_memory();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help that nobody reads any more is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_REFUSED));
        }
    };
    match arguments.command {
        Command::Run => server::run(&arguments.at.config),
        Command::Check { dump } => server::check(&arguments.at.config, dump),
        Command::Demo => server::demo(),
        Command::Completions { shell } => ended(completions(shell)),
        Command::Man { command } => ended(manual(&command)),
        Command::Reload => ended(reload(&arguments.at, arguments.output)),
        Command::Status => ended(status(&arguments.at, arguments.output)),
        Command::Keys(keys) => ended(key_command(&arguments.at, arguments.output, keys)),
        Command::AdminTokens(asked) => ended(token_command(&arguments.at, arguments.output, asked)),
        Command::Audit(asked) => ended(audit::audit(&arguments.at, arguments.output, asked)),
        Command::Usage(asked) => ended(usage::usage(&arguments.at, arguments.output, &asked)),
        Command::Store(asked) => ended(store::act(&arguments.at, arguments.output, &asked)),
        Command::Limits(limits) => ended(limit_command(&arguments.at, arguments.output, limits)),
        Command::Tokens(tokens) => ended(act(&arguments.at, arguments.output, &tokens.verb())),
        Command::Tenants(tenants) => {
            ended(act(&arguments.at, arguments.output, &tenant_verb(tenants)))
        }
    }
}

fn ended(result: Result<(), VerbError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {error}");
            ExitCode::from(error.exit)
        }
    }
}

fn key_command(at: &At, form: Output, keys: Keys) -> Result<(), VerbError> {
    match keys {
        Keys::Revoke(asked) if asked.id.is_none() => {
            let place = Place::find(at)?;
            let which = many::which(asked.whose.filter(), asked.stdin)?;
            let count = many::count(&place.act(&Verb::KeyList(which.clone()))?);
            confirm::confirm(&format!("revoke {count} for good?"), asked.yes)?;
            let outcome = place.act(&Verb::KeyRevokeMany(which))?;
            written(print::outcome(&outcome, form, place.config()))
        }
        Keys::List(asked) => {
            let place = Place::find(at)?;
            let columns = asked.columns.clone();
            let outcome = place.act(&Verb::KeyList(KeyFilter {
                status: asked.status,
                all: asked.all,
                ..asked.whose.filter()
            }))?;
            match (&outcome, form) {
                (Outcome::Keys { keys }, Output::Table) => written(print::keys(keys, &columns)),
                _ => written(print::outcome(&outcome, form, place.config())),
            }
        }
        Keys::Import { file } => {
            let place = Place::find(at)?;
            let verb = import::verb(&file)?;
            let progress = import::Progress::begin(&verb);
            let outcome = place.act(&verb);
            drop(progress);
            written(print::outcome(&outcome?, form, place.config()))
        }
        keys => act(at, form, &key_verb(keys)?),
    }
}

fn limit_command(at: &At, form: Output, limits: Limits) -> Result<(), VerbError> {
    match limits {
        Limits::Observed => observed::report(at, form),
        Limits::Explain {
            id,
            path,
            method,
            host,
        } => {
            let question = Question {
                key: id,
                method,
                host,
                path,
            };
            explain::explain(at, form, &question)
        }
    }
}

fn token_command(at: &At, form: Output, asked: AdminTokens) -> Result<(), VerbError> {
    let verb = match asked {
        AdminTokens::Create(new) => new.verb(),
        AdminTokens::List => Verb::AdminTokenList,
        AdminTokens::Revoke(asked) => Verb::AdminTokenRevoke {
            id: sure("revoke for good", asked.into())?,
        },
    };
    act(at, form, &verb)
}

fn act(at: &At, form: Output, verb: &Verb) -> Result<(), VerbError> {
    let place = Place::find(at)?;
    let outcome = place.act(verb)?;
    written(print::outcome(&outcome, form, place.config()))
}

fn reload(at: &At, form: Output) -> Result<(), VerbError> {
    let answer = Place::find(at)?.ask(Method::POST, "/cli/reload")?;
    let answer = read(&answer)?;
    match (form, answer["report"].as_str()) {
        (Output::Table, Some(report)) => {
            written(print::raw(format!("{}\n", report.trim_end()).as_bytes()))
        }
        _ => written(print::object(&answer, form)),
    }
}

fn status(at: &At, form: Output) -> Result<(), VerbError> {
    let answer = Place::find(at)?.ask(Method::GET, "/cli/status")?;
    written(print::status(&read(&answer)?, form))
}

fn completions(shell: Shell) -> Result<(), VerbError> {
    let mut text = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "portcullis", &mut text);
    written(print::raw(&text))
}

fn manual(words: &[String]) -> Result<(), VerbError> {
    let mut whole = Arguments::command();
    // Gives each command its options and its name with those above it: portcullis-keys-create.
    whole.build();
    let mut command = &whole;
    for word in words {
        let there = command;
        command = there.find_subcommand(word).ok_or_else(|| VerbError {
            text: no_command(there, words),
            exit: EXIT_USAGE,
        })?;
    }
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone()).section("8");
    written(page.render(&mut text).and_then(|()| print::raw(&text)))
}

fn no_command(parent: &clap::Command, words: &[String]) -> String {
    let there: Vec<&str> = parent.get_subcommands().map(|one| one.get_name()).collect();
    match there.is_empty() {
        true => format!("there is no command {}", words.join(" ")),
        false => format!(
            "there is no command {} (there are: {})",
            words.join(" "),
            there.join(", ")
        ),
    }
}

fn sure(what: &str, asked: Final) -> Result<String, VerbError> {
    confirm::confirm(&format!("{what} {}?", asked.id), asked.yes).map(|()| asked.id)
}

/// The verb that was asked for, confirmed where it cannot be undone.
fn key_verb(keys: Keys) -> Result<Verb, VerbError> {
    Ok(match keys {
        Keys::Create(new) => new.verb(),
        Keys::List(asked) => Verb::KeyList(asked.whose.filter()),
        Keys::Update(update) => update.verb(),
        Keys::Rotate { id, overlap } => Verb::KeyRotate {
            id,
            overlap_seconds: overlap,
        },
        Keys::Import { file } => import::verb(&file)?,
        Keys::Show(key) => Verb::KeyShow { id: key.id },
        Keys::Deactivate(key) => Verb::KeyDeactivate { id: key.id },
        Keys::Activate(key) => Verb::KeyActivate { id: key.id },
        Keys::Regenerate(asked) => Verb::KeyRegenerate {
            overlap_seconds: asked.overlap,
            id: match asked.overlap {
                0 => sure("end the present text of", asked.asked)?,
                _ => asked.asked.id,
            },
        },
        Keys::Revoke(asked) => Verb::KeyRevoke {
            id: sure(
                "revoke for good",
                Final {
                    id: an_id(asked.id.unwrap_or_default())?,
                    yes: asked.yes,
                },
            )?,
        },
        Keys::Delete(asked) => Verb::KeyDelete {
            id: sure("delete for good", asked)?,
        },
    })
}

/// What stands on a command line can be read by others, and stays in histories: a key has no place there.
fn an_id(id: String) -> Result<String, VerbError> {
    match KeyId::parse(&id) {
        Ok(_) => Ok(id),
        Err(why) => Err(VerbError {
            text: format!(
                "{why}; a key itself goes to the standard input of `portcullis keys revoke --stdin`"
            ),
            exit: EXIT_USAGE,
        }),
    }
}

fn tenant_verb(tenants: Tenants) -> Verb {
    match tenants {
        Tenants::Create {
            id,
            plan,
            name,
            upstream,
        } => Verb::TenantCreate {
            id,
            name,
            plan,
            upstreams: upstream.into_iter().collect(),
        },
        Tenants::List => Verb::TenantList,
        Tenants::Update(update) => update.verb(),
        Tenants::Suspend { id } => Verb::TenantSuspend { id },
        Tenants::Resume { id } => Verb::TenantResume { id },
    }
}

fn read(answer: &[u8]) -> Result<serde_json::Value, VerbError> {
    serde_json::from_slice(answer)
        .map_err(|error| VerbError::refused(format!("the gateway's answer is no JSON: {error}")))
}

/// A reader that went away is no failure; a disk that is full is one.
fn written(result: io::Result<()>) -> Result<(), VerbError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(VerbError::refused(
            format!("it was done, but the result cannot be written: {error}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
