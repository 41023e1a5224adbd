//! Lines of the journal: one for each subject and save, packed.
//!
//! A save begins with the clocks that its numbers are near to, so that most take a byte or two. A line is its length and what follows: flags, whose it is,
//! what the key did by hour, what became of the windows. Numbers are LEB128; those that may lie on either side of zero are folded (0, -1, 1, -2, …).

use crate::clock::Now;
use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::model::tenant::TenantId;
use crate::store::history::HourRow;
use crate::store::history::LATENCY_BUCKETS;
use crate::store::history::Tally;
use crate::store::history::hour_of;

use super::Row;
use super::SavedBurst;
use super::SavedQuota;
use super::Subject;

/// Whose a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose<'a> {
    Key([u8; 12]),
    Tenant(&'a str),
}

/// Both clocks when a save was written, to which its numbers are near.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bases {
    pub(super) mono: i64,
    wall: i64,
}

/// What a save says of a subject's windows; neither is left of one who was removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits<'a> {
    pub(super) quota: Option<SavedQuota>,
    pub(super) burst: Option<Burst<'a>>,
}

/// A burst as `SavedBurst` has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst<'a> {
    pub(super) seconds: u32,
    pub(super) behind: Option<(i64, i64)>,
    pub(super) log: &'a [(i64, u32)],
}

/// Lines of one save and part, one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    packed: Vec<u8>,
    /// A line before its length is known.
    line: Vec<u8>,
}

/// A line that is read: what is left of it behind whose it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) flags: u8,
    pub(super) whose: Whose<'a>,
    pub(super) rest: Reader<'a>,
}

impl Bases {
    pub(super) fn at(now: Now) -> Bases {
        Bases {
            mono: now.mono.0.cast_signed(),
            wall: now.wall.0.cast_signed(),
        }
    }

    /// What the wall clock showed then, if neither was set.
    fn wall_at(self, mono: i64) -> i64 {
        mono.wrapping_sub(self.mono).wrapping_add(self.wall)
    }

    fn seconds(self) -> u64 {
        Wall(self.wall.cast_unsigned()).unix_seconds()
    }

    fn hour(self) -> u32 {
        hour_of(Wall(self.wall.cast_unsigned()))
    }
}

impl<'a> Whose<'a> {
    pub(super) fn of(subject: &'a Subject) -> Whose<'a> {
        match subject {
            Subject::Key(key) => Whose::Key(key.0),
            Subject::Tenant(tenant) => Whose::Tenant(tenant.as_str()),
        }
    }

    /// `None` where it can be nobody's.
    pub(super) fn subject(&self) -> Option<Subject> {
        match self {
            Whose::Key(id) => {
                let is_one = id.iter().all(u8::is_ascii_alphanumeric);
                is_one.then_some(Subject::Key(KeyId(*id)))
            }
            Whose::Tenant(id) => TenantId::new(id).ok().map(Subject::Tenant),
        }
    }
}

impl<'a> Limits<'a> {
    pub(super) fn of(row: &'a Row) -> Limits<'a> {
        Limits {
            quota: row.quota,
            burst: row.burst.as_ref().map(Burst::of),
        }
    }
}

impl<'a> Burst<'a> {
    fn of(burst: &'a SavedBurst) -> Burst<'a> {
        Burst {
            seconds: burst.seconds,
            behind: burst.behind,
            log: &burst.log,
        }
    }
}

impl Lines {
    /// None yet, with room for so many bytes, or for `ROOM_MAX`.
    pub(super) fn with_room(bytes: usize) -> Lines {
        Lines {
            packed: Vec::with_capacity(bytes.min(ROOM_MAX)),
            line: Vec::new(),
        }
    }

    /// Lets go of all of them, and keeps the memory for as many as a part of a second's are.
    pub(super) fn clear(&mut self) {
        self.packed.clear();
        self.packed.shrink_to(KEPT);
    }

