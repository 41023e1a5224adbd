//! The nodes that share a store: their signs of life, who has put a change in force, and the wait for the next one.

use std::time::Duration;

use redis::Script;
use serde::Serialize;

use crate::clock::Wall;
use crate::config::Redis;
use crate::store::StoreError;
use crate::store::outcome::rfc3339;
use crate::store::shared::Position;
use crate::store::shared::link::Link;

/// How long a node that gives no sign of life counts as there.
pub const LEASE: Duration = Duration::from_secs(10);

/// One node's view of the others, over a connection of its own: waiting for a change must hold up none.
#[derive(Debug)]
pub struct Nodes {
    link: Link,
    beat: Script,
    /// This node's id and, behind a point, this run of it; empty for one that only looks.
    field: String,
    name: String,
    /// What the store was at the last sign of life: which run of which server, and which filling of it; empty before the first.
    store: String,
    /// The others at the last sign of life, as they stand in the store: it may forget them, and hears of them again.
    others: Vec<(String, String)>,
    /// Whether any node has been heard by the store since it was begun or emptied.
    known: bool,
    /// The store's time at the last sign of life, in milliseconds.
    now: u64,
}

/// A node that has not left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The last change that is in force there; 0 where it is none of this store's history.
    pub applied: u64,
    /// Whole seconds since its last sign of life, by the store's clock.
    pub silent_seconds: u64,
    /// Its last sign of life, in milliseconds by the store's clock.
    #[serde(skip)]
    heard: u64,
    /// Until then it may serve with what it knew then, by the store's clock; RFC 3339.
    pub serves_until: String,
    /// Whether what others changed does not fit its gateway.toml: then only what ends rights is in force there.
    pub held_up: bool,
    /// How it stands in the store.
    #[serde(skip)]
    field: String,
}

impl Node {
    /// Whether it gave a sign of life within its lease.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.silent_seconds < LEASE.as_secs()
    }
}

impl Nodes {
    /// Connects when it is needed; without an id it only looks.
    #[must_use]
    pub fn new(settings: &Redis, id: &str) -> Nodes {
        let name = settings.node.clone().unwrap_or_else(|| {
            let name = rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned();
            name.replace(char::is_whitespace, "-")
        });
        Nodes {
            link: Link::new(settings),
            beat: Script::new(include_str!("beat.lua")),
            field: id.to_owned(),
            name: if name.is_empty() {
                "-".to_owned()
            } else {
                name
            },
            store: String::new(),
            others: Vec::new(),
            known: false,
            now: 0,
        }
    }

    /// A node that takes part. `place` tells directories apart, in eight letters: two processes with one id, since a directory was copied, are two.
    ///
    /// # Errors
    /// This machine has no randomness.
    pub fn join(settings: &Redis, id: &str, place: &str) -> Result<Nodes, StoreError> {
        let run = super::nonce()?;
        Ok(Nodes::new(settings, &format!("{id}.{place}{}", &run[..8])))
    }

    /// What people call this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection.
    pub fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Whether another process gives signs of life under this node's id.
    #[must_use]
    pub fn has_twin(&self, all: &[Node]) -> bool {
        self.twins(all).next().is_some()
    }

    /// Whether it is this one of them that gives way: all of them find the same.
    #[must_use]
    pub fn gives_way(&self, all: &[Node]) -> bool {
        self.twins(all).any(|twin| twin.field < self.field)
    }

    fn twins<'a>(&'a self, all: &'a [Node]) -> impl Iterator<Item = &'a Node> {
        let own = id_of(&self.field);
        all.iter()
            .filter(move |node| node.id == own && node.field != self.field && node.is_there())
    }

    /// At a start: whether another process that was heard of lately under this node's id still lives, since one directory is a copy of the other.
    /// What is silent meanwhile was an earlier run of this node elsewhere, and is there no more. Blocking, for three seconds at most.
    ///
    /// # Errors
    /// The store is away.
    pub fn lives_elsewhere(&mut self, all: &[Node]) -> Result<bool, StoreError> {
        let heard = |node: &Node| (node.field.clone(), node.heard);
        let before: Vec<(String, u64)> = self.twins(all).map(heard).collect();
        if before.is_empty() {
            return Ok(false);
        }
        for _ in 0..TWIN_LOOKS {
            std::thread::sleep(TWIN_PAUSE);
            let all = self.beat(&Position::default(), false)?;
            if (self.twins(&all).map(heard)).any(|now| !before.contains(&now)) {
                return Ok(true);
            }
        }
        let nodes = self.link.name("nodes");
        let gone: Vec<String> = before.into_iter().map(|(field, _)| field).collect();
        self.link.call(0, |connection| {
            redis::cmd("HDEL")
                .arg(nodes)
                .arg(gone)
                .query::<i64>(connection)
        })?;
        Ok(false)
    }

