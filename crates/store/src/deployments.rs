//! Rows of `deployments`: the intent that a version is served, and what was last seen of it.

use jiff::Timestamp;
use miosa_types::{DeploymentId, ProjectId, Slug, TenantId, VersionId, WorkspaceId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, row};

const TABLE: &str = "deployments";

/// One deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The downstream customer.
    pub workspace: WorkspaceId,
    /// What it is part of.
    pub project: ProjectId,
    /// Display name.
    pub name: String,
    /// Stands in its host name.
    pub slug: Slug,
    /// The rest of its host name.
    pub deployment_domain: String,
    /// Stored defaults of a publish.
    pub settings: Map<String, Value>,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// The tenant's own ids.
    pub external: External,
    /// Replicas of a dynamic version.
    pub replicas: u32,
    /// How long the edge holds a request, in seconds.
    pub hold_s: u32,
    /// Intent: the version that shall serve.
    pub active_version: Option<VersionId>,
    /// Intent: whether anything shall serve.
    pub is_stopped: bool,
    /// Observation: the version that every leased edge serves.
    pub serving_version: Option<VersionId>,
    /// Observation: why the newest attempt failed, for the owner.
    pub failure: Option<String>,
    /// Raised with each change of the intent.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its intent changed last.
    pub updated_at: Timestamp,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

/// Ids that the tenant uses for the same things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// Its workspace.
    pub workspace: Option<String>,
    /// Its project.
    pub project: Option<String>,
    /// Its user.
    pub user: Option<String>,
}

const INSERT: &str = "
    insert into deployments (id, tenant_id, workspace_id, project_id, name, slug,
        deployment_domain, settings, metadata, external_workspace_id, external_project_id,
        external_user_id, replicas, hold_s, desired, generation, created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'running', 1, $15, $15)";

/// Adds a deployment without a version. `Taken` if another has its slug on that domain.
pub async fn insert(db: &mut AnyConnection, new: &Deployment) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(new.id.to_string())
        .bind(new.tenant.to_string())
        .bind(new.workspace.to_string())
        .bind(new.project.to_string())
        .bind(&new.name)
        .bind(new.slug.as_str())
        .bind(&new.deployment_domain)
        .bind(row::to_json(&new.settings))
        .bind(row::to_json(&new.metadata))
        .bind(new.external.workspace.as_deref())
        .bind(new.external.project.as_deref())
        .bind(new.external.user.as_deref())
        .bind(i64::from(new.replicas))
        .bind(i64::from(new.hold_s))
        .bind(new.created_at.as_millisecond())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, new.slug.as_str()))?;
    Ok(())
}

