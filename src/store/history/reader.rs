//! What reports read: hours of a key, of many, of all; keys page by page.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::params;

use crate::model::key::KeyId;
use crate::store::counters::CountersError;
use crate::store::counters::FILE;
use crate::store::counters::Problem;
use crate::store::counters::journal;
use crate::store::counters::key_text;
use crate::store::history::HourRow;
use crate::store::history::HoursOfKey;
use crate::store::history::Tally;
use crate::store::history::table::SUMS;
use crate::store::history::table::key_of;
use crate::store::history::table::tally;

/// `counters.db` as reports read it.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    path: PathBuf,
}

impl History {
    /// Opens it to read only. `None` when no gateway has counted anything yet.
    ///
    /// # Errors
    /// `CountersError`: it cannot be read.
    pub fn open(directory: &Path) -> Result<Option<History>, CountersError> {
        let path = directory.join(FILE);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(Problem::Io(error).at(path)),
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(|connection| {
            connection.busy_timeout(BUSY)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => Ok(Some(History { connection, path })),
            Err(error) => Err(Problem::Sqlite(error).at(path)),
        }
    }

    /// What one key did in each hour from `since` on in which it did something, in order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hours_of(
        &self,
        key: KeyId,
        since: u32,
        until: u32,
    ) -> Result<Vec<(u32, Tally)>, CountersError> {
        let hours = self.hours_of_each(&[key], since, until)?;
        Ok(hours.into_iter().flat_map(|(_, hours)| hours).collect())
    }

    /// The same of several keys, each with its hours, in their order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hours_of_each(
        &self,
        keys: &[KeyId],
        since: u32,
        until: u32,
    ) -> Result<Vec<HoursOfKey>, CountersError> {
        self.read(|connection| {
            // The hours are counted up by name: each is one look into the index, instead of all keys of all hours.
            let mut statement = connection.prepare(
                "WITH RECURSIVE hours(h) AS (SELECT ?1 UNION ALL SELECT h + 1 FROM hours WHERE h < ?2)
                 SELECT usage_hour.* FROM hours CROSS JOIN usage_hour ON hour = h AND key_id = ?3",
            )?;
            let recent = journal::usage(connection, Some(keys))?;
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                let rows = statement.query_map(params![since, until, key_text(*key)], |row| {
                    Ok((row.get(0)?, tally(row, 2)?))
                })?;
                let mut hours = Hours(rows.collect::<rusqlite::Result<_>>()?);
                let own: Vec<HourRow> =
                    (recent.iter().filter(|row| row.key == *key).copied()).collect();
                hours.add_all(&own, since, until);
                found.push((*key, hours.0.into_iter().collect()));
            }
            Ok(found)
        })
    }

    /// What these keys together did in each hour; all keys where none are named.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hours(
        &self,
        keys: Option<&HashSet<KeyId>>,
        since: u32,
        until: u32,
    ) -> Result<Vec<(u32, Tally)>, CountersError> {
        self.read(|connection| {
            let mut hours = match keys {
                None => hours_of_all(connection, since, until)?,
                Some(keys) => hours_of_some(connection, keys, since, until)?,
            };
            journal::each_usage(connection, |mut recent| {
                recent.retain(|row| keys.is_none_or(|keys| keys.contains(&row.key)));
                hours.add_all(&recent, since, until);
            })?;
            Ok(hours.0.into_iter().collect())
        })
    }

    /// What keys did that did something, by their ids: those behind this one, at most so many. However many keys there are, no more than that is read
    /// of an hour: a key that belongs to the page is among the first of each hour in which it did something.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn page(
        &self,
        since: u32,
        until: u32,
        after: Option<KeyId>,
        most: usize,
    ) -> Result<Vec<(KeyId, Tally)>, CountersError> {
        let first = after.map_or_else(String::new, key_text);
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM usage_hour WHERE hour = ?1 AND key_id > ?2 ORDER BY key_id LIMIT ?3",
            )?;
            let mut page = Page {
                keys: BTreeMap::new(),
                most,
            };
            for hour in since..=until {
                let mut found = statement.query(params![hour, first, most])?;
                while let Some(row) = found.next()? {
                    match key_of(row, 1)? {
                        Some(key) if page.takes(key) => page.add(key, &tally(row, 2)?),
                        // Those behind it in this hour are no part of the page either.
                        Some(_) => break,
                        None => {}
                    }
                }
            }
            // What the journal has came after; it is in parts by the first byte of ids.
            for part in after.map_or(0, |after| after.0[0])..=u8::MAX {
                if page.ends_before(part) {
                    break;
                }
                for row in journal::usage_of_part(connection, part)? {
                    let is_meant = (since..=until).contains(&row.hour)
                        && after.is_none_or(|after| row.key > after);
                    if is_meant && page.takes(row.key) {
                        page.add(row.key, &row.tally);
                    }
                }
            }
            Ok(page.keys.into_iter().collect())
        })
    }

    pub(in crate::store) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, CountersError> {
        let transaction = self.connection.unchecked_transaction();
        // One view of tables and journal, whatever a save folds meanwhile.
        transaction
            .and_then(|transaction| query(&transaction))
            .map_err(|error| Problem::Sqlite(error).at(self.path.clone()))
    }
}

