//! What the commands `run`, `demo` and `check` do with the process they are given.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;

use crate::clock::Clock;
use crate::config;
use crate::config::AccessLog;
use crate::config::Config;
use crate::edge::listener;
use crate::edge::listener::Inherited;
use crate::model::key::ApiKey;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::shutdown;
use crate::shutdown::Signal;
use crate::shutdown::Signals;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::store::Contents;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::counters::Counters;

use super::Gateway;
use super::StartError;
use super::demo as demonstration;
use super::logging;

/// `portcullis run`: serves until TERM or INT, then drains.
pub fn run(config_path: &Path) -> ExitCode {
    start_logging(config_path);
    let inherited = Inherited::from_env();
    let files = listener::raise_file_limit();
    match Gateway::start_on(config_path, Clock::system(), inherited) {
        Ok(gateway) => {
            gateway.warn_of_files(files);
            serve(gateway)
        }
        Err(error) => fail(&error),
    }
}

/// `portcullis demo`: everything made on the spot, then what `run` does.
pub fn demo() -> ExitCode {
    logging::start(tracing::Level::WARN);
    match demonstration::start() {
        Ok((demo, introduction)) => {
            println!("{introduction}");
            demo.serve()
        }
        Err(error) => fail(&error),
    }
}

impl demonstration::Demo {
    fn serve(mut self) -> ExitCode {
        serve_until_stopped(&mut self.gateway)
    }
}

