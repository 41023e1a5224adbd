//! What other nodes are told of this node's `counters.db`: hours as they stand in it, and whose file it is.

use std::io;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::params;

use crate::model::key::KeyId;
use crate::store::counters::Counters;
use crate::store::counters::CountersError;
use crate::store::counters::FILE;
use crate::store::counters::journal;
use crate::store::history::History;
use crate::store::history::Tally;
use crate::store::history::table::key_of;
use crate::store::history::table::tally;

/// With what ids of keys begin: reports read what they have in common, and no more.
pub const PARTS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Counters {
    /// A number that tells this file from any other that this node ever counts in, drawn when it is asked for first; and the file is this node's from then
    /// on.
    ///
    /// # Errors
    /// `CountersError`; it cannot be read or written.
    pub fn mark(&mut self, node: &str) -> Result<u32, CountersError> {
        self.with(|connection| {
            if owner(connection)? == 0 {
                connection.pragma_update(None, "application_id", owner_of(node))?;
            }
            let known = mark(connection)?;
            if known != 0 {
                return Ok(known);
            }
            let drawn: u32 =
                connection.query_row("SELECT 1 + abs(random() % 2147483647)", [], |row| {
                    row.get(0)
                })?;
            // A field of SQLite's own header, which nothing else here goes by.
            connection.pragma_update(None, "user_version", drawn)?;
            Ok(drawn)
        })
    }
}

impl History {
    /// The number of this file; 0 for one that no other node was ever told of.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn mark(&self) -> Result<u32, CountersError> {
        self.read(mark)
    }

    /// What keys did in this hour, those together whose ids begin with the same letter, in order; all as it was at one moment.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn parts_of(
        &self,
        hour: u32,
        mut each: impl FnMut(u8, &[(KeyId, Tally)]),
    ) -> Result<(), CountersError> {
        self.read(|connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM usage_hour WHERE hour = ?1 AND key_id >= ?2 AND key_id < ?3 ORDER BY key_id",
            )?;
            for part in PARTS {
                let [first, behind] = [*part, part + 1].map(|byte| char::from(byte).to_string());
                let mut found = statement.query(params![hour, first, behind])?;
                let mut keys: Vec<(KeyId, Tally)> = Vec::new();
                while let Some(row) = found.next()? {
                    if let Some(key) = key_of(row, 1)? {
                        keys.push((key, tally(row, 2)?));
                    }
                }
                let recent = journal::usage_of_part(connection, *part)?;
                add_sorted(&mut keys, recent.iter().filter(|row| row.hour == hour).map(|row| (row.key, row.tally)));
                if !keys.is_empty() {
                    each(*part, &keys);
                }
            }
            Ok(())
        })
    }
}

/// Adds what stands nowhere yet, and adds up what does.
fn add_sorted(keys: &mut Vec<(KeyId, Tally)>, more: impl Iterator<Item = (KeyId, Tally)>) {
    let (mut new, known) = (Vec::new(), keys.len());
    for (key, did) in more {
        match keys[..known].binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => keys[at].1 = keys[at].1.and(&did),
            Err(_) => new.push((key, did)),
        }
    }
    if !new.is_empty() {
        keys.append(&mut new);
        keys.sort_unstable_by_key(|(key, _)| *key);
    }
}

/// Moves counters out of the way that another node told of: this directory is a copy of its own, or took another id.
///
/// # Errors
/// The file system refuses. What cannot be read is left to whoever opens it.
pub fn set_aside_of_another(directory: &Path, node: &str) -> io::Result<()> {
    let Ok(Some(history)) = History::open(directory) else {
        return Ok(());
    };
    let found = history.read(owner).unwrap_or(0);
    drop(history);
    match found == 0 || found == owner_of(node) {
        true => Ok(()),
        false => set_aside(directory, "another-node"),
    }
}

