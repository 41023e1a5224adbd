//! `keys import`: a CSV file (RFC 4180) to rows for the store, every mistake with its line.

use std::fs;
use std::io;
use std::io::IsTerminal;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::cli::expires::Expires;
use crate::store::NewKey;
use crate::store::Verb;
use crate::store::VerbError;
use crate::store::outcome::KeyText;
use crate::store::request::ImportedKey;

/// The columns there are.
const COLUMNS: [&str; 15] = [
    "value",
    "sha256",
    "tenant",
    "name",
    "scopes",
    "expires",
    "environment",
    "kind",
    "plan",
    "quota",
    "burst",
    "subject",
    "origins",
    "cidrs",
    "note",
];

/// Largest file that is read: about a million keys.
const BYTES_MAX: u64 = 256 << 20;

/// How many mistakes are told at once.
const REASONS_MAX: usize = 100;

/// Reads the file, `-` being standard input, into one verb.
///
/// # Errors
/// It cannot be read, or is no such table; all mistakes at once. Values are never repeated.
pub(super) fn verb(path: &Path) -> Result<Verb, VerbError> {
    let (name, bytes) = read(path)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| VerbError::refused(format!("{name} is not UTF-8")))?;
    let keys = rows(&name, text)?;
    Ok(Verb::KeyImport { file: name, keys })
}

/// Tells somebody at a terminal, every second, that an import still goes on; silent elsewhere. Ends when dropped.
pub(super) struct Progress {
    /// Dropped to end it.
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins to tell of so many keys.
    pub(super) fn begin(verb: &Verb) -> Progress {
        let count = match verb {
            Verb::KeyImport { keys, .. } if io::stderr().is_terminal() => keys.len(),
            _ => {
                return Progress {
                    over: None,
                    thread: None,
                };
            }
        };
        let (over, ended) = channel();
        let thread = std::thread::spawn(move || {
            let mut seconds = 0u32;
            loop {
                eprint!("\r{count} keys read; all are imported, or none … {seconds} s");
                if ended.recv_timeout(SECOND) == Err(RecvTimeoutError::Disconnected) {
                    break eprintln!();
                }
                seconds += 1;
            }
        });
        Progress {
            over: Some(over),
            thread: Some(thread),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            // It only writes; what it panicked with would have been shown.
            let _ = thread.join();
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn read(path: &Path) -> Result<(String, Zeroizing<Vec<u8>>), VerbError> {
    let name = match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let done = match path.as_os_str() == "-" {
        true => io::stdin()
            .lock()
            .take(BYTES_MAX + 1)
            .read_to_end(&mut bytes),
        false => {
            fs::File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
        }
    };
    match done {
        Err(error) => Err(VerbError::refused(format!(
            "{name} cannot be read: {error}"
        ))),
        Ok(_) if bytes.len() as u64 > BYTES_MAX => Err(VerbError::refused(format!(
            "{name} is larger than 256 MiB: import it in parts"
        ))),
        Ok(_) => Ok((name, bytes)),
    }
}

pub(super) fn rows(file: &str, text: &str) -> Result<Vec<ImportedKey>, VerbError> {
    let mut records = Records {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
    };
    let heading = records.next().and_then(|(_, fields)| fields);
    let columns = columns(file, &heading.unwrap_or_default())?;
    let mut reasons = Vec::new();
    let mut keys = Vec::new();
    for (line, fields) in records {
        match fields.map_or(Err(QUOTES.to_owned()), |fields| {
            row(line, &columns, &fields)
        }) {
            Ok(key) => keys.push(key),
            Err(why) => reasons.push(format!("{file}:{line}: {why}")),
        }
    }
    if let Some(more) = reasons.len().checked_sub(REASONS_MAX + 1) {
        reasons.truncate(REASONS_MAX);
        reasons.push(format!("and {} more", more + 1));
    }
    if reasons.is_empty() {
        return Ok(keys);
    }
    Err(VerbError::refused(format!(
        "nothing was imported:\n{}",
        reasons.join("\n")
    )))
}

fn columns(file: &str, heading: &[String]) -> Result<Vec<&'static str>, VerbError> {
    let mut columns = Vec::new();
    for name in heading {
        let name = name.trim().to_ascii_lowercase();
        let known = COLUMNS.iter().find(|column| **column == name);
        match known {
            Some(column) if !columns.contains(column) => columns.push(*column),
            // A file without a heading begins with a key: nothing of it is repeated.
            _ => {
                return Err(VerbError::refused(format!(
                    "{file}:1: the first line must name the columns, each once; there are: {}",
                    COLUMNS.join(", ")
                )));
            }
        }
    }
    let has = |column| columns.contains(&column);
    if !has("tenant") || !has("name") || !(has("value") || has("sha256")) {
        return Err(VerbError::refused(format!(
            "{file}:1: the columns tenant, name and one of value and sha256 are required"
        )));
    }
    Ok(columns)
}

fn row(line: u64, columns: &[&str], fields: &[String]) -> Result<ImportedKey, String> {
    if fields.len() != columns.len() {
        return Err(format!(
            "{} fields, where the first line has {}",
            fields.len(),
            columns.len()
        ));
    }
    let field = |name: &str| {
        let place = columns.iter().position(|column| *column == name)?;
        Some(fields[place].trim()).filter(|text| !text.is_empty())
    };
    let owned = |name: &str| field(name).map(str::to_owned);
    let words = |name: &str| -> Vec<String> {
        let words = field(name).unwrap_or_default().split_ascii_whitespace();
        words.map(str::to_owned).collect()
    };
    let expires = field("expires").map_or(Ok(Expires::Never), Expires::parse)?;
    let inherits = field("scopes") == Some("inherit");
    Ok(ImportedKey {
        line,
        value: owned("value").map(KeyText::new),
        sha256: owned("sha256"),
        key: NewKey {
            tenant: field("tenant").ok_or("no tenant")?.to_owned(),
            name: field("name").ok_or("no name")?.to_owned(),
            kind: field("kind").unwrap_or("secret").to_owned(),
            environment: owned("environment"),
            plan: owned("plan"),
            quota: owned("quota"),
            burst: owned("burst"),
            default_scopes: field("scopes").is_none(),
            scopes: (!inherits).then(|| words("scopes")),
            expires_in_seconds: expires.in_seconds(),
            expires_at_unix_seconds: expires.at_unix_seconds(),
            subject: owned("subject"),
            origins: words("origins"),
            cidrs: words("cidrs"),
            note: owned("note"),
        },
    })
}

/// Guessing what was meant could take over another key than the one that is in use, or swallow the rows that follow.
const QUOTES: &str = "a quote is left open or stands inside a field; a field with a quote in it is written \"one \"\" inside\"";

/// The records of a CSV text with the line that each begins on; empty lines are skipped. `None` where the quotes make no sense.
pub(super) struct Records<'a> {
    pub(super) rest: &'a str,
    pub(super) line: u64,
}

impl Iterator for Records<'_> {
    type Item = (u64, Option<Vec<String>>);

