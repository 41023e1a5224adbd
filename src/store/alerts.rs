//! Alerts in `counters.db`: each is told once, also over a restart, and stays to be looked at.

use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::store::counters::Counters;
use crate::store::counters::CountersError;
use crate::store::counters::tables::signed;
use crate::store::history::History;
use crate::store::outcome::rfc3339;

/// How many are kept to be looked at.
const KEPT_MAX: u32 = 1_000;

/// How long one that could not be delivered is tried again after a restart.
const PENDING_SECONDS_MAX: u64 = 3 * 86_400;

/// An alert as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Its name for receivers, `alert_…`; the same at each try.
    pub id: String,
    /// `limit.approaching` …
    pub kind: String,
    /// What makes it the same as another.
    pub once: String,
    /// As long as this it is the same.
    pub until: Wall,
    /// One sentence.
    pub text: String,
    /// What a receiver is sent, whole.
    pub body: String,
    /// When.
    pub at: Wall,
}

/// How far the delivery of an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// To nobody but the log.
    None,
    /// To be tried, perhaps again.
    Pending,
    /// Taken by the receiver.
    Done,
    /// Not taken, and not tried any more.
    GivenUp,
}

impl Delivery {
    fn word(self) -> &'static str {
        match self {
            Delivery::None => "none",
            Delivery::Pending => "pending",
            Delivery::Done => "done",
            Delivery::GivenUp => "given up",
        }
    }
}

/// An alert as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertView {
    /// `alert_…`.
    pub id: String,
    /// `limit.approaching` …
    pub kind: String,
    /// RFC 3339.
    pub at: String,
    /// One sentence.
    pub text: String,
    /// `none`, `pending`, `done` or `given up`.
    pub delivery: String,
}

impl AlertView {
    /// One that is not written down yet.
    #[must_use]
    pub fn of(alert: &Noted, delivery: Delivery) -> AlertView {
        AlertView {
            id: alert.id.clone(),
            kind: alert.kind.clone(),
            at: rfc3339(alert.at),
            text: alert.text.clone(),
            delivery: delivery.word().to_owned(),
        }
    }
}

pub(super) const SCHEMA: &str = "
CREATE TABLE alert(
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  once TEXT NOT NULL,
  until INTEGER NOT NULL,
  text TEXT NOT NULL,
  body TEXT NOT NULL,
  at INTEGER NOT NULL,
  delivery TEXT NOT NULL
) STRICT;
CREATE INDEX alert_once ON alert(once);
";

impl Counters {
    /// Keeps an alert, unless the same one is known and still holds; says whether it is new.
    ///
    /// # Errors
    /// It could not be written.
    pub fn note_alert(&mut self, alert: &Noted, delivery: Delivery) -> Result<bool, CountersError> {
        self.with(|connection| {
            let new = connection
                .prepare_cached(
                    "INSERT INTO alert(id, kind, once, until, text, body, at, delivery)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
                     WHERE NOT EXISTS (SELECT 1 FROM alert WHERE once = ?3 AND until > ?7)",
                )?
                .execute(params![
                    alert.id,
                    alert.kind,
                    alert.once,
                    signed(alert.until.0),
                    alert.text,
                    alert.body,
                    signed(alert.at.0),
                    delivery.word(),
                ])?;
            if new > 0 {
                // What still holds is kept beyond that, or it would be told again.
                connection
                    .prepare_cached(
                        "DELETE FROM alert WHERE until <= ?1 AND seq <= (SELECT max(seq) FROM alert) - ?2",
                    )?
                    .execute(params![signed(alert.at.0), KEPT_MAX])?;
            }
            Ok(new > 0)
        })
    }

    /// Writes down how far a delivery is.
    ///
    /// # Errors
    /// It could not be written.
    pub fn alert_delivered(&mut self, id: &str, delivery: Delivery) -> Result<(), CountersError> {
        self.with(|connection| {
            let sql = "UPDATE alert SET delivery = ?2 WHERE id = ?1";
            connection
                .execute(sql, params![id, delivery.word()])
                .map(|_| ())
        })
    }

    /// Those that were not delivered before the last end, oldest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn alerts_pending(&mut self, now: Wall) -> Result<Vec<Noted>, CountersError> {
        let since = now.0.saturating_sub(PENDING_SECONDS_MAX * 1_000_000);
        self.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT id, kind, once, until, text, body, at FROM alert WHERE delivery = 'pending' AND at >= ?1 ORDER BY seq",
            )?;
            let found = statement.query_map([signed(since)], noted)?;
            found.collect()
        })
    }
}

impl History {
    /// Alerts, the latest first.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn alerts(&self, limit: u32) -> Result<Vec<AlertView>, CountersError> {
        self.read(|connection: &Connection| {
            let sql = "SELECT id, kind, at, text, delivery FROM alert ORDER BY seq DESC LIMIT ?1";
            let mut statement = connection.prepare(sql)?;
            let found = statement.query_map([limit.clamp(1, KEPT_MAX)], |row| {
                Ok(AlertView {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    at: rfc3339(wall(row.get(2)?)),
                    text: row.get(3)?,
                    delivery: row.get(4)?,
                })
            })?;
            found.collect()
        })
    }
}

fn noted(row: &Row<'_>) -> rusqlite::Result<Noted> {
    Ok(Noted {
        id: row.get(0)?,
        kind: row.get(1)?,
        once: row.get(2)?,
        until: wall(row.get(3)?),
        text: row.get(4)?,
        body: row.get(5)?,
        at: wall(row.get(6)?),
    })
}

fn wall(micros: i64) -> Wall {
    Wall(u64::try_from(micros).unwrap_or(0))
}