/// The first keys of all that are added, by id, at most so many.
struct Page {
    keys: BTreeMap<KeyId, Tally>,
    most: usize,
}

impl Page {
    /// Whether this key is among the first of those that were added so far. One that is not now never will be.
    fn takes(&self, key: KeyId) -> bool {
        let last = self.keys.last_key_value();
        self.keys.len() < self.most || last.is_some_and(|(last, _)| key <= *last)
    }

    /// Whether it is full of keys that begin with lesser bytes.
    fn ends_before(&self, first: u8) -> bool {
        let last = self.keys.last_key_value();
        self.keys.len() >= self.most && last.is_none_or(|(last, _)| last.0[0] < first)
    }

    fn add(&mut self, key: KeyId, did: &Tally) {
        let sum = self.keys.entry(key).or_default();
        *sum = sum.and(did);
        if self.keys.len() > self.most {
            self.keys.pop_last();
        }
    }
}

/// What was done in each hour in which something was.
#[derive(Default)]
struct Hours(BTreeMap<u32, Tally>);

impl Hours {
    fn add(&mut self, hour: u32, did: &Tally) {
        let sum = self.0.entry(hour).or_default();
        *sum = sum.and(did);
    }

    fn add_all(&mut self, rows: &[HourRow], since: u32, until: u32) {
        for row in rows
            .iter()
            .filter(|row| (since..=until).contains(&row.hour))
        {
            self.add(row.hour, &row.tally);
        }
    }
}

fn hours_of_all(connection: &Connection, since: u32, until: u32) -> rusqlite::Result<Hours> {
    let mut statement = connection.prepare(&format!(
        "SELECT hour, {SUMS} FROM usage_hour WHERE hour BETWEEN ?1 AND ?2 GROUP BY hour"
    ))?;
    let found = statement.query_map(params![since, until], |row| {
        Ok((row.get(0)?, tally(row, 1)?))
    })?;
    Ok(Hours(found.collect::<rusqlite::Result<_>>()?))
}

fn hours_of_some(
    connection: &Connection,
    keys: &HashSet<KeyId>,
    since: u32,
    until: u32,
) -> rusqlite::Result<Hours> {
    let mut statement =
        connection.prepare("SELECT * FROM usage_hour WHERE hour BETWEEN ?1 AND ?2")?;
    let mut hours = Hours::default();
    let mut found = statement.query(params![since, until])?;
    while let Some(row) = found.next()? {
        if key_of(row, 1)?.is_some_and(|key| keys.contains(&key)) {
            hours.add(row.get(0)?, &tally(row, 2)?);
        }
    }
    Ok(hours)
}

/// The gateway's own saves are short.
const BUSY: Duration = Duration::from_secs(2);
