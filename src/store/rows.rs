//! Rows of `keys.db` to keys and tenants, and back.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::params;
use rusqlite::types::Type;

use crate::clock::Wall;
use crate::model::admin_token::AdminToken;
use crate::model::admin_token::Role;
use crate::model::binding;
use crate::model::binding::Binding;
use crate::model::binding::WebOrigin;
use crate::model::denial;
use crate::model::denial::Denial;
use crate::model::denial::DeniedBy;
use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key::KeyId;
use crate::model::key::KeyKind;
use crate::model::key::KeyStatus;
use crate::model::key::Override;
use crate::model::scope::Scope;
use crate::model::scope::ScopeList;
use crate::model::scope::Scopes;
use crate::model::tenant::Origin;
use crate::model::tenant::Tenant;
use crate::model::tenant::TenantId;
use crate::store::Retired;

/// The columns that `key` reads, in its order.
pub(super) const KEY_COLUMNS: &str = "id, digest, name, kind, environment, tenant, plan, quota, \
     burst, scopes, created, expires, status, prefix, last_four, declared_in, \
     subject, origins, cidrs, note";

/// The columns that `tenant` reads, in its order.
pub(super) const TENANT_COLUMNS: &str =
    "id, name, plan, suspended, scopes, quota, burst, upstreams";

/// The columns that `denial` reads, in its order.
pub(super) const DENIAL_COLUMNS: &str =
    "denied_by, value, issuer, created, expires, issued_until, note";

pub(super) fn key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    let id: String = row.get(0)?;
    Ok(ApiKey {
        id: KeyId::parse(&id).map_err(bad(0))?,
        digest: Digest(row.get(1)?),
        name: row.get(2)?,
        kind: KeyKind::parse(row.get_ref(3)?.as_str()?).map_err(bad(3))?,
        environment: row.get(4)?,
        tenant: TenantId::new(row.get_ref(5)?.as_str()?).map_err(bad(5))?,
        plan: row.get(6)?,
        quota: Override::parse(row.get_ref(7)?.as_str_or_null()?).map_err(bad(7))?,
        burst: Override::parse(row.get_ref(8)?.as_str_or_null()?).map_err(bad(8))?,
        scopes: scopes(row.get_ref(9)?.as_str_or_null()?).map_err(bad(9))?,
        created: wall(row.get(10)?),
        expires: row.get::<_, Option<i64>>(11)?.map(wall),
        status: status(row.get_ref(12)?.as_str()?).map_err(bad(12))?,
        prefix: row.get(13)?,
        last_four: row.get(14)?,
        origin: match row.get_ref(15)?.as_str()? {
            "file" => Origin::File,
            _ => Origin::Store,
        },
        binding: Binding {
            subject: (row.get_ref(16)?.as_str_or_null()?)
                .map(binding::subject)
                .transpose()
                .map_err(bad(16))?,
            origins: words(row, 17, WebOrigin::parse)?,
            cidrs: words(row, 18, binding::network)?,
        },
        note: row.get(19)?,
    })
}

pub(super) fn insert_key(connection: &Connection, key: &ApiKey) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO api_key ({KEY_COLUMNS}, digest_version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, 1)"
    );
    connection.prepare_cached(&sql)?.execute(params![
        key.id.to_string(),
        key.digest.0,
        key.name,
        key.kind.as_str(),
        key.environment,
        key.tenant.as_str(),
        key.plan,
        key.quota.text(),
        key.burst.text(),
        scopes_text(&key.scopes),
        micros(key.created),
        key.expires.map(micros),
        key.status.as_str(),
        key.prefix,
        key.last_four,
        match key.origin {
            Origin::File => "file",
            Origin::Store => "store",
        },
        key.binding.subject.as_deref(),
        joined(&key.binding.origins),
        joined(&key.binding.cidrs),
        key.note,
    ])
}

