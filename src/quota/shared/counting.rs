//! The thread that speaks to the store, for all requests that wait at that moment and all leases that run low.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use redis::Pipeline;
use redis::Script;

use crate::clock::Clock;
use crate::clock::Mono;
use crate::config::Redis;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::quota::Numbers;
use crate::quota::window::both;
use crate::store::StoreError;
use crate::store::shared::link::Link;

use super::Ask;
use super::Asked;
use super::Message;
use super::Verdict;
use super::answers::Told;
use super::answers::exhausted;
use super::answers::number;
use super::claims::CLAIM;
use super::claims::Claim;
use super::claims::keys;
use super::contact::LEARN;
use super::leases::Leases;
use super::leases::Report;

/// The thread's own.
pub(super) struct Counting {
    pub(super) settings: Redis,
    /// This run of this node: what an earlier run held is not this one's to give back.
    pub(super) node: String,
    pub(super) nodes: Arc<AtomicUsize>,
    pub(super) clock: Clock,
    pub(super) leases: Arc<Leases>,
    /// When what is held may have to be reported, and of whom.
    pub(super) ends: BTreeSet<(Mono, KeyId)>,
    /// `None` while the store is away.
    pub(super) link: Option<Link>,
    /// A connection in the making: on a thread of its own, so that no request waits for it.
    pub(super) coming: Option<Receiver<Result<Link, StoreError>>>,
    pub(super) tried: Option<Mono>,
    pub(super) scripts: Scripts,
    pub(super) claims: HashMap<String, Claim>,
    /// The server's name for the time since it may have lost something, in which this node has said what it admitted.
    pub(super) epoch: String,
    pub(super) serial: u64,
    /// The store's time, and when it was that here.
    pub(super) store_time: Option<(u64, Mono)>,
    pub(super) heard: Mono,
    pub(super) swept: Mono,
}

/// What runs in the store.
#[derive(Clone)]
pub(super) struct Scripts {
    pub(super) charge: Script,
    pub(super) lease: Script,
    pub(super) claim: Script,
}

impl Scripts {
    /// With this in place of the store's own time; tests have another.
    pub(super) fn with_time(time: &str) -> Scripts {
        let script = |text: &str| Script::new(&text.replace("redis.call('TIME')", time));
        let begun = |text: &str| script(&[include_str!("begin.lua"), text].concat());
        Scripts {
            charge: begun(include_str!("charge.lua")),
            lease: begun(include_str!("lease.lua")),
            claim: script(CLAIM),
        }
    }

    pub(super) fn load(&self, link: &mut Link) -> Result<(), StoreError> {
        link.call(0, |connection| {
            let all = [&self.charge, &self.lease, &self.claim];
            all.iter()
                .try_for_each(|script| script.load(connection).map(|_| ()))
        })
    }
}

/// What is to be asked in one trip.
#[derive(Default)]
pub(super) struct Work {
    /// Each by itself.
    pub(super) alone: Vec<Asked>,
    pub(super) groups: Vec<Group>,
}

/// One subject's lease, and the requests that wait for it.
pub(super) struct Group {
    pub(super) key: KeyId,
    pub(super) name: String,
    pub(super) limits: Limits,
    pub(super) waiting: Vec<Asked>,
    /// Nothing more is wanted.
    pub(super) is_end: bool,
}

/// One trip, as it was asked.
pub(super) struct Trip {
    pub(super) pipe: Pipeline,
    pub(super) sent: Mono,
    pub(super) bytes: usize,
    pub(super) reports: Vec<(Report, String, u32)>,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.groups.is_empty()
    }

    fn len(&self) -> usize {
        self.alone.len() + self.groups.len()
    }
}

