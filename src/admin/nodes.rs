//! What other nodes did, beside what this one did: read from the shared store while a report is made.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use crate::clock::Wall;
use crate::config::Redis;
use crate::model::key::KeyId;
use crate::store::StoreError;
use crate::store::history::Tally;
use crate::store::outcome::rfc3339;
use crate::store::shared::usage::Others;
use crate::usage::report::Reporting;
use crate::usage::report::Span;

/// How the nodes of a store share usage.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'a> {
    /// Where.
    pub settings: &'a Redis,
    /// This node's id.
    pub node: &'a str,
}

/// The part of a report that other nodes did: nothing on a node alone, and nothing, with the reason, where the store is away.
#[derive(Debug, Default)]
pub(super) struct OtherNodes {
    others: RefCell<Option<Others>>,
    missing: RefCell<Option<String>>,
}

impl OtherNodes {
    /// Looks who told what.
    pub(super) fn look(sharing: Option<Sharing<'_>>, mark: u32) -> OtherNodes {
        let nodes = OtherNodes::default();
        if let Some(Sharing { settings, node }) = sharing.filter(|of| of.settings.share_usage) {
            match Others::look(settings, node, mark) {
                Ok(others) => *nodes.others.borrow_mut() = Some(others),
                Err(error) => nodes.give_up(&error),
            }
        }
        nodes
    }

    /// No part of it is better than half of it.
    fn give_up(&self, error: &StoreError) {
        *self.missing.borrow_mut() = Some(error.to_string());
        *self.others.borrow_mut() = None;
    }

    /// Whether something failed since they were looked for: then what was read of them must not be told.
    pub(super) fn has_failed(&self) -> bool {
        self.missing.borrow().is_some()
    }

    fn ask<T: Default>(&self, ask: impl FnOnce(&mut Others) -> Result<T, StoreError>) -> T {
        let asked = self.others.borrow_mut().as_mut().map(ask);
        match asked {
            None => T::default(),
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                self.give_up(&error);
                T::default()
            }
        }
    }

    /// What these keys did in each hour, added to what they did here.
    pub(super) fn add_hours_of_each(&self, own: &mut [(KeyId, Vec<(u32, Tally)>)], span: &Span) {
        let keys: Vec<KeyId> = own.iter().map(|(key, _)| *key).collect();
        let mut found: HashMap<KeyId, BTreeMap<u32, Tally>> =
            self.ask(|others| others.hours_of_each(&keys, span.since, span.until));
        for (key, hours) in own {
            if let Some(more) = found.remove(key) {
                *hours = together(std::mem::take(hours), more);
            }
        }
    }

    /// What these keys together did in each hour, all where none are named, added to what they did here.
    pub(super) fn add_hours(
        &self,
        own: Vec<(u32, Tally)>,
        keys: Option<&HashSet<KeyId>>,
        span: &Span,
    ) -> Vec<(u32, Tally)> {
        let more = self.ask(|others| others.hours(keys, span.since, span.until));
        together(own, more)
    }

    /// The first so many keys behind this one that did something here or there.
    pub(super) fn add_page(
        &self,
        own: Vec<(KeyId, Tally)>,
        span: &Span,
        after: Option<KeyId>,
        most: usize,
    ) -> Vec<(KeyId, Tally)> {
        // Each list has the first of its own, so the first of both are whole.
        let more = self.ask(|others| others.page(span.since, span.until, after, most));
        let mut keys = together(own, more);
        keys.truncate(most);
        keys
    }

    /// Who told what is in the report, and what is not.
    pub(super) fn told(&self, sharing: Option<Sharing<'_>>, span: &Span, now: Wall) -> Told {
        let mut nodes = Vec::new();
        if let (Some(others), Some(sharing)) = (&*self.others.borrow(), sharing) {
            nodes.push(Reporting {
                id: sharing.node.to_owned(),
                name: sharing.settings.node.clone(),
                told_at: rfc3339(now),
                may_lack: false,
            });
            nodes.extend(others.tellers(span.since, span.until).map(|of| Reporting {
                id: of.node.clone(),
                name: Some(of.name.clone()),
                told_at: rfc3339(Wall(now.0.saturating_sub(of.ago.as_micros() as u64))),
                may_lack: of.may_lack(),
            }));
        }
        (nodes, self.missing.borrow().clone())
    }
}

/// The nodes of a report, and why the others are not in it.
pub(super) type Told = (Vec<Reporting>, Option<String>);

fn together<K: Ord + Copy>(own: Vec<(K, Tally)>, more: BTreeMap<K, Tally>) -> Vec<(K, Tally)> {
    if more.is_empty() {
        return own;
    }
    let mut sums = more;
    for (of, did) in own {
        let sum = sums.entry(of).or_default();
        *sum = sum.and(&did);
    }
    sums.into_iter().collect()
}