/// Writes what may change of a key that has not ended.
pub(super) fn update_key(connection: &Connection, key: &ApiKey) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE api_key SET name = ?2, plan = ?3, quota = ?4, burst = ?5, scopes = ?6, expires = ?7,
             subject = ?8, origins = ?9, cidrs = ?10, note = ?11
         WHERE id = ?1 AND status IN ('active', 'inactive')",
        params![
            key.id.to_string(),
            key.name,
            key.plan,
            key.quota.text(),
            key.burst.text(),
            scopes_text(&key.scopes),
            key.expires.map(micros),
            key.binding.subject.as_deref(),
            joined(&key.binding.origins),
            joined(&key.binding.cidrs),
            key.note,
        ],
    )
}

/// A digest that a regenerated key had before.
pub(super) fn retired(row: &Row<'_>) -> rusqlite::Result<Retired> {
    Ok(Retired {
        digest: Digest(row.get(0)?),
        key: KeyId::parse(row.get_ref(1)?.as_str()?).map_err(bad(1))?,
        until: row.get::<_, Option<i64>>(2)?.map(wall),
    })
}

pub(super) fn tenant(row: &Row<'_>) -> rusqlite::Result<Tenant> {
    Ok(Tenant {
        id: TenantId::new(row.get_ref(0)?.as_str()?).map_err(bad(0))?,
        name: row.get(1)?,
        plan: row.get(2)?,
        suspended: row.get(3)?,
        scopes: scopes(row.get_ref(4)?.as_str_or_null()?).map_err(bad(4))?,
        quota: Override::parse(row.get_ref(5)?.as_str_or_null()?).map_err(bad(5))?,
        burst: Override::parse(row.get_ref(6)?.as_str_or_null()?).map_err(bad(6))?,
        upstreams: upstreams(row.get_ref(7)?.as_str_or_null()?).map_err(bad(7))?,
        origin: Origin::Store,
    })
}

pub(super) fn insert_tenant(
    connection: &Connection,
    tenant: &Tenant,
    created: Wall,
) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO tenant ({TENANT_COLUMNS}, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
    );
    connection.execute(
        &sql,
        params![
            tenant.id.as_str(),
            tenant.name,
            tenant.plan,
            tenant.suspended,
            scopes_text(&tenant.scopes),
            tenant.quota.text(),
            tenant.burst.text(),
            upstreams_text(&tenant.upstreams),
            micros(created)
        ],
    )
}

/// Writes everything of a tenant but its id.
pub(super) fn update_tenant(connection: &Connection, tenant: &Tenant) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE tenant SET name = ?2, plan = ?3, suspended = ?4, scopes = ?5, quota = ?6, burst = ?7,
             upstreams = ?8
         WHERE id = ?1",
        params![
            tenant.id.as_str(),
            tenant.name,
            tenant.plan,
            tenant.suspended,
            scopes_text(&tenant.scopes),
            tenant.quota.text(),
            tenant.burst.text(),
            upstreams_text(&tenant.upstreams),
        ],
    )
}

/// The columns that `admin_token` reads, in its order.
pub(super) const ADMIN_TOKEN_COLUMNS: &str =
    "id, digest, name, role, tenant, last_four, created, expires, revoked";

pub(super) fn admin_token(row: &Row<'_>) -> rusqlite::Result<AdminToken> {
    let tenant = row.get_ref(4)?.as_str_or_null()?;
    Ok(AdminToken {
        id: row.get(0)?,
        digest: Digest(row.get(1)?),
        name: row.get(2)?,
        role: Role::parse(row.get_ref(3)?.as_str()?, tenant).map_err(bad(3))?,
        last_four: row.get(5)?,
        created: wall(row.get(6)?),
        expires: row.get::<_, Option<i64>>(7)?.map(wall),
        revoked: row.get::<_, Option<i64>>(8)?.map(wall),
    })
}

pub(super) fn insert_admin_token(
    connection: &Connection,
    token: &AdminToken,
) -> rusqlite::Result<usize> {
    connection.execute(
        "INSERT INTO admin_token (id, digest, name, role, tenant, last_four, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            token.id,
            token.digest.0,
            token.name,
            token.role.as_str(),
            token.role.tenant().map(|tenant| tenant.as_str()),
            token.last_four,
            micros(token.created),
            token.expires.map(micros),
        ],
    )
}

