//! Changes of rows, each of which is one transaction and one revision.

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params;

use crate::clock::Wall;
use crate::model::admin_token::AdminToken;
use crate::model::denial::Denial;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyStatus;
use crate::model::tenant::Tenant;
use crate::store::audit;
use crate::store::audit::Act;
use crate::store::audit::Keep;
use crate::store::audit::Pruned;
use crate::store::audit::Written;
use crate::store::rows;
use crate::store::sqlite::read::revision_of;

/// One change of rows, made by `verbs::prepare` after every rule was checked.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new key, or the tombstone of a key that the file declares.
    InsertKey(Box<ApiKey>),
    /// A new status.
    SetStatus(KeyId, KeyStatus),
    /// Everything that may change of a key but its digest and its status.
    UpdateKey(Box<ApiKey>),
    /// A new digest for the same id; the old one is retired for good, those before it too, at the same time at the latest.
    ReplaceDigest {
        /// Whose.
        id: KeyId,
        /// The one that ends.
        old: Digest,
        /// The one that begins.
        new: Digest,
        /// For lists.
        prefix: String,
        /// For lists.
        last_four: String,
        /// When.
        now: Wall,
        /// Until then the old one still works; `None` is not at all.
        until: Option<Wall>,
    },
    /// The end, now, of a digest that was retired and still works.
    EndRetired(Digest, Wall),
    /// A new tenant.
    InsertTenant(Tenant, Wall),
    /// Everything of a tenant but its id.
    UpdateTenant(Tenant),
    /// A new token of the admin plane.
    InsertAdminToken(Box<AdminToken>),
    /// The end of a token of the admin plane, now.
    RevokeAdminToken(String, Wall),
    /// Tokens that are denied, instead of what was said of the same; what has expired by then is removed.
    PutDenial(Denial),
    /// What is denied no more.
    RemoveDenial(Denial),
}

pub(super) fn commit(
    connection: &mut Connection,
    writes: &[Write],
    act: Option<&Act>,
) -> rusqlite::Result<(u64, Option<Written>)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = apply_all(&transaction, writes, act)?;
    transaction.commit()?;
    empty_log(connection);
    Ok(changed)
}

pub(super) fn prune_audit(
    connection: &mut Connection,
    keep: Keep,
    now: Wall,
) -> rusqlite::Result<Pruned> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let revision = revision_of(&transaction)?;
    let pruned = audit::prune(&transaction, keep, now, revision)?;
    transaction.commit()?;
    if matches!(pruned, Pruned::Gone(..)) {
        empty_log(connection);
    }
    Ok(pruned)
}

/// All of these, a new revision where there are any, and the line of the audit log.
pub(in crate::store) fn apply_all(
    transaction: &Transaction<'_>,
    writes: &[Write],
    act: Option<&Act>,
) -> rusqlite::Result<(u64, Option<Written>)> {
    for write in writes {
        let changed = apply(transaction, write)?;
        if changed != 1 {
            return Err(rusqlite::Error::StatementChangedRows(changed));
        }
    }
    if !writes.is_empty() {
        transaction.execute("UPDATE meta SET revision = revision + 1", [])?;
    }
    let revision = revision_of(transaction)?;
    let written = act
        .map(|act| audit::append(transaction, act, revision))
        .transpose()?;
    Ok((revision, written))
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<usize> {
    match write {
        Write::InsertKey(key) => rows::insert_key(transaction, key),
        // A final status stays, whatever a caller asks for (FA10).
        Write::SetStatus(id, status) => transaction
            .prepare_cached(
                "UPDATE api_key SET status = ?2
                 WHERE id = ?1 AND (status IN ('active', 'inactive') OR ?2 IN ('revoked', 'deleted'))",
            )?
            .execute(params![id.to_string(), status.as_str()]),
        Write::UpdateKey(key) => rows::update_key(transaction, key),
        Write::ReplaceDigest {
            id,
            old,
            new,
            prefix,
            last_four,
            now,
            until,
        } => {
            let until = until.map(rows::micros);
            transaction.execute(
                "UPDATE retired_digest SET valid_until = min(valid_until, ?2) WHERE key_id = ?1",
                params![id.to_string(), until],
            )?;
            transaction.execute(
                "INSERT INTO retired_digest (digest, key_id, retired, valid_until) VALUES (?1, ?2, ?3, ?4)",
                params![old.0, id.to_string(), rows::micros(*now), until],
            )?;
            transaction.execute(
                "UPDATE api_key SET digest = ?3, prefix = ?4, last_four = ?5
                 WHERE id = ?1 AND digest = ?2 AND status IN ('active', 'inactive')",
                params![id.to_string(), old.0, new.0, prefix, last_four],
            )
        }
        Write::EndRetired(digest, now) => transaction.execute(
            "UPDATE retired_digest SET valid_until = min(valid_until, ?2) WHERE digest = ?1",
            params![digest.0, rows::micros(*now)],
        ),
        Write::InsertTenant(tenant, created) => rows::insert_tenant(transaction, tenant, *created),
        Write::UpdateTenant(tenant) => rows::update_tenant(transaction, tenant),
        Write::InsertAdminToken(token) => rows::insert_admin_token(transaction, token),
        Write::RevokeAdminToken(id, now) => transaction.execute(
            "UPDATE admin_token SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL",
            params![id, rows::micros(*now)],
        ),
        Write::PutDenial(denial) => rows::put_denial(transaction, denial),
        Write::RemoveDenial(denial) => rows::remove_denial(transaction, denial),
    }
}

pub(super) fn empty_log(connection: &Connection) {
    // The log is emptied at once, so that `keys.db` alone is the whole truth: a lost or broken log brings no revoked key back, and a copy
    // of the one file is a backup. It stays until the next change where somebody reads along; the change is durable either way.
    let _emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_row| Ok(()));
}