impl Counting {
    pub(super) fn new(
        settings: &Redis,
        node: &str,
        nodes: Arc<AtomicUsize>,
        clock: Clock,
        leases: Arc<Leases>,
    ) -> Counting {
        let mut run = [0; 4];
        // Without chance in it an earlier run's leases would count as this one's, and be given back early; the time will do.
        if getrandom::fill(&mut run).is_err() {
            run = (clock.now().wall.0 as u32).to_be_bytes();
        }
        Counting {
            settings: settings.clone(),
            node: format!("{node}.{:08x}", u32::from_be_bytes(run)),
            nodes,
            clock,
            leases,
            ends: BTreeSet::new(),
            link: None,
            coming: None,
            tried: None,
            scripts: Scripts::with_time("redis.call('TIME')"),
            claims: HashMap::new(),
            epoch: String::new(),
            serial: 0,
            store_time: None,
            heard: Mono(0),
            swept: Mono(0),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        self.connect();
        // The first connection is waited for: what comes meanwhile waits with it.
        if let Some(coming) = self.coming.take() {
            let wait = self.settings.timeout * 3;
            self.arrived(coming.recv_timeout(wait).ok());
        }
        loop {
            let messages: Vec<Message> = match inbox.recv_timeout(self.pause()) {
                Ok(first) => {
                    let more = inbox.try_iter().take(BATCH - 1);
                    std::iter::once(first).chain(more).collect()
                }
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return self.give_back(),
            };
            self.look_for_link();
            let ended = self.ended();
            let mut done = Vec::new();
            let work = self.sorted(messages, &ended, &mut done);
            self.serve(work);
            if !done.is_empty() {
                self.give_back();
                for done in done {
                    let _ = done.try_send(());
                }
            }
            self.keep_house();
        }
    }

    /// How long nothing has to be done.
    fn pause(&self) -> Duration {
        let now = self.clock.now().mono;
        let next = self.ends.first().map(|(at, _)| at.since(now));
        next.unwrap_or(TICK).clamp(Duration::from_millis(1), TICK)
    }

    /// Finds out about a server that went or forgot, before a request does: it has to hear what was admitted here.
    pub(super) fn keep_house(&mut self) {
        let now = self.clock.now().mono;
        if now.since(self.heard) >= TICK
            && let Some(mut link) = self.link.take()
        {
            self.greet(&mut link);
            self.link = Some(link).filter(|_| !self.epoch.is_empty());
        }
        if now.since(self.swept) >= SWEEP {
            self.swept = now;
            let at = self.now();
            for claim in self.claims.values_mut() {
                claim.roll(&Limits::default(), at);
            }
            self.claims.retain(|_, claim| !claim.is_idle());
            self.leases.sweep(now);
        }
    }

    /// Makes work of messages; what can be answered from what came in meanwhile is answered.
    pub(super) fn sorted(
        &mut self,
        messages: Vec<Message>,
        ended: &[KeyId],
        done: &mut Vec<mpsc::SyncSender<()>>,
    ) -> Work {
        let mut work = Work::default();
        let mut places = HashMap::new();
        for message in messages {
            match message {
                Message::Charge(asked) => self.sort(asked, &mut work, &mut places),
                Message::Renew(key) => self.sort_renewal(key, false, &mut work, &mut places),
                Message::GiveBack(sender) => done.push(sender),
            }
        }
        for key in ended {
            self.sort_renewal(*key, true, &mut work, &mut places);
        }
        work
    }

    fn sort(&mut self, asked: Asked, work: &mut Work, places: &mut HashMap<KeyId, usize>) {
        let now = self.clock.now().mono;
        let Some(key) = asked.ask.leased.filter(|_| asked.ask.charges) else {
            return work.alone.push(asked);
        };
        let (name, limits) = asked.ask.subjects[0].clone();
        if self.leases.find(key).is_none() {
            self.leases
                .hold(key, &limits, now)
                .note(asked.ask.cost, now);
        }
        if let Some(mut held) = self.leases.find(key) {
            if let Some(numbers) = held.take_held(&limits, asked.ask.cost, now) {
                let _ = asked.reply.send(Verdict::Admitted(numbers));
                return;
            }
            if let Some(exhausted) = held.denial(&limits, asked.ask.cost, now) {
                let _ = asked.reply.send(Verdict::Refused(exhausted));
                return;
            }
            if held.is_cold(now) && !places.contains_key(&key) {
                return work.alone.push(asked);
            }
        }
        match places.get(&key).map(|place| &mut work.groups[*place]) {
            Some(group) if group.limits == limits => group.waiting.push(asked),
            // Limits that change at this moment: one by one, they are right under any.
            Some(_) => work.alone.push(asked),
            None => {
                places.insert(key, work.groups.len());
                work.groups.push(Group {
                    key,
                    name,
                    limits,
                    waiting: vec![asked],
                    is_end: false,
                });
            }
        }
    }

    pub(super) fn serve(&mut self, mut work: Work) {
        let mut learning = 0;
        for _ in 0..TRIPS {
            if work.is_empty() {
                return;
            }
            match self.ask_store(work) {
                (left, Some(wait)) => {
                    work = left;
                    learning += 1;
                    if learning >= ROUNDS {
                        break;
                    }
                    std::thread::sleep(wait.min(LEARN));
                }
                (left, None) => {
                    work = left;
                    if self.link.is_none() {
                        break;
                    }
                }
            }
        }
        // What the store has not answered.
        self.unheard(&work);
        let waiting = work.groups.into_iter().flat_map(|group| group.waiting);
        for asked in work.alone.into_iter().chain(waiting) {
            let verdict = self.without_store(&asked.ask, self.clock.now().mono);
            let _ = asked.reply.send(verdict);
        }
    }

    /// Gives back what is not answered, and how long to wait before it is asked again, if the store says so.
    fn ask_store(&mut self, work: Work) -> (Work, Option<Duration>) {
        let Some(mut link) = self.link.take() else {
            return (work, None);
        };
        let trip = self.prepare(&link, &work);
        let answers = link.call(trip.bytes, |connection| {
            trip.pipe.query::<Vec<Vec<String>>>(connection)
        });
        match answers {
            Ok(answers) if answers.len() == work.len() => {
                let (left, wait, parted) = self.finish(work, &trip, &answers);
                if parted {
                    self.greet(&mut link);
                }
                self.link = Some(link).filter(|_| !self.epoch.is_empty());
                (left, wait)
            }
            answers => {
                let away = || StoreError::away(self.settings.servers.join(", "), "half an answer");
                let error = answers.err().unwrap_or_else(away);
                self.unheard(&work);
                self.lost(&error);
                (work, None)
            }
        }
    }

    /// What is sent for this work; reports are taken out of what is held.
    pub(super) fn prepare(&mut self, link: &Link, work: &Work) -> Trip {
        let mut pipe = redis::pipe();
        let mut bytes = 0;
        for asked in &work.alone {
            self.call_charge(&mut pipe, link, &asked.ask);
            bytes += 600;
        }
        // Before anything is sent, so that no lease is thought to last longer than it does.
        let sent = self.clock.now().mono;
        let mut reports = Vec::new();
        for group in &work.groups {
            if (self.leases.find(group.key)).is_some_and(|held| held.is_unsure()) {
                self.claim(&mut pipe, link, &group.name, Some(group.key));
                bytes += 600;
            }
            reports.push(self.call_lease(&mut pipe, link, group, sent));
            bytes += 800;
        }
        Trip {
            pipe,
            sent,
            bytes,
            reports,
        }
    }

    fn call_charge(&mut self, pipe: &mut Pipeline, link: &Link, ask: &Ask) {
        self.serial += 1;
        pipe.cmd("EVALSHA")
            .arg(self.scripts.charge.get_hash())
            .arg(1 + ask.subjects.len() * 3)
            .arg(link.name("limits"));
        for (name, _) in &ask.subjects {
            for key in keys(link, name) {
                pipe.arg(key);
            }
        }
        self.begin(pipe, link);
        pipe.arg(ask.cost)
            .arg(i32::from(ask.charges))
            .arg(self.serial);
        for (_, limits) in &ask.subjects {
            limits_of(pipe, limits);
        }
    }

    /// Takes in the answers: what is left to be asked, how long to wait before that, and whether the server has to be told first.
    pub(super) fn finish(
        &mut self,
        work: Work,
        trip: &Trip,
        answers: &[Vec<String>],
    ) -> (Work, Option<Duration>, bool) {
        let mut left = Work::default();
        let mut wait = None;
        let mut parted = false;
        let mut learns = |answer: &[String]| {
            let learns = answer.first().is_none_or(|word| word == "learning");
            if learns {
                let micros = number(answer, 2).clamp(1_000, 5_000_000);
                wait = Some(Duration::from_micros(micros));
                parted |= answer.get(3) != Some(&self.epoch);
            }
            learns
        };
        let learning: Vec<bool> = answers.iter().map(|answer| learns(answer)).collect();
        let alone = work.alone.len();
        for (at, asked) in work.alone.into_iter().enumerate() {
            if learning[at] {
                left.alone.push(asked);
                continue;
            }
            let verdict = self.understood(&asked.ask, &answers[at], trip.sent);
            // A request that waits no more was charged all the same: never too little.
            let _ = asked.reply.send(verdict);
        }
        for (index, group) in work.groups.into_iter().enumerate() {
            let at = alone + index;
            if learning[at] {
                if let Some(mut held) = self.leases.find(group.key) {
                    held.unheard(trip.sent);
                }
                if !group.waiting.is_empty() {
                    left.groups.push(group);
                }
                continue;
            }
            let rest = self.leased(group, &trip.reports[index], &answers[at], trip.sent);
            left.groups.extend(rest);
        }
        (left, wait, parted)
    }

    fn understood(&mut self, ask: &Ask, answer: &[String], asked_at: Mono) -> Verdict {
        let admitted = answer[0] == "admitted";
        let (now, wait) = (number(answer, 1), number(answer, 2));
        self.heard_at(now, asked_at);
        let mut numbers: Option<Numbers> = None;
        for (index, (name, limits)) in ask.subjects.iter().enumerate() {
            let told = Told::read(answer, 4 + index * Told::FIELDS);
            if ask.charges {
                let claim = self.claims.entry(name.clone()).or_default();
                claim.roll(limits, now);
                claim.hear(&told);
                if admitted {
                    claim.take(limits, u64::from(ask.cost), told.opened, now);
                }
            }
            let of = told.numbers(limits, now, name.starts_with("t:"));
            numbers = Some(both(numbers, Some(of)));
        }
        let numbers = numbers.unwrap_or_default();
        match admitted {
            true => Verdict::Admitted(numbers),
            false => Verdict::Refused(exhausted(numbers, wait)),
        }
    }
}

pub(super) fn limits_of(pipe: &mut Pipeline, limits: &Limits) {
    for rate in [limits.quota, limits.burst] {
        let (count, seconds) = rate.map_or((-1, 0), |rate| (i64::from(rate.count), rate.seconds));
        pipe.arg(count).arg(seconds);
    }
}

/// Messages of one trip.
pub(super) const BATCH: usize = 256;
/// Asked again while it learns.
const ROUNDS: usize = 4;
/// Trips for one batch, where several share what little there is.
const TRIPS: usize = 32;
/// How often an idle node makes sure that the server it knows is there.
const TICK: Duration = Duration::from_millis(200);
const SWEEP: Duration = Duration::from_secs(10);
