//! Usage by the hour in `counters.db`: what is added with each save, and what reports read, beside the saves and without holding them up.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::OpenFlags;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;

use crate::clock::Wall;
use crate::model::key::KeyId;
use crate::store::counters::CountersError;
use crate::store::counters::FILE;
use crate::store::counters::Problem;
use crate::store::counters::journal;
use crate::store::counters::key_text;
use crate::store::counters::parse_key;
use crate::store::counters::tables::signed;

/// How many buckets the latency of requests is kept in.
pub const LATENCY_BUCKETS: usize = 6;

/// Upper bounds of all buckets but the last, in microseconds, bounds included: 10 ms, 50 ms, 200 ms, 1 s, 5 s.
pub const LATENCY_BOUNDS: [u64; LATENCY_BUCKETS - 1] =
    [10_000, 50_000, 200_000, 1_000_000, 5_000_000];

/// How long usage is kept: 90 days of hours.
pub const HOURS_KEPT: u32 = 90 * 24;

/// What was done within some time. Everything but the last use adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Unix seconds of the last admission; 0 is none.
    pub last_used_unix_seconds: u64,
    /// Admitted, answered below 400.
    pub success: u64,
    /// Admitted, answered 400 to 499.
    pub client_error: u64,
    /// Admitted, answered 500 or more.
    pub server_error: u64,
    /// Refused by the gateway before a backend was asked.
    pub refused: u64,
    /// Bytes of request bodies.
    pub received_bytes: u64,
    /// Bytes of answer bodies.
    pub sent_bytes: u64,
    /// Admitted requests by how long they took, to the end of their answer.
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Tally {
    /// Admitted requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.success + self.client_error + self.server_error
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Tally) -> Tally {
        Tally {
            last_used_unix_seconds: self
                .last_used_unix_seconds
                .max(other.last_used_unix_seconds),
            success: self.success + other.success,
            client_error: self.client_error + other.client_error,
            server_error: self.server_error + other.server_error,
            refused: self.refused + other.refused,
            received_bytes: self.received_bytes + other.received_bytes,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            latency: std::array::from_fn(|bucket| self.latency[bucket] + other.latency[bucket]),
        }
    }
}

/// A key, and what it did in each hour in which it did something.
pub type HoursOfKey = (KeyId, Vec<(u32, Tally)>);

/// What one key did in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourRow {
    /// Which key.
    pub key: KeyId,
    /// Hours since the Unix epoch.
    pub hour: u32,
    /// What it did; in a `Batch` since the last save.
    pub tally: Tally,
}

/// The hour that a time lies in, since the Unix epoch.
#[must_use]
pub fn hour_of(at: Wall) -> u32 {
    u32::try_from(at.unix_seconds() / 3_600).unwrap_or(u32::MAX)
}

/// When an hour begins.
#[must_use]
pub fn start_of(hour: u32) -> Wall {
    Wall::from_unix_seconds(u64::from(hour) * 3_600)
}

/// A key's 2,160 hours take some 150 KiB when it was used in each.
pub(super) const SCHEMA: &str = "
CREATE TABLE usage_hour(
  hour INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  last_used_unix INTEGER NOT NULL,
  success INTEGER NOT NULL,
  client_error INTEGER NOT NULL,
  server_error INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  received_bytes INTEGER NOT NULL,
  sent_bytes INTEGER NOT NULL,
  latency_0 INTEGER NOT NULL,
  latency_1 INTEGER NOT NULL,
  latency_2 INTEGER NOT NULL,
  latency_3 INTEGER NOT NULL,
  latency_4 INTEGER NOT NULL,
  latency_5 INTEGER NOT NULL,
  PRIMARY KEY(hour, key_id)
) STRICT, WITHOUT ROWID;
";

const SUMS: &str = "max(last_used_unix), sum(success), sum(client_error), sum(server_error), sum(refused), \
     sum(received_bytes), sum(sent_bytes), sum(latency_0), sum(latency_1), sum(latency_2), sum(latency_3), \
     sum(latency_4), sum(latency_5)";