pub(super) fn denial(row: &Row<'_>) -> rusqlite::Result<Denial> {
    let issuer = row.get_ref(2)?.as_str()?;
    Ok(Denial {
        by: DeniedBy::parse(row.get_ref(0)?.as_str()?).map_err(bad(0))?,
        value: denial::value(row.get_ref(1)?.as_str()?).map_err(bad(1))?,
        issuer: (!issuer.is_empty()).then(|| Arc::from(issuer)),
        created: wall(row.get(3)?),
        expires: row.get::<_, Option<i64>>(4)?.map(wall),
        issued_until: row.get::<_, Option<i64>>(5)?.map(wall),
        note: row.get(6)?,
    })
}

pub(super) fn put_denial(connection: &Connection, denial: &Denial) -> rusqlite::Result<usize> {
    connection.execute(
        "DELETE FROM denied_token WHERE expires <= ?1",
        [micros(denial.created)],
    )?;
    let sql = format!(
        "INSERT OR REPLACE INTO denied_token ({DENIAL_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
    );
    connection.execute(
        &sql,
        params![
            denial.by.as_str(),
            denial.value.as_ref(),
            denial.issuer.as_deref().unwrap_or(""),
            micros(denial.created),
            denial.expires.map(micros),
            denial.issued_until.map(micros),
            denial.note,
        ],
    )
}

pub(super) fn remove_denial(connection: &Connection, denial: &Denial) -> rusqlite::Result<usize> {
    connection.execute(
        "DELETE FROM denied_token WHERE denied_by = ?1 AND value = ?2 AND issuer = ?3",
        params![
            denial.by.as_str(),
            denial.value.as_ref(),
            denial.issuer.as_deref().unwrap_or(""),
        ],
    )
}

/// SQLite's integers are signed; the last microsecond they hold lies 292,000 years ahead.
pub(super) fn micros(wall: Wall) -> i64 {
    i64::try_from(wall.0).unwrap_or(i64::MAX)
}

fn wall(micros: i64) -> Wall {
    Wall(u64::try_from(micros).unwrap_or(0))
}

fn status(text: &str) -> Result<KeyStatus, &'static str> {
    match text {
        "active" => Ok(KeyStatus::Active),
        "inactive" => Ok(KeyStatus::Inactive),
        "revoked" => Ok(KeyStatus::Revoked),
        "deleted" => Ok(KeyStatus::Deleted),
        _ => Err("a key has a status that does not exist"),
    }
}

fn scopes(text: Option<&str>) -> Result<Scopes, &'static str> {
    let Some(text) = text else {
        return Ok(Scopes::Inherit);
    };
    let listed: Result<ScopeList, _> = text.split_ascii_whitespace().map(Scope::new).collect();
    listed.map(Scopes::Listed)
}

fn scopes_text(scopes: &Scopes) -> Option<String> {
    match scopes {
        Scopes::Inherit => None,
        Scopes::Listed(listed) => {
            let texts: Vec<&str> = listed.iter().map(Scope::as_str).collect();
            Some(texts.join(" "))
        }
    }
}

fn upstreams(text: Option<&str>) -> Result<BTreeMap<String, String>, serde_json::Error> {
    text.map_or_else(|| Ok(BTreeMap::new()), serde_json::from_str)
}

fn upstreams_text(upstreams: &BTreeMap<String, String>) -> Option<String> {
    let text = serde_json::to_string(upstreams).ok();
    text.filter(|_| !upstreams.is_empty())
}

/// The words of a column that holds a list; none when it is NULL.
fn words<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> rusqlite::Result<Vec<T>> {
    let text = row.get_ref(column)?.as_str_or_null()?.unwrap_or_default();
    let words = text.split_ascii_whitespace().map(parse);
    words.collect::<Result<_, _>>().map_err(bad(column))
}

fn joined<T: ToString>(list: &[T]) -> Option<String> {
    let words: Vec<String> = list.iter().map(T::to_string).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// A value that our own schema would never have let in: the file is damaged or was edited by hand.
fn bad<E: Into<Box<dyn Error + Send + Sync>>>(column: usize) -> impl Fn(E) -> rusqlite::Error {
    move |error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
