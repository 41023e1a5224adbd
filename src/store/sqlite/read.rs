//! What stands in the store.

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Params;
use rusqlite::Row;
use rusqlite::params;

use crate::clock::Wall;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Tenant;
use crate::store::Contents;
use crate::store::Retired;
use crate::store::audit;
use crate::store::audit::Done;
use crate::store::audit::Once;
use crate::store::error::StoreError;
use crate::store::rows;
use crate::store::sqlite::Store;

/// How a digest stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestUse {
    /// Nobody ever had it.
    Free,
    /// It is this key's.
    Key(KeyId, KeyStatus),
    /// It was this key's until it was regenerated; until then, if that is said, it is still taken for it (C-19).
    Retired(KeyId, Option<Wall>),
}

impl Store {
    /// Everything in it.
    ///
    /// # Errors
    /// The database cannot be read, or a row makes no sense.
    pub fn load(&self) -> Result<Contents, StoreError> {
        self.stream(|contents| contents, |contents, key| contents.keys.push(key))
    }

    /// Everything in it, without keeping the keys: all else goes to `begin` first, then each key to `each`.
    ///
    /// # Errors
    /// The database cannot be read, or a row makes no sense; what was made of it so far is thrown away.
    pub fn stream<T>(
        &self,
        begin: impl FnOnce(Contents) -> T,
        mut each: impl FnMut(&mut T, ApiKey),
    ) -> Result<T, StoreError> {
        self.read(|connection| {
            // One transaction, so that all of it is of one revision.
            let reading = connection.unchecked_transaction()?;
            let mut made = begin(Contents {
                revision: revision_of(&reading)?,
                keys: Vec::new(),
                tenants: all(&reading, &tenant_query(""), [], rows::tenant)?,
                retired: all(&reading, RETIRED, [], rows::retired)?,
                denials: all(&reading, &denial_query(), [], rows::denial)?,
            });
            let mut statement = reading.prepare(&key_query(""))?;
            for key in statement.query_map([], rows::key)? {
                each(&mut made, key?);
            }
            drop(statement);
            Ok(made)
        })
    }

    /// The revision that the store stands at.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn revision(&self) -> Result<u64, StoreError> {
        self.read(revision_of)
    }

    /// The key with this id, tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&key_query("WHERE id = ?1"))?
                .query_row([id.to_string()], rows::key)
                .optional()
        })
    }

    /// The key that has this digest now, tombstones included.
    #[cfg(test)]
    pub(crate) fn key_of_digest(&self, digest: &Digest) -> Result<Option<ApiKey>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&key_query("WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::key)
                .optional()
        })
    }

    /// Keys of this tenant, this end user and this beginning of their text, as far as they are given; tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn keys(
        &self,
        tenant: Option<&str>,
        subject: Option<&str>,
        prefix: Option<&str>,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let query = key_query(
            "WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR subject = ?2)
             AND (?3 IS NULL OR substr(prefix, 1, length(?3)) = ?3)",
        );
        self.read(|connection| {
            all(
                connection,
                &query,
                params![tenant, subject, prefix],
                rows::key,
            )
        })
    }

    /// Keys as they came into the store, of this tenant or all, from behind this one on, until `each` has seen enough; tombstones included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn keys_after(
        &self,
        tenant: Option<&str>,
        after: Option<KeyId>,
        mut each: impl FnMut(ApiKey) -> bool,
    ) -> Result<(), StoreError> {
        // Rows are never removed, so their own numbers are the order in which they came; the index of tenants has them too.
        let behind = "rowid > coalesce((SELECT rowid FROM api_key WHERE id = ?1), 0)";
        let of_tenant = if tenant.is_some() {
            "tenant = ?2"
        } else {
            "?2 IS NULL"
        };
        let query = key_query(&format!("WHERE {behind} AND {of_tenant} ORDER BY rowid"));
        let after = after.map(|id| id.to_string());
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&query)?;
            let mut found = statement.query_map(params![after, tenant], rows::key)?;
            while let Some(key) = found.next().transpose()? {
                if !each(key) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Whose this digest is or was (FA10).
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn digest_use(&self, digest: &Digest) -> Result<DigestUse, StoreError> {
        self.read(|connection| {
            let key = connection
                .prepare_cached(&key_query("WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::key)
                .optional()?;
            if let Some(key) = key {
                return Ok(DigestUse::Key(key.id, key.status));
            }
            let retired = connection
                .prepare_cached(&format!("{RETIRED} WHERE digest = ?1"))?
                .query_row([digest.0.as_slice()], rows::retired)
                .optional()?;
            Ok(retired.map_or(DigestUse::Free, |old| {
                DigestUse::Retired(old.key, old.until)
            }))
        })
    }

    /// Digests that this key had before.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn retired_of(&self, id: KeyId) -> Result<Vec<Retired>, StoreError> {
        let query = format!("{RETIRED} WHERE key_id = ?1");
        self.read(|connection| all(connection, &query, [id.to_string()], rows::retired))
    }

    /// All tenants, by id.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read(|connection| all(connection, &tenant_query("ORDER BY id"), [], rows::tenant))
    }

    /// All tokens of the admin plane, oldest first, those that have ended included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn admin_tokens(&self) -> Result<Vec<AdminToken>, StoreError> {
        let columns = rows::ADMIN_TOKEN_COLUMNS;
        let query = format!("SELECT {columns} FROM admin_token ORDER BY created, id");
        self.read(|connection| all(connection, &query, [], rows::admin_token))
    }

    /// What this one did under this name, not before `since`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn done(&self, who: &str, once: &Once, since: Wall) -> Result<Option<Done>, StoreError> {
        self.read(|connection| audit::done(connection, who, &once.key, since))
    }

    /// Access tokens that are denied, expired entries included.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn denials(&self) -> Result<Vec<Denial>, StoreError> {
        self.read(|connection| all(connection, &denial_query(), [], rows::denial))
    }
}

const RETIRED: &str = "SELECT digest, key_id, valid_until FROM retired_digest";

pub(super) fn revision_of(connection: &Connection) -> rusqlite::Result<u64> {
    let revision: i64 = connection.query_row("SELECT revision FROM meta", [], |row| row.get(0))?;
    Ok(u64::try_from(revision).unwrap_or(0))
}

fn key_query(rest: &str) -> String {
    format!("SELECT {} FROM api_key {rest}", rows::KEY_COLUMNS)
}

fn tenant_query(rest: &str) -> String {
    format!("SELECT {} FROM tenant {rest}", rows::TENANT_COLUMNS)
}

fn denial_query() -> String {
    format!("SELECT {} FROM denied_token", rows::DENIAL_COLUMNS)
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    given: impl Params,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(given, read)?;
    rows.collect()
}
