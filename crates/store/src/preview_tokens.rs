//! Rows of `preview_tokens`: who may see private ports of a sandbox.

use jiff::Timestamp;
use miosa_types::{Digest, PreviewId, PreviewTokenId, SandboxId, TenantId};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, row};

const TABLE: &str = "preview_tokens";

/// One token, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviewToken {
    /// Its id.
    pub id: PreviewTokenId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// The preview that it opens; `None`: it is of none.
    pub preview: Option<PreviewId>,
    /// The port that it opens if it is of no preview; `None`: every port.
    pub port: Option<u16>,
    /// SHA-256 of its text.
    pub digest: Digest,
    /// Its first characters, so that its owner knows it again.
    pub prefix: String,
    /// What it was asked for.
    pub scope: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

const INSERT: &str = "
    insert into preview_tokens (id, tenant_id, sandbox_id, preview_id, port, token_digest, prefix,
        scope, created_at_ms, expires_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

/// Adds a token.
pub async fn insert(db: &mut AnyConnection, token: &PreviewToken) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(token.id.to_string())
        .bind(token.tenant.to_string())
        .bind(token.sandbox.to_string())
        .bind(token.preview.map(|id| id.to_string()))
        .bind(token.port.map(i64::from))
        .bind(token.digest.to_string())
        .bind(&token.prefix)
        .bind(&token.scope)
        .bind(token.created_at.as_millisecond())
        .bind(token.expires_at.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

const OF_SANDBOX: &str = "
    select * from preview_tokens
    where tenant_id = $1 and sandbox_id = $2 and expires_at_ms > $3 and revoked_at_ms is null
    order by expires_at_ms desc, id limit 1000";

/// Tokens of a sandbox that still open something, longest first.
pub async fn of_sandbox(
    db: &mut AnyConnection,
    tenant: TenantId,
    sandbox: SandboxId,
    now: Timestamp,
) -> Result<Vec<PreviewToken>, Error> {
    let rows = sqlx::query(OF_SANDBOX)
        .bind(tenant.to_string())
        .bind(sandbox.to_string())
        .bind(now.as_millisecond())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

const LIVE: &str = "
    select * from preview_tokens
    where expires_at_ms > $1 and revoked_at_ms is null
    order by sandbox_id, id";

/// Every token of every tenant that still opens something: for routes, never for a caller.
pub async fn live(db: &mut AnyConnection, now: Timestamp) -> Result<Vec<PreviewToken>, Error> {
    let rows = sqlx::query(LIVE).bind(now.as_millisecond()).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

const REVOKE: &str = "
    update preview_tokens set revoked_at_ms = $4
    where tenant_id = $1 and sandbox_id = $2 and preview_id = $3 and revoked_at_ms is null";

/// Takes back every token of a preview; how many there were.
pub async fn revoke(
    db: &mut AnyConnection,
    of: (TenantId, SandboxId, PreviewId),
    now: Timestamp,
) -> Result<u64, Error> {
    let (tenant, sandbox, preview) = of;
    let done = sqlx::query(REVOKE)
        .bind(tenant.to_string())
        .bind(sandbox.to_string())
        .bind(preview.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}

/// Deletes tokens that ended before `oldest`.
pub async fn delete_before(db: &mut AnyConnection, oldest: Timestamp) -> Result<(), Error> {
    sqlx::query("delete from preview_tokens where expires_at_ms < $1")
        .bind(oldest.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<PreviewToken, Error> {
    let preview: Option<String> = row.try_get("preview_id")?;
    let port: Option<i64> = row.try_get("port")?;
    let digest: String = row.try_get("token_digest")?;
    Ok(PreviewToken {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        sandbox: row::id(TABLE, row.try_get("sandbox_id")?)?,
        preview: preview.map(|id| row::id(TABLE, &id)).transpose()?,
        port: port.map(|port| row::number(TABLE, port)).transpose()?,
        digest: digest.parse().map_err(|why| row::corrupt(TABLE, &why))?,
        prefix: row.try_get("prefix")?,
        scope: row.try_get("scope")?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        expires_at: row::time(TABLE, row.try_get("expires_at_ms")?)?,
    })
}