/// Adds what was done.
pub(super) fn add(transaction: &Transaction<'_>, rows: &[HourRow]) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO usage_hour VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT(hour, key_id) DO UPDATE SET
           last_used_unix = max(last_used_unix, excluded.last_used_unix),
           success = success + excluded.success,
           client_error = client_error + excluded.client_error,
           server_error = server_error + excluded.server_error,
           refused = refused + excluded.refused,
           received_bytes = received_bytes + excluded.received_bytes,
           sent_bytes = sent_bytes + excluded.sent_bytes,
           latency_0 = latency_0 + excluded.latency_0,
           latency_1 = latency_1 + excluded.latency_1,
           latency_2 = latency_2 + excluded.latency_2,
           latency_3 = latency_3 + excluded.latency_3,
           latency_4 = latency_4 + excluded.latency_4,
           latency_5 = latency_5 + excluded.latency_5",
    )?;
    for row in rows {
        let tally = &row.tally;
        let [l0, l1, l2, l3, l4, l5] = tally.latency.map(signed);
        add.execute(params![
            row.hour,
            key_text(row.key),
            signed(tally.last_used_unix_seconds),
            signed(tally.success),
            signed(tally.client_error),
            signed(tally.server_error),
            signed(tally.refused),
            signed(tally.received_bytes),
            signed(tally.sent_bytes),
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
        ])?;
    }
    Ok(())
}

