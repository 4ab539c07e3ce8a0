//! Rows of `idempotency_keys`: answers that a repeated request gets again.
//!
//! Requests under way are not here: the one control that runs them knows them, and after a crash
//! of it nobody could say what became of them.

use jiff::Timestamp;
use miosa_types::TenantId;
use sqlx::{AnyConnection, Row as _};

use crate::{Error, row};

/// An answer as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of method, path and body of the request, in hexadecimal digits.
    pub fingerprint: String,
    /// HTTP status.
    pub status: u16,
    /// Its `Content-Type`, if it had one.
    pub content_type: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The answer that was kept for a key since `oldest`.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    key: &str,
    oldest: Timestamp,
) -> Result<Option<Stored>, Error> {
    let row = sqlx::query(
        "select fingerprint, status, content_type, body from idempotency_keys
         where tenant_id = $1 and key = $2 and created_at_ms >= $3",
    )
    .bind(tenant.to_string())
    .bind(key)
    .bind(oldest.as_millisecond())
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Stored {
        fingerprint: row.try_get("fingerprint")?,
        status: row::number("idempotency_keys", row.try_get("status")?)?,
        content_type: row.try_get("content_type")?,
        body: row.try_get("body")?,
    }))
}

const INSERT: &str = "
    insert into idempotency_keys (tenant_id, key, fingerprint, status, content_type, body,
                                  created_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7)
    on conflict (tenant_id, key) do update set fingerprint = excluded.fingerprint,
        status = excluded.status, content_type = excluded.content_type, body = excluded.body,
        created_at_ms = excluded.created_at_ms";

/// Keeps an answer; replaces an older one of the same key (only an expired one can be there).
pub async fn insert(
    db: &mut AnyConnection,
    tenant: TenantId,
    key: &str,
    answer: &Stored,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(tenant.to_string())
        .bind(key)
        .bind(&answer.fingerprint)
        .bind(i64::from(answer.status))
        .bind(answer.content_type.as_deref())
        .bind(answer.body.as_slice())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets answers older than `oldest`.
pub async fn delete_before(db: &mut AnyConnection, oldest: Timestamp) -> Result<(), Error> {
    sqlx::query("delete from idempotency_keys where created_at_ms < $1")
        .bind(oldest.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}
