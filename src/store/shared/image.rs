//! Rows of `keys.db` as the shared store holds them: each a JSON text in a bucket, whatever its table.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::ToSql;
use rusqlite::params_from_iter;
use rusqlite::types::Value as Sql;
use rusqlite::types::ValueRef;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::store::audit::hex;
use crate::store::sqlite::Write;

/// A row, or that there is none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Which hash it stands in: all rows of a bucket are read at once.
    pub(super) bucket: String,
    /// Its name there.
    pub(super) field: String,
    /// `{"t": table, "c": {column: value}}`; empty for a row that is gone.
    pub(super) text: String,
}

impl Image {
    /// Of a line of the audit log that is kept no more.
    pub(super) fn of_gone_line(seq: i64) -> Image {
        let field = seq.to_string();
        Image {
            bucket: bucket(AUDIT.name, &field, ""),
            field,
            text: String::new(),
        }
    }

    /// Whether it is one of those.
    pub(super) fn is_gone_line(&self) -> bool {
        self.text.is_empty() && self.bucket != DENIALS
    }
}

/// A table that is shared.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Its primary key.
    key: &'static [&'static str],
}

const API_KEY: Table = Table {
    name: "api_key",
    key: &["id"],
};
const RETIRED: Table = Table {
    name: "retired_digest",
    key: &["digest"],
};
const TENANT: Table = Table {
    name: "tenant",
    key: &["id"],
};
const ADMIN_TOKEN: Table = Table {
    name: "admin_token",
    key: &["id"],
};
const DENIED: Table = Table {
    name: "denied_token",
    key: &["denied_by", "value", "issuer"],
};
const AUDIT: Table = Table {
    name: "audit",
    key: &["seq"],
};

/// Everything that is shared.
pub(super) const TABLES: [&Table; 6] = [&TENANT, &API_KEY, &RETIRED, &ADMIN_TOKEN, &DENIED, &AUDIT];

/// Hashes of keys: few enough to be listed, many enough for a million keys.
pub(super) const KEY_BUCKETS: u32 = 1_024;

/// The bucket of denied tokens, the only rows beside lines of the audit log that ever go.
pub(super) const DENIALS: &str = "d";

/// Audit lines per bucket.
pub(super) const AUDIT_LINES: u64 = 1_000;

/// The names of all buckets of a store with so many audit lines.
pub(super) fn buckets(audit_lines: u64) -> Vec<String> {
    let keys = (0..KEY_BUCKETS).map(|number| format!("k:{number}"));
    let audit = (0..=audit_lines / AUDIT_LINES).map(|number| format!("u:{number}"));
    let small = ["t", "a", DENIALS].map(str::to_owned);
    small.into_iter().chain(keys).chain(audit).collect()
}

