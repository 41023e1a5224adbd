//! Counters that several nodes share: each charge is one script in Redis, asked by one thread for all requests that wait at that moment.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use redis::Script;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::clock::Mono;
use crate::clock::Now;
use crate::config::Redis;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Charge;
use crate::quota::Exhausted;
use crate::quota::Numbers;
use crate::quota::WindowNumbers;
use crate::quota::window;
use crate::quota::window::both;
use crate::store::StoreError;
use crate::store::counters::Row;
use crate::store::counters::Subject;
use crate::store::shared::link::Link;

/// What the shared counters say of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was charged.
    Admitted(Numbers),
    /// A window lacks room; nothing was taken.
    Refused(Exhausted),
    /// Nobody can say, and `store.limits_outage` is `"deny"`; or too many ask at once.
    Unknown,
}

/// A charge on its way.
#[derive(Clone, Debug)]
pub struct Ask {
    subjects: Vec<(String, Limits)>,
    cost: u32,
    /// Or only looked at.
    charges: bool,
}

impl Ask {
    /// The charge, unless all its limits are `"unlimited"`.
    #[must_use]
    pub fn of(charge: &Charge<'_>) -> Option<Ask> {
        let limited = |limits: &Limits| limits.quota.is_some() || limits.burst.is_some();
        let tenant = charge
            .tenant
            .map(|(id, limits)| (Subject::Tenant(id.clone()), *limits));
        let key = charge.key.map(|(id, limits)| (Subject::Key(id), *limits));
        let subjects = [tenant, key].into_iter().flatten();
        let subjects: Vec<(String, Limits)> = subjects
            .filter(|(_, limits)| limited(limits))
            .map(|(subject, limits)| (subject.to_string(), limits))
            .collect();
        (!subjects.is_empty()).then_some(Ask {
            subjects,
            cost: charge.cost.max(1),
            charges: true,
        })
    }
}

/// Where charges go. Its thread ends when nobody can ask any more.
#[derive(Clone, Debug)]
pub struct SharedCounters {
    asks: SyncSender<Asked>,
    patience: Duration,
}

struct Asked {
    ask: Ask,
    reply: oneshot::Sender<Verdict>,
}

impl SharedCounters {
    /// Starts the thread. `nodes` is how many share the limits, as far as is known.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        settings: &Redis,
        node: &str,
        nodes: Arc<AtomicUsize>,
        clock: Clock,
    ) -> std::io::Result<SharedCounters> {
        let (asks, inbox) = mpsc::sync_channel(ASKS_MAX);
        let counting = Counting {
            settings: settings.clone(),
            node: node.to_owned(),
            nodes,
            clock,
            link: None,
            coming: None,
            tried: None,
            charge: Script::new(include_str!("charge.lua")),
            claim: Script::new(include_str!("claim.lua")),
            claims: HashMap::new(),
            serial: 0,
            store_time: None,
            swept: Mono(0),
        };
        let thread = std::thread::Builder::new().name("shared-limits".to_owned());
        thread.spawn(move || counting.run(&inbox))?;
        Ok(SharedCounters {
            asks,
            patience: settings.timeout * 2 + Duration::from_secs(3),
        })
    }

    /// Charges. Waits for the store without holding up the thread; no longer than it may take.
    pub async fn charge(&self, ask: Ask) -> Verdict {
        let (reply, answer) = oneshot::channel();
        if self.asks.try_send(Asked { ask, reply }).is_err() {
            return Verdict::Unknown;
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(verdict)) => verdict,
            _ => Verdict::Unknown,
        }
    }

    /// What a charge would find, for people. Blocking.
    #[must_use]
    pub fn peek(&self, charge: &Charge<'_>) -> Option<Numbers> {
        let Some(ask) = Ask::of(charge) else {
            return Some(Numbers::default());
        };
        let ask = Ask {
            cost: 0,
            charges: false,
            ..ask
        };
        let (reply, mut answer) = oneshot::channel();
        self.asks.try_send(Asked { ask, reply }).ok()?;
        // Polled: this may stand on a thread where blocking on a channel of tokio is forbidden.
        for _ in 0..PEEK_LOOKS {
            match answer.try_recv() {
                Ok(Verdict::Admitted(numbers)) => return Some(numbers),
                Ok(Verdict::Refused(exhausted)) => return Some(exhausted.numbers),
                Ok(Verdict::Unknown) | Err(oneshot::error::TryRecvError::Closed) => return None,
                Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(PEEK_PAUSE),
            }
        }
        None
    }
}

