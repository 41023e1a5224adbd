//! Watches for what operators should know at once, keeps each alert once, and has the webhook get it, however often it takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::alerts::Alert;
use crate::alerts::Alerts;
use crate::alerts::rules;
use crate::alerts::webhook::Receiver;
use crate::alerts::webhook::Sent;
use crate::alerts::webhook::TRIES;
use crate::clock::Clock;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config::Config;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::key::Lifetime;
use crate::quota::Quota;
use crate::snapshot::NEVER_EXPIRES;
use crate::snapshot::change::Keeper;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::Verb;
use crate::store::alerts::Delivery;
use crate::store::alerts::Noted;
use crate::store::history::History;
use crate::store::outcome::rfc3339;

use super::error::chain;
use super::flush::Flusher;
use super::reload::Reloader;
use super::unusual;

/// How often the state of the store is looked at, and whether it is time for more.
const TICK: Duration = Duration::from_secs(1);

/// How often ends and unusual activity are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// For how long a look for unusual activity goes on to the next ten thousand keys; what is left then is looked at a minute later. Where a million keys are
/// in use, all of them are looked at within some ten minutes, and none costs the requests more than this.
const UNUSUAL_TIME: Duration = Duration::from_millis(200);

/// How often unused keys are looked for, which asks the store for all keys.
const UNUSED_INTERVAL: Duration = Duration::from_secs(3_600);

/// Unused or ending keys that one look tells of; the next one tells of more.
const TOLD_MAX: usize = 1_000;

/// Alerts that may wait for the webhook; beyond it the oldest is given up.
pub(crate) const WAITING_MAX: usize = 1_000;

/// How often it is looked whether a delivery is due.
const DUE_INTERVAL: Duration = Duration::from_millis(100);

/// What watches and tells.
#[derive(Clone)]
pub(crate) struct Alerting {
    pub(crate) alerts: Alerts,
    pub(crate) receiver: Arc<ArcSwapOption<Receiver>>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) clock: Clock,
    pub(crate) counts: Arc<Counts>,
    /// When the shared store was found to be away, in Unix seconds; 0 while it is heard.
    pub(crate) store_lost_at: Arc<AtomicU64>,
}

/// For metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) told: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) failed_tries: AtomicU64,
    pub(crate) given_up: AtomicU64,
}

/// The receiver that a configuration names.
pub(crate) fn receiver_of(config: &Config) -> Result<Option<Arc<Receiver>>, String> {
    let webhook = config.alerts.webhook.as_ref();
    let receiver = webhook.map(|webhook| Receiver::load(webhook).map(Arc::new));
    receiver.transpose()
}

/// Looks for what nobody raises; never ends.
pub(crate) async fn watch(parts: Alerting) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first looks come one interval after the start: a restart is no reason to read everything.
    let begun = parts.clock.now().mono;
    let (mut looked, mut asked) = (begun, begun);
    let mut behind = None;
    loop {
        ticks.tick().await;
        let now = parts.clock.now();
        let look = now.mono.since(looked) >= LOOK_INTERVAL;
        let ask = now.mono.since(asked) >= UNUSED_INTERVAL;
        looked = if look { now.mono } else { looked };
        asked = if ask { now.mono } else { asked };
        let own = parts.clone();
        let work = move || {
            own.trouble(now);
            if look {
                own.ends(now);
                behind = own.unusual(now, behind);
            }
            if ask {
                own.unused(now);
            }
            behind
        };
        behind = tokio::task::spawn_blocking(work).await.unwrap_or(None);
    }
}

impl Alerting {
    fn trouble(&self, now: Now) {
        let (failing, not_durable) = (self.flusher.failing(), self.keeper.not_durable());
        if failing || not_durable > 0 {
            self.alerts
                .raise(rules::store_trouble(failing, not_durable, now.wall));
        }
        self.shared_store(now);
        for source in self.quota.strangers.take_begun() {
            self.alerts
                .raise(rules::failing("gateway", source, now.wall));
        }
    }

    /// Each outage of a store that nodes share is told once, and its end once.
    fn shared_store(&self, now: Now) {
        let (Some(contact), Some(settings)) = (self.keeper.contact(), self.keeper.shared()) else {
            return;
        };
        let since = self.store_lost_at.load(Ordering::Relaxed);
        let servers = settings.servers.join(", ");
        match (contact.is_lost(now.mono), since) {
            (true, 0) => {
                let at = now.wall.unix_seconds().max(1);
                self.store_lost_at.store(at, Ordering::Relaxed);
                let silence = contact.silence(now.mono).as_secs();
                self.alerts
                    .raise(rules::shared_store_away(&servers, silence, now.wall));
            }
            (false, since) if since > 0 => {
                self.store_lost_at.store(0, Ordering::Relaxed);
                self.alerts
                    .raise(rules::shared_store_back(&servers, since, now.wall));
            }
            _ => {}
        }
    }

