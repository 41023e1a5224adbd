//! What must hold of any rows of counters.db and of any request on the admin socket: fuzz targets and proptests call the same functions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use rusqlite::Connection;
use rusqlite::params;

use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config;
use crate::config::Config;
use crate::model::key::KeyId;
use crate::store::Store;
use crate::store::Verb;
use crate::store::counters::Batch;
use crate::store::counters::Row;
#[cfg(test)]
use crate::store::counters::Subject;
use crate::store::counters::journal::Hand;
use crate::store::counters::tables;
use crate::store::outcome::Failure;
use crate::store::outcome::VerbError;
use crate::store::verbs;
use crate::store::verbs::Declared;

/// When the rows of `counter_rows` are read.
pub(crate) const NOW: Now = Now {
    mono: Mono(5_000_000_000),
    wall: Wall(1_700_000_000_000_000),
};

/// Puts rows made of these bytes into a counter file, as damage or another hand could, and reads them. What is taken makes sense, and is
/// the same once it was saved and read again.
pub(crate) fn counter_rows(data: &[u8]) -> Vec<Row> {
    let mut connection = Connection::open_in_memory().expect("memory is there");
    tables::lay_out(&mut connection, NOW, "boot").expect("memory is there");
    let (connection, rows) = tables::load(connection, NOW, "boot").expect("a new file is good");
    assert_eq!(rows, []);
    let mut bytes = Bytes(data);
    let other_boot = bytes.number(1) & 1 != 0;
    for _ in 0..4 {
        match bytes.number(1) & 3 {
            0 => bytes.journal(&connection),
            _ => bytes.insert(&connection),
        }
    }
    let boot = if other_boot { "another" } else { "boot" };
    let Ok((mut connection, rows)) = tables::load(connection, NOW, boot) else {
        return Vec::new();
    };
    for row in &rows {
        let total = |log: &[(i64, u32)]| {
            log.iter()
                .try_fold(0_u32, |sum, (_, count)| sum.checked_add(*count))
        };
        assert!(
            row.burst
                .as_ref()
                .is_none_or(|burst| total(&burst.log).is_some())
        );
    }
    let batch = Batch {
        rows: &rows,
        ..Batch::default()
    };
    // Each save folds a part of the journal: what was read can be folded.
    let mut hand = Hand::default();
    for _ in 0..2 {
        tables::write(&mut connection, &mut hand, &batch, NOW, boot)
            .expect("memory takes what it gave");
    }
    let (_, again) = tables::load(connection, NOW, boot).expect("what was saved is good");
    // A burst without times is none, and who has no window is not there.
    let kept = |rows: &[Row]| -> Vec<Row> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            row.burst.take_if(|burst| burst.log.is_empty());
        }
        rows.retain(|row| row.quota.is_some() || row.burst.is_some());
        rows.sort_by(|one, other| one.subject.cmp(&other.subject));
        rows
    };
    assert_eq!(kept(&rows), kept(&again));
    rows
}

/// A counter file in memory, for models of a restart.
#[cfg(test)]
pub(crate) struct CounterFile(Option<Connection>);

#[cfg(test)]
impl CounterFile {
    pub(crate) fn new() -> CounterFile {
        let mut connection = Connection::open_in_memory().unwrap();
        tables::lay_out(&mut connection, NOW, "").unwrap();
        CounterFile(Some(connection))
    }

    pub(crate) fn reopen(&mut self, now: Now, boot: u32) -> Vec<Row> {
        let connection = self.0.take().unwrap();
        let (connection, rows) = tables::load(connection, now, &format!("boot {boot}")).unwrap();
        self.0 = Some(connection);
        rows
    }

    pub(crate) fn save(&mut self, rows: &[Row], removed: &[Subject], now: Now, boot: u32) {
        let batch = Batch {
            rows,
            removed,
            usage: &[],
        };
        let connection = self.0.as_mut().unwrap();
        let mut hand = Hand::default();
        tables::write(connection, &mut hand, &batch, now, &format!("boot {boot}")).unwrap();
    }
}

/// Numbers taken from the front of some bytes, zero when they are gone.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, count: usize) -> i64 {
        let mut all = [0; 8];
        for (place, byte) in all.iter_mut().zip(self.take(count)) {
            *place = *byte;
        }
        i64::from_le_bytes(all)
    }

    /// Near now, far away, or anything.
    fn time(&mut self) -> Option<i64> {
        match self.number(1) & 7 {
            0 => None,
            1 => Some(self.number(8)),
            2 => Some(i64::MAX - self.number(4)),
            3 => Some(i64::MIN + self.number(4)),
            4 => Some(NOW.mono.0 as i64 + self.number(4)),
            _ => Some(NOW.mono.0 as i64 - self.number(4)),
        }
    }

    fn journal(&mut self, connection: &Connection) {
        let count = usize::from(self.number(1) as u8 & 63);
        let packed = self.take(count).to_vec();
        let add = "INSERT INTO journal(part, bytes, lines) VALUES (97, 1, ?1)";
        connection
            .execute(add, params![packed])
            .expect("memory is there");
    }

    fn insert(&mut self, connection: &Connection) {
        let subject = match self.number(1) & 3 {
            0 => "t:acme".to_owned(),
            1 => format!("k:{:012}", self.number(1)),
            2 => "k:aaaaaaaaaaaa".to_owned(),
            _ => String::from_utf8_lossy(self.take(14)).into_owned(),
        };
        let (opened, wall, seconds, used) =
            (self.time(), self.number(8), self.number(4), self.number(4));
        let (base, burst_seconds) = (self.time(), self.number(3));
        let count = usize::from(self.number(1) as u8) * 3;
        let log = self.take(count).to_vec();
        let wall = if wall % 3 == 0 {
            wall
        } else {
            NOW.wall.0 as i64
        };
        // What SQLite itself refuses (a number that is none) cannot stand in the file.
        let _ = connection.execute(
            "INSERT OR REPLACE INTO limit_state VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                subject,
                opened,
                wall,
                seconds,
                used,
                base,
                burst_seconds,
                log
            ],
        );
    }
}

