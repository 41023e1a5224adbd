//! What keys did on each node, as the nodes tell each other: `Told` is how one tells it, `Others` how it is read; `packed.rs` what stands there.
//!
//! What counts is each node's own `counters.db`. An hour of a node is told whole, in place of what was told of it before: so it may be told twice, and again
//! to a store that lost it. A hash holds it, one field for each first letter of keys' ids and `sum`, all of them together, which is written last.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::time::Duration;

use redis::Script;

use crate::config::Redis;
use crate::model::key::KeyId;
use crate::store::StoreError;
use crate::store::counters::key_text;
use crate::store::counters::parse_key;
use crate::store::history::HOURS_KEPT;
use crate::store::history::PARTS;
use crate::store::history::Tally;

use super::link::Link;
use super::packed;

/// How one node tells the others what its keys did.
#[derive(Debug)]
pub struct Told {
    link: Link,
    used: Script,
    node: String,
    /// Whose hours they are: the node, and its file.
    teller: String,
    name: String,
    /// The run of the server that has been told all that it lacked; empty before the first.
    run: String,
    /// The first and the last hour that were told.
    hours: Option<(u32, u32)>,
}

/// A node that told what its keys did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teller {
    /// Its id.
    pub node: String,
    /// What people call it.
    pub name: String,
    /// How long ago it told last, by the store's clock.
    pub ago: Duration,
    /// Whether it has told everything: it stopped, was forgotten, or counts in another file now.
    pub ended: bool,
    field: String,
    /// Between these lies what it told.
    hours: (u32, u32),
}

/// An hour of a node as it is told: parts by the first letter of ids, and their sum.
#[derive(Debug, Default)]
pub struct Hour {
    parts: Vec<(u8, Vec<u8>)>,
    sum: Tally,
}

impl Hour {
    /// Adds what keys did whose ids begin with this letter; in order.
    pub fn add(&mut self, hour: u32, part: u8, keys: &[(KeyId, Tally)]) {
        self.parts.push((part, packed::keys(hour, keys)));
        for (_, did) in keys {
            self.sum = self.sum.and(did);
        }
    }
}

impl Told {
    /// Of this node, whose `counters.db` has this number. Connects when it is needed.
    #[must_use]
    pub fn new(settings: &Redis, node: &str, name: &str, mark: u32) -> Told {
        Told {
            link: Link::new(settings),
            used: Script::new(include_str!("used.lua")),
            node: node.to_owned(),
            teller: teller(node, mark),
            name: name.to_owned(),
            run: String::new(),
            hours: None,
        }
    }

    /// Whether the store may lack what it was told: it is another run of a server, or one that was emptied.
    ///
    /// # Errors
    /// The store is away; or too full for what only reports ask for.
    pub fn may_be_lacked(&mut self) -> Result<bool, StoreError> {
        let tellers = self.link.name(TELLERS);
        let field = self.teller.clone();
        let (known, info): (bool, String) = self.link.call(0, |connection| {
            redis::pipe()
                .cmd("HEXISTS")
                .arg(tellers)
                .arg(field)
                .cmd("INFO")
                .arg("memory")
                .query(connection)
        })?;
        if is_nearly_full(&info) {
            return Err(self.link_error(
                "more than three quarters of its maxmemory are in use, and what is left is for keys and limits: raise it; until then usage is not told to other nodes",
            ));
        }
        Ok(!known || self.run != self.link.run_id())
    }

    fn link_error(&self, what: &str) -> StoreError {
        StoreError::away(self.link.settings().servers.join(", "), what)
    }

    /// Which of these hours the store does not have as they are here.
    ///
    /// # Errors
    /// The store is away.
    pub fn lacked(&mut self, hours: &[(u32, Tally)]) -> Result<Vec<u32>, StoreError> {
        let mut lacked = Vec::new();
        for some in hours.chunks(NAMES_AT_ONCE) {
            let names: Vec<String> = (some.iter())
                .map(|(hour, _)| hour_name(&self.link, *hour, &self.teller))
                .collect();
            let told = fields(&mut self.link, &names, SUM)?;
            for ((hour, sum), told) in some.iter().zip(told) {
                self.hours = Some(widened(self.hours, *hour));
                if told.as_deref() != Some(&packed::sum(*hour, sum)) {
                    lacked.push(*hour);
                }
            }
        }
        Ok(lacked)
    }

