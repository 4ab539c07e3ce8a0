//! Rows of `idempotency_keys`: what a request made, and the answer that a repeat gets again.
//!
//! Promises: [`claim`] belongs in the transaction that makes the object, so that after a crash a
//! repeat either finds the object or nothing was made; one key never names two objects.

use jiff::Timestamp;
use miosa_types::TenantId;
use sqlx::{AnyConnection, Row as _};
use uuid::Uuid;

use crate::{Error, row};

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of method, path and body of the request, in hexadecimal digits.
    pub fingerprint: String,
    /// Id of what the request made, if it makes something that is kept.
    pub made: Option<Uuid>,
    /// Its answer; `None`: it broke off before there was one.
    pub answer: Option<Answer>,
}

/// An answer as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its `Content-Type`, if it had one.
    pub content_type: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
}

/// The key that a request runs under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The `Idempotency-Key`.
    pub key: String,
    /// As in [`Stored::fingerprint`].
    pub fingerprint: String,
    /// What an earlier run of this request made before it broke off.
    pub made: Option<Uuid>,
}

/// What is known of a key since `oldest`.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    key: &str,
    oldest: Timestamp,
) -> Result<Option<Stored>, Error> {
    let row = sqlx::query(
        "select fingerprint, made_id, status, content_type, body from idempotency_keys
         where tenant_id = $1 and key = $2 and created_at_ms >= $3",
    )
    .bind(tenant.to_string())
    .bind(key)
    .bind(oldest.as_millisecond())
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let made: Option<String> = row.try_get("made_id")?;
    let status: Option<i64> = row.try_get("status")?;
    let answer = match status {
        None => None,
        Some(status) => Some(Answer {
            status: row::number("idempotency_keys", status)?,
            content_type: row.try_get("content_type")?,
            body: row.try_get::<Option<_>, _>("body")?.unwrap_or_default(),
        }),
    };
    let corrupt =
        |error: uuid::Error| Error::Corrupt { table: "idempotency_keys", why: error.to_string() };
    Ok(Some(Stored {
        fingerprint: row.try_get("fingerprint")?,
        made: made.map(|id| id.parse()).transpose().map_err(corrupt)?,
        answer,
    }))
}

const CLAIM: &str = "
    insert into idempotency_keys (tenant_id, key, fingerprint, made_id, created_at_ms)
    values ($1, $2, $3, $4, $5)
    on conflict (tenant_id, key) do update set fingerprint = excluded.fingerprint,
        made_id = excluded.made_id, status = null, content_type = null, body = null,
        created_at_ms = excluded.created_at_ms";

/// Says in the transaction that makes an object that it is made under this key; without a key
/// there is nothing to say. Replaces an older row of the key (only an expired one can be there).
pub async fn claim(
    tx: &mut AnyConnection,
    tenant: TenantId,
    claim: Option<&Claim>,
    made: Uuid,
    now: Timestamp,
) -> Result<(), Error> {
    match claim {
        Some(claim) => put(tx, tenant, claim, Some(made), now).await,
        None => Ok(()),
    }
}

/// Says before a request runs that it begins under this key, for one that makes nothing by which a
/// repeat could find out. Replaces an older row of the key (only an expired one can be there).
pub async fn begin(
    db: &mut AnyConnection,
    tenant: TenantId,
    claim: &Claim,
    now: Timestamp,
) -> Result<(), Error> {
    put(db, tenant, claim, None, now).await
}

async fn put(
    db: &mut AnyConnection,
    tenant: TenantId,
    claim: &Claim,
    made: Option<Uuid>,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(CLAIM)
        .bind(tenant.to_string())
        .bind(&claim.key)
        .bind(&claim.fingerprint)
        .bind(made.map(|id| id.to_string()))
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

const ANSWER: &str = "
    insert into idempotency_keys (tenant_id, key, fingerprint, status, content_type, body,
                                  created_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7)
    on conflict (tenant_id, key) do update set fingerprint = excluded.fingerprint,
        status = excluded.status, content_type = excluded.content_type, body = excluded.body,
        created_at_ms = excluded.created_at_ms";

/// Keeps the answer of the request that runs under a key.
pub async fn answer(
    db: &mut AnyConnection,
    tenant: TenantId,
    claim: &Claim,
    answer: &Answer,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(ANSWER)
        .bind(tenant.to_string())
        .bind(&claim.key)
        .bind(&claim.fingerprint)
        .bind(i64::from(answer.status))
        .bind(answer.content_type.as_deref())
        .bind(answer.body.as_slice())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets a key whose object was taken back: a repeat makes a new one.
pub async fn forget(db: &mut AnyConnection, tenant: TenantId, key: &str) -> Result<(), Error> {
    sqlx::query("delete from idempotency_keys where tenant_id = $1 and key = $2")
        .bind(tenant.to_string())
        .bind(key)
        .execute(db)
        .await?;
    Ok(())
}

/// Takes [`begin`] back; what was made or answered under the key stays.
pub async fn unbegin(db: &mut AnyConnection, tenant: TenantId, key: &str) -> Result<(), Error> {
    sqlx::query(
        "delete from idempotency_keys
         where tenant_id = $1 and key = $2 and made_id is null and status is null",
    )
    .bind(tenant.to_string())
    .bind(key)
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets keys older than `oldest`.
pub async fn delete_before(db: &mut AnyConnection, oldest: Timestamp) -> Result<(), Error> {
    sqlx::query("delete from idempotency_keys where created_at_ms < $1")
        .bind(oldest.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}