/// In which buckets these stand, each once.
pub(super) fn buckets_of(images: &[Image]) -> Vec<String> {
    let mut buckets: Vec<String> = images.iter().map(|image| image.bucket.clone()).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// The rows that a change touched, as they are now.
pub(super) fn touched(
    connection: &Connection,
    writes: &[Write],
    audit_seq: Option<u64>,
) -> rusqlite::Result<Vec<Image>> {
    let mut images = Vec::new();
    let mut take = |table: &Table, condition: &str, given: &[&dyn ToSql]| {
        select(connection, table, condition, given, &mut |image| {
            images.push(image);
        })
    };
    for write in writes {
        match write {
            Write::InsertKey(key) | Write::UpdateKey(key) => {
                take(&API_KEY, "id = ?1", &[&key.id.to_string()])?;
            }
            Write::SetStatus(id, _) => take(&API_KEY, "id = ?1", &[&id.to_string()])?,
            Write::ReplaceDigest { id, .. } => {
                let id = id.to_string();
                take(&API_KEY, "id = ?1", &[&id])?;
                take(&RETIRED, "key_id = ?1", &[&id])?;
            }
            Write::EndRetired(digest, _) => {
                take(&RETIRED, "digest = ?1", &[&digest.0.as_slice()])?;
            }
            Write::InsertTenant(tenant, _) | Write::UpdateTenant(tenant) => {
                take(&TENANT, "id = ?1", &[&tenant.id.as_str()])?;
            }
            Write::InsertAdminToken(token) => take(&ADMIN_TOKEN, "id = ?1", &[&token.id])?,
            Write::RevokeAdminToken(id, _) => take(&ADMIN_TOKEN, "id = ?1", &[id])?,
            // What has expired goes by the way: all of them are few enough to be told anew.
            Write::PutDenial(_) | Write::RemoveDenial(_) => {}
        }
    }
    if let Some(seq) = audit_seq {
        take(
            &AUDIT,
            "seq = ?1",
            &[&i64::try_from(seq).unwrap_or(i64::MAX)],
        )?;
    }
    Ok(images)
}

/// Whether the change may have removed rows of a table: then all that is left of it is told.
pub(super) fn denials_changed(writes: &[Write]) -> bool {
    let of_denials = |write: &Write| matches!(write, Write::PutDenial(_) | Write::RemoveDenial(_));
    writes.iter().any(of_denials)
}

/// Names of all denials that stand in `keys.db`, with their images.
pub(super) fn denials(connection: &Connection) -> rusqlite::Result<Vec<Image>> {
    let mut images = Vec::new();
    select(connection, &DENIED, "true", &[], &mut |image| {
        images.push(image);
    })?;
    Ok(images)
}

/// All rows of all tables that are shared, one by one.
pub(super) fn all(connection: &Connection, each: &mut dyn FnMut(Image)) -> rusqlite::Result<()> {
    for table in TABLES {
        select(connection, table, "true", &[], each)?;
    }
    Ok(())
}

fn select(
    connection: &Connection,
    table: &Table,
    condition: &str,
    given: &[&dyn ToSql],
    each: &mut dyn FnMut(Image),
) -> rusqlite::Result<()> {
    let sql = format!("SELECT * FROM {} WHERE {condition}", table.name);
    let mut statement = connection.prepare_cached(&sql)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query(given)?;
    while let Some(row) = rows.next()? {
        each(image(table, &names, row)?);
    }
    Ok(())
}

fn image(table: &Table, names: &[String], row: &Row<'_>) -> rusqlite::Result<Image> {
    let mut columns = Map::new();
    for (index, name) in names.iter().enumerate() {
        columns.insert(name.clone(), to_json(row.get_ref(index)?));
    }
    let text = |name: &str| match columns.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(blob)) => blob["x"].as_str().unwrap_or_default().to_owned(),
        other => other.map(Value::to_string).unwrap_or_default(),
    };
    let field = match table.name {
        "retired_digest" => text("digest"),
        "denied_token" => {
            let parts = table.key.iter().map(|name| text(name));
            json!(parts.collect::<Vec<_>>()).to_string()
        }
        "audit" => text("seq"),
        _ => text("id"),
    };
    let bucket = bucket(table.name, &field, &text("key_id"));
    Ok(Image {
        bucket,
        field,
        text: json!({ "t": table.name, "c": columns }).to_string(),
    })
}

/// What an image is about, for the view of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A key, by its id; of a retired digest the key that had it.
    Key(String),
    /// A tenant.
    Tenant,
    /// A token of the admin plane.
    AdminToken,
    /// A denied token.
    Denial,
    /// A line of the audit log.
    Audit,
}

/// A row as it was read.
pub(super) struct Read(Value);

impl Read {
    /// Reads the text of an image.
    ///
    /// # Errors
    /// It is no JSON.
    pub(super) fn of(text: &str) -> Result<Read, String> {
        serde_json::from_str(text)
            .map(Read)
            .map_err(|error| error.to_string())
    }

    fn column(&self, name: &str) -> Option<&str> {
        self.0["c"][name].as_str()
    }

    /// Whether it would bring back a key or a token of the admin plane that has ended here for good: within one history nothing does (FA10).
    ///
    /// # Errors
    /// The copy cannot be read.
    pub(super) fn undoes_an_end(&self, connection: &Connection) -> rusqlite::Result<bool> {
        let (table, condition) = match self.0["t"].as_str() {
            Some("api_key") => match self.column("status") {
                Some("revoked" | "deleted") => return Ok(false),
                _ => ("api_key", "status IN ('revoked', 'deleted')"),
            },
            Some("admin_token") if self.0["c"]["revoked"].is_null() => {
                ("admin_token", "revoked IS NOT NULL")
            }
            _ => return Ok(false),
        };
        connection
            .prepare_cached(&format!(
                "SELECT 1 FROM {table} WHERE id = ?1 AND {condition}"
            ))?
            .exists([self.column("id")])
    }