/// What this node has admitted of one subject, in the store's time: what it says again to a server that may have lost it, and what it
/// goes by while there is none.
#[derive(Clone, Debug, Default)]
struct Claim {
    /// Microseconds; `None` while no window is open.
    opened: Option<u64>,
    seconds: u32,
    used: u64,
    /// (Rounded up to 1/512 of the length, count), in order.
    burst: VecDeque<(u64, u64)>,
    burst_seconds: u32,
}

impl Claim {
    fn roll(&mut self, limits: &Limits, now: u64) {
        if let Some(rate) = limits.quota {
            self.seconds = rate.seconds;
        }
        if let Some(rate) = limits.burst {
            self.burst_seconds = rate.seconds;
        }
        if self
            .opened
            .is_some_and(|opened| now >= opened + micros(self.seconds))
        {
            (self.opened, self.used) = (None, 0);
        }
        let length = micros(self.burst_seconds);
        while self.burst.front().is_some_and(|(at, _)| at + length <= now) {
            self.burst.pop_front();
        }
    }

    fn total(&self) -> u64 {
        self.burst.iter().map(|(_, count)| count).sum()
    }

    fn take(&mut self, limits: &Limits, cost: u64, opened: u64, now: u64) {
        if limits.quota.is_some() {
            if self.opened != Some(opened) {
                (self.opened, self.used) = (Some(opened), 0);
            }
            self.used += cost;
        }
        if limits.burst.is_some() {
            let at = now.next_multiple_of((micros(self.burst_seconds) / STAMPS).max(1));
            match self.burst.back_mut() {
                Some((last, count)) if *last >= at => *count += cost,
                _ => self.burst.push_back((at, cost)),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.opened.is_none() && self.burst.is_empty()
    }
}

/// The thread's own.
struct Counting {
    settings: Redis,
    node: String,
    nodes: Arc<AtomicUsize>,
    clock: Clock,
    /// `None` while the store is away.
    link: Option<Link>,
    /// A connection in the making: on a thread of its own, so that no request waits for it.
    coming: Option<Receiver<Result<Link, StoreError>>>,
    tried: Option<Mono>,
    charge: Script,
    claim: Script,
    claims: HashMap<String, Claim>,
    serial: u64,
    /// The store's time, and when it was that here.
    store_time: Option<(u64, Mono)>,
    swept: Mono,
}

impl Counting {
    fn run(mut self, inbox: &Receiver<Asked>) {
        self.connect();
        // The first connection is waited for: what comes meanwhile waits with it.
        if let Some(coming) = self.coming.take() {
            let wait = self.settings.timeout * 3;
            self.arrived(coming.recv_timeout(wait).ok());
        }
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(first) => {
                    let more = inbox.try_iter().take(BATCH - 1);
                    let batch: Vec<Asked> = std::iter::once(first).chain(more).collect();
                    self.look_for_link();
                    self.serve(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.idle(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Finds out about a server that went, before a request does: its successor has to hear what was admitted here.
    fn idle(&mut self) {
        self.look_for_link();
        if let Some(link) = &mut self.link
            && let Err(error) =
                link.call(0, |connection| redis::cmd("PING").query::<()>(connection))
        {
            self.lost(&error);
        }
        let now = self.clock.now().mono;
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            let at = self.now();
            for claim in self.claims.values_mut() {
                claim.roll(&Limits::default(), at);
            }
            self.claims.retain(|_, claim| !claim.is_idle());
        }
    }

    fn lost(&mut self, error: &StoreError) {
        tracing::error!(%error, policy = if self.settings.deny_in_outage { "deny" } else { "share" }, "limits are not shared for now");
        self.link = None;
        self.tried = None;
    }

    fn look_for_link(&mut self) {
        if self.link.is_some() {
            return;
        }
        if let Some(coming) = self.coming.take() {
            match coming.try_recv() {
                Ok(arrived) => self.arrived(Some(arrived)),
                Err(mpsc::TryRecvError::Empty) => self.coming = Some(coming),
                Err(mpsc::TryRecvError::Disconnected) => {}
            }
            return;
        }
        let now = self.clock.now().mono;
        if self.tried.is_none_or(|tried| now.since(tried) >= RETRY) {
            self.connect();
        }
    }

    fn connect(&mut self) {
        self.tried = Some(self.clock.now().mono);
        let (done, coming) = mpsc::sync_channel(1);
        let mut link = Link::new(&self.settings);
        let scripts = [self.charge.clone(), self.claim.clone()];
        let work = move || {
            let loaded = link.call(0, |connection| {
                scripts
                    .iter()
                    .try_for_each(|script| script.load(connection).map(|_| ()))
            });
            // Nobody listens any more only at the end.
            let _ = done.send(loaded.map(|()| link));
        };
        let thread = std::thread::Builder::new().name("shared-limits-link".to_owned());
        if thread.spawn(work).is_ok() {
            self.coming = Some(coming);
        }
    }

    fn arrived(&mut self, arrived: Option<Result<Link, StoreError>>) {
        match arrived {
            Some(Ok(link)) => self.claim_all(link),
            Some(Err(error)) => tracing::debug!(%error, "limits are not shared yet"),
            None => {}
        }
    }

    /// Says to a server what was admitted here, before anything is asked of it.
    fn claim_all(&mut self, mut link: Link) {
        let now = self.now();
        let mut claims: Vec<(&String, &mut Claim)> = self.claims.iter_mut().collect();
        for some in claims.chunks_mut(BATCH) {
            let mut pipe = redis::pipe();
            for (name, claim) in some.iter_mut() {
                claim.roll(&Limits::default(), now);
                self.serial += 1;
                let ends = claim.opened.unwrap_or(0) + micros(claim.seconds);
                pipe.cmd("EVALSHA").arg(self.claim.get_hash()).arg(3);
                for key in keys(&link, name) {
                    pipe.arg(key);
                }
                pipe.arg(&self.node)
                    .arg(claim.opened.unwrap_or(0))
                    .arg(claim.used)
                    .arg(ends)
                    .arg(claim.total())
                    .arg(micros(claim.burst_seconds))
                    .arg(format!("c{}", self.serial))
                    .ignore();
            }
            let bytes = some.len() * 300;
            if let Err(error) = link.call(bytes, |connection| pipe.query::<()>(connection)) {
                return tracing::debug!(%error, "limits are not shared yet");
            }
        }
        if let Err(error) = self.begin_to_learn(&mut link) {
            return tracing::debug!(%error, "limits are not shared yet");
        }
        if !self.claims.is_empty() {
            tracing::warn!(subjects = self.claims.len(), "limits are shared again");
        }
        self.link = Some(link);
    }

    /// A charge of nothing: a server that is new begins to learn now, not with the first request.
    fn begin_to_learn(&mut self, link: &mut Link) -> Result<(), StoreError> {
        let (limits, run) = (link.name("limits"), link.run_id().to_owned());
        let mut ask = self.charge.prepare_invoke();
        ask.key(limits)
            .arg(run)
            .arg(&self.node)
            .arg(0)
            .arg(0)
            .arg(0);
        ask.arg(LEARN.as_micros() as u64);
        let answer: Vec<String> = link.call(0, |connection| ask.invoke(connection))?;
        self.store_time = Some((number(&answer, 1), self.clock.now().mono));
        Ok(())
    }

    /// The store's time, as far as it is known here.
    fn now(&self) -> u64 {
        let now = self.clock.now();
        match self.store_time {
            Some((store, at)) => store + now.mono.since(at).as_micros() as u64,
            None => now.wall.0,
        }
    }

    fn serve(&mut self, mut batch: Vec<Asked>) {
        for _ in 0..ROUNDS {
            match self.ask_store(batch) {
                (left, Some(wait)) => {
                    batch = left;
                    std::thread::sleep(wait.min(LEARN));
                }
                (left, None) => {
                    batch = left;
                    break;
                }
            }
        }
        // What the store has not answered.
        for asked in batch {
            let verdict = self.without_store(&asked.ask);
            let _ = asked.reply.send(verdict);
        }
    }

    /// Gives back what is not answered, and how long to wait before it is asked again, if it is to be.
    fn ask_store(&mut self, batch: Vec<Asked>) -> (Vec<Asked>, Option<Duration>) {
        let Some(mut link) = self.link.take() else {
            return (batch, None);
        };
        let run = link.run_id().to_owned();
        let mut pipe = redis::pipe();
        for asked in &batch {
            self.serial += 1;
            let ask = &asked.ask;
            pipe.cmd("EVALSHA")
                .arg(self.charge.get_hash())
                .arg(1 + ask.subjects.len() * 3)
                .arg(link.name("limits"));
            for (name, _) in &ask.subjects {
                for key in keys(&link, name) {
                    pipe.arg(key);
                }
            }
            pipe.arg(&run)
                .arg(&self.node)
                .arg(ask.cost)
                .arg(i32::from(ask.charges))
                .arg(self.serial)
                .arg(LEARN.as_micros() as u64);
            for (_, limits) in &ask.subjects {
                for rate in [limits.quota, limits.burst] {
                    let (count, seconds) =
                        rate.map_or((-1, 0), |rate| (i64::from(rate.count), rate.seconds));
                    pipe.arg(count).arg(seconds);
                }
            }
        }
        let asked_at = self.clock.now().mono;
        let bytes = batch.len() * 600;
        let answers = link.call(bytes, |connection| {
            pipe.query::<Vec<Vec<String>>>(connection)
        });
        let answers = match answers {
            Ok(answers) if answers.len() == batch.len() => answers,
            Ok(_) => return (batch, None),
            Err(error) => {
                self.lost(&error);
                return (batch, None);
            }
        };
        self.link = Some(link);
        let mut left = Vec::new();
        let mut wait = None;
        for (asked, answer) in batch.into_iter().zip(answers) {
            match self.understood(&asked.ask, &answer, asked_at) {
                Some(verdict) => {
                    // A request that waits no more was charged all the same: never too little.
                    let _ = asked.reply.send(verdict);
                }
                None => {
                    wait = Some(Duration::from_micros(
                        number(&answer, 2).clamp(1_000, 5_000_000),
                    ));
                    left.push(asked);
                }
            }
        }
        (left, wait)
    }

    /// `None` while the store learns what it may have lost.
    fn understood(&mut self, ask: &Ask, answer: &[String], asked_at: Mono) -> Option<Verdict> {
        let word = answer.first()?.as_str();
        let (now, wait) = (number(answer, 1), number(answer, 2));
        self.store_time = Some((now, asked_at));
        if word == "learning" {
            return None;
        }
        let mut numbers: Option<Numbers> = None;
        for (index, (name, limits)) in ask.subjects.iter().enumerate() {
            let at = 3 + index * 5;
            let opened = number(answer, at + 1);
            if word == "admitted" && ask.charges {
                let claim = self.claims.entry(name.clone()).or_default();
                claim.roll(limits, now);
                claim.take(limits, u64::from(ask.cost), opened, now);
            }
            let open = number(answer, at + 4) == 1;
            let of = Numbers {
                other_quota: None,
                quota_is_tenants: name.starts_with("t:"),
                quota: limits
                    .quota
                    .map(|rate| quota_numbers(rate, number(answer, at), opened, open, now)),
                burst: limits.burst.map(|rate| {
                    burst_numbers(rate, number(answer, at + 2), number(answer, at + 3), now)
                }),
            };
            numbers = Some(both(numbers, Some(of)));
        }
        let numbers = numbers.unwrap_or_default();
        Some(match word {
            "admitted" => Verdict::Admitted(numbers),
            _ => Verdict::Refused(Exhausted {
                numbers,
                retry_after_seconds: seconds_up(wait).max(1),
            }),
        })
    }

    /// `store.limits_outage`: nothing, or this node's share of each limit, judged by what it has admitted itself.
    fn without_store(&mut self, ask: &Ask) -> Verdict {
        if self.settings.deny_in_outage {
            return Verdict::Unknown;
        }
        let now = self.now();
        let nodes = self.nodes.load(Ordering::Relaxed).max(1) as u32;
        let share = |rate: Rate| u64::from((rate.count / nodes).max(1));
        let cost = u64::from(ask.cost);
        let mut wait = 0;
        for (name, limits) in &ask.subjects {
            let claim = self.claims.entry(name.clone()).or_default();
            claim.roll(limits, now);
            if let Some(rate) = limits.quota
                && claim.used + cost > share(rate)
            {
                let opened = claim.opened.unwrap_or(now);
                wait = wait.max((opened + micros(rate.seconds)).saturating_sub(now));
            }
            if let Some(rate) = limits.burst
                && claim.total() + cost > share(rate)
            {
                let first = claim.burst.front().map_or(now, |(at, _)| *at);
                wait = wait.max((first + micros(rate.seconds)).saturating_sub(now));
            }
        }
        let mut numbers: Option<Numbers> = None;
        for (name, limits) in &ask.subjects {
            let claim = self.claims.entry(name.clone()).or_default();
            let opened = claim.opened.unwrap_or(now - now % MICROS);
            let open = claim.opened.is_some();
            if wait == 0 && ask.charges {
                claim.take(limits, cost, opened, now);
            }
            let full_in = claim.burst.back().map_or(0, |(at, _)| {
                (at + micros(claim.burst_seconds)).saturating_sub(now)
            });
            let of = Numbers {
                other_quota: None,
                quota_is_tenants: name.starts_with("t:"),
                quota: limits.quota.map(|rate| {
                    let left = share(rate).saturating_sub(claim.used);
                    quota_numbers(rate, left, opened, open || wait == 0, now)
                }),
                burst: limits.burst.map(|rate| {
                    let left = share(rate).saturating_sub(claim.total());
                    burst_numbers(rate, left, full_in, now)
                }),
            };
            numbers = Some(both(numbers, Some(of)));
        }
        let numbers = numbers.unwrap_or_default();
        match wait {
            0 => Verdict::Admitted(numbers),
            wait => Verdict::Refused(Exhausted {
                numbers,
                retry_after_seconds: seconds_up(wait).max(1),
            }),
        }
    }
}

/// Says to shared counters what a node that was alone has admitted, so that moving up gives nobody a new window. Blocking.
///
/// # Errors
/// The store is away; said again, nothing counts twice.
pub fn carry_over(settings: &Redis, rows: &[Row], now: Now) -> Result<(), StoreError> {
    let mut link = Link::new(settings);
    let claim = Script::new(include_str!("claim.lua"));
    for row in rows {
        let quota = row.quota.as_ref();
        let opened = quota.map_or(0, |saved| saved.opened_wall.0);
        let ends = opened + micros(quota.map_or(0, |saved| saved.seconds));
        let (total, seconds) = row.burst.as_ref().map_or((0, 0), |saved| {
            let length = i64::from(saved.seconds) * MICROS as i64;
            let at = window::instant(now);
            let live = saved.log.iter().filter(|(stamp, _)| stamp + length > at);
            (
                live.map(|(_, count)| u64::from(*count)).sum::<u64>(),
                saved.seconds,
            )
        });
        let mut ask = claim.prepare_invoke();
        for key in keys(&link, &row.subject.to_string()) {
            ask.key(key);
        }
        ask.arg("moved")
            .arg(opened)
            .arg(quota.map_or(0, |saved| saved.used))
            .arg(ends)
            .arg(total)
            .arg(micros(seconds))
            .arg("moved");
        link.call(0, |connection| ask.invoke::<i64>(connection))?;
    }
    Ok(())
}

/// Quota window, burst log, and the sum of that log.
fn keys(link: &Link, subject: &str) -> [String; 3] {
    ["lq", "lb", "ls"].map(|kind| link.name(&format!("{kind}:{subject}")))
}

fn quota_numbers(rate: Rate, left: u64, opened: u64, open: bool, now: u64) -> WindowNumbers {
    let ends = opened + micros(rate.seconds);
    WindowNumbers {
        rate,
        remaining: narrow(left),
        reset_unix_seconds: ends.div_ceil(MICROS),
        reset_in_seconds: match open {
            true => seconds_up(ends.saturating_sub(now)),
            false => rate.seconds,
        },
    }
}

fn burst_numbers(rate: Rate, left: u64, full_in: u64, now: u64) -> WindowNumbers {
    WindowNumbers {
        rate,
        remaining: narrow(left),
        reset_unix_seconds: (now + full_in).div_ceil(MICROS),
        reset_in_seconds: seconds_up(full_in),
    }
}

fn number(answer: &[String], at: usize) -> u64 {
    answer
        .get(at)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn micros(seconds: u32) -> u64 {
    u64::from(seconds) * MICROS
}

fn seconds_up(micros: u64) -> u32 {
    narrow(micros.div_ceil(MICROS))
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

const MICROS: u64 = 1_000_000;
/// Requests that may wait at once; beyond that they are told that nobody can say.
const ASKS_MAX: usize = 8_192;
/// Charges of one trip.
const BATCH: usize = 256;
/// How long a server that is new hears what it may have lost before it admits anything.
const LEARN: Duration = Duration::from_secs(1);
/// Asked again while it learns.
const ROUNDS: usize = 4;
/// How often an idle node makes sure that the server it knows is there.
const TICK: Duration = Duration::from_millis(200);
/// Between two tries of a server that is away.
const RETRY: Duration = Duration::from_millis(500);
const SWEEP: Duration = Duration::from_secs(10);
const STAMPS: u64 = 512;
const PEEK_LOOKS: u32 = 300;
const PEEK_PAUSE: Duration = Duration::from_millis(5);