    fn ends(&self, now: Now) {
        let snapshot = self.keeper.snapshot().load_full();
        let rules_of = &snapshot.config.alerts;
        if let Some(latest) = within(now.wall, rules_of.key_expiry_before.as_ref()) {
            let soon =
                |expires: Wall| expires != NEVER_EXPIRES && expires > now.wall && expires <= latest;
            let keys = snapshot.keys.iter().map(|(_, key)| key);
            let ending = keys.filter(|key| key.status == KeyStatus::Active && soon(key.expires));
            for key in ending.take(TOLD_MAX) {
                let tenant = snapshot.tenant_of(key).id.as_str();
                self.alerts
                    .raise(rules::expiring(key.id, tenant, key.expires, now.wall));
            }
        }
        let expires = Wall::from_unix_seconds(self.reloader.first_expiry_unix_seconds());
        if within(now.wall, rules_of.certificate_expiry_before.as_ref())
            .is_some_and(|latest| expires <= latest)
        {
            self.alerts.raise(rules::certificate(expires, now.wall));
        }
    }

    /// Goes on behind this key, for as long as a look may take. Gives the key that the next look goes on behind.
    fn unusual(&self, now: Now, behind: Option<KeyId>) -> Option<KeyId> {
        let config = Arc::clone(&self.keeper.snapshot().load().config);
        if config.alerts.unusual_factor == 0 {
            return None;
        }
        self.flusher.flush(now);
        let begun = self.clock.now().mono;
        let pages = History::open(&config.store.path).and_then(|history| {
            let Some(history) = history else {
                return Ok(None);
            };
            let mut behind = behind;
            loop {
                let (rules, page) = (&config.alerts, unusual::PAGE);
                let (found, next) = unusual::look(&history, rules, now.wall, behind, page)?;
                found.into_iter().for_each(|alert| self.alerts.raise(alert));
                behind = next;
                let over = self.clock.now().mono.since(begun) >= UNUSUAL_TIME;
                if behind.is_none() || over {
                    return Ok(behind);
                }
            }
        });
        pages.unwrap_or_else(|error| {
            tracing::error!(error = chain(&error), "usage not read for alerts");
            None
        })
    }

