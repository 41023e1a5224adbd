//! Nodes over one real redis-server without threads, under a clock that tests move: the store's time is that clock's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::limit::Limits;
use crate::model::limit::Rate;
use crate::quota::Charge;
use crate::quota::Numbers;
use crate::store::counters::Subject;
use crate::store::shared::link::Link;
use crate::store::shared::testing::Server;

use super::Ask;
use super::Asked;
use super::Message;
use super::Verdict;
use super::checks::Admission;
use super::checks::SetBack;
use super::counting::Counting;
use super::counting::Scripts;
use super::counting::Work;
use super::leases::Leases;

pub(super) fn limits(quota: Option<(u32, u32)>, burst: Option<(u32, u32)>) -> Limits {
    let rate = |(count, seconds)| Rate { count, seconds };
    Limits {
        quota: quota.map(rate),
        burst: burst.map(rate),
    }
}

pub(super) fn key(name: u8) -> KeyId {
    KeyId([b'a' + name; 12])
}

/// What happens to one trip to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes and comes within these milliseconds.
    Arrives(u64, u64),
    /// It does what it says, and no answer comes back.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// No answer comes back, and it does what it says only after the node has said everything again.
    Late,
}

pub(in crate::quota) struct Cluster {
    server: Server,
    store: redis::Connection,
    pub(in crate::quota) clock: Clock,
    /// What the store's time is ahead of the monotonic clock: no wall clock of a node counts.
    ahead: u64,
    pub(super) set_backs: Vec<SetBack>,
    /// Whether the store ever forgot everything.
    pub(super) forgot: bool,
    pub(super) nodes: Vec<Node>,
    /// Of each key.
    pub(super) admitted: BTreeMap<KeyId, Vec<Admission>>,
    /// The most that any answer said its quota had fallen by.
    pub(super) fell: u32,
    /// Trips so far.
    pub(super) trips: usize,
    born: usize,
}

pub(super) struct Node {
    pub(super) counting: Counting,
    link: Link,
    leases: Arc<Leases>,
    messages: Vec<Message>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    key: KeyId,
    cost: u32,
    answer: oneshot::Receiver<Verdict>,
}

impl Cluster {
    /// `None`, loudly, where redis-server is left out.
    pub(in crate::quota) fn start(nodes: usize) -> Option<Cluster> {
        let server = Server::start()?;
        let address = &server.settings.servers[0];
        let client = redis::Client::open(format!("redis://{address}/")).unwrap();
        // Ahead of the server's own, or it would take our windows for expired; with a whole second, so that each time is the same.
        let today = Clock::system().now().wall.0 / 1_000_000;
        let (mono, wall) = (1_000_000_000, (today + 3_600) * 1_000_000);
        let clock = Clock::still(Now {
            mono: Mono(mono),
            wall: Wall(wall),
        });
        let mut cluster = Cluster {
            store: client.get_connection().unwrap(),
            server,
            clock,
            ahead: wall - mono,
            set_backs: Vec::new(),
            forgot: false,
            nodes: Vec::new(),
            admitted: BTreeMap::new(),
            fell: 0,
            trips: 0,
            born: 0,
        };
        cluster.set_time(cluster.now());
        for _ in 0..nodes {
            let node = cluster.born();
            cluster.nodes.push(node);
        }
        cluster.advance(1_100_000);
        Some(cluster)
    }