    /// Tells an hour. `keep` is for how long it matters.
    ///
    /// # Errors
    /// The store is away; some of it may have been told.
    pub fn hour(&mut self, number: u32, hour: &Hour, keep: Duration) -> Result<(), StoreError> {
        let name = hour_name(&self.link, number, &self.teller);
        let sum = packed::sum(number, &hour.sum);
        // No more at once than takes the server a millisecond or two: limits wait behind it.
        let mut some = redis::pipe();
        let mut bytes = 0;
        for (part, keys) in &hour.parts {
            some.cmd("HSET").arg(&name).arg(letter(*part)).arg(keys);
            bytes += keys.len();
            if bytes >= BYTES_AT_ONCE {
                let full = std::mem::replace(&mut some, redis::pipe());
                self.send(bytes, &full)?;
                bytes = 0;
            }
        }
        some.cmd("HSET").arg(&name).arg(SUM).arg(sum);
        some.cmd("PEXPIRE").arg(&name).arg(keep.as_millis() as u64);
        self.send(bytes, &some)?;
        self.hours = Some(widened(self.hours, number));
        Ok(())
    }

    fn send(&mut self, bytes: usize, commands: &redis::Pipeline) -> Result<(), StoreError> {
        self.link
            .call(bytes, |connection| commands.query::<()>(connection))
    }

    /// Tells when keys were last used; unix seconds.
    ///
    /// # Errors
    /// The store is away.
    pub fn last_used(&mut self, keys: &[(KeyId, u64)]) -> Result<(), StoreError> {
        let mut parts: BTreeMap<u8, Vec<&(KeyId, u64)>> = BTreeMap::new();
        for key in keys {
            parts.entry(key.0.0[0]).or_default().push(key);
        }
        for (part, keys) in parts {
            let name = used_name(&self.link, part);
            for some in keys.chunks(USES_AT_ONCE) {
                let mut ask = self.used.prepare_invoke();
                ask.key(&name);
                for (key, seconds) in some {
                    ask.arg(key_text(*key)).arg(seconds);
                }
                self.link
                    .call(some.len() * 32, |connection| ask.invoke::<i64>(connection))?;
            }
        }
        Ok(())
    }

    /// Says that everything that was counted so far has been told to this run of the server; the last time of all where it `ends`. Entries of this node's earlier files
    /// have ended, and those of which nothing is kept go.
    ///
    /// # Errors
    /// The store is away.
    pub fn sign(&mut self, oldest_kept: u32, ends: bool) -> Result<(), StoreError> {
        let hours = self.hours.unwrap_or((u32::MAX, 0));
        let (now, all) = tellers(&mut self.link)?;
        let (name, field) = (self.link.name(TELLERS), &self.teller);
        let mut commands = redis::pipe();
        let own = entry(now, ends, hours, &self.name);
        commands.cmd("HSET").arg(&name).arg(field).arg(own);
        for other in all.iter().filter(|other| other.field != *field) {
            if other.hours.1 < oldest_kept && (other.ended || other.ago > FORGOTTEN) {
                commands.cmd("HDEL").arg(&name).arg(&other.field);
            } else if other.node == self.node && !other.ended {
                commands
                    .cmd("HSET")
                    .arg(&name)
                    .arg(&other.field)
                    .arg(other.as_ended(now));
            }
        }
        self.link
            .call(0, |connection| commands.query::<()>(connection))?;
        self.run = self.link.run_id().to_owned();
        Ok(())
    }
}

impl Teller {
    /// What stands there once it has told everything.
    fn as_ended(&self, now: u64) -> String {
        let told = now.saturating_sub(self.ago.as_millis() as u64);
        entry(told, true, self.hours, &self.name)
    }

    /// Whether what it did within these hours may not all have been told.
    #[must_use]
    pub fn may_lack(&self) -> bool {
        !self.ended && self.ago > LATE
    }
}

/// What other nodes told.
#[derive(Debug)]
pub struct Others {
    link: Link,
    tellers: Vec<Teller>,
}

impl Others {
    /// Looks who has told what; what this node told of its own file is left out.
    ///
    /// # Errors
    /// The store is away.
    pub fn look(settings: &Redis, node: &str, mark: u32) -> Result<Others, StoreError> {
        let mut link = Link::new(settings);
        let (_, mut all) = tellers(&mut link)?;
        let own = teller(node, mark);
        all.retain(|other| other.field != own);
        Ok(Others { link, tellers: all })
    }

    /// Who told anything, and has done something within these hours or may have.
    pub fn tellers(&self, since: u32, until: u32) -> impl Iterator<Item = &Teller> {
        (self.tellers.iter())
            .filter(move |of| !of.ended || of.hours.0 <= until && of.hours.1 >= since)
    }