/// Lets go of one hour that is too old, where there is one.
pub(super) fn let_go(transaction: &Transaction<'_>, now: Wall) -> rusqlite::Result<()> {
    let oldest_kept = hour_of(now).saturating_sub(HOURS_KEPT);
    // One hour at a time: a gateway that was off for long catches up in as many saves, and none of them takes long.
    transaction
        .prepare_cached(
            "DELETE FROM usage_hour WHERE hour < ?1 AND hour = (SELECT min(hour) FROM usage_hour)",
        )?
        .execute([oldest_kept])?;
    Ok(())
}

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
            let mut recent = journal::usage(connection, None)?;
            recent.retain(|row| keys.is_none_or(|keys| keys.contains(&row.key)));
            hours.add_all(&recent, since, until);
            Ok(hours.0.into_iter().collect())
        })
    }

    /// What each key did that did something.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn by_key(&self, since: u32, until: u32) -> Result<HashMap<KeyId, Tally>, CountersError> {
        self.read(|connection| {
            let mut statement = connection.prepare(&format!(
                "SELECT key_id, {SUMS} FROM usage_hour WHERE hour BETWEEN ?1 AND ?2 GROUP BY key_id"
            ))?;
            let mut found = statement.query(params![since, until])?;
            let mut keys = HashMap::new();
            while let Some(row) = found.next()? {
                if let Some(key) = key_of(row, 0)? {
                    keys.insert(key, tally(row, 1)?);
                }
            }
            for row in journal::usage(connection, None)? {
                if (since..=until).contains(&row.hour) {
                    let sum: &mut Tally = keys.entry(row.key).or_default();
                    *sum = sum.and(&row.tally);
                }
            }
            Ok(keys)
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

    pub(super) fn read<T>(
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

fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<KeyId>> {
    Ok(parse_key(row.get_ref(column)?.as_str()?))
}

fn tally(row: &Row<'_>, first: usize) -> rusqlite::Result<Tally> {
    let number = |place: usize| -> rusqlite::Result<u64> {
        let number: i64 = row.get(first + place)?;
        Ok(u64::try_from(number).unwrap_or(0))
    };
    let mut latency = [0; LATENCY_BUCKETS];
    for (bucket, count) in latency.iter_mut().enumerate() {
        *count = number(7 + bucket)?;
    }
    Ok(Tally {
        last_used_unix_seconds: number(0)?,
        success: number(1)?,
        client_error: number(2)?,
        server_error: number(3)?,
        refused: number(4)?,
        received_bytes: number(5)?,
        sent_bytes: number(6)?,
        latency,
    })
}

/// The gateway's own saves are short.
const BUSY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::store::counters::Batch;
    use crate::store::counters::Counters;

    const A: KeyId = KeyId(*b"aaaaaaaaaaaa");
    const B: KeyId = KeyId(*b"bbbbbbbbbbbb");

    fn at(hour: u32) -> Now {
        Now {
            mono: Mono(1),
            wall: start_of(hour),
        }
    }

    fn row(key: KeyId, hour: u32, success: u64, refused: u64) -> HourRow {
        HourRow {
            key,
            hour,
            tally: Tally {
                last_used_unix_seconds: u64::from(hour) * 3_600 + success,
                success,
                refused,
                latency: [0, success, 0, 0, 0, 0],
                ..Tally::default()
            },
        }
    }

    fn save(counters: &mut Counters, rows: &[HourRow], hour: u32) {
        let batch = Batch {
            usage: rows,
            ..Batch::default()
        };
        counters.save(&batch, at(hour)).unwrap();
    }

    /// FF14, PB19: hours add up over saves, and are read by key, by a set of keys and altogether.
    #[test]
    fn hours_add_up_and_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        assert!(History::open(directory.path()).unwrap().is_none());
        let now = HOURS_KEPT + 100;
        let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
        save(
            &mut counters,
            &[row(A, now - 1, 2, 1), row(B, now - 1, 5, 0)],
            now,
        );
        save(
            &mut counters,
            &[row(A, now - 1, 3, 0), row(A, now, 7, 0)],
            now,
        );
        let history = History::open(directory.path()).unwrap().unwrap();
        let hours = history.hours_of(A, now - 24, now).unwrap();
        assert_eq!(hours.len(), 2);
        assert_eq!(
            (hours[0].0, hours[0].1.success, hours[0].1.refused),
            (now - 1, 5, 1)
        );
        assert_eq!(hours[0].1.latency[1], 5);
        assert_eq!((hours[1].0, hours[1].1.success), (now, 7));
        assert_eq!(history.hours_of(A, now, now).unwrap().len(), 1);
        let all = history.hours(None, 0, now).unwrap();
        assert_eq!((all.len(), all[0].1.success), (2, 10));
        let only = HashSet::from([B]);
        let of_b = history.hours(Some(&only), 0, now).unwrap();
        assert_eq!((of_b.len(), of_b[0].1.success), (1, 5));
        let by_key = history.by_key(0, now).unwrap();
        assert_eq!((by_key[&A].success, by_key[&B].success), (12, 5));
    }

    /// Pages by id, whatever their size, say of each key what all hours say together, whenever it did something, and leave none out.
    #[test]
    fn pages_are_the_whole_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let now = HOURS_KEPT + 100;
        let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
        // Some do something in each hour, some in one alone: the early ones late, the late ones early.
        let key = |index: u32| KeyId(*b"aaaaaaaaaaaa").nth(index);
        let mut rows = Vec::new();
        for index in 0..40 {
            rows.push(row(key(index), now - index / 4, 1 + u64::from(index), 0));
            if index % 3 == 0 {
                (0..12).for_each(|back| rows.push(row(key(index), now - back, 7, 1)));
            }
        }
        // Large saves go to the journal, some of which is folded by each save behind it.
        let idle = |index: u32| row(KeyId(*b"zzzzzzzzzzzz").nth(index), 1, 1, 0);
        let many: Vec<HourRow> = (0..100).map(idle).collect();
        for (at, row) in rows.iter().enumerate() {
            let mut batch = vec![*row];
            if at % 2 == 0 {
                (0..11).for_each(|_| batch.extend(&many));
            }
            save(&mut counters, &batch, now);
        }
        let history = History::open(directory.path()).unwrap().unwrap();
        let (since, until) = (now - 11, now);
        let whole = history.by_key(since, until).unwrap();
        assert_eq!(whole.len(), 40);
        for most in [1, 2, 7, 39, 40, 41] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = history.page(since, until, after, most).unwrap();
                assert!(page.len() <= most);
                let Some((last, _)) = page.last() else {
                    break;
                };
                after = Some(*last);
                seen.extend(page);
            }
            assert!(seen.is_sorted_by_key(|(key, _)| *key), "{most}");
            assert_eq!(seen.len(), 40, "{most}");
            for (key, tally) in seen {
                assert_eq!(tally, whole[&key], "{most}");
            }
        }
        assert_eq!(history.page(since, until, None, 0).unwrap(), []);
    }

    impl KeyId {
        fn nth(mut self, index: u32) -> KeyId {
            self.0[3] = b'0' + (index / 10) as u8;
            self.0[9] = b'0' + (index % 10) as u8;
            self
        }
    }

    #[test]
    fn hours_older_than_90_days_are_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let now = HOURS_KEPT + 100;
        let (mut counters, _) = Counters::open(directory.path(), at(now)).unwrap();
        let kept = now - HOURS_KEPT;
        save(
            &mut counters,
            &[row(A, 7, 1, 0), row(A, 9, 1, 0), row(A, kept, 1, 0)],
            now,
        );
        save(&mut counters, &[], now);
        let history = History::open(directory.path()).unwrap().unwrap();
        let left = history.hours(None, 0, now).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, kept);
    }
}
