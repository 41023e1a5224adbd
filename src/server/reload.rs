//! Reload: read everything again, check all of it, then bring all of it into force, or nothing.

use std::fs::File;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;
use arc_swap::ArcSwapOption;
use rustls::ServerConfig;

use crate::alerts::webhook::Receiver;
use crate::clock::Clock;
use crate::config;
use crate::edge::tls;
use crate::edge::tls::Certificates;
use crate::model::key_text;
use crate::snapshot::Snapshot;
use crate::snapshot::change::Keeper;
use crate::store::audit::Act;
use crate::store::audit::Actor;
use crate::upstream;

use super::alerting;
use super::error::tls_text;
use super::logging;

/// Brings changed files into force.
#[derive(Debug)]
pub(crate) struct Reloader {
    path: PathBuf,
    clock: Clock,
    keeper: Arc<Keeper>,
    tls: Arc<ArcSwap<ServerConfig>>,
    /// Where alerts go.
    receiver: Arc<ArcSwapOption<Receiver>>,
    first_expiry_unix_seconds: AtomicU64,
    /// One reload at a time; holds what the files looked like when they were last tried.
    tried: Mutex<Fingerprint>,
    last_successful: AtomicBool,
    last_success_unix_seconds: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
}

/// What gateway.toml and the certificate files looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    config: u64,
    certificates: u64,
}

impl Reloader {
    pub(crate) fn new(
        path: &Path,
        clock: &Clock,
        keeper: &Arc<Keeper>,
        certificates: Certificates,
        receiver: Option<Arc<Receiver>>,
    ) -> Reloader {
        let reloader = Reloader {
            path: path.to_owned(),
            clock: clock.clone(),
            keeper: Arc::clone(keeper),
            tls: Arc::new(ArcSwap::new(Arc::clone(&certificates.server_config))),
            receiver: Arc::new(ArcSwapOption::new(receiver)),
            first_expiry_unix_seconds: AtomicU64::new(certificates.earliest_expiry.unix_seconds()),
            tried: Mutex::new(Fingerprint {
                config: 0,
                certificates: 0,
            }),
            last_successful: AtomicBool::new(true),
            last_success_unix_seconds: AtomicU64::new(clock.now().wall.unix_seconds()),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        warn(&certificates);
        *lock(&reloader.tried) = reloader.fingerprint();
        reloader
    }

    /// Reads gateway.toml and the certificates; says what changed, or why nothing did.
    pub(crate) fn reload(&self, actor: &Actor) -> Result<String, String> {
        let mut tried = lock(&self.tried);
        *tried = self.fingerprint();
        let verdict = self.bring_into_force();
        self.last_successful
            .store(verdict.is_ok(), Ordering::Relaxed);
        match &verdict {
            Ok(text) => {
                let now = self.clock.now().wall.unix_seconds();
                self.last_success_unix_seconds.store(now, Ordering::Relaxed);
                self.successes.fetch_add(1, Ordering::Relaxed);
                tracing::info!("reload: {text}");
                self.keeper.record(&self.act(actor, text));
            }
            Err(text) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!("reload refused, the old configuration goes on:\n{text}");
            }
        }
        verdict
    }

    /// Reloads when the files have changed since they were last tried and are no longer being written: `seen` must show the same twice.
    pub(crate) fn reload_if_changed(&self, seen: &mut Option<WatchedFiles>) {
        let current = self.fingerprint();
        let settled = seen.replace(WatchedFiles(current)) == Some(WatchedFiles(current));
        let changed = *lock(&self.tried) != current;
        if changed && settled {
            let _ = self.reload(&Actor::gateway("changed files"));
        }
    }

    /// What the audit log is told: what changed, and which bytes of gateway.toml are in force.
    fn act(&self, actor: &Actor, report: &str) -> Act {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        Act {
            actor: actor.clone(),
            act: "reload".to_owned(),
            subject: self.path.display().to_string(),
            before: None,
            after: Some(serde_json::json!({
                "report": report,
                "generation": self.keeper.snapshot().load().generation,
                "sha256": key_text::digest_of(&bytes).hex(),
            })),
            result: None,
            at: self.clock.now().wall,
        }
    }