    /// Whether the store can know who is there, by the last `beat`: one that was emptied cannot before a node has told it.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.known
    }

    /// Gives a sign of life, and hears who is there.
    ///
    /// # Errors
    /// The store is away.
    pub fn beat(&mut self, applied: &Position, held_up: bool) -> Result<Vec<Node>, StoreError> {
        // Connected first: which run of the server it is, is part of the question.
        self.link.ready()?;
        let keys = ["nodes", "facts", "log", "beat"].map(|rest| self.link.name(rest));
        let lasts = self.link.settings().max_stale.as_millis() as u64;
        let says = format!(
            "{} {lasts} {} {} {}",
            applied.seq,
            i32::from(held_up),
            self.name,
            applied.head
        );
        let mut ask = self.beat.prepare_invoke();
        for key in &keys {
            ask.key(key);
        }
        ask.arg(&self.field)
            .arg(says)
            .arg(&self.store)
            .arg(self.link.run_id());
        for (field, text) in &self.others {
            ask.arg(field).arg(text);
        }
        let answer: Vec<String> = self.link.call(0, |connection| ask.invoke(connection))?;
        let now: u64 = answer.first().and_then(|now| now.parse().ok()).unwrap_or(0);
        self.now = now;
        self.known = answer.get(2).is_some_and(|known| known == "1");
        let nodes = answer.get(3..).unwrap_or_default().chunks_exact(3);
        self.store = answer.get(1).cloned().unwrap_or_default();
        self.others = nodes
            .clone()
            .filter(|node| node[0] != self.field)
            .map(|node| (node[0].clone(), node[1].clone()))
            .collect();
        Ok(nodes
            .filter_map(|of| node(now, &of[0], &of[1], of[2] == "1"))
            .collect())
    }

    /// By how many milliseconds the store's clock is ahead of this node's, or, below zero, behind it; at the least, since the last `beat` was carried
    /// out at some time between these.
    #[must_use]
    pub fn apart(&self, asked: Wall, heard: Wall) -> i64 {
        let [asked, heard] = [asked, heard].map(|at| at.0 / 1_000);
        match self.now > heard {
            true => (self.now - heard) as i64,
            false => -(asked.saturating_sub(self.now) as i64),
        }
    }

    /// Waits for a change after the one with this number, a second at most.
    ///
    /// # Errors
    /// The store is away.
    pub fn wait(&mut self, seq: u64) -> Result<(), StoreError> {
        let log = self.link.name("log");
        let wait = self.link.settings().timeout + BLOCK;
        self.link.call_within(wait, |connection| {
            redis::cmd("XREAD")
                .arg("COUNT")
                .arg(1)
                .arg("BLOCK")
                .arg(BLOCK.as_millis() as u64)
                .arg("STREAMS")
                .arg(log)
                .arg(format!("{seq}-0"))
                .query::<redis::Value>(connection)
        })?;
        Ok(())
    }

    /// This node serves nobody any more. One that only looks has every run of its id leave. Says whether any was there.
    ///
    /// # Errors
    /// The store is away: the others take it for silent until `max_stale` is over.
    pub fn leave(&mut self) -> Result<bool, StoreError> {
        let nodes = self.link.name("nodes");
        let known: Vec<String> = self.link.call(0, |connection| {
            redis::cmd("HKEYS").arg(&nodes).query(connection)
        })?;
        let own = |field: &String| *field == self.field || id_of(field) == self.field;
        let own: Vec<String> = known.into_iter().filter(own).collect();
        if own.is_empty() {
            return Ok(false);
        }
        self.link.call(0, |connection| {
            redis::cmd("HDEL")
                .arg(nodes)
                .arg(own)
                .query::<i64>(connection)
        })?;
        Ok(true)
    }
}

/// Whose run it is.
fn id_of(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

fn node(now: u64, field: &str, text: &str, ours: bool) -> Option<Node> {
    let mut parts = text.splitn(6, ' ');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (heard, applied, lasts, held_up) = (number()?, number()?, number()?, number()?);
    Some(Node {
        id: id_of(field).to_owned(),
        name: parts.next()?.to_owned(),
        applied: if ours { applied } else { 0 },
        silent_seconds: now.saturating_sub(heard) / 1_000,
        heard,
        held_up: held_up == 1,
        serves_until: rfc3339(Wall(heard.saturating_add(lasts).saturating_mul(1_000))),
        field: field.to_owned(),
    })
}

/// How long the store is asked to wait for a change; also how often a sign of life is given.
const BLOCK: Duration = Duration::from_secs(1);
/// How long a node that may be a twin is listened for at a start: longer than two signs of life are apart.
const TWIN_LOOKS: u32 = 12;
const TWIN_PAUSE: Duration = Duration::from_millis(250);
