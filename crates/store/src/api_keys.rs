//! Rows of `api_keys`. A key itself is never stored, only its SHA-256.

use std::num::NonZeroU32;

use jiff::Timestamp;
use miosa_types::{ApiKeyId, TenantId};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "api_keys";

/// One key, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whom it belongs to. The operator's belongs to tenant `default`.
    pub tenant: TenantId,
    /// Display name.
    pub name: String,
    /// SHA-256 of the key in hexadecimal digits.
    pub hash: String,
    /// First 12 characters, so that a person recognizes it.
    pub prefix: String,
    /// What it may do; `*` is everything.
    pub scopes: Vec<String>,
    /// Whether it may act for every tenant.
    pub is_operator: bool,
    /// Requests per minute, if it has a rate of its own.
    pub rate_limit_rpm: Option<NonZeroU32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last, exact to a minute.
    pub last_used_at: Option<Timestamp>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it opens anything at `now`.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

const INSERT: &str = "
    insert into api_keys (id, tenant_id, name, key_hash, key_prefix, scopes, is_operator,
                          created_at_ms, expires_at_ms, rate_limit_rpm)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Adds a key.
pub async fn insert(db: &mut AnyConnection, key: &ApiKey) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(key.id.to_string())
        .bind(key.tenant.to_string())
        .bind(&key.name)
        .bind(&key.hash)
        .bind(&key.prefix)
        .bind(row::to_json(&key.scopes))
        .bind(i64::from(key.is_operator))
        .bind(key.created_at.as_millisecond())
        .bind(key.expires_at.map(Timestamp::as_millisecond))
        .bind(key.rate_limit_rpm.map(|rpm| i64::from(rpm.get())))
        .execute(db)
        .await
        .map_err(|error| row::taken(error, &key.prefix))?;
    Ok(())
}

/// The key with this hash, usable or not. No tenant: this is how the tenant becomes known.
pub async fn find_by_hash(db: &mut AnyConnection, hash: &str) -> Result<Option<ApiKey>, Error> {
    let row = sqlx::query("select * from api_keys where key_hash = $1")
        .bind(hash)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// One key of a tenant.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: ApiKeyId,
) -> Result<Option<ApiKey>, Error> {
    let row = sqlx::query("select * from api_keys where tenant_id = $1 and id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Keys of a tenant, newest first, the operator's left out.
pub fn of_tenant(tenant: TenantId) -> List<ApiKey> {
    const ROWS: &str = "from api_keys where tenant_id = $1 and is_operator = 0";
    List::of(tenant, ROWS, read, |key| key.id.to_string()).newest_first()
}

/// Keys of a tenant, newest first, the operator's left out, at most 1,000.
pub async fn list(db: &mut AnyConnection, tenant: TenantId) -> Result<Vec<ApiKey>, Error> {
    of_tenant(tenant).window(db, &Window::default()).await
}

const REVOKE: &str = "
    update api_keys set revoked_at_ms = $3
    where tenant_id = $1 and id = $2 and is_operator = 0 and revoked_at_ms is null";

/// Revokes a key of a tenant; says whether there was one to revoke. The operator's own key
/// cannot be revoked this way.
pub async fn revoke(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: ApiKeyId,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(REVOKE)
        .bind(tenant.to_string())
        .bind(id.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Revokes every operator key but `keep`: there is one at a time.
pub async fn revoke_other_operators(
    db: &mut AnyConnection,
    keep: ApiKeyId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "update api_keys set revoked_at_ms = $2
         where id <> $1 and is_operator = 1 and revoked_at_ms is null",
    )
    .bind(keep.to_string())
    .bind(now.as_millisecond())
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that a key was used.
pub async fn touch(db: &mut AnyConnection, id: ApiKeyId, now: Timestamp) -> Result<(), Error> {
    sqlx::query("update api_keys set last_used_at_ms = $2 where id = $1")
        .bind(id.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<ApiKey, Error> {
    let is_operator: i64 = row.try_get("is_operator")?;
    let rpm: Option<i64> = row.try_get("rate_limit_rpm")?;
    Ok(ApiKey {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        name: row.try_get("name")?,
        hash: row.try_get("key_hash")?,
        prefix: row.try_get("key_prefix")?,
        scopes: row::json(TABLE, row.try_get("scopes")?)?,
        is_operator: is_operator != 0,
        rate_limit_rpm: rpm.and_then(|rpm| NonZeroU32::new(u32::try_from(rpm).unwrap_or(1))),
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        last_used_at: row::maybe_time(TABLE, row.try_get("last_used_at_ms")?)?,
        expires_at: row::maybe_time(TABLE, row.try_get("expires_at_ms")?)?,
        revoked_at: row::maybe_time(TABLE, row.try_get("revoked_at_ms")?)?,
    })
}