    fn unused(&self, now: Now) {
        let config = Arc::clone(&self.keeper.snapshot().load().config);
        let seconds = config
            .alerts
            .unused_after
            .as_ref()
            .and_then(|span| span.seconds);
        let Some(seconds) = seconds else {
            return;
        };
        let which = KeyFilter {
            unused_since_seconds: Some(seconds),
            status: Some("active".to_owned()),
            ..KeyFilter::default()
        };
        match self.keeper.execute(&Verb::KeyList(which), now.wall) {
            Ok(Outcome::Keys { keys }) => {
                // A key that the file declares has no known beginning: it may be new.
                let known = keys.iter().filter(|key| key.created_at.is_some());
                for key in known.take(TOLD_MAX) {
                    let last_used = key.last_used_at.as_deref();
                    let alert = rules::unused(&key.id, &key.name, &key.tenant, last_used, now.wall);
                    self.alerts.raise(alert);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "keys not read for alerts"),
        }
    }
}

/// The time so long ahead; `None` when nobody wants to know.
fn within(now: Wall, span: Option<&Lifetime>) -> Option<Wall> {
    let seconds = span?.seconds?;
    Some(Wall(
        now.0.saturating_add(seconds.saturating_mul(1_000_000)),
    ))
}

/// Keeps what is raised, each once, tells the log, and hands it on to be delivered; never ends.
pub(crate) async fn tell(
    parts: Alerting,
    mut raised: mpsc::Receiver<Alert>,
    to_send: mpsc::Sender<Noted>,
) {
    while let Some(alert) = raised.recv().await {
        let Some(noted) = noted(&alert) else {
            continue;
        };
        let delivery = match parts.receiver.load().is_some() {
            true => Delivery::Pending,
            false => Delivery::None,
        };
        let (flusher, kept) = (Arc::clone(&parts.flusher), noted.clone());
        let work = move || flusher.note_alert(&kept, delivery);
        if !tokio::task::spawn_blocking(work).await.unwrap_or(false) {
            continue;
        }
        parts.counts.told.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(alert = noted.kind, alert_id = noted.id, "{}", noted.text);
        if delivery == Delivery::Pending && to_send.try_send(noted).is_err() {
            parts.counts.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What is kept and sent of an alert; `None` when the system gives no random numbers.
fn noted(alert: &Alert) -> Option<Noted> {
    let mut bytes = [0; 12];
    getrandom::fill(&mut bytes).ok()?;
    let kind = alert.kind.as_str();
    let mut data = alert.data.clone();
    data["text"] = serde_json::json!(alert.text);
    let body = serde_json::json!({
        "type": kind,
        "timestamp": rfc3339(alert.at),
        "data": data,
    });
    Some(Noted {
        id: format!("alert_{}", crate::store::audit::hex(&bytes)),
        kind: kind.to_owned(),
        once: format!("{kind} {}", alert.once),
        until: Wall((alert.at.0).saturating_add(alert.for_seconds.saturating_mul(1_000_000))),
        text: alert.text.clone(),
        body: body.to_string(),
        at: alert.at,
    })
}

/// One that waits for its next try.
struct Waiting {
    noted: Noted,
    tries: usize,
    due: Mono,
}

/// Sends what is to be sent, one at a time, each again until it is taken; never ends. What was pending at the last end comes first.
pub(crate) async fn deliver(parts: Alerting, mut to_send: mpsc::Receiver<Noted>) {
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let now = parts.clock.now();
    let flusher = Arc::clone(&parts.flusher);
    let left = tokio::task::spawn_blocking(move || flusher.alerts_pending(now.wall)).await;
    for noted in left.ok().and_then(Result::ok).unwrap_or_default() {
        wait(&mut waiting, noted, now.mono, &parts.counts);
    }
    let mut ticks = tokio::time::interval(DUE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            noted = to_send.recv() => match noted {
                Some(noted) => wait(&mut waiting, noted, parts.clock.now().mono, &parts.counts),
                None => return,
            },
            _ = ticks.tick(), if !waiting.is_empty() => {}
        }
        let now = parts.clock.now().mono;
        let due = waiting.iter().position(|one| one.due <= now);
        let (Some(one), Some(receiver)) = (
            due.and_then(|at| waiting.remove(at)),
            parts.receiver.load_full(),
        ) else {
            continue;
        };
        if let Some(again) = attempt(&parts, &receiver, one).await {
            waiting.push_back(again);
        }
    }
}

fn wait(waiting: &mut VecDeque<Waiting>, noted: Noted, now: Mono, counts: &Counts) {
    if waiting.len() >= WAITING_MAX {
        counts.given_up.fetch_add(1, Ordering::Relaxed);
        waiting.pop_front();
    }
    waiting.push_back(Waiting {
        noted,
        tries: 0,
        due: now,
    });
}

/// One try; what is to be tried again.
async fn attempt(parts: &Alerting, receiver: &Arc<Receiver>, one: Waiting) -> Option<Waiting> {
    let unix_seconds = parts.clock.now().wall.unix_seconds();
    let (id, body) = (&one.noted.id, &one.noted.body);
    let ended = match receiver.send(id, body, unix_seconds).await {
        Sent::Taken => {
            parts.counts.delivered.fetch_add(1, Ordering::Relaxed);
            Delivery::Done
        }
        Sent::Gone => {
            tracing::error!(
                "the webhook answered 410 Gone: nothing is sent there until the next reload"
            );
            parts.receiver.store(None);
            Delivery::GivenUp
        }
        Sent::Failed(why) => {
            parts.counts.failed_tries.fetch_add(1, Ordering::Relaxed);
            let tries = one.tries + 1;
            if let Some(pause) = TRIES.get(tries) {
                tracing::warn!(
                    alert_id = id,
                    why,
                    tries,
                    again_in_seconds = pause,
                    "alert not delivered"
                );
                let due = parts.clock.now().mono.plus(Duration::from_secs(*pause));
                return Some(Waiting { tries, due, ..one });
            }
            tracing::error!(
                alert_id = id,
                why,
                tries,
                "alert not delivered, and given up"
            );
            parts.counts.given_up.fetch_add(1, Ordering::Relaxed);
            Delivery::GivenUp
        }
    };
    let (flusher, id) = (Arc::clone(&parts.flusher), one.noted.id);
    let work = move || flusher.alert_delivered(&id, ended);
    let _ = tokio::task::spawn_blocking(work).await;
    None
}
