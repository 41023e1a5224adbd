//! Whether the log is whole: every line hangs on the one before, and the first on zeros, or on what the log itself says of lines that were let go.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::clock::Wall;
use crate::store::error::StoreError;
use crate::store::outcome::rfc3339;

use super::Log;
use super::head;
use super::hex;
use super::line::COLUMNS;
use super::line::Raw;

/// The act of a line that says which lines were let go; no verb has this name.
pub(super) const PRUNED: &str = "audit-prune";

/// What a look at every line found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether every line is as it was written, none is missing, and they stand in their order.
    pub whole: bool,
    /// Lines that were looked at and are as they were written.
    pub lines: u64,
    /// The number of the first line that is kept: 1, unless lines before it were let go and a later line says so.
    pub first_line: u64,
    /// The number of the last one that is whole; 0 for none.
    pub last_line: u64,
    /// The hash of that one: written down elsewhere, it shows later that nothing before it was changed.
    pub head: String,
    /// When the first line that is kept was written; RFC 3339.
    pub since: Option<String>,
    /// When lines were let go last; RFC 3339.
    pub pruned_at: Option<String>,
    /// The line that says so. Who can write the file can write such a line: it is vouched for by a hash that was written down elsewhere, of it or of a
    /// line behind it.
    #[serde(default)]
    pub pruned_by: Option<u64>,
    /// What is wrong, of the first line that is.
    pub fault: Option<String>,
}

/// Where the chain begins once lines were let go: the last of them, as a line further on says, which is chained like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// The last line that was let go; 0 for none.
    pub(super) through: i64,
    /// Its hash.
    pub(super) hash: [u8; 32],
    /// When it was let go, and the line that says so.
    pub(super) said: Option<(i64, i64)>,
}

impl Anchor {
    const BEGINNING: Anchor = Anchor {
        through: 0,
        hash: [0; 32],
        said: None,
    };

    /// The anchor of a log whose first line is this one. A log from which somebody took the beginning has no line that says so, or one that
    /// says something else: then its chain begins where that line, or nobody, says.
    pub(super) fn of(connection: &Connection, first: Option<i64>) -> rusqlite::Result<Anchor> {
        if matches!(first, None | Some(1)) {
            return Ok(Anchor::BEGINNING);
        }
        let sql = "SELECT at, seq, after FROM audit WHERE act = ?1 ORDER BY seq DESC LIMIT 1";
        let said: Option<(i64, i64, Option<String>)> = connection
            .query_row(sql, [PRUNED], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let said = said.and_then(|(at, seq, after)| Anchor::read(&after?, (at, seq)));
        Ok(said.unwrap_or(Anchor::BEGINNING))
    }

    fn read(after: &str, (at, seq): (i64, i64)) -> Option<Anchor> {
        let said: Value = serde_json::from_str(after).ok()?;
        Some(Anchor {
            through: said["through"].as_i64()?,
            hash: unhex(said["hash"].as_str()?)?,
            said: Some((at, seq)),
        })
    }
}

/// What a walk along the chain found.
#[derive(Debug)]
pub(super) struct Walked {
    /// The number and the hash of the last line that is whole.
    pub(super) last: (i64, [u8; 32]),
    /// When the first was written.
    since: Option<i64>,
    /// What is wrong with the next.
    pub(super) fault: Option<String>,
}

/// Walks along the chain from its anchor to line `through` or the end; each line that is whole is shown to `each`, which may object.
pub(super) fn walk(
    connection: &Connection,
    anchor: &Anchor,
    through: i64,
    mut each: impl FnMut(&Raw) -> Option<String>,
) -> rusqlite::Result<Walked> {
    let mut walked = Walked {
        last: (anchor.through, anchor.hash),
        since: None,
        fault: None,
    };
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE seq <= ?1 ORDER BY seq");
    let mut statement = connection.prepare(&sql)?;
    let mut found = statement.query([through])?;
    while let Some(row) = found.next()? {
        let next = walked.last.0 + 1;
        // A value of another type than ever was written is a change like any other.
        let Ok(line) = Raw::read(row) else {
            walked.fault = Some(format!("line {next} was changed"));
            break;
        };
        walked.fault = if line.seq < next {
            Some(format!(
                "line {} stands before line {next}, the first that is kept",
                line.seq
            ))
        } else if line.seq > next {
            Some(missing(next, line.seq - 1))
        } else if line.hash != line.hash_after(&walked.last.1) {
            Some(format!(
                "line {next} was changed, or stands where another did"
            ))
        } else {
            each(&line)
        };
        if walked.fault.is_some() {
            break;
        }
        walked.since.get_or_insert(line.at);
        walked.last = (line.seq, line.hash);
    }
    Ok(walked)
}

fn missing(first: i64, last: i64) -> String {
    match (first, last) {
        (1, last) if last > 1 => {
            format!("lines 1 to {last} are missing, and no line says that they were let go")
        }
        (first, last) if first < last => format!("lines {first} to {last} are missing"),
        (first, _) => format!("line {first} is missing"),
    }
}

impl Log {
    /// Looks at every line, and whether line `expected.0` has the hash `expected.1`, where that is asked.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn verify(&self, expected: Option<(u64, &str)>) -> Result<Verdict, StoreError> {
        self.read(|connection| {
            // One transaction, so that the last line and what `meta` says of it are of one moment.
            let reading = connection.unchecked_transaction()?;
            let written = head(&reading)?;
            let first = reading.query_row("SELECT min(seq) FROM audit", [], |row| row.get(0))?;
            let anchor = Anchor::of(&reading, first)?;
            let walked = walk(&reading, &anchor, i64::MAX, |line| {
                let (seq, hash) =
                    expected.filter(|(seq, _)| i64::try_from(*seq) == Ok(line.seq))?;
                let fits = hash.eq_ignore_ascii_case(&hex(&line.hash));
                (!fits).then(|| rewritten(seq))
            })?;
            Ok(verdict(&anchor, walked, written, expected))
        })
    }
}