    /// What these keys did in each hour.
    ///
    /// # Errors
    /// The store is away, or holds what cannot be.
    pub fn hours_of_each(
        &mut self,
        keys: &[KeyId],
        since: u32,
        until: u32,
    ) -> Result<HashMap<KeyId, BTreeMap<u32, Tally>>, StoreError> {
        let mut parts: BTreeMap<u8, HashSet<KeyId>> = BTreeMap::new();
        for key in keys {
            parts.entry(key.0[0]).or_default().insert(*key);
        }
        let mut found: HashMap<KeyId, BTreeMap<u32, Tally>> = HashMap::new();
        for (part, keys) in parts {
            self.part(part, since, until, &mut |hour, key, did| {
                if keys.contains(&key) {
                    add(found.entry(key).or_default(), hour, did);
                }
            })?;
        }
        Ok(found)
    }

    /// What these keys together did in each hour; all where none are named.
    ///
    /// # Errors
    /// As `hours_of_each`.
    pub fn hours(
        &mut self,
        keys: Option<&HashSet<KeyId>>,
        since: u32,
        until: u32,
    ) -> Result<BTreeMap<u32, Tally>, StoreError> {
        let mut found = BTreeMap::new();
        let Some(keys) = keys else {
            self.each(SUM, since, until, &mut |hour, _, did| {
                add(&mut found, hour, did);
            })?;
            return Ok(found);
        };
        let parts: HashSet<u8> = keys.iter().map(|key| key.0[0]).collect();
        for part in parts {
            self.part(part, since, until, &mut |hour, key, did| {
                if keys.contains(&key) {
                    add(&mut found, hour, did);
                }
            })?;
        }
        Ok(found)
    }

    /// What keys did that did something, by their ids: those behind this one, at least so many where there are as many.
    ///
    /// # Errors
    /// As `hours_of_each`.
    pub fn page(
        &mut self,
        since: u32,
        until: u32,
        after: Option<KeyId>,
        most: usize,
    ) -> Result<BTreeMap<KeyId, Tally>, StoreError> {
        let mut found = BTreeMap::new();
        let first = after.map_or(0, |after| after.0[0]);
        for part in PARTS.iter().filter(|part| **part >= first) {
            if found.len() >= most {
                break;
            }
            self.part(*part, since, until, &mut |_, key, did| {
                if after.is_none_or(|after| key > after) {
                    add(&mut found, key, did);
                }
            })?;
        }
        Ok(found)
    }

    fn part(
        &mut self,
        part: u8,
        since: u32,
        until: u32,
        each: &mut dyn FnMut(u32, KeyId, &Tally),
    ) -> Result<(), StoreError> {
        self.each(&letter(part), since, until, each)
    }

    fn each(
        &mut self,
        field: &str,
        since: u32,
        until: u32,
        each: &mut dyn FnMut(u32, KeyId, &Tally),
    ) -> Result<(), StoreError> {
        let mut names = Vec::new();
        for of in &self.tellers {
            for hour in since.max(of.hours.0)..=until.min(of.hours.1) {
                names.push((hour, hour_name(&self.link, hour, &of.field)));
            }
        }
        for some in names.chunks(NAMES_AT_ONCE) {
            let asked: Vec<String> = some.iter().map(|(_, name)| name.clone()).collect();
            let told = fields(&mut self.link, &asked, field)?;
            for ((hour, _), told) in some.iter().zip(told) {
                let told = told.unwrap_or_default();
                let read = packed::read(*hour, &told, &mut |key, did| each(*hour, key, did));
                read.map_err(|what| StoreError::Unfit {
                    server: self.link.settings().servers.join(", "),
                    what: format!("usage that a node told makes no sense: {what}"),
                })?;
            }
        }
        Ok(())
    }
}

/// When these keys, or all, were last used, by whichever node; unix seconds.
///
/// # Errors
/// The store is away.
pub fn last_used(
    link: &mut Link,
    keys: Option<&[KeyId]>,
) -> Result<HashMap<KeyId, u64>, StoreError> {
    let mut found = HashMap::new();
    let Some(keys) = keys else {
        for part in PARTS {
            let name = used_name(link, *part);
            let all: Vec<(String, u64)> = link.call(ANSWER_BYTES, |connection| {
                redis::cmd("HGETALL").arg(name).query(connection)
            })?;
            let known = all
                .into_iter()
                .filter_map(|(key, at)| Some((parse_key(&key)?, at)));
            found.extend(known);
        }
        return Ok(found);
    };
    let mut parts: BTreeMap<u8, Vec<KeyId>> = BTreeMap::new();
    for key in keys {
        parts.entry(key.0[0]).or_default().push(*key);
    }
    for (part, keys) in parts {
        let name = used_name(link, part);
        for some in keys.chunks(USES_AT_ONCE) {
            let ids: Vec<String> = some.iter().map(|key| key_text(*key)).collect();
            let times: Vec<Option<u64>> = link.call(ids.len() * 16, |connection| {
                redis::cmd("HMGET").arg(&name).arg(&ids).query(connection)
            })?;
            let known = some.iter().zip(times);
            found.extend(known.filter_map(|(key, at)| Some((*key, at?))));
        }
    }
    Ok(found)
}

