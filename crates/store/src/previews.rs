//! Rows of `previews`: ports of a sandbox that the tenant named.
//!
//! A preview host works for any port of a running sandbox; a row only gives it an id and a name.

use jiff::Timestamp;
use miosa_types::{PreviewId, SandboxId, TenantId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, row};

const TABLE: &str = "previews";

/// One preview.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Its id.
    pub id: PreviewId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// Display name.
    pub name: Option<String>,
    /// Port inside.
    pub port: u16,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

const INSERT: &str = "
    insert into previews (id, tenant_id, sandbox_id, name, port, visibility, metadata,
        created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, 'public', $6, $7, $7)";

/// Adds a preview.
pub async fn insert(db: &mut AnyConnection, preview: &Preview) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(preview.id.to_string())
        .bind(preview.tenant.to_string())
        .bind(preview.sandbox.to_string())
        .bind(preview.name.clone())
        .bind(i64::from(preview.port))
        .bind(row::to_json(&preview.metadata))
        .bind(preview.created_at.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

const GET: &str = "
    select * from previews
    where tenant_id = $1 and sandbox_id = $2 and id = $3 and deleted_at_ms is null";

/// One preview of a sandbox of a tenant.
pub async fn get(
    db: &mut AnyConnection,
    tenant: TenantId,
    sandbox: SandboxId,
    id: PreviewId,
) -> Result<Option<Preview>, Error> {
    let row = sqlx::query(GET)
        .bind(tenant.to_string())
        .bind(sandbox.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

const LIST: &str = "
    select * from previews
    where tenant_id = $1 and sandbox_id = $2 and deleted_at_ms is null
    order by id limit 1000";

/// Previews of a sandbox, oldest first, at most 1,000.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    sandbox: SandboxId,
) -> Result<Vec<Preview>, Error> {
    let rows =
        sqlx::query(LIST).bind(tenant.to_string()).bind(sandbox.to_string()).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

const DELETE: &str = "
    update previews set deleted_at_ms = $4, updated_at_ms = $4
    where tenant_id = $1 and sandbox_id = $2 and id = $3 and deleted_at_ms is null";

/// Removes a preview; false if there is none.
pub async fn delete(
    db: &mut AnyConnection,
    preview: (TenantId, SandboxId, PreviewId),
    now: Timestamp,
) -> Result<bool, Error> {
    let (tenant, sandbox, id) = preview;
    let done = sqlx::query(DELETE)
        .bind(tenant.to_string())
        .bind(sandbox.to_string())
        .bind(id.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn read(row: &AnyRow) -> Result<Preview, Error> {
    Ok(Preview {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        sandbox: row::id(TABLE, row.try_get("sandbox_id")?)?,
        name: row.try_get("name")?,
        port: row::number(TABLE, row.try_get("port")?)?,
        metadata: row::json(TABLE, row.try_get("metadata")?)?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
    })
}
