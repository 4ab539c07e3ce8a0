//! Rows of `projects`: one thing that a workspace builds.

use jiff::Timestamp;
use miosa_types::{ProjectId, Slug, TenantId, WorkspaceId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "projects";

/// One project.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it is.
    pub workspace: WorkspaceId,
    /// Display name.
    pub name: String,
    /// Unique within the workspace; never changes.
    pub slug: Slug,
    /// What it is for.
    pub description: Option<String>,
    /// The tenant's own name for it.
    pub external_project_id: Option<String>,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

const INSERT: &str = "
    insert into projects (id, tenant_id, workspace_id, name, slug, description,
                          external_project_id, metadata, created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)";

/// Adds a project. `Taken` if its slug is in use in this workspace.
pub async fn insert(db: &mut AnyConnection, project: &Project) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(project.id.to_string())
        .bind(project.tenant.to_string())
        .bind(project.workspace.to_string())
        .bind(&project.name)
        .bind(project.slug.as_str())
        .bind(project.description.as_deref())
        .bind(project.external_project_id.as_deref())
        .bind(row::to_json(&project.metadata))
        .bind(project.created_at.as_millisecond())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, project.slug.as_str()))?;
    Ok(())
}

/// One project of a tenant by id.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: ProjectId,
) -> Result<Option<Project>, Error> {
    let row = sqlx::query("select * from projects where tenant_id = $1 and id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// What to look a project of a workspace up by.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// Slug.
    Slug(&'a str),
    /// Display name; the oldest of that name.
    Name(&'a str),
    /// The tenant's own name for it; the oldest of that name.
    External(&'a str),
}

/// One project of a workspace.
pub async fn find_in(
    db: &mut AnyConnection,
    tenant: TenantId,
    workspace: WorkspaceId,
    by: By<'_>,
) -> Result<Option<Project>, Error> {
    const BY_SLUG: &str =
        "select * from projects where tenant_id = $1 and workspace_id = $2 and slug = $3";
    const BY_NAME: &str = "select * from projects
        where tenant_id = $1 and workspace_id = $2 and name = $3 order by id limit 1";
    const BY_EXTERNAL: &str = "select * from projects
        where tenant_id = $1 and workspace_id = $2 and external_project_id = $3
        order by id limit 1";
    let (sql, value) = match by {
        By::Slug(slug) => (BY_SLUG, slug),
        By::Name(name) => (BY_NAME, name),
        By::External(name) => (BY_EXTERNAL, name),
    };
    let row = sqlx::query(sql)
        .bind(tenant.to_string())
        .bind(workspace.to_string())
        .bind(value)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Projects of a tenant, oldest first; of one workspace or with one id of the tenant's, if given.
pub fn of_tenant(
    tenant: TenantId,
    workspace: Option<WorkspaceId>,
    external: Option<String>,
) -> List<Project> {
    const ROWS: &str = "
        from projects where tenant_id = $1 and ($2 = '' or workspace_id = $2)
            and ($3 is null or external_project_id = $3)";
    List::of(tenant, ROWS, read, |project| project.id.to_string())
        .bind(Some(workspace.map(|id| id.to_string()).unwrap_or_default()))
        .bind(external)
}

/// The same, at most 1,000.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    workspace: Option<WorkspaceId>,
) -> Result<Vec<Project>, Error> {
    of_tenant(tenant, workspace, None).window(db, &Window::default()).await
}

/// Writes name, description and metadata.
pub async fn update(
    db: &mut AnyConnection,
    project: &Project,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "update projects set name = $3, description = $4, metadata = $5, updated_at_ms = $6
         where tenant_id = $1 and id = $2",
    )
    .bind(project.tenant.to_string())
    .bind(project.id.to_string())
    .bind(&project.name)
    .bind(project.description.as_deref())
    .bind(row::to_json(&project.metadata))
    .bind(now.as_millisecond())
    .execute(db)
    .await?;
    Ok(())
}

/// Whether a sandbox or a deployment belongs to the project.
pub async fn is_used(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: ProjectId,
) -> Result<bool, Error> {
    let row = sqlx::query(
        "select (select count(*) from sandboxes where tenant_id = $1 and project_id = $2)
              + (select count(*) from deployments where tenant_id = $1 and project_id = $2)
                as uses",
    )
    .bind(tenant.to_string())
    .bind(id.to_string())
    .fetch_one(db)
    .await?;
    Ok(row.try_get::<i64, _>("uses")? > 0)
}

/// Deletes an unused project.
pub async fn delete(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: ProjectId,
) -> Result<bool, Error> {
    let done = sqlx::query("delete from projects where tenant_id = $1 and id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .execute(db)
        .await?;
    Ok(done.rows_affected() > 0)
}

fn read(row: &AnyRow) -> Result<Project, Error> {
    let slug: String = row.try_get("slug")?;
    Ok(Project {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        workspace: row::id(TABLE, row.try_get("workspace_id")?)?,
        name: row.try_get("name")?,
        slug: Slug::parse(&slug).map_err(|error| row::corrupt(TABLE, &error))?,
        description: row.try_get("description")?,
        external_project_id: row.try_get("external_project_id")?,
        metadata: row::json(TABLE, row.try_get("metadata")?)?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
    })
}