/// A node that is gone for good has told everything that it ever will. Says whether it was still waited for.
///
/// # Errors
/// The store is away.
pub fn forget(settings: &Redis, node: &str) -> Result<bool, StoreError> {
    let mut link = Link::new(settings);
    let (now, all) = tellers(&mut link)?;
    let name = link.name(TELLERS);
    let open = all.iter().filter(|of| of.node == node && !of.ended);
    let open: Vec<&Teller> = open.collect();
    for of in &open {
        link.call(0, |connection| {
            redis::cmd("HSET")
                .arg(&name)
                .arg(&of.field)
                .arg(of.as_ended(now))
                .query::<i64>(connection)
        })?;
    }
    Ok(!open.is_empty())
}

/// The store's time in milliseconds, and all that ever told anything.
fn tellers(link: &mut Link) -> Result<(u64, Vec<Teller>), StoreError> {
    type Said = ((u64, u64), Vec<(String, String)>);
    let name = link.name(TELLERS);
    let ((seconds, micros), all): Said = link.call(0, |connection| {
        redis::pipe()
            .cmd("TIME")
            .cmd("HGETALL")
            .arg(name)
            .query(connection)
    })?;
    let now = seconds * 1_000 + micros / 1_000;
    let all = all
        .iter()
        .filter_map(|(field, text)| understood(now, field, text));
    Ok((now, all.collect()))
}

fn understood(now: u64, field: &str, text: &str) -> Option<Teller> {
    let mut words = text.splitn(5, ' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (told, ended, first, last) = (number()?, number()?, number()?, number()?);
    Some(Teller {
        node: field.split('.').next()?.to_owned(),
        name: words.next()?.to_owned(),
        ago: Duration::from_millis(now.saturating_sub(told)),
        ended: ended == 1,
        field: field.to_owned(),
        hours: (u32::try_from(first).ok()?, u32::try_from(last).ok()?),
    })
}

fn entry(told: u64, ended: bool, (first, last): (u32, u32), name: &str) -> String {
    format!("{told} {} {first} {last} {name}", i32::from(ended))
}

/// One field of each of these hashes.
fn fields(
    link: &mut Link,
    names: &[String],
    field: &str,
) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    let mut commands = redis::pipe();
    for name in names {
        commands.cmd("HGET").arg(name).arg(field);
    }
    link.call(ANSWER_BYTES, |connection| commands.query(connection))
}

fn add<K: Ord>(sums: &mut BTreeMap<K, Tally>, to: K, did: &Tally) {
    let sum = sums.entry(to).or_default();
    *sum = sum.and(did);
}

fn widened(hours: Option<(u32, u32)>, hour: u32) -> (u32, u32) {
    hours.map_or((hour, hour), |(first, last)| {
        (first.min(hour), last.max(hour))
    })
}

fn teller(node: &str, mark: u32) -> String {
    format!("{node}.{mark:x}")
}

fn hour_name(link: &Link, hour: u32, teller: &str) -> String {
    link.name(&format!("use:{hour}:{teller}"))
}

fn used_name(link: &Link, part: u8) -> String {
    link.name(&format!("used:{}", letter(part)))
}

fn letter(part: u8) -> String {
    char::from(part).to_string()
}

/// How long an hour matters that is as old as this, in seconds since it began.
#[must_use]
pub fn kept(age_seconds: u64) -> Duration {
    let all = (u64::from(HOURS_KEPT) + 1) * 3_600;
    Duration::from_secs(all.saturating_sub(age_seconds).max(1))
}

const TELLERS: &str = "tellers";
const SUM: &str = "sum";
/// Hashes that are read at once.
const NAMES_AT_ONCE: usize = 64;
/// Keys whose last use is told at once.
const USES_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 1 << 20;
/// What an answer may have.
const ANSWER_BYTES: usize = 8 << 20;
/// A node that has told nothing for so long may have done what nobody knows of. Nodes tell every two seconds, and every
/// fifty where there is very much to tell.
const LATE: Duration = Duration::from_secs(90);
/// A node that never said its last, and of which nothing is kept any more, is not waited for.
const FORGOTTEN: Duration = Duration::from_secs(HOURS_KEPT as u64 * 3_600);

/// Whether more than three quarters of the memory are in use that the server may use at most.
fn is_nearly_full(info: &str) -> bool {
    let number = |name: &str| -> u64 {
        let mut lines = info.lines();
        let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let (used, most) = (number("used_memory"), number("maxmemory"));
    most > 0 && used > most / 4 * 3
}