    /// Ids of other rows that have the digest of this one: of two histories each may have taken in the same key, under another id.
    ///
    /// # Errors
    /// The copy cannot be read.
    pub(super) fn twin(&self, connection: &Connection) -> rusqlite::Result<Option<Twin>> {
        let (Some("api_key"), Some(id)) = (self.0["t"].as_str(), self.column("id")) else {
            return Ok(None);
        };
        let digest = self.0["c"]["digest"]["x"].as_str();
        connection
            .prepare_cached("SELECT id, status FROM api_key WHERE digest = unhex(?1) AND id != ?2")?
            .query_row([digest, Some(id)], |row| {
                Ok(Twin {
                    of: id.to_owned(),
                    id: row.get(0)?,
                    status: row.get(1)?,
                })
            })
            .optional()
    }
}

/// Two ids for one text.
pub(super) struct Twin {
    /// The store's.
    pub(super) of: String,
    /// This copy's.
    pub(super) id: String,
    /// How that stands.
    pub(super) status: String,
}

/// Puts the row of an image in place of what stands there.
///
/// # Errors
/// It is none of ours, or a rule of the schema forbids it.
pub(super) fn put(connection: &Connection, read: &Read) -> Result<About, String> {
    let Read(read) = read;
    let name = read["t"].as_str().unwrap_or_default();
    let table = TABLES.into_iter().find(|table| table.name == name);
    let table = table.ok_or_else(|| format!("a row of a table that is not known, {name:?}"))?;
    let columns = read["c"].as_object().ok_or("a row without columns")?;
    // Names go into the statement: only what can be the name of a column may.
    let plain = |name: &String| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    if !columns.keys().all(plain) {
        return Err("a row with a column that is none".to_owned());
    }
    let names: Vec<&str> = columns.keys().map(String::as_str).collect();
    let marks: Vec<String> = (1..=names.len()).map(|at| format!("?{at}")).collect();
    let others = names.iter().filter(|name| !table.key.contains(name));
    let sets: Vec<String> = others
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}",
        table.name,
        names.join(", "),
        marks.join(", "),
        table.key.join(", "),
        sets.join(", ")
    );
    let values: Vec<Sql> = columns
        .values()
        .map(from_json)
        .collect::<Result<_, String>>()?;
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| statement.execute(params_from_iter(values.iter())))
        .map_err(|error| error.to_string())?;
    let id = |name: &str| {
        let text = columns.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    Ok(match table.name {
        "api_key" => About::Key(id("id")),
        "retired_digest" => About::Key(id("key_id")),
        "tenant" => About::Tenant,
        "admin_token" => About::AdminToken,
        "denied_token" => About::Denial,
        _ => About::Audit,
    })
}

fn to_json(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(bytes) => json!({ "x": hex(bytes) }),
    }
}

fn from_json(value: &Value) -> Result<Sql, String> {
    Ok(match value {
        Value::Null => Sql::Null,
        Value::String(text) => Sql::Text(text.clone()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Sql::Integer(number),
            None => return Err("a number that is no whole one".to_owned()),
        },
        Value::Object(blob) => {
            let hex = blob.get("x").and_then(Value::as_str);
            Sql::Blob(bytes(hex.ok_or("bytes without their digits")?)?)
        }
        Value::Bool(_) | Value::Array(_) => {
            return Err("a value of a kind that is not stored".to_owned());
        }
    })
}

fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = hex.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let read: Option<Vec<u8>> = pairs.collect();
    read.ok_or_else(|| "bytes that are no hexadecimal digits".to_owned())
}

/// The bucket of a row, by its name and text.
pub(super) fn bucket_of(field: &str, text: &str) -> String {
    let read: Value = serde_json::from_str(text).unwrap_or_default();
    // Only denials ever go.
    let table = read["t"].as_str().unwrap_or(DENIED.name);
    bucket(
        table,
        field,
        read["c"]["key_id"].as_str().unwrap_or_default(),
    )
}

fn bucket(table: &str, field: &str, key_id: &str) -> String {
    let of_key = |id: &str| format!("k:{}", crc32fast::hash(id.as_bytes()) % KEY_BUCKETS);
    match table {
        "api_key" => of_key(field),
        "retired_digest" => of_key(key_id),
        "tenant" => "t".to_owned(),
        "admin_token" => "a".to_owned(),
        "audit" => format!("u:{}", field.parse::<u64>().unwrap_or(0) / AUDIT_LINES),
        _ => DENIALS.to_owned(),
    }
}
