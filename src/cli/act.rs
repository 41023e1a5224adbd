//! Carrying a verb out: by the running gateway, or on the locked store when none runs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin;
use crate::cli::args::At;
use crate::cli::client;
use crate::cli::client::CallError;
use crate::clock::Clock;
use crate::clock::Wall;
use crate::config;
use crate::config::Config;
use crate::gate;
use crate::gate::Explanation;
use crate::gate::Question;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::snapshot::build;
use crate::snapshot::shared::fence;
use crate::store::Outcome;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::audit::Actor;
use crate::store::counters::Counters;
use crate::store::error::EXIT_CONFIG;
use crate::store::error::EXIT_PERMISSION;
use crate::store::error::EXIT_UNAVAILABLE;
use crate::store::outcome::Uses;
use crate::store::outcome::add_later;
use crate::store::shared::link::Link;
use crate::store::shared::usage::last_used as shared_uses;
use crate::store::verbs;
use crate::store::verbs::Declared;

/// How often, and how long apart, a store is tried that another command holds at this moment.
const TRIES: usize = 30;
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// Where to act.
pub(super) struct Place {
    socket: PathBuf,
    /// `None` when a socket was named on the command line.
    config: Option<Config>,
}

impl Place {
    /// Finds the socket: named on the command line, or in the configuration.
    ///
    /// # Errors
    /// The configuration is wrong; exit 78.
    pub(super) fn find(at: &At) -> Result<Place, VerbError> {
        if let Some(socket) = &at.admin_socket {
            return Ok(Place {
                socket: socket.clone(),
                config: None,
            });
        }
        let loaded = config::load(&at.config).map_err(|problems| VerbError {
            exit: match problems.is_denied() {
                true => EXIT_PERMISSION,
                false => EXIT_CONFIG,
            },
            text: format!(
                "{problems}\na gateway that is running can still be reached: add --admin-socket {}",
                likely_socket(&at.config)
            ),
        })?;
        Ok(Place {
            socket: loaded.config.listen.admin_socket.clone(),
            config: Some(loaded.config),
        })
    }

    /// The configuration, if it was read.
    pub(super) fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// Asks the running gateway; exit 69 when there is none.
    ///
    /// # Errors
    /// What the gateway said, or that it is not there.
    pub(super) fn ask(&self, method: Method, path: &str) -> Result<Bytes, VerbError> {
        client::call(&self.socket, method, path, Vec::new()).map_err(|error| match error {
            CallError::Failed(error) => error,
            CallError::NobodyListens => self.nobody_listens(),
        })
    }

    /// Carries the verb out. When this returns it is in force.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn act(&self, verb: &Verb) -> Result<Outcome, VerbError> {
        self.reach("/cli/verbs", verb, |mut store, config| {
            offline(&mut store, config, verb)
        })
    }

    /// Says what would become of a request: as the running gateway sees it, or as configuration and store say.
    ///
    /// # Errors
    /// Why that cannot be said.
    pub(super) fn explain(&self, question: &Question) -> Result<Explanation, VerbError> {
        self.reach("/cli/explain", question, |store, config| {
            explain_offline(&store, config, question)
        })
    }

    /// What keys did: up to this moment where a gateway runs, else up to the end of the last one.
    ///
    /// # Errors
    /// There is no such key or tenant, or it cannot be said.
    pub(super) fn usage(&self, asked: &admin::Asked) -> Result<admin::Usage, VerbError> {
        self.reach("/cli/usage", asked, |store, config| {
            usage_offline(store, config, asked)
        })
    }

    /// What administrators did.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn audit(&self, asked: &admin::AuditAsked) -> Result<admin::AuditAnswer, VerbError> {
        self.reach("/cli/audit", asked, |store, _| {
            asked.answer(store.directory(), Clock::system().now().wall)
        })
    }

    fn reach<T: DeserializeOwned>(
        &self,
        path: &str,
        asked: &impl Serialize,
        offline: impl FnOnce(Store, &Config) -> Result<T, VerbError>,
    ) -> Result<T, VerbError> {
        let body =
            serde_json::to_vec(asked).map_err(|error| VerbError::refused(error.to_string()))?;
        let mut tries = TRIES;
        loop {
            match client::call(&self.socket, Method::POST, path, body.clone()) {
                Ok(answer) => return understood(&answer),
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::NobodyListens) => {}
            }
            let config = self.config.as_ref().ok_or_else(|| self.nobody_listens())?;
            match Store::open_for(&config.store) {
                Ok(mut store) => {
                    store.begin(Clock::system().now().wall)?;
                    return offline(store, config);
                }
                // A gateway that is just starting, or another command: it soon listens, or is gone.
                Err(error) if error.is_in_use() && tries > 0 => wait(&mut tries),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn nobody_listens(&self) -> VerbError {
        VerbError {
            text: format!(
                "no gateway is running: nobody listens on \"{}\"; start it with `portcullis run`",
                self.socket.display()
            ),
            exit: EXIT_UNAVAILABLE,
        }
    }
}

/// Where the socket very likely is although the configuration is broken: what the file seems to say, or the usual place.
fn likely_socket(config: &Path) -> String {
    let text = fs::read_to_string(config).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("admin_socket"));
    let said = line.and_then(|line| line.split('"').nth(1));
    let socket = match said {
        Some(path) if !path.is_empty() => config.with_file_name("").join(path),
        _ => config.with_file_name("state/admin.sock"),
    };
    match socket.exists() {
        true => socket.display().to_string(),
        false => "PATH".to_owned(),
    }
}