/// Takes these bytes for a request on the admin socket: what is understood is written back to the same, its label for the log holds no key,
/// and the rules answer it without a panic and without repeating a key.
pub(crate) fn admin_requests(data: &[u8]) {
    let Ok(verb) = serde_json::from_slice::<Verb>(data) else {
        return;
    };
    let written = serde_json::to_vec(&verb).expect("a verb is JSON");
    assert_eq!(
        serde_json::from_slice::<Verb>(&written).ok(),
        Some(verb.clone())
    );
    let (act, subject) = verb.label();
    if act.starts_with("key-") && !matches!(act, "key-create" | "key-list" | "key-revoke-many") {
        assert!(
            subject.is_empty() || KeyId::parse(subject).is_ok(),
            "{subject}"
        );
    }
    let site = site().lock().unwrap_or_else(PoisonError::into_inner);
    let declared = Declared::of(&site.config);
    let answer = verbs::prepare(&site.store, &declared, &verb, NOW.wall, &|_| {
        Ok(HashMap::new())
    });
    let Err(failure) = answer else {
        return;
    };
    if let Failure::Usage(_) | Failure::Refused(_) = &failure
        && let Verb::KeyImport { keys, .. } = &verb
    {
        let said = VerbError::from(failure).text;
        for key in keys.iter().filter_map(|row| row.value.as_ref()) {
            let text = key.reveal();
            assert!(text.len() < 16 || !said.contains(text), "a key is repeated");
        }
    }
}

struct Site {
    store: Store,
    config: Config,
}

/// A store that is only read, so that it is the same for every case.
fn site() -> &'static Mutex<Site> {
    static SITE: OnceLock<Mutex<Site>> = OnceLock::new();
    SITE.get_or_init(|| {
        let name = format!("portcullis-properties-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for temporary files is there");
        let store = Store::open(&directory).expect("a new store is good");
        // Open files stay; nothing is left behind.
        let _ = std::fs::remove_dir_all(&directory);
        let text = include_str!("../../examples/fairplace.toml");
        let loaded = config::parse(text, Path::new("gateway.toml"));
        let config = loaded.expect("the example is good").config;
        Mutex::new(Site { store, config })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_024))]

        #[test]
        fn check4_rows_make_sense_or_are_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
            counter_rows(&data);
        }

        #[test]
        fn admin_requests_are_answered(
            verb in prop::sample::select(vec![
                "key-create", "key-list", "key-show", "key-update", "key-regenerate", "key-rotate", "key-import", "key-revoke",
                "key-revoke-many", "key-delete", "key-activate", "tenant-create", "tenant-list", "tenant-update", "tenant-suspend", "x",
            ]),
            members in prop::collection::vec(member(), 0..12),
            any in "\\PC{0,20}",
        ) {
            admin_requests(format!("{{\"verb\":\"{verb}\"{}}}", members.concat()).as_bytes());
            admin_requests(any.as_bytes());
        }
    }

    fn member() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "id",
            "tenant",
            "name",
            "kind",
            "environment",
            "plan",
            "quota",
            "burst",
            "scopes",
            "origins",
            "cidrs",
            "subject",
            "note",
            "expires_in_seconds",
            "overlap_seconds",
            "older_than_seconds",
            "inherit",
            "file",
            "keys",
            "prefix",
            "status",
        ]);
        let value = prop::sample::select(vec![
            "null",
            "\"\"",
            "\"acme\"",
            "\"key_aaaaaaaaaaaa\"",
            "\"secret\"",
            "\"public\"",
            "\"live\"",
            "0",
            "18446744073709551615",
            "true",
            "[]",
            "[\"leases:read\"]",
            "[\"*\",\"\"]",
            "\"100/hour\"",
            "\"unlimited\"",
            "\"sha256:00\"",
            "[\"::/0\"]",
            "\"\\u0000\\n\"",
            "[{\"line\":2,\"value\":\"fp_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17\",\"key\":{\"tenant\":\"a\",\"name\":\"b\",\"kind\":\"secret\"}}]",
        ]);
        (name, value).prop_map(|(name, value)| format!(",\"{name}\":{value}"))
    }
}