/// A tenant's deployment that was not deleted.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: DeploymentId,
) -> Result<Option<Deployment>, Error> {
    const FIND: &str =
        "select * from deployments where tenant_id = $1 and id = $2 and deleted_at_ms is null";
    let row =
        sqlx::query(FIND).bind(tenant.to_string()).bind(id.to_string()).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// A tenant's newest deployment with that slug or name.
pub async fn find_by_name(
    db: &mut AnyConnection,
    tenant: TenantId,
    name: &str,
) -> Result<Option<Deployment>, Error> {
    const FIND: &str = "
        select * from deployments
        where tenant_id = $1 and deleted_at_ms is null and (slug = $2 or name = $2)
        order by case when slug = $2 then 0 else 1 end, id desc limit 1";
    let row = sqlx::query(FIND).bind(tenant.to_string()).bind(name).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// The deployment of that name in a project.
pub async fn find_in_project(
    db: &mut AnyConnection,
    tenant: TenantId,
    project: ProjectId,
    name: &str,
) -> Result<Option<Deployment>, Error> {
    const FIND: &str = "
        select * from deployments
        where tenant_id = $1 and project_id = $2 and name = $3 and deleted_at_ms is null
        order by id limit 1";
    let row = sqlx::query(FIND)
        .bind(tenant.to_string())
        .bind(project.to_string())
        .bind(name)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Which deployments to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of one project.
    pub project: Option<ProjectId>,
    /// Of these ids of the tenant.
    pub external: External,
}

/// A tenant's deployments, newest first.
pub fn of_tenant(tenant: TenantId, filter: &Filter) -> List<Deployment> {
    const ROWS: &str = "
        from deployments
        where tenant_id = $1 and deleted_at_ms is null
            and ($2 = '' or project_id = $2) and ($3 = '' or external_workspace_id = $3)
            and ($4 = '' or external_project_id = $4) and ($5 = '' or external_user_id = $5)";
    let text = |text: &Option<String>| Some(text.clone().unwrap_or_default());
    List::of(tenant, ROWS, read, |deployment| deployment.id.to_string())
        .newest_first()
        .bind(Some(filter.project.map(|id| id.to_string()).unwrap_or_default()))
        .bind(text(&filter.external.workspace))
        .bind(text(&filter.external.project))
        .bind(text(&filter.external.user))
}

/// Deployments of all tenants after `after`, at most 1,000, for reconcilers: those that were
/// deleted as well while they still serve something.
pub async fn page(
    db: &mut AnyConnection,
    after: Option<DeploymentId>,
) -> Result<Vec<Deployment>, Error> {
    const PAGE: &str = "
        select * from deployments
        where id > $1 and (deleted_at_ms is null or serving_version_id is not null)
        order by id limit 1000";
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let rows = sqlx::query(PAGE).bind(after).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// All pages of [`page`].
pub async fn all(db: &mut AnyConnection) -> Result<Vec<Deployment>, Error> {
    let mut all: Vec<Deployment> = Vec::new();
    loop {
        let next = page(db, all.last().map(|last| last.id)).await?;
        let is_last = next.len() < 1000;
        all.extend(next);
        if is_last {
            return Ok(all);
        }
    }
}

const UPDATE: &str = "
    update deployments set name = $3, settings = $4, metadata = $5, active_version_id = $6,
        desired = $7, failure = $8, deleted_at_ms = $9, updated_at_ms = $10,
        slug = case when $9 is null then slug else 'deleted.' || id end,
        generation = generation + 1
    where id = $1 and generation = $2";

/// Writes name, settings, metadata, intent, failure and deletion if nobody changed the row since
/// it was read; `Stale` otherwise. A deleted deployment gives its slug free.
pub async fn update(db: &mut AnyConnection, new: &Deployment, now: Timestamp) -> Result<(), Error> {
    let done = sqlx::query(UPDATE)
        .bind(new.id.to_string())
        .bind(new.generation)
        .bind(&new.name)
        .bind(row::to_json(&new.settings))
        .bind(row::to_json(&new.metadata))
        .bind(new.active_version.map(|id| id.to_string()))
        .bind(if new.is_stopped { "stopped" } else { "running" })
        .bind(new.failure.as_deref().map(row::said))
        .bind(new.deleted_at.map(Timestamp::as_millisecond))
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    if done.rows_affected() == 0 {
        return Err(Error::Stale { what: format!("{:?}", new.id) });
    }
    Ok(())
}

/// Notes what was observed: the version that every leased edge serves, and why the newest
/// attempt failed. Changes no intent, so it needs no generation.
pub async fn observe(
    db: &mut AnyConnection,
    id: DeploymentId,
    serving: Option<VersionId>,
    failure: Option<&str>,
) -> Result<(), Error> {
    sqlx::query("update deployments set serving_version_id = $2, failure = $3 where id = $1")
        .bind(id.to_string())
        .bind(serving.map(|id| id.to_string()))
        .bind(failure.map(row::said))
        .execute(db)
        .await?;
    Ok(())
}

/// Notes why the newest attempt failed.
pub async fn set_failure(
    db: &mut AnyConnection,
    id: DeploymentId,
    failure: &str,
) -> Result<(), Error> {
    sqlx::query("update deployments set failure = $2 where id = $1")
        .bind(id.to_string())
        .bind(row::said(failure))
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Deployment, Error> {
    let deleted_at = row::maybe_time(TABLE, row.try_get("deleted_at_ms")?)?;
    let version = |column: &str| -> Result<Option<VersionId>, Error> {
        let text: Option<String> = row.try_get(column)?;
        text.map(|text| row::id(TABLE, &text)).transpose()
    };
    let slug: String = row.try_get("slug")?;
    // Of a deleted deployment nobody needs the slug; what stands there is no slug.
    let slug = if deleted_at.is_some() { "deleted" } else { &slug };
    Ok(Deployment {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        workspace: row::id(TABLE, row.try_get("workspace_id")?)?,
        project: row::id(TABLE, row.try_get("project_id")?)?,
        name: row.try_get("name")?,
        slug: Slug::parse(slug).map_err(|error| row::corrupt(TABLE, &error))?,
        deployment_domain: row.try_get("deployment_domain")?,
        settings: row::json(TABLE, row.try_get("settings")?)?,
        metadata: row::json(TABLE, row.try_get("metadata")?)?,
        external: External {
            workspace: row.try_get("external_workspace_id")?,
            project: row.try_get("external_project_id")?,
            user: row.try_get("external_user_id")?,
        },
        replicas: row::number(TABLE, row.try_get("replicas")?)?,
        hold_s: row::number(TABLE, row.try_get("hold_s")?)?,
        active_version: version("active_version_id")?,
        is_stopped: row.try_get::<String, _>("desired")? == "stopped",
        serving_version: version("serving_version_id")?,
        failure: row.try_get("failure")?,
        generation: row.try_get("generation")?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
        deleted_at,
    })
}
