//! What all lines of a part of the journal say in the end, subject by subject.
//!
//! Lines are sorted by whose they are and then by age, and taken in one behind the other: what is in memory besides the lines is one subject's sum.

use rusqlite::Connection;

use crate::aside::give_way;
use crate::aside::step_aside;
use crate::store::history::HourRow;

use super::Row;
use super::Subject;
use super::error::senseless;
use super::lines::Bases;
use super::lines::Line;
use super::lines::ROOM_MAX;
use super::lines::Reader;
use super::lines::Whose;
use super::sum::Sum;

/// The lines of a part as they were saved, the oldest first.
#[derive(Debug)]
pub(super) struct Part {
    packed: Vec<u8>,
    saves: Vec<Bases>,
    /// By the second byte of a key's id, tenants behind them: so few in each that sorting them holds nobody up.
    found: Vec<Vec<Found>>,
}

/// Where a line is.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Orders as whose it is does, as far as that is known from the first 16 bytes.
    rank: u128,
    /// From there on it is packed: later ones are of later saves.
    at: u32,
    /// The place of its save.
    save: u32,
}

impl Default for Part {
    fn default() -> Part {
        Part {
            packed: Vec::new(),
            saves: Vec::new(),
            found: vec![Vec::new(); TENANTS + 1],
        }
    }
}

impl Part {
    /// Reads all saves of a part.
    pub(super) fn read(connection: &Connection, part: u8) -> rusqlite::Result<Part> {
        let bytes = usize::try_from(bytes_of(connection, part)?.1).unwrap_or(ROOM_MAX);
        let mut read = Part {
            packed: Vec::with_capacity(bytes.min(ROOM_MAX)),
            ..Part::default()
        };
        let mut save = connection.prepare_cached("SELECT lines FROM journal WHERE id = ?1")?;
        for id in saves_of(connection, part)? {
            let mut found = save.query([id])?;
            while let Some(row) = found.next()? {
                (read.add(row.get_ref(0)?.as_blob()?, part)).ok_or_else(senseless)?;
            }
            step_aside();
        }
        Ok(read)
    }

    /// How long its lines are.
    pub(super) fn bytes(&self) -> usize {
        self.packed.len()
    }

    /// Adds a save behind those that are there. `None` where that cannot be one of this part.
    pub(super) fn add(&mut self, packed: &[u8], part: u8) -> Option<()> {
        let before = self.packed.len();
        let save = u32::try_from(self.saves.len()).ok()?;
        let (bases, mut lines) = Reader::save(packed)?;
        // Nobody saves nothing, and what would be left of it is no save.
        (lines.left() > 0).then_some(())?;
        while lines.left() > 0 {
            let at = u32::try_from(before + packed.len() - lines.left()).ok()?;
            let whose = lines.line()?.whose;
            let (bucket, rank) = match whose {
                Whose::Key(id) => (usize::from(id[1]), rank(&id)),
                Whose::Tenant(id) => (TENANTS, rank(id.as_bytes())),
            };
            (part_of(whose) == part).then_some(())?;
            self.found[bucket].push(Found { rank, at, save });
        }
        self.saves.push(bases);
        self.packed.extend_from_slice(packed);
        Some(())
    }

    /// Hands over what each subject's lines say in the end, in order. `before` is asked for what the tables say of one whose first line has only what is new.
    pub(super) fn each(
        mut self,
        before: impl Fn(&Subject) -> rusqlite::Result<Option<Row>>,
        mut each: impl FnMut(&Subject, &Sum) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let mut sum = Sum::default();
        self.each_subject(|part, subject, lines| {
            sum.clear();
            for found in lines {
                let line = part.line(found).ok_or_else(senseless)?;
                if line.is_behind() && !sum.told {
                    sum.begin(before(subject)?);
                }
                (sum.take_in(line, part.bases(found))).ok_or_else(senseless)?;
            }
            sum.settle().ok_or_else(senseless)?;
            each(subject, &sum)
        })
    }

    /// What each key did in each hour, by hour and key.
    pub(super) fn usage(mut self) -> rusqlite::Result<Vec<HourRow>> {
        let mut usage = Vec::new();
        let mut sum = Sum::default();
        self.each_subject(|part, _, lines| {
            for found in lines {
                let mut line = part.line(found).ok_or_else(senseless)?;
                (sum.take_in_usage(&mut line, part.bases(found))).ok_or_else(senseless)?;
            }
            usage.append(&mut sum.usage);
            Ok(())
        })?;
        in_order(&mut usage);
        Ok(usage)
    }

    fn each_subject(
        &mut self,
        mut each: impl FnMut(&Part, &Subject, &[Found]) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let mut number = 0;
        for (bucket, mut found) in std::mem::take(&mut self.found).into_iter().enumerate() {
            // The rank says all of a key.
            let name = |found: &Found| (bucket == TENANTS).then(|| self.name(found));
            found.sort_unstable_by(|one, other| {
                let by_rank = one.rank.cmp(&other.rank);
                let by_name = by_rank.then_with(|| name(one).cmp(&name(other)));
                by_name.then(one.at.cmp(&other.at))
            });
            let same =
                |one: &Found, other: &Found| one.rank == other.rank && name(one) == name(other);
            for lines in found.chunk_by(same) {
                give_way(number);
                number += 1;
                let subject = self.whose(&lines[0]).and_then(|whose| whose.subject());
                each(self, &subject.ok_or_else(senseless)?, lines)?;
            }
        }
        Ok(())
    }

    fn line(&self, found: &Found) -> Option<Line<'_>> {
        Reader::lines(&self.packed[found.at as usize..]).line()
    }

    fn whose(&self, found: &Found) -> Option<Whose<'_>> {
        Some(self.line(found)?.whose)
    }

    /// Whose a tenant's line is.
    fn name(&self, found: &Found) -> &[u8] {
        match self.whose(found) {
            Some(Whose::Tenant(name)) => name.as_bytes(),
            _ => &[],
        }
    }

    fn bases(&self, found: &Found) -> Bases {
        self.saves[found.save as usize]
    }
}

/// As it is written into the tables fastest.
pub(super) fn in_order(usage: &mut [HourRow]) {
    usage.sort_unstable_by_key(|row| (row.hour, row.key));
}

/// How many saves wait of a part, and how long their lines are.
pub(super) fn bytes_of(connection: &Connection, part: u8) -> rusqlite::Result<(u64, u64)> {
    connection
        .prepare_cached("SELECT count(*), coalesce(sum(bytes), 0) FROM journal WHERE part = ?1")?
        .query_row([part], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The saves that wait of a part, the oldest first. To be read one by one: SQLite would carry their lines along while it sorts, by way of a file.
fn saves_of(connection: &Connection, part: u8) -> rusqlite::Result<Vec<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM journal WHERE part = ?1 ORDER BY id")?;
    let found = statement.query_map([part], |row| row.get(0))?;
    found.collect()
}

/// The part that a subject's lines are in: his first byte.
pub(super) fn part_of(whose: Whose<'_>) -> u8 {
    match whose {
        Whose::Key(id) => id[0],
        Whose::Tenant(id) => id.as_bytes().first().copied().unwrap_or(0),
    }
}

fn rank(name: &[u8]) -> u128 {
    let mut first = [0; 16];
    let bytes = name.len().min(16);
    first[..bytes].copy_from_slice(&name[..bytes]);
    u128::from_be_bytes(first)
}

/// Behind all second bytes of keys.
const TENANTS: usize = 256;