fn wait(tries: &mut usize) {
    *tries -= 1;
    std::thread::sleep(TRY_PAUSE);
}

fn understood<T: DeserializeOwned>(answer: &[u8]) -> Result<T, VerbError> {
    serde_json::from_slice(answer).map_err(|_| VerbError {
        text: "the running gateway is of another version: it did what was asked, but its answer is not understood".to_owned(),
        exit: EXIT_UNAVAILABLE,
    })
}

fn offline(store: &mut Store, config: &Config, verb: &Verb) -> Result<Outcome, VerbError> {
    let clock = Clock::system();
    let by_use = matches!(verb, Verb::KeyRevokeMany(which) if which.unused_since_seconds.is_some());
    let used = match verb.is_read() || by_use {
        true => last_used(store, &clock)?,
        false => HashMap::new(),
    };
    let redis = &config.store.redis;
    let shared = (store.is_shared() && redis.share_usage).then(|| redis.clone());
    // What this node says is read before the verb needs the store, so of all keys.
    let last_used = move |of: Uses<'_>| {
        let mut used = used.clone();
        let Some(settings) = &shared else {
            return Ok(used);
        };
        let keys = match of {
            Uses::Of(keys) => Some(keys),
            Uses::OfAll | Uses::ToJudge => None,
        };
        match shared_uses(&mut Link::new(settings), keys) {
            Ok(told) => add_later(&mut used, told),
            Err(error) if of == Uses::ToJudge => return Err(error),
            Err(_) => {}
        }
        Ok(used)
    };
    let now = clock.now().wall;
    let uid = Some(rustix::process::getuid().as_raw());
    let actor = Actor::user(uid, "offline");
    verbs::apply(store, &Declared::of(config), verb, now, &last_used, &actor)
        .map_err(VerbError::from)
        .and_then(|applied| told_of_nodes(store, config, verb, applied.outcome))
}

/// Where several nodes share the store, what takes rights away is done once all of them have it in force.
fn told_of_nodes(
    store: &Store,
    config: &Config,
    verb: &Verb,
    outcome: Outcome,
) -> Result<Outcome, VerbError> {
    let position = store.position()?.filter(|_| store.is_shared());
    let Some(position) = position.filter(|_| verb.takes_rights()) else {
        return Ok(outcome);
    };
    match fence(&config.store.redis, None, position.seq) {
        Ok(nodes) => Ok(outcome.beside(&format!("in force on {nodes} of {nodes} nodes"))),
        Err(why) if outcome.has_text() => Ok(outcome.beside(&why.text)),
        Err(why) => Err(why),
    }
}

fn usage_offline(
    mut store: Store,
    config: &Config,
    asked: &admin::Asked,
) -> Result<admin::Usage, VerbError> {
    let directory = store.directory().to_owned();
    let node = store.node_id()?;
    let sharing = store.is_shared().then_some(admin::Sharing {
        settings: &config.store.redis,
        node: &node,
    });
    let mut ask = |verb: &Verb| offline(&mut store, config, verb);
    let tenants = match ask(&Verb::TenantList)? {
        Outcome::Tenants { tenants } => tenants,
        _ => Vec::new(),
    };
    let tenants = tenants.iter().map(|tenant| TenantId::new(&tenant.id));
    let tenants: Vec<TenantId> = tenants.filter_map(Result::ok).collect();
    let now = Clock::system().now().wall;
    let report = asked.report(&directory, sharing, &tenants, now, &mut ask)?;
    Ok(admin::Usage {
        report,
        windows: Vec::new(),
    })
}

fn explain_offline(
    store: &Store,
    config: &Config,
    question: &Question,
) -> Result<Explanation, VerbError> {
    let contents = store.load()?;
    let built =
        build::build(Arc::new(config.clone()), &contents, 0).map_err(|error| VerbError {
            text: error.to_string(),
            exit: EXIT_CONFIG,
        })?;
    gate::explain(&built.snapshot, None, Clock::system().now(), question)
}

/// What `counters.db` says; a store that never served a request has none.
fn last_used(store: &Store, clock: &Clock) -> Result<HashMap<KeyId, Wall>, VerbError> {
    let file = store.directory().join("counters.db");
    let exists = file.try_exists();
    if !exists.map_err(|error| StoreError::from_io(&file, error))? {
        return Ok(HashMap::new());
    }
    let unreadable = |error: crate::store::counters::CountersError| VerbError {
        text: error.to_string(),
        exit: EXIT_UNAVAILABLE,
    };
    let (counters, _) = Counters::open(store.directory(), clock.now()).map_err(unreadable)?;
    let rows = counters.usage(None).map_err(unreadable)?;
    let used = |row: &crate::store::counters::UsageRow| {
        (row.key, Wall::from_unix_seconds(row.last_used_unix_seconds))
    };
    Ok(rows.iter().map(used).collect())
}