fn verdict(
    anchor: &Anchor,
    walked: Walked,
    (last, last_hash): (i64, [u8; 32]),
    expected: Option<(u64, &str)>,
) -> Verdict {
    let time = |at: i64| rfc3339(Wall(u64::try_from(at).unwrap_or(0)));
    let number = |seq: i64| u64::try_from(seq).unwrap_or(0);
    let (ended, hash) = walked.last;
    let at_the_end = || match (ended == last, hash == last_hash) {
        (false, _) => Some(format!(
            "it ends with line {ended}, but {last} were written"
        )),
        (true, false) => Some(format!("line {ended} is not the one that was written last")),
        (true, true) => None,
    };
    let as_expected = || {
        let (seq, hash) = expected?;
        match seq {
            seq if seq == 0 || seq > number(ended) => {
                Some(format!("there is no line {seq}: it ends with line {ended}"))
            }
            seq if seq == number(anchor.through) => {
                Some(match hash.eq_ignore_ascii_case(&hex(&anchor.hash)) {
                    // Whoever forges such a line knows the hash: it is no secret.
                    true => format!(
                        "line {seq} was let go, with this hash, as line {} says: expect that line, or a later one, of the gateway's own log",
                        anchor.said.map_or(0, |(_, by)| by)
                    ),
                    false => rewritten(seq),
                })
            }
            seq if seq < number(anchor.through) => Some(format!(
                "line {seq} was let go, so nobody can say whether it had this hash: the first that is kept is line {}",
                anchor.through + 1
            )),
            _ => None,
        }
    };
    let fault = walked.fault.or_else(at_the_end).or_else(as_expected);
    Verdict {
        whole: fault.is_none(),
        lines: number(ended - anchor.through),
        first_line: number(anchor.through + 1),
        last_line: number(ended),
        head: hex(&hash),
        since: walked.since.map(time),
        pruned_at: anchor.said.map(|(at, _)| time(at)),
        pruned_by: anchor.said.map(|(_, by)| number(by)),
        fault,
    }
}

fn rewritten(seq: u64) -> String {
    format!("line {seq} has another hash than is expected: the log was written anew")
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