    fn next(&mut self) -> Option<(u64, Option<Vec<String>>)> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let begin = self.line;
            match self.record() {
                Some(fields) if fields.iter().all(|field| field.trim().is_empty()) => {}
                fields => return Some((begin, fields)),
            }
        }
    }
}

impl Records<'_> {
    fn record(&mut self) -> Option<Vec<String>> {
        let mut fields = vec![String::new()];
        let (mut quoted, mut closed, mut sound) = (false, false, true);
        let mut characters = self.rest.char_indices().peekable();
        let mut end = self.rest.len();
        while let Some((place, character)) = characters.next() {
            let next = characters.peek().map(|(_, next)| *next);
            let field = fields.last_mut()?;
            match character {
                '"' if quoted && next == Some('"') => {
                    characters.next();
                    field.push('"');
                }
                '"' if quoted => (quoted, closed) = (false, true),
                '"' if field.is_empty() && !closed => quoted = true,
                ',' if !quoted => {
                    fields.push(String::new());
                    closed = false;
                }
                '\n' => {
                    self.line += 1;
                    if !quoted {
                        end = place + 1;
                        break;
                    }
                    field.push('\n');
                }
                '\r' if next == Some('\n') => {}
                other => {
                    sound &= quoted || (other != '"' && !closed);
                    field.push(other);
                }
            }
        }
        self.rest = &self.rest[end..];
        (sound && !quoted).then_some(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_line_that_they_begin_on() {
        let text = "\u{feff}name,Tenant,value,scopes,note\r\n\"CI, \"\"x\"\"\",acme,0123456789abcdef,a:b c:d,\"two\nlines\"\n\n\nB,acme,x,inherit,\n";
        let keys = rows("keys.csv", text).unwrap();
        let lines: Vec<u64> = keys.iter().map(|key| key.line).collect();
        assert_eq!(lines, [2, 6]);
        assert_eq!(keys[0].key.name, "CI, \"x\"");
        assert_eq!(keys[0].key.scopes.as_deref().unwrap(), ["a:b", "c:d"]);
        assert_eq!(keys[0].key.note.as_deref(), Some("two\nlines"));
        assert_eq!(
            (keys[1].key.scopes.is_none(), keys[1].key.default_scopes),
            (true, false)
        );
    }

    #[test]
    fn what_is_no_such_table_is_refused_with_its_line_and_without_its_values() {
        let cases = [
            ("", ":1: the columns"),
            ("fp_live_secret,acme\n", ":1: the first line must name"),
            ("name,tenant\n", ":1: the columns"),
            ("name,tenant,value,value\n", ":1: the first line"),
            ("name,tenant,value\nCI,acme\n", ":2: 2 fields"),
            ("name,tenant,value\n,acme,secretsecret\n", ":2: no name"),
            (
                "name,tenant,value\na,b,secret\"secret\"secret\n",
                ":2: a quote",
            ),
            ("name,tenant,value\na,b,\"secret\" secret\n", ":2: a quote"),
            (
                "tenant,name,value,note\na,b,c,\"open\nd,e,secretsecret,f\n",
                ":2: a quote",
            ),
            (
                "name,tenant,value\na,b,c\nd,e,\"secretsecret",
                ":3: a quote",
            ),
            (
                "name,tenant,value,expires\na,b,secretsecret,x\n",
                ":2: write never",
            ),
        ];
        for (text, words) in cases {
            let error = rows("keys.csv", text).unwrap_err();
            assert!(error.text.contains(words), "{text}: {error}");
            assert!(!error.text.contains("secret"), "{error}");
        }
    }
}
