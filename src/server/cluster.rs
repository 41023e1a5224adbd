//! Keeps this node's view with the store that several nodes share: hears changes, gives signs of life, knows how well it hears.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config::StoreConfig;
use crate::quota::Quota;
use crate::quota::shared::SharedCounters;
use crate::snapshot::Contact;
use crate::snapshot::change::Keeper;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::history::set_aside;
use crate::store::shared::Position;
use crate::store::shared::nodes::Node;
use crate::store::shared::nodes::Nodes;

/// The thread that does it, in a gateway whose store is shared.
#[derive(Debug)]
pub(crate) struct Tending {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Joins the nodes that share the store, takes in what they did, and says how well the store is heard; nothing where it is this node's alone.
///
/// # Errors
/// There is neither a store nor a copy to begin with, or one of them cannot be used.
pub(crate) fn join(
    store: &mut Store,
    settings: &StoreConfig,
    now: Now,
) -> Result<Option<(Contact, Membership)>, StoreError> {
    if !settings.shared {
        return Ok(None);
    }
    let last_heard = store.last_heard()?;
    let (nodes, joined) = join_as_one(store, settings)?;
    let member = Membership(Some(nodes));
    if let Ok(all) = &joined {
        store.note_peers(all.len().max(1))?;
    }
    // Both, or the copy is as old as it was: a store that answers the one question may not answer the other.
    let before = match store.begin(now.wall)? && joined.is_ok() {
        true => Duration::ZERO,
        false => Duration::from_micros(now.wall.0.saturating_sub(last_heard.0)),
    };
    let max_stale = settings.redis.max_stale;
    Ok(Some((Contact::new(now.mono, before, max_stale), member)))
}

/// Joins under an id that no other live node has.
fn join_as_one(
    store: &mut Store,
    settings: &StoreConfig,
) -> Result<(Nodes, Result<Vec<Node>, StoreError>), StoreError> {
    let place = store.place()?;
    let mut nodes = Nodes::join(&settings.redis, &store.node_id()?, &place)?;
    // Before anything is read: a fence that is asked for from now on waits for this node.
    let mut joined = nodes.beat(&Position::default(), false);
    let twin = match &joined {
        Ok(all) => nodes.lives_elsewhere(all),
        Err(_) => Ok(false),
    };
    match twin {
        Ok(false) => {}
        Err(error) => joined = Err(error),
        Ok(true) => {
            let known = store.node_id()?;
            set_aside(store.directory(), &known)
                .map_err(|error| StoreError::from_io(store.directory(), error))?;
            store.take_new_id()?;
            let id = store.node_id()?;
            tracing::warn!(
                known,
                id,
                "another gateway runs under the id of this node: the directory of [store] path was copied from there; this node has an id of its own from now on"
            );
            let earlier = Membership(Some(nodes));
            nodes = Nodes::join(&settings.redis, &id, &place)?;
            joined = nodes.beat(&Position::default(), false);
            drop(earlier);
        }
    }
    Ok((nodes, joined))
}

/// A place among the nodes; given up when a start comes to nothing.
#[derive(Debug)]
pub(crate) struct Membership(Option<Nodes>);

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(mut nodes) = self.0.take()
            && let Err(error) = nodes.leave()
        {
            tracing::warn!(%error, "the other nodes take this one for silent");
        }
    }
}

/// Has limits counted where all nodes count, if the store is shared.
pub(crate) fn share_limits(quota: &Quota, keeper: &Keeper, clock: &Clock) -> std::io::Result<()> {
    if let Some(settings) = keeper.shared() {
        let peers = Arc::clone(keeper.peers());
        quota.share(SharedCounters::start(
            settings,
            keeper.node_id(),
            peers,
            clock.clone(),
        )?);
    }
    Ok(())
}

impl Tending {
    /// Starts it; `None` where the store is this node's alone.
    ///
    /// # Errors
    /// There is no thread to be had, or the copy cannot be read.
    pub(crate) fn start(
        keeper: &Arc<Keeper>,
        clock: &Clock,
        member: Option<Membership>,
    ) -> Result<Option<Tending>, StoreError> {
        let nodes = member.and_then(|mut member| member.0.take());
        let (Some(settings), Some(nodes)) = (keeper.shared(), nodes) else {
            return Ok(None);
        };
        let ended = Arc::new(AtomicBool::new(false));
        let work = Work {
            nodes,
            max_stale: settings.max_stale,
            keeper: Arc::clone(keeper),
            clock: clock.clone(),
            ended: Arc::clone(&ended),
            failing: false,
            told: Told::Heard,
            twin: false,
            twin_since: None,
            apart: false,
        };
        let thread = std::thread::Builder::new().name("shared-store".to_owned());
        let thread = thread.spawn(move || work.run());
        let thread =
            thread.map_err(|error| StoreError::away("a thread".to_owned(), &error.to_string()))?;
        Ok(Some(Tending { ended, thread }))
    }

    /// This node serves nobody any more, and the others need not wait for it.
    pub(crate) fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the shared store ended by a panic");
        }
    }
}

