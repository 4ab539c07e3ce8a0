//! Rows of `workspaces`: a tenant's downstream customers.

use jiff::Timestamp;
use miosa_types::{Branding, Slug, TenantId, WorkspaceId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "workspaces";

/// One workspace.
#[derive(Clone, Debug, PartialEq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Display name.
    pub name: String,
    /// Unique within the tenant; never changes.
    pub slug: Slug,
    /// What it is for.
    pub description: Option<String>,
    /// The tenant's own name for it.
    pub external_workspace_id: Option<String>,
    /// What of its brand is not its tenant's.
    pub branding: Option<Branding>,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

const INSERT: &str = "
    insert into workspaces (id, tenant_id, name, slug, description, external_workspace_id,
                            metadata, created_at_ms, updated_at_ms, branding)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9)";

/// Adds a workspace. `Taken` if its slug is in use in this tenant.
pub async fn insert(db: &mut AnyConnection, workspace: &Workspace) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(workspace.id.to_string())
        .bind(workspace.tenant.to_string())
        .bind(&workspace.name)
        .bind(workspace.slug.as_str())
        .bind(workspace.description.as_deref())
        .bind(workspace.external_workspace_id.as_deref())
        .bind(row::to_json(&workspace.metadata))
        .bind(workspace.created_at.as_millisecond())
        .bind(workspace.branding.as_ref().map(row::to_json))
        .execute(db)
        .await
        .map_err(|error| row::taken(error, workspace.slug.as_str()))?;
    Ok(())
}

/// What to look a workspace up by.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// Id.
    Id(WorkspaceId),
    /// Slug.
    Slug(&'a str),
    /// Display name; the oldest of that name.
    Name(&'a str),
    /// The tenant's own name for it; the oldest of that name.
    External(&'a str),
}

/// One workspace of a tenant.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    by: By<'_>,
) -> Result<Option<Workspace>, Error> {
    const BY_ID: &str = "select * from workspaces where tenant_id = $1 and id = $2";
    const BY_SLUG: &str = "select * from workspaces where tenant_id = $1 and slug = $2";
    const BY_NAME: &str =
        "select * from workspaces where tenant_id = $1 and name = $2 order by id limit 1";
    const BY_EXTERNAL: &str = "select * from workspaces
        where tenant_id = $1 and external_workspace_id = $2 order by id limit 1";
    let (sql, value) = match by {
        By::Id(id) => (BY_ID, id.to_string()),
        By::Slug(slug) => (BY_SLUG, slug.to_owned()),
        By::Name(name) => (BY_NAME, name.to_owned()),
        By::External(name) => (BY_EXTERNAL, name.to_owned()),
    };
    let row = sqlx::query(sql).bind(tenant.to_string()).bind(value).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Workspaces of a tenant, oldest first.
pub fn of_tenant(tenant: TenantId) -> List<Workspace> {
    const ROWS: &str = "from workspaces where tenant_id = $1";
    List::of(tenant, ROWS, read, |workspace| workspace.id.to_string())
}

/// The same, at most 1,000.
pub async fn list(db: &mut AnyConnection, tenant: TenantId) -> Result<Vec<Workspace>, Error> {
    of_tenant(tenant).window(db, &Window::default()).await
}

/// All of them, of all tenants, that have a brand of their own.
pub async fn branded(db: &mut AnyConnection) -> Result<Vec<Workspace>, Error> {
    const PAGE: &str = "
        select * from workspaces where branding is not null and id > $1 order by id limit 1000";
    let mut all: Vec<Workspace> = Vec::new();
    loop {
        let after = all.last().map(|last| last.id.to_string()).unwrap_or_default();
        let rows = sqlx::query(PAGE).bind(after).fetch_all(&mut *db).await?;
        all.extend(rows.iter().map(read).collect::<Result<Vec<_>, _>>()?);
        if rows.len() < 1000 {
            return Ok(all);
        }
    }
}

/// Writes name, description, brand and metadata.
pub async fn update(
    db: &mut AnyConnection,
    workspace: &Workspace,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "update workspaces set name = $3, description = $4, metadata = $5, updated_at_ms = $6,
             branding = $7
         where tenant_id = $1 and id = $2",
    )
    .bind(workspace.tenant.to_string())
    .bind(workspace.id.to_string())
    .bind(&workspace.name)
    .bind(workspace.description.as_deref())
    .bind(row::to_json(&workspace.metadata))
    .bind(now.as_millisecond())
    .bind(workspace.branding.as_ref().map(row::to_json))
    .execute(db)
    .await?;
    Ok(())
}

/// Whether anything belongs to the workspace: a project, a sandbox or a deployment.
pub async fn is_used(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: WorkspaceId,
) -> Result<bool, Error> {
    let row = sqlx::query(
        "select (select count(*) from projects where tenant_id = $1 and workspace_id = $2)
              + (select count(*) from sandboxes where tenant_id = $1 and workspace_id = $2)
              + (select count(*) from deployments where tenant_id = $1 and workspace_id = $2)
                as uses",
    )
    .bind(tenant.to_string())
    .bind(id.to_string())
    .fetch_one(db)
    .await?;
    Ok(row.try_get::<i64, _>("uses")? > 0)
}

/// Deletes an unused workspace.
pub async fn delete(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: WorkspaceId,
) -> Result<bool, Error> {
    let done = sqlx::query("delete from workspaces where tenant_id = $1 and id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

fn read(row: &AnyRow) -> Result<Workspace, Error> {
    let slug: String = row.try_get("slug")?;
    Ok(Workspace {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        name: row.try_get("name")?,
        slug: Slug::parse(&slug).map_err(|error| row::corrupt(TABLE, &error))?,
        description: row.try_get("description")?,
        external_workspace_id: row.try_get("external_workspace_id")?,
        branding: row
            .try_get::<Option<String>, _>("branding")?
            .map(|text| row::json(TABLE, &text))
            .transpose()?,
        metadata: row::json(TABLE, row.try_get("metadata")?)?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
    })
}
