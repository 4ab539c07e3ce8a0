//! Rows of `tenants`: brand, domains and settings of each white-label customer.

use jiff::Timestamp;
use miosa_types::{Branding, Slug, TenantId};
use serde_json::{Map, Value};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "tenants";

/// One tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Display name.
    pub name: String,
    /// Stands in default host names; never changes.
    pub slug: Slug,
    /// Apps are `<slug>.<deployment domain>`.
    pub deployment_domain: String,
    /// Previews are `<port>-<slug>.sandbox.<preview domain>`; `None`: the apps domain.
    pub preview_domain: Option<String>,
    /// Host of its console; `None`: `<slug>.console.<base>`.
    pub console_domain: Option<String>,
    /// Its brand, if it set one.
    pub branding: Option<Branding>,
    /// Free settings.
    pub settings: Map<String, Value>,
    /// Raised with each change.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

const INSERT: &str = "
    insert into tenants (id, name, slug, deployment_domain, preview_domain, console_domain,
                         branding, settings, generation, created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $9)";

/// Adds a tenant. `Taken` if its slug or one of its domains is in use.
pub async fn insert(db: &mut AnyConnection, tenant: &Tenant) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(tenant.id.to_string())
        .bind(&tenant.name)
        .bind(tenant.slug.as_str())
        .bind(&tenant.deployment_domain)
        .bind(tenant.preview_domain.as_deref())
        .bind(tenant.console_domain.as_deref())
        .bind(tenant.branding.as_ref().map(row::to_json))
        .bind(row::to_json(&tenant.settings))
        .bind(tenant.created_at.as_millisecond())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, tenant.slug.as_str()))?;
    Ok(())
}

/// A tenant by id.
pub async fn find(db: &mut AnyConnection, id: TenantId) -> Result<Option<Tenant>, Error> {
    let row = sqlx::query("select * from tenants where id = $1")
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// A tenant by slug.
pub async fn find_by_slug(db: &mut AnyConnection, slug: &str) -> Result<Option<Tenant>, Error> {
    let row =
        sqlx::query("select * from tenants where slug = $1").bind(slug).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Every tenant, oldest first: for the operator.
pub fn all() -> List<Tenant> {
    List::of_all("from tenants where 1 = 1", read, |tenant| tenant.id.to_string())
}

/// Tenants, oldest first, at most 10,000: for the operator and for routes.
pub async fn list(db: &mut AnyConnection) -> Result<Vec<Tenant>, Error> {
    all().window(db, &Window::first(10_000)).await
}

const UPDATE: &str = "
    update tenants set name = $3, deployment_domain = $4, preview_domain = $5,
        console_domain = $6, branding = $7, settings = $8, generation = generation + 1,
        updated_at_ms = $9
    where id = $1 and generation = $2";

/// Writes name, domains, brand and settings of `tenant` if nobody changed the row since it was
/// read; `Stale` otherwise. `Taken` if a domain is in use.
pub async fn update(db: &mut AnyConnection, tenant: &Tenant, now: Timestamp) -> Result<(), Error> {
    let done = sqlx::query(UPDATE)
        .bind(tenant.id.to_string())
        .bind(tenant.generation)
        .bind(&tenant.name)
        .bind(&tenant.deployment_domain)
        .bind(tenant.preview_domain.as_deref())
        .bind(tenant.console_domain.as_deref())
        .bind(tenant.branding.as_ref().map(row::to_json))
        .bind(row::to_json(&tenant.settings))
        .bind(now.as_millisecond())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, &tenant.deployment_domain))?;
    if done.rows_affected() == 0 {
        return Err(Error::Stale { what: format!("{:?}", tenant.id) });
    }
    Ok(())
}

/// What a tenant has now: sandboxes, deployments, workspaces, projects.
pub async fn usage(db: &mut AnyConnection, tenant: TenantId) -> Result<[i64; 4], Error> {
    const COUNT: &str = "
        select (select count(*) from sandboxes where tenant_id = $1 and desired = 'running')
                   as sandboxes,
               (select count(*) from deployments where tenant_id = $1 and deleted_at_ms is null)
                   as deployments,
               (select count(*) from workspaces where tenant_id = $1) as workspaces,
               (select count(*) from projects where tenant_id = $1) as projects";
    let row = sqlx::query(COUNT).bind(tenant.to_string()).fetch_one(db).await?;
    Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?])
}

fn read(row: &AnyRow) -> Result<Tenant, Error> {
    let slug: String = row.try_get("slug")?;
    let branding: Option<String> = row.try_get("branding")?;
    Ok(Tenant {
        id: row::id(TABLE, row.try_get("id")?)?,
        name: row.try_get("name")?,
        slug: Slug::parse(&slug).map_err(|error| row::corrupt(TABLE, &error))?,
        deployment_domain: row.try_get("deployment_domain")?,
        preview_domain: row.try_get("preview_domain")?,
        console_domain: row.try_get("console_domain")?,
        branding: branding.map(|text| row::json(TABLE, &text)).transpose()?,
        settings: row::json(TABLE, row.try_get("settings")?)?,
        generation: row.try_get("generation")?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
    })
}