struct Work {
    nodes: Nodes,
    max_stale: Duration,
    keeper: Arc<Keeper>,
    clock: Clock,
    ended: Arc<AtomicBool>,
    failing: bool,
    told: Told,
    /// Whether another gateway was seen under this node's id.
    twin: bool,
    /// Since when one is there.
    twin_since: Option<Mono>,
    /// Whether the store's clock and this node's were apart.
    apart: bool,
}

/// What was said of it in the log last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Heard,
    Lost,
    Stale,
}

impl Work {
    fn run(mut self) {
        while !self.ended.load(Ordering::Relaxed) {
            match self.round() {
                Ok(()) => self.failing = false,
                Err(error) => {
                    self.note(None);
                    if !self.failing {
                        tracing::error!(%error, "known keys go on with what is known here; trying on");
                    }
                    self.failing = true;
                    std::thread::sleep(PAUSE);
                }
            }
            self.tell();
        }
        drop(Membership(Some(self.nodes)));
    }

    /// Takes in what is new, says so, and waits for more.
    fn round(&mut self) -> Result<(), StoreError> {
        // Before it is asked, so that the age of what is known is never told too young.
        let asked = self.clock.now();
        self.keeper.catch_up(asked.wall)?;
        let all = (self.nodes).beat(&self.keeper.in_force(), self.keeper.is_held_up())?;
        // A connection that outlived a failover may still read from what is a replica now. Only a primary takes a sign of life.
        if !self.keeper.is_asked_on(self.nodes.link().run_id()) {
            self.nodes.link().forget();
            return Err(StoreError::away(
                self.nodes.link().settings().servers.join(", "),
                "what was read and what takes signs of life were two servers",
            ));
        }
        self.compare_clocks(asked.wall);
        self.keeper.note_peers(all.len())?;
        if let Some(contact) = self.keeper.contact() {
            contact.heard(asked.mono, self.max_stale);
        }
        self.note(Some(&all));
        self.tell();
        let copied = self.keeper.copied()?;
        self.nodes.wait(copied)
    }

    /// Windows and signs of life go by the store's clock; one that is set lets windows end early, or late.
    fn compare_clocks(&mut self, asked: Wall) {
        let millis = self.nodes.apart(asked, self.clock.now().wall);
        let apart = millis.abs() > APART_MILLIS;
        if apart && !self.apart {
            tracing::error!(
                millis,
                "the clocks of the shared store and of this node are apart (below zero the store's is behind): limits go by the store's, expiry by this node's"
            );
        }
        self.apart = apart;
    }

    /// For metrics: what was heard, or that nothing was.
    fn note(&mut self, heard: Option<&[Node]>) {
        let keeper = Arc::clone(&self.keeper);
        let Some(told) = keeper.contact().map(Contact::told) else {
            return;
        };
        told.answers.store(heard.is_some(), Ordering::Relaxed);
        let Some(all) = heard else {
            told.failures.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let silent = all.iter().filter(|node| !node.is_there()).count();
        told.silent.store(silent, Ordering::Relaxed);
        if let Ok(copied) = keeper.copied() {
            told.change.store(copied, Ordering::Relaxed);
        }
        // One that starts may be one for as long as it listens, and then takes another id.
        let now = self.clock.now().mono;
        let since = (self.nodes.has_twin(all)).then(|| self.twin_since.unwrap_or(now));
        self.twin_since = since;
        let twin = since.is_some_and(|since| now.since(since) >= TWIN_STAYS);
        if twin && !self.twin {
            tracing::error!(
                node = keeper.node_id(),
                "another gateway runs under this node's id: the directory of one is a copy of the other's, and both started without the store"
            );
        }
        self.twin = twin;
        if twin && self.nodes.gives_way(all) && !told.gave_way.swap(true, Ordering::Relaxed) {
            match keeper.take_new_id() {
                Ok(()) => tracing::error!(
                    "this node gives way: it takes an id of its own at its next start, so restart it; until then it tells no usage"
                ),
                Err(error) => {
                    tracing::error!(%error, "this node has to give way and cannot write its new id; trying on");
                    told.gave_way.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// One line for each turn.
    fn tell(&mut self) {
        let now = self.clock.now().mono;
        let told = match self.keeper.contact() {
            Some(contact) if contact.is_stale(now) => Told::Stale,
            Some(contact) if contact.is_lost(now) => Told::Lost,
            _ => Told::Heard,
        };
        if told == self.told {
            return;
        }
        self.told = told;
        match told {
            Told::Heard => tracing::warn!("the shared store is heard again"),
            Told::Lost => tracing::error!(
                "the shared store has not been heard for 10 s: known keys go on, a revocation on another node is not known here"
            ),
            Told::Stale => tracing::error!(
                "the shared store has not been heard for store.max_stale: no key is served any more"
            ),
        }
    }
}

/// Who is there for longer does not start any more.
const TWIN_STAYS: Duration = Duration::from_secs(6);
/// Beyond this clocks are said to be apart.
const APART_MILLIS: i64 = 1_000;
/// Between two tries of a store that is away.
const PAUSE: Duration = Duration::from_millis(200);