    /// Everything that was added, as it is kept; nothing where nothing was.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// Adds a line: what became of the windows, if anything is said of them, and what the key did.
    pub(super) fn add(
        &mut self,
        bases: Bases,
        whose: Whose<'_>,
        limits: Option<Limits<'_>>,
        usage: &[HourRow],
    ) {
        if self.packed.is_empty() {
            put_signed(&mut self.packed, bases.mono);
            put_signed(&mut self.packed, bases.wall);
        }
        let line = &mut self.line;
        line.clear();
        line.push(flags_of(whose, limits, usage));
        match whose {
            Whose::Key(id) => line.extend_from_slice(&id),
            Whose::Tenant(id) => {
                put(line, id.len() as u64);
                line.extend_from_slice(id.as_bytes());
            }
        }
        if usage.len() > 1 {
            put(line, usage.len() as u64);
        }
        for row in usage {
            put_usage(line, bases, row);
        }
        if let Some(quota) = limits.and_then(|limits| limits.quota) {
            put_quota(line, bases, &quota);
        }
        if let Some(burst) = limits.and_then(|limits| limits.burst) {
            put_burst(line, bases, &burst);
        }
        put(&mut self.packed, self.line.len() as u64);
        self.packed.extend_from_slice(&self.line);
    }
}

/// Room that is made for lines at once, whatever somebody says how many there are.
pub(super) const ROOM_MAX: usize = 16 << 20;

/// Bytes of lines for which memory is kept.
const KEPT: usize = 256 << 10;

fn flags_of(whose: Whose<'_>, limits: Option<Limits<'_>>, usage: &[HourRow]) -> u8 {
    let quota = limits.and_then(|limits| limits.quota);
    let burst = limits.and_then(|limits| limits.burst);
    let burst = burst.map_or(0, |burst| match (burst.behind, burst.log.first()) {
        (Some(_), _) => BEHIND,
        (None, Some(_)) => WHOLE,
        (None, None) => 0,
    });
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    flag(matches!(whose, Whose::Tenant(_)), TENANT)
        | flag(limits.is_some(), LIMITS)
        | flag(quota.is_some(), QUOTA)
        | burst
        | flag(usage.len() == 1, USAGE)
        | flag(usage.len() > 1, HOURS)
}

fn put_quota(line: &mut Vec<u8>, bases: Bases, quota: &SavedQuota) {
    let wall = quota.opened_wall.0.cast_signed();
    put_signed(line, quota.opened_micros.wrapping_sub(bases.mono));
    put_signed(line, wall.wrapping_sub(bases.wall_at(quota.opened_micros)));
    put(line, quota.seconds.into());
    put(line, quota.used.into());
}

fn put_burst(line: &mut Vec<u8>, bases: Bases, burst: &Burst<'_>) {
    let mut before = match (burst.behind, burst.log.first()) {
        (Some((first, last)), _) => {
            put_signed(line, first.wrapping_sub(bases.mono));
            put(line, after(first, last));
            last
        }
        (None, Some((first, _))) => {
            put(line, burst.seconds.into());
            put_signed(line, first.wrapping_sub(bases.mono));
            *first
        }
        (None, None) => return,
    };
    put(line, burst.log.len() as u64);
    for (at, count) in burst.log {
        let step = after(before, *at) << 1;
        before = *at;
        match count {
            1 => put(line, step),
            count => {
                put(line, step | 1);
                put(line, (*count).into());
            }
        }
    }
}

/// How long after one time another is: less than half of what there is of numbers, as no window is longer.
fn after(before: i64, at: i64) -> u64 {
    at.saturating_sub(before).max(0).cast_unsigned()
}

fn put_usage(line: &mut Vec<u8>, bases: Bases, row: &HourRow) {
    put_signed(line, i64::from(row.hour) - i64::from(bases.hour()));
    let mut fields = fields_of(&row.tally);
    if fields[LAST_USED] > 0 {
        fields[LAST_USED] = fold(
            fields[LAST_USED]
                .wrapping_sub(bases.seconds())
                .cast_signed(),
        );
    }
    let mut mask = 0;
    for (place, field) in fields.iter().enumerate() {
        // The last use may have been this very second.
        let is_there = *field > 0 || place == LAST_USED && row.tally.last_used_unix_seconds > 0;
        mask |= u64::from(is_there) << place;
    }
    put(line, mask);
    for (place, field) in fields.iter().enumerate() {
        if mask & 1 << place != 0 {
            put(line, *field);
        }
    }
}

fn put(line: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        line.push(number as u8 | 0x80);
        number >>= 7;
    }
    line.push(number as u8);
}

fn put_signed(line: &mut Vec<u8>, number: i64) {
    put(line, fold(number));
}

fn fold(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unfold(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Those that are mostly there first, so that what says which are there is mostly one byte.
pub(super) fn fields_of(tally: &Tally) -> [u64; FIELDS] {
    let [fast, second, third, fourth, fifth, slow] = tally.latency;
    [
        tally.success,
        tally.sent_bytes,
        fast,
        tally.last_used_unix_seconds,
        second,
        third,
        tally.refused,
        tally.client_error,
        tally.received_bytes,
        tally.server_error,
        fourth,
        fifth,
        slow,
    ]
}

fn tally_of(fields: [u64; FIELDS]) -> Tally {
    let [
        success,
        sent_bytes,
        fast,
        last_used_unix_seconds,
        second,
        third,
        refused,
        client_error,
        received_bytes,
        server_error,
        fourth,
        fifth,
        slow,
    ] = fields;
    let counts = [
        success,
        client_error,
        server_error,
        refused,
        received_bytes,
        sent_bytes,
    ];
    let latency = [fast, second, third, fourth, fifth, slow];
    Tally::of(last_used_unix_seconds, counts, latency)
}

/// What is left to be read. Everything is `None` where no save can have written it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// What a save begins with, and its lines.
    pub(super) fn save(packed: &'a [u8]) -> Option<(Bases, Reader<'a>)> {
        let mut lines = Reader(packed);
        let (mono, wall) = (lines.signed()?, lines.signed()?);
        Some((Bases { mono, wall }, lines))
    }

    /// Lines from the middle of a save.
    pub(super) fn lines(packed: &'a [u8]) -> Reader<'a> {
        Reader(packed)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// The next line.
    pub(super) fn line(&mut self) -> Option<Line<'a>> {
        let bytes = usize::try_from(self.number()?).ok()?;
        let mut rest = Reader(self.take(bytes)?);
        let flags = rest.take(1)?[0];
        let whose = match flags & TENANT {
            0 => Whose::Key(rest.take(12)?.try_into().ok()?),
            _ => {
                let bytes = usize::try_from(rest.number()?).ok()?;
                Whose::Tenant(std::str::from_utf8(rest.take(bytes)?).ok()?)
            }
        };
        Some(Line { flags, whose, rest })
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            number |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return (place < 9 || bits < 2).then_some(number);
            }
        }
        None
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        Some(unfold(self.number()?))
    }

    pub(super) fn quota(&mut self, bases: Bases) -> Option<SavedQuota> {
        let opened_micros = self.signed()?.wrapping_add(bases.mono);
        let opened_wall = self.signed()?.wrapping_add(bases.wall_at(opened_micros));
        Some(SavedQuota {
            opened_micros,
            opened_wall: Wall(u64::try_from(opened_wall).ok()?),
            seconds: length(self.small()?)?,
            used: self.small()?,
        })
    }

    /// Adds times, each after the one before.
    pub(super) fn times(&mut self, from: i64, log: &mut Vec<(i64, u32)>) -> Option<()> {
        let mut at = from;
        for _ in 0..self.number()? {
            let step = self.number()?;
            at = at.checked_add_unsigned(step >> 1)?;
            let count = if step & 1 == 0 { 1 } else { self.small()? };
            log.push((at, count));
        }
        Some(())
    }

    pub(super) fn usage(&mut self, bases: Bases, key: KeyId) -> Option<HourRow> {
        let hour = self.signed()?.checked_add(bases.hour().into())?;
        let mask = self.number()?;
        let mut fields = [0; FIELDS];
        for (place, field) in fields.iter_mut().enumerate() {
            if mask & 1 << place == 0 {
                continue;
            }
            *field = self.number()?;
            if place == LAST_USED {
                *field = bases.seconds().wrapping_add_signed(unfold(*field));
            } else if *field > COUNT_MAX {
                return None;
            }
        }
        (mask >> FIELDS == 0).then_some(HourRow {
            key,
            hour: u32::try_from(hour).ok()?,
            tally: tally_of(fields),
        })
    }
}

/// A window has a length.
pub(super) fn length(seconds: u32) -> Option<u32> {
    (seconds > 0).then_some(seconds)
}

const TENANT: u8 = 1;
/// Something is said of windows.
pub(super) const LIMITS: u8 = 2;
pub(super) const QUOTA: u8 = 4;
/// What is said of the burst: its length, its first time and the log, or its first time, how long after that the last is that the save before had too, and
/// what is new. Nothing is left of it without.
pub(super) const BURST: u8 = WHOLE | BEHIND;
pub(super) const WHOLE: u8 = 8;
pub(super) const BEHIND: u8 = 16;
/// What the key did in one hour, or in so many.
pub(super) const USAGE: u8 = 32;
pub(super) const HOURS: u8 = 64;
pub(super) const UNKNOWN: u8 = 128;

const FIELDS: usize = 7 + LATENCY_BUCKETS;
/// The place of the last use among the fields of usage.
pub(super) const LAST_USED: usize = 3;

/// So much of anything in one line is damage, and thousands of saves add up below what 64 bits hold.
pub(super) const COUNT_MAX: u64 = 1 << 48;