/// `portcullis check`: loads certificates, opens the store, resolves references; binds nothing, changes nothing. `-` is standard input.
pub fn check(config_path: &Path, dump: bool) -> ExitCode {
    match check_all(config_path) {
        Ok((config, notes)) => {
            for note in notes {
                eprintln!("{note}");
            }
            if dump {
                print!("{}", config.dump());
            } else {
                eprintln!("{}: good", config_path.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn check_all(config_path: &Path) -> Result<(Config, Vec<String>), StartError> {
    let mut loaded = if config_path == Path::new("-") {
        config::load_piped(std::io::stdin().lock())?
    } else {
        config::load(config_path)?
    };
    let mut notes = Vec::new();
    if !loaded.warnings.is_empty() {
        notes.push(loaded.warnings.to_string());
    }
    let certificates = super::load_tls(&mut loaded, Clock::system().now().wall)?;
    notes.extend(certificates.warnings.iter().map(ToString::to_string));
    super::jwks::check_files(&loaded.config)?;
    loggable(&loaded.config).map_err(|error| super::log_error(&loaded.config, &error))?;
    super::alerting::receiver_of(&loaded.config).map_err(StartError::config)?;
    let contents = stored_contents(&loaded.config, &mut notes)?;
    let config = Arc::new(loaded.config.clone());
    let built = build::build(config, &contents, 0)?;
    if !built.conflicts.is_empty() {
        return Err(StartError::config(build::conflict_text(&built.conflicts)));
    }
    notes.extend(endless_keys(&loaded.config, &contents));
    notes.extend(widened_keys(&built.snapshot));
    Ok((loaded.config, notes))
}

/// A store that a running gateway holds is left alone; a missing one is not made, but has to be possible.
fn stored_contents(config: &Config, notes: &mut Vec<String>) -> Result<Contents, StartError> {
    let directory = &config.store.path;
    writable(directory)?;
    let file = directory.join("keys.db");
    let exists = file.try_exists();
    if !exists.map_err(|error| StoreError::from_io(&file, error))? {
        return Ok(Contents::default());
    }
    match Store::open_for(&config.store) {
        Ok(mut store) => {
            match store.look() {
                Err(error @ StoreError::Away { .. }) => notes.push(format!("note: {error}")),
                looked => looked?,
            }
            if Counters::exist(&config.store.path) {
                Counters::open(&config.store.path, Clock::system().now())?;
            }
            Ok(store.load()?)
        }
        Err(error) if error.is_in_use() => {
            notes.push(format!(
                "note: {error}; its keys and tenants were not checked"
            ));
            Ok(Contents::default())
        }
        Err(error) => Err(error.into()),
    }
}

/// How many keys a remark names.
const NAMED_MAX: usize = 8;

/// Keys in use of the first environment that never end, where `[key_rules]` has them remarked upon (C-30).
fn endless_keys(config: &Config, contents: &Contents) -> Option<String> {
    let first = config.environments.first()?;
    let endless = |key: &&ApiKey| {
        key.expires.is_none() && key.status == KeyStatus::Active && key.environment == *first
    };
    let keys = config.declared_keys.iter().chain(&contents.keys);
    let ids: Vec<KeyId> = keys.filter(endless).map(|key| key.id).collect();
    if ids.is_empty() || !config.key_rules.warn_never {
        return None;
    }
    Some(format!(
        "warning: {first} keys that never end: {}; give them an end with `keys update KEY_ID --expires 90d`, or in gateway.toml, or set key_rules.warn_never = false",
        named(&ids)
    ))
}

/// Keys that may do more than the scopes that they list, since their plan knows whole keys only (FF10).
fn widened_keys(snapshot: &Snapshot) -> Option<String> {
    let ids: Vec<KeyId> = snapshot.widened().into_iter().collect();
    (!ids.is_empty()).then(|| {
        format!(
            "warning: secret keys that list scopes of their own, and may do all that their tenant may, since their plan has granular_scopes = false: {}; change the plan, or `keys update KEY_ID --inherit` to say so of the key",
            named(&ids)
        )
    })
}

fn named(ids: &[KeyId]) -> String {
    let named: Vec<String> = ids.iter().take(NAMED_MAX).map(KeyId::to_string).collect();
    let more = match ids.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", named.join(", "))
}

/// Whether the file of the access log can be written, or made in its directory.
fn loggable(config: &Config) -> io::Result<()> {
    let AccessLog::File(path) = &config.log.access else {
        return Ok(());
    };
    match rustix::fs::access(path, Access::WRITE_OK) {
        Err(Errno::NOENT) => {
            let directory = path.parent().filter(|parent| *parent != Path::new(""));
            let directory = directory.unwrap_or(Path::new("."));
            Ok(rustix::fs::access(
                directory,
                Access::WRITE_OK | Access::EXEC_OK,
            )?)
        }
        verdict => Ok(verdict?),
    }
}

/// Whether this user may write in the directory, or make it: asked of the nearest one that exists.
fn writable(directory: &Path) -> Result<(), StoreError> {
    let rights = Access::WRITE_OK | Access::EXEC_OK;
    for place in directory.ancestors() {
        let place = if place.as_os_str().is_empty() {
            Path::new(".")
        } else {
            place
        };
        match rustix::fs::access(place, rights) {
            Err(Errno::NOENT) => {}
            verdict => return verdict.map_err(|error| StoreError::from_io(place, error.into())),
        }
    }
    Ok(())
}

fn serve(mut gateway: Gateway) -> ExitCode {
    for address in gateway.https() {
        tracing::info!(%address, "serving HTTPS");
    }
    for address in gateway.http() {
        tracing::info!(%address, "refusing plain HTTP");
    }
    serve_until_stopped(&mut gateway)
}

fn serve_until_stopped(gateway: &mut Gateway) -> ExitCode {
    let control = gateway.control().handle().clone();
    let mut signals = match control.block_on(async { Signals::listen() }) {
        Ok(signals) => signals,
        Err(error) => return fail(&StartError::from(error)),
    };
    let mut heartbeat = gateway.heartbeat();
    control.spawn(shutdown::feed_watchdog(move || heartbeat.moved()));
    shutdown::notify_ready();
    loop {
        match control.block_on(signals.next()) {
            Signal::Reload => {
                shutdown::notify_reloading();
                // The verdict is logged and counted where it is made.
                let _ = gateway.reload();
                shutdown::notify_ready();
            }
            Signal::ReopenLogs => gateway.reopen_logs(),
            Signal::Terminate => break,
        }
    }
    shutdown::notify_stopping();
    let delay = gateway.leave();
    let again =
        control.block_on(async { tokio::time::timeout(delay, terminated(&mut signals)).await });
    gateway.drain();
    let hurry = Arc::clone(gateway.shutdown());
    control.spawn(async move {
        if again.is_err() {
            terminated(&mut signals).await;
        }
        hurry.terminate(Duration::ZERO);
    });
    gateway.finish();
    ExitCode::SUCCESS
}

/// Waits for TERM or INT.
async fn terminated(signals: &mut Signals) {
    while signals.next().await != Signal::Terminate {}
}

/// The level comes from the file before anything else is read from it, so that the start itself is logged.
fn start_logging(config_path: &Path) {
    let level =
        config::load(config_path).map_or(tracing::Level::INFO, |loaded| loaded.config.log.level);
    logging::start(level);
}

/// No core file and no debugger of the same user: memory holds TLS keys and, for microseconds, API keys. For every command, before it
/// reads anything.
pub fn protect_memory() {
    let behavior = rustix::process::DumpableBehavior::NotDumpable;
    if let Err(error) = rustix::process::set_dumpable_behavior(behavior) {
        tracing::warn!(%error, "core files of this process could not be switched off");
    }
}

fn fail(error: &StartError) -> ExitCode {
    eprintln!("portcullis: {error}");
    ExitCode::from(error.exit_code())
}