    fn bring_into_force(&self) -> Result<String, String> {
        let mut loaded = config::load(&self.path).map_err(|problems| problems.to_string())?;
        let current = Arc::clone(&self.keeper.snapshot().load().config);
        let stuck = current.restart_needed(&loaded.config);
        if !stuck.is_empty() {
            return Err(format!(
                "{}: {} cannot change while running; nothing was changed\nhelp: restart the gateway, or set {} back",
                self.path.display(),
                stuck.join(", "),
                if stuck.len() == 1 { "it" } else { "them" },
            ));
        }
        let certificates = super::load_tls(&mut loaded, self.clock.now().wall)
            .map_err(|problems| tls_text(&problems))?;
        let receiver = alerting::receiver_of(&loaded.config)?;
        super::jwks::check_files(&loaded.config).map_err(|error| error.to_string())?;
        if !loaded.warnings.is_empty() {
            tracing::warn!("{}", loaded.warnings);
        }
        let summary = format!(
            "in force: {} routes, {} upstreams, {} plans",
            loaded.config.routes.len(),
            loaded.config.upstreams.len(),
            loaded.config.plans.len(),
        );
        let level = loaded.config.log.level;
        let before = self.keeper.snapshot().load_full();
        let now = self
            .keeper
            .replace_config(Arc::new(loaded.config))
            .map_err(|error| error.to_string())?;
        let widened = newly_widened(&before, &now);
        logging::set_level(level);
        warn(&certificates);
        let expiry = certificates.earliest_expiry.unix_seconds();
        self.first_expiry_unix_seconds
            .store(expiry, Ordering::Relaxed);
        self.tls.store(certificates.server_config);
        self.receiver.store(receiver);
        Ok(match widened {
            0 => summary,
            keys => format!(
                "{summary}\nwarning: {keys} secret keys that list scopes of their own count as whole from now on, since their plan now has granular_scopes = false; `portcullis check` names them"
            ),
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        // An unreadable file is a state of its own: the reload then says why.
        hash_file(&self.path, &mut hasher).ok().hash(&mut hasher);
        let config = Arc::clone(&self.keeper.snapshot().load().config);
        Fingerprint {
            config: hasher.finish(),
            certificates: tls::fingerprint(&config.tls) ^ upstream::tls::fingerprint(&config),
        }
    }

    /// The certificates in force.
    pub(crate) fn tls(&self) -> &Arc<ArcSwap<ServerConfig>> {
        &self.tls
    }

    /// Where alerts go.
    pub(crate) fn receiver(&self) -> &Arc<ArcSwapOption<Receiver>> {
        &self.receiver
    }

    pub(crate) fn first_expiry_unix_seconds(&self) -> u64 {
        self.first_expiry_unix_seconds.load(Ordering::Relaxed)
    }

    pub(crate) fn last_successful(&self) -> bool {
        self.last_successful.load(Ordering::Relaxed)
    }

    pub(crate) fn last_success_unix_seconds(&self) -> u64 {
        self.last_success_unix_seconds.load(Ordering::Relaxed)
    }

    pub(crate) fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What one look at the files showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WatchedFiles(Fingerprint);

/// How many keys may do more from now on than the scopes that they list (FF10).
fn newly_widened(before: &Snapshot, now: &Snapshot) -> usize {
    let widened = now.widened();
    match widened.is_empty() {
        true => 0,
        false => widened.difference(&before.widened()).count(),
    }
}

/// Hashes what a file holds, piece by piece: with ten thousand keys in it, all of it in one go would keep a processor for a millisecond. Says how long it is.
fn hash_file(path: &Path, hasher: &mut impl Hasher) -> std::io::Result<usize> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; HASHED_AT_ONCE];
    let mut length = 0;
    loop {
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(length);
        }
        hasher.write(&piece[..read]);
        length += read;
        std::thread::yield_now();
    }
}

/// Bytes of which reading and hashing take some 50 us.
const HASHED_AT_ONCE: usize = 64 << 10;

fn warn(certificates: &Certificates) {
    for warning in &certificates.warnings {
        tracing::warn!("{warning}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
