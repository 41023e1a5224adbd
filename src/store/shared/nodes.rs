//! The nodes that share a store: their signs of life, who has put a change in force, and the wait for the next one.

use std::time::Duration;

use redis::Script;
use serde::Serialize;

use crate::clock::Wall;
use crate::config::Redis;
use crate::store::StoreError;
use crate::store::outcome::rfc3339;
use crate::store::shared::link::Link;

/// How long a node that gives no sign of life counts as there.
pub const LEASE: Duration = Duration::from_secs(10);

/// One node's view of the others, over a connection of its own: waiting for a change must hold up none.
#[derive(Debug)]
pub struct Nodes {
    link: Link,
    beat: Script,
    /// This node's id; empty for one that only looks.
    id: String,
    name: String,
}

/// A node that has not left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The last change that is in force there.
    pub applied: u64,
    /// Whole seconds since its last sign of life, by the store's clock.
    pub silent_seconds: u64,
    /// Until then it may serve with what it knew then, by the store's clock; RFC 3339.
    pub serves_until: String,
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
            id: id.to_owned(),
            name,
        }
    }

    /// What people call this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives a sign of life, and hears who is there.
    ///
    /// # Errors
    /// The store is away.
    pub fn beat(&mut self, applied: u64) -> Result<Vec<Node>, StoreError> {
        let nodes = self.link.name("nodes");
        let lasts = self.link.settings().max_stale.as_millis() as u64;
        let mut ask = self.beat.key(nodes);
        ask.arg(&self.id).arg(applied).arg(lasts).arg(&self.name);
        let answer: Vec<String> = self.link.call(0, |connection| ask.invoke(connection))?;
        let now: u64 = answer.first().and_then(|now| now.parse().ok()).unwrap_or(0);
        let pairs = answer.get(1..).unwrap_or_default().chunks_exact(2);
        Ok(pairs
            .filter_map(|pair| node(now, &pair[0], &pair[1]))
            .collect())
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

    /// This node serves nobody any more; says whether it was there.
    ///
    /// # Errors
    /// The store is away: the others take it for silent until `max_stale` is over.
    pub fn leave(&mut self) -> Result<bool, StoreError> {
        let (nodes, id) = (self.link.name("nodes"), self.id.clone());
        self.link.call(0, |connection| {
            redis::cmd("HDEL")
                .arg(nodes)
                .arg(id)
                .query::<bool>(connection)
        })
    }
}

fn node(now: u64, id: &str, text: &str) -> Option<Node> {
    let mut parts = text.splitn(4, ' ');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (heard, applied, lasts) = (number()?, number()?, number()?);
    Some(Node {
        id: id.to_owned(),
        name: parts.next()?.to_owned(),
        applied,
        silent_seconds: now.saturating_sub(heard) / 1_000,
        serves_until: rfc3339(Wall(heard.saturating_add(lasts).saturating_mul(1_000))),
    })
}

/// How long the store is asked to wait for a change; also how often a sign of life is given.
const BLOCK: Duration = Duration::from_secs(1);