    fn born(&mut self) -> Node {
        self.born += 1;
        let leases = Arc::new(Leases::new());
        let mut counting = Counting::new(
            &self.server.settings,
            &format!("n{}", self.born),
            Arc::new(AtomicUsize::new(self.nodes.len() + 1)),
            self.clock.clone(),
            Arc::clone(&leases),
        );
        counting.settings.deny_in_outage = true;
        counting.scripts = Scripts::with_time("redis.call('HMGET', KEYS[1], 'test_s', 'test_u')");
        let mut link = Link::new(&self.server.settings);
        counting.scripts.load(&mut link).unwrap();
        counting.greet(&mut link);
        assert!(!counting.epoch.is_empty());
        Node {
            counting,
            link,
            leases,
            messages: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// The clock that nobody sets.
    pub(super) fn mono(&self) -> Mono {
        self.clock.now().mono
    }

    /// The store's time.
    pub(in crate::quota) fn now(&self) -> u64 {
        self.clock.now().mono.0 + self.ahead
    }

    /// The same, had nobody set it back: what limits are held to.
    fn passed(&self) -> u64 {
        self.now() + self.set_backs.iter().map(|back| back.by).sum::<u64>()
    }

    /// The store's clock is set back by so much.
    pub(super) fn set_back(&mut self, micros: u64) {
        self.set_backs.push(SetBack {
            at: self.passed(),
            by: micros,
        });
        self.ahead -= micros;
        self.set_time(self.now());
    }

    /// Has the store's clock say this.
    pub(in crate::quota) fn set_time(&mut self, now: u64) {
        let _: () = redis::cmd("HSET")
            .arg("portcullis:limits")
            .arg("test_s")
            .arg(now / 1_000_000)
            .arg("test_u")
            .arg(now % 1_000_000)
            .query(&mut self.store)
            .unwrap();
    }

    pub(in crate::quota) fn advance(&mut self, micros: u64) {
        self.clock.advance(std::time::Duration::from_micros(micros));
        self.set_time(self.now());
    }

    /// A request as the gate makes it: from what is held if that will do, else it waits for the node's next trip.
    pub(super) fn request(&mut self, node: usize, key: KeyId, limits: &Limits, cost: u32) {
        let charge = Charge {
            key: Some((key, limits)),
            tenant: None,
            cost,
        };
        self.ask(node, key, &charge);
    }

    pub(super) fn ask(&mut self, node: usize, key: KeyId, charge: &Charge<'_>) {
        let (now, at) = (self.clock.now(), self.passed());
        let node = &mut self.nodes[node];
        if let Some((key, limits)) = super::leased(charge) {
            let taken = node.leases.take(key, limits, charge.cost, now.mono);
            if taken.renew {
                node.messages.push(Message::Renew(key));
            }
            match taken.verdict {
                Some(Verdict::Admitted(numbers)) => {
                    self.admit(key, charge.cost, at, &numbers);
                    return;
                }
                Some(_) => return,
                None => {}
            }
        }
        let (reply, answer) = oneshot::channel();
        let ask = Ask::of(charge).unwrap();
        node.messages.push(Message::Charge(Asked { ask, reply }));
        node.waiting.push(Waiting {
            key,
            cost: charge.cost,
            answer,
        });
    }

    fn admit(&mut self, key: KeyId, cost: u32, at: u64, numbers: &Numbers) {
        let admission = Admission {
            set_backs: self.set_backs.len(),
            at,
            cost,
            ends: numbers.quota.map(|quota| quota.reset_unix_seconds),
        };
        self.fell = self.fell.max(numbers.fell);
        self.admitted.entry(key).or_default().push(admission);
    }

    /// One round of a node's thread; `meanwhile` happens between its question and the answer.
    pub(super) fn serve(
        &mut self,
        node: usize,
        fate: Fate,
        mut meanwhile: impl FnMut(&mut Cluster),
    ) {
        if self.nodes[node].counting.epoch.is_empty() {
            self.greet(node);
        }
        let messages = std::mem::take(&mut self.nodes[node].messages);
        let ended = self.nodes[node].counting.ended();
        let mut work = (self.nodes[node].counting).sorted(messages, &ended, &mut Vec::new());
        self.answered(node);
        for _ in 0..32 {
            if work.is_empty() {
                break;
            }
            let arrives = match fate {
                // The store's time is the charge's, not ours once we hear of it.
                Fate::Arrives(out, _) if !work.alone.is_empty() => Fate::Arrives(out, 0),
                fate => fate,
            };
            let Some(left) = self.trip(node, work, arrives, &mut meanwhile) else {
                break;
            };
            work = left;
            self.answered(node);
        }
        // What is dropped without an answer gets 503.
        self.answered(node);
    }

    fn trip(
        &mut self,
        node: usize,
        work: Work,
        fate: Fate,
        meanwhile: &mut impl FnMut(&mut Cluster),
    ) -> Option<Work> {
        self.trips += 1;
        let one = &mut self.nodes[node];
        let trip = one.counting.prepare(&one.link, &work);
        let out = if let Fate::Arrives(out, _) = fate {
            out
        } else {
            1
        };
        self.advance(out * 1_000);
        let executed = |cluster: &mut Cluster| {
            let link = &mut cluster.nodes[node].link;
            link.call(0, |connection| {
                trip.pipe.query::<Vec<Vec<String>>>(connection)
            })
            .unwrap()
        };
        match fate {
            Fate::Arrives(_, back) => {
                let answers = executed(self);
                meanwhile(self);
                self.advance(back * 1_000);
                let counting = &mut self.nodes[node].counting;
                let (left, wait, parted) = counting.finish(work, &trip, &answers);
                if parted {
                    self.greet(node);
                    return Some(left);
                }
                wait.is_none().then_some(left)
            }
            Fate::AnswerLost | Fate::Lost | Fate::Late => {
                if fate == Fate::AnswerLost {
                    executed(self);
                }
                let counting = &mut self.nodes[node].counting;
                counting.unheard(&work);
                counting.epoch.clear();
                if fate == Fate::Late {
                    self.greet(node);
                    executed(self);
                }
                meanwhile(self);
                None
            }
        }
    }

    pub(super) fn greet(&mut self, node: usize) {
        self.set_time(self.now());
        let one = &mut self.nodes[node];
        one.counting.greet(&mut one.link);
        assert!(!one.counting.epoch.is_empty());
    }

    fn answered(&mut self, node: usize) {
        let at = self.passed();
        for mut waiting in std::mem::take(&mut self.nodes[node].waiting) {
            match waiting.answer.try_recv() {
                Ok(Verdict::Admitted(numbers)) => {
                    self.admit(waiting.key, waiting.cost, at, &numbers);
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.nodes[node].waiting.push(waiting);
                }
            }
        }
    }

    /// What a charge is answered that comes so many times in one trip of a node, or, without `charges`, what it would find; nothing where nothing is
    /// limited.
    pub(in crate::quota) fn verdicts(
        &mut self,
        node: usize,
        charge: &Charge<'_>,
        times: usize,
        charges: bool,
    ) -> Vec<Verdict> {
        let Some(ask) = Ask::of(charge) else {
            return Vec::new();
        };
        let cost = if charges { ask.cost } else { 0 };
        let ask = Ask {
            cost,
            charges,
            ..ask
        };
        let (mut messages, mut heard) = (Vec::new(), Vec::new());
        for _ in 0..times {
            let (reply, answer) = oneshot::channel();
            let ask = ask.clone();
            messages.push(Message::Charge(Asked { ask, reply }));
            heard.push(answer);
        }
        let one = &mut self.nodes[node];
        let work = one.counting.sorted(messages, &[], &mut Vec::new());
        let trip = one.counting.prepare(&one.link, &work);
        let answers = one.link.call(0, |connection| trip.pipe.query(connection));
        let answers: Vec<Vec<String>> = answers.unwrap();
        one.counting.finish(work, &trip, &answers);
        let heard = heard.into_iter().map(|mut one| one.try_recv().unwrap());
        heard.collect()
    }

    /// Each node lets go of what it need not know any more.
    pub(in crate::quota) fn sweep(&mut self) {
        for node in &mut self.nodes {
            node.counting.keep_house();
        }
    }

    /// Whether a node has something to say to the store.
    pub(super) fn is_due(&mut self, node: usize) -> bool {
        let one = &mut self.nodes[node];
        let due = one.counting.next_end();
        !one.messages.is_empty() || due.is_some_and(|at| at <= self.clock.now().mono)
    }

    /// Permits that a node can use now.
    pub(super) fn held(&self, node: usize, key: KeyId) -> u64 {
        let held = self.nodes[node].leases.find(key);
        held.map_or(0, |held| held.usable(self.clock.now().mono).into())
    }

    /// A node dies and comes back knowing nothing.
    pub(in crate::quota) fn kill(&mut self, node: usize) {
        let fresh = self.born();
        self.nodes[node] = fresh;
    }

    /// A node gives back what it holds.
    pub(super) fn give_back(&mut self, node: usize) {
        for key in self.nodes[node].leases.keys() {
            let one = &mut self.nodes[node];
            let work = one.counting.sorted(Vec::new(), &[key], &mut Vec::new());
            self.trip(node, work, Fate::Arrives(0, 0), &mut |_| {});
        }
    }

    /// The store forgets everything; each node finds out within the time that a new server learns.
    pub(super) fn flush(&mut self) {
        self.forget();
        for node in 0..self.nodes.len() {
            self.greet(node);
            self.advance(100_000);
        }
    }

    pub(super) fn ask_store<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query(&mut self.store).unwrap()
    }

    /// The store forgets everything, and nobody has found out yet.
    pub(super) fn forget(&mut self) {
        self.forgot = true;
        // A server that had just begun to learn does so again at another time, by which nodes tell that it forgot.
        self.advance(1);
        let _: () = redis::cmd("FLUSHDB").query(&mut self.store).unwrap();
        self.set_time(self.now());
    }

    /// What the store counts of a key: used of its quota, in its burst log, and the sum that stands beside that.
    pub(super) fn counted(&mut self, key: KeyId) -> (u64, u64, u64) {
        let name = |kind: &str| format!("portcullis:{kind}:{}", Subject::Key(key));
        let quota: Vec<(String, String)> = self.ask_store(&["HGETALL", &name("lq")]);
        let quota = quota.iter().filter(|(field, _)| field != "opened");
        let log: Vec<String> = self.ask_store(&["ZRANGE", &name("lb"), "0", "-1"]);
        let log = log.iter().map(|entry| entry.split(':').next().unwrap());
        let sum: Option<u64> = self.ask_store(&["GET", &name("ls")]);
        let number = |text: &str| text.parse::<u64>().unwrap();
        let log = log.map(number).sum();
        (
            quota.map(|(_, used)| number(used)).sum(),
            log,
            sum.unwrap_or(log),
        )
    }
}
