//! Rows of `previews`: ports of a sandbox that the tenant named.
//!
//! A preview host works for any port of a running sandbox; a row gives it an id and a name, and
//! says who may see it.

use jiff::Timestamp;
use miosa_types::{PreviewId, SandboxId, TenantId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "previews";

/// Who may see a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Whoever knows the host.
    Public,
    /// Whoever holds a token.
    Private,
}

impl Visibility {
    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Public, Self::Private].into_iter().find(|one| one.as_str() == text)
    }
}

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
    /// Who may see it.
    pub visibility: Visibility,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// When it was removed.
    pub deleted_at: Option<Timestamp>,
}

const INSERT: &str = "
    insert into previews (id, tenant_id, sandbox_id, name, port, visibility, metadata,
        created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $8)";

/// Adds a preview.
pub async fn insert(db: &mut AnyConnection, preview: &Preview) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(preview.id.to_string())
        .bind(preview.tenant.to_string())
        .bind(preview.sandbox.to_string())
        .bind(preview.name.clone())
        .bind(i64::from(preview.port))
        .bind(preview.visibility.as_str())
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

/// Previews of a sandbox, oldest first.
pub fn of_sandbox(tenant: TenantId, sandbox: SandboxId) -> List<Preview> {
    const ROWS: &str = "
        from previews where tenant_id = $1 and sandbox_id = $2 and deleted_at_ms is null";
    List::of(tenant, ROWS, read, |preview| preview.id.to_string()).bind(Some(sandbox.to_string()))
}

/// The same, at most 1,000.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    sandbox: SandboxId,
) -> Result<Vec<Preview>, Error> {
    of_sandbox(tenant, sandbox).window(db, &Window::default()).await
}

const LIVE: &str = "
    select p.* from previews p join sandboxes s on s.id = p.sandbox_id
    where s.destroyed_at_ms is null and (p.deleted_at_ms is null or p.visibility = 'private')
    order by p.sandbox_id, p.id";

/// Previews of all sandboxes of every tenant, and the private ones that were removed, which keep
/// their port closed: for routes, never for a caller.
pub async fn live(db: &mut AnyConnection) -> Result<Vec<Preview>, Error> {
    let rows = sqlx::query(LIVE).fetch_all(db).await?;
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
    let visibility: String = row.try_get("visibility")?;
    let unknown = || row::corrupt(TABLE, &format_args!("`{visibility}` is no visibility"));
    Ok(Preview {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        sandbox: row::id(TABLE, row.try_get("sandbox_id")?)?,
        name: row.try_get("name")?,
        port: row::number(TABLE, row.try_get("port")?)?,
        visibility: Visibility::parse(&visibility).ok_or_else(unknown)?,
        metadata: row::json(TABLE, row.try_get("metadata")?)?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
        deleted_at: row::maybe_time(TABLE, row.try_get("deleted_at_ms")?)?,
    })
}
