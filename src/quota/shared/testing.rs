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
use crate::store::shared::link::Link;
use crate::store::shared::testing::Server;

use super::Ask;
use super::Asked;
use super::Message;
use super::Verdict;
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

pub(super) struct Cluster {
    server: Server,
    store: redis::Connection,
    pub(super) clock: Clock,
    pub(super) nodes: Vec<Node>,
    /// Of each key, when and how much was admitted, and the end of the quota window that the answer named.
    pub(super) admitted: BTreeMap<KeyId, Vec<(u64, u32, Option<u64>)>>,
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
    pub(super) fn start(nodes: usize) -> Option<Cluster> {
        let server = Server::start()?;
        let address = &server.settings.servers[0];
        let client = redis::Client::open(format!("redis://{address}/")).unwrap();
        // Ahead of the server's own, or it would take our windows for expired.
        let clock = Clock::still(Now {
            mono: Mono(1_000_000_000),
            wall: Wall(Clock::system().now().wall.0 + 1_000_000),
        });
        let mut cluster = Cluster {
            store: client.get_connection().unwrap(),
            server,
            clock,
            nodes: Vec::new(),
            admitted: BTreeMap::new(),
            fell: 0,
            trips: 0,
            born: 0,
        };
        cluster.set_time();
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

    pub(super) fn now(&self) -> u64 {
        self.clock.now().wall.0
    }

    fn set_time(&mut self) {
        let now = self.now();
        let _: () = redis::cmd("HSET")
            .arg("portcullis:limits")
            .arg("test_s")
            .arg(now / 1_000_000)
            .arg("test_u")
            .arg(now % 1_000_000)
            .query(&mut self.store)
            .unwrap();
    }

    pub(super) fn advance(&mut self, micros: u64) {
        self.clock.advance(std::time::Duration::from_micros(micros));
        self.set_time();
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
        let now = self.clock.now();
        let node = &mut self.nodes[node];
        if let Some((key, limits)) = super::leased(charge) {
            let taken = node.leases.take(key, limits, charge.cost, now.mono);
            if taken.renew {
                node.messages.push(Message::Renew(key));
            }
            match taken.verdict {
                Some(Verdict::Admitted(numbers)) => {
                    self.admit(key, charge.cost, now.wall.0, &numbers);
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
        let ends = numbers.quota.map(|quota| quota.reset_unix_seconds);
        self.fell = self.fell.max(numbers.fell);
        self.admitted.entry(key).or_default().push((at, cost, ends));
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
        self.set_time();
        let one = &mut self.nodes[node];
        one.counting.greet(&mut one.link);
        assert!(!one.counting.epoch.is_empty());
    }

    fn answered(&mut self, node: usize) {
        let at = self.now();
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

    /// What one charge alone is answered.
    pub(super) fn verdict(&mut self, charge: &Charge<'_>) -> Verdict {
        let (reply, mut answer) = oneshot::channel();
        let ask = Ask::of(charge).unwrap();
        let messages = vec![Message::Charge(Asked { ask, reply })];
        let one = &mut self.nodes[0];
        let work = one.counting.sorted(messages, &[], &mut Vec::new());
        let trip = one.counting.prepare(&one.link, &work);
        let answers = one.link.call(0, |connection| trip.pipe.query(connection));
        let answers: Vec<Vec<String>> = answers.unwrap();
        one.counting.finish(work, &trip, &answers);
        answer.try_recv().unwrap()
    }

    /// Whether a node has something to say to the store.
    pub(super) fn is_due(&mut self, node: usize) -> bool {
        let one = &mut self.nodes[node];
        let due = one.counting.next_end();
        !one.messages.is_empty() || due.is_some_and(|at| at <= self.clock.now().mono)
    }

    /// A node dies and comes back knowing nothing.
    pub(super) fn kill(&mut self, node: usize) {
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
        let _: () = redis::cmd("FLUSHDB").query(&mut self.store).unwrap();
        self.set_time();
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

    /// Never over the limit: in no span as long as the burst's, in no quota window; and windows do not overlap.
    pub(super) fn check(&self, limits: &Limits) {
        for (key, all) in &self.admitted {
            let mut all = all.clone();
            all.sort_unstable();
            if let Some(rate) = limits.burst {
                let span = u64::from(rate.seconds) * 1_000_000;
                let (mut first, mut sum) = (0, 0);
                for (at, cost, _) in &all {
                    sum += cost;
                    while all[first].0 + span <= *at {
                        sum -= all[first].1;
                        first += 1;
                    }
                    assert!(sum <= rate.count, "{key}: {sum} of {rate} until {at}");
                }
            }
            let Some(rate) = limits.quota else { continue };
            let length = u64::from(rate.seconds);
            let mut windows: BTreeMap<u64, u32> = BTreeMap::new();
            for (at, cost, ends) in &all {
                let ends = ends.unwrap();
                *windows.entry(ends).or_default() += cost;
                let inside = (ends - length) * 1_000_000..ends * 1_000_000;
                assert!(inside.contains(at), "{key}: {at} in a window until {ends}");
            }
            assert!(
                windows.values().all(|sum| *sum <= rate.count),
                "{key}: {windows:?} of {rate}"
            );
            let ends: Vec<u64> = windows.into_keys().collect();
            assert!(ends.windows(2).all(|two| two[1] - two[0] >= length));
        }
    }
}