/// Moves the counters of a directory that turned out to be a copy out of the way: they are another node's, which tells of them itself. Nothing is
/// written to them.
///
/// # Errors
/// The file system refuses.
pub fn set_aside(directory: &Path, id: &str) -> io::Result<()> {
    // The log first: without its file it is nothing, and that without its log is what was folded into it.
    for end in ["-wal", "-shm", ""] {
        let from = directory.join(format!("{FILE}{end}"));
        match std::fs::rename(from, directory.join(format!("{FILE}.of-{id}{end}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn owner(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

/// As SQLite's header holds it; 0 is nobody.
fn owner_of(node: &str) -> i32 {
    (crc32fast::hash(node.as_bytes()) | 1) as i32
}

fn mark(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::clock::Now;
    use crate::clock::Wall;
    use crate::store::counters::Batch;
    use crate::store::history::HourRow;

    const NOW: Now = Now {
        mono: Mono(1),
        wall: Wall(7_300_000_000),
    };

    fn counters(directory: &Path) -> Counters {
        Counters::open(directory, NOW).unwrap().0
    }

    fn row(first: u8, last: u8, hour: u32, success: u64) -> HourRow {
        let mut key = KeyId(*b"aaaaaaaaaaaa");
        (key.0[0], key.0[11]) = (first, last);
        let tally = Tally {
            success,
            ..Tally::default()
        };
        HourRow { key, hour, tally }
    }

    fn save(counters: &mut Counters, usage: &[HourRow]) {
        let batch = Batch {
            usage,
            ..Batch::default()
        };
        counters.save(&batch, NOW).unwrap();
    }

    /// An hour in parts is the whole hour, each key once, whether it stands in the tables, in the journal or in both.
    #[test]
    fn parts_are_the_hour() {
        let directory = tempfile::tempdir().unwrap();
        let mut counters = counters(directory.path());
        save(
            &mut counters,
            &[
                row(b'a', b'b', 2, 3),
                row(b'z', b'b', 2, 4),
                row(b'a', b'b', 1, 9),
            ],
        );
        // So many at once go to the journal.
        let mut many: Vec<HourRow> = (0..1_200).map(|_| row(b'0', b'0', 1, 1)).collect();
        many.extend([
            row(b'a', b'a', 2, 1),
            row(b'a', b'b', 2, 10),
            row(b'Z', b'c', 2, 5),
        ]);
        save(&mut counters, &many);
        let history = History::open(directory.path()).unwrap().unwrap();
        let mut found = Vec::new();
        let each = |part: u8, keys: &[(KeyId, Tally)]| {
            assert!(keys.iter().all(|(key, _)| key.0[0] == part));
            found.extend(keys.iter().map(|(key, did)| (part, key.0[11], did.success)));
        };
        history.parts_of(2, each).unwrap();
        let expected = [
            (b'Z', b'c', 5),
            (b'a', b'a', 1),
            (b'a', b'b', 13),
            (b'z', b'b', 4),
        ];
        assert_eq!(found, expected);
        let sum: u64 = found.iter().map(|(_, _, success)| success).sum();
        assert_eq!(history.hours(None, 2, 2).unwrap()[0].1.success, sum);
    }

    /// The number of a file stays, and a file that takes its place has another.
    #[test]
    fn a_file_is_told_from_the_one_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = counters(directory.path());
        let read = || {
            History::open(directory.path())
                .unwrap()
                .unwrap()
                .mark()
                .unwrap()
        };
        assert_eq!(read(), 0);
        let mark = first.mark("n1").unwrap();
        assert!(mark > 0);
        assert_eq!((first.mark("n1").unwrap(), read()), (mark, mark));
        save(&mut first, &[row(b'a', b'a', 2, 1)]);
        drop(first);
        set_aside(directory.path(), "abc").unwrap();
        let mut second = counters(directory.path());
        assert_ne!(second.mark("n2").unwrap(), mark);
        let history = History::open(directory.path()).unwrap().unwrap();
        assert_eq!(history.hours(None, 0, 9).unwrap(), []);
        assert!(directory.path().join("counters.db.of-abc").exists());
        set_aside(&directory.path().join("nowhere"), "abc").unwrap();
        drop((history, second));
        // A file is its node's.
        let path = directory.path().join("counters.db");
        for (node, stays) in [("n2", true), ("n3", false)] {
            set_aside_of_another(directory.path(), node).unwrap();
            assert_eq!(path.exists(), stays);
        }
        assert!(
            directory
                .path()
                .join("counters.db.of-another-node")
                .exists()
        );
        set_aside_of_another(directory.path(), "n3").unwrap();
    }
}
