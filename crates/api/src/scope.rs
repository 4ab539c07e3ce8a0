//! Which workspace and project a new object belongs to (contract: `miosa-api` 1.1).
//!
//! Promises: an object always has both; what is named but missing is made where the contract
//! says so; an id that is not the tenant's is not found.

use jiff::Timestamp;
use miosa_store::{
    projects::{self, Project},
    workspaces::{self, Workspace},
};
use miosa_types::{Env, ProjectId, Slug, TenantId, WorkspaceId};
pub use miosa_wire::workspaces::Selectors;
use serde_json::Map;
use sqlx::AnyConnection;

use crate::{Error, names};

/// Where a new object belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its project, in that workspace.
    pub project: ProjectId,
}

/// Finds or makes the workspace and project that `selectors` name; the default ones if they name
/// none. Run it in a transaction with what is made for it.
pub async fn resolve(
    db: &mut AnyConnection,
    env: &Env,
    tenant: TenantId,
    selectors: &Selectors,
) -> Result<Scope, Error> {
    if let Some(id) = given(selectors.project_id.as_ref()) {
        let project = find_project(db, tenant, id).await?;
        if let Some(workspace) = given(selectors.workspace_id.as_ref())
            && workspace.parse() != Ok(project.workspace)
        {
            return Err(Error::Invalid {
                field: "project_id",
                message: "the project is in another workspace".to_owned(),
            });
        }
        return Ok(Scope { workspace: project.workspace, project: project.id });
    }
    let workspace = workspace(db, env, tenant, selectors).await?;
    let project = project(db, env, &workspace, selectors).await?;
    Ok(Scope { workspace: workspace.id, project })
}

async fn find_project(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: &str,
) -> Result<Project, Error> {
    let missing = || Error::NotFound { kind: "project", id: id.to_owned() };
    let id: ProjectId = id.parse().map_err(|_| missing())?;
    projects::find(db, tenant, id).await?.ok_or_else(missing)
}

/// The workspace alone.
pub(crate) async fn workspace(
    db: &mut AnyConnection,
    env: &Env,
    tenant: TenantId,
    selectors: &Selectors,
) -> Result<Workspace, Error> {
    let missing = |id: &str| Error::NotFound { kind: "workspace", id: id.to_owned() };
    let slug = given(selectors.workspace_slug.as_ref());
    let name = given(selectors.workspace_name.as_ref());
    let external = given(selectors.external_workspace_id.as_ref());
    if let Some(id) = given(selectors.workspace_id.as_ref()) {
        let by = workspaces::By::Id(id.parse().map_err(|_| missing(id))?);
        return workspaces::find(db, tenant, by).await?.ok_or_else(|| missing(id));
    }
    if let Some(slug) = slug {
        if let Some(found) = workspaces::find(db, tenant, workspaces::By::Slug(slug)).await? {
            return Ok(found);
        }
        let Some(name) = name else { return Err(missing(slug)) };
        let slug = names::slug("workspace_slug", slug)?;
        let name = names::display("workspace_name", name, names::SHORT)?;
        let new = new_workspace(env, tenant, name, slug, external);
        workspaces::insert(db, &new).await?;
        return Ok(new);
    }
    if let Some(name) = name {
        let found = workspaces::find(db, tenant, workspaces::By::Name(name)).await?;
        return found.ok_or_else(|| missing(name));
    }
    let (by, name) = match external {
        Some(external) => (workspaces::By::External(external), external),
        None => (workspaces::By::Slug(DEFAULT_SLUG), DEFAULT_NAME),
    };
    if let Some(found) = workspaces::find(db, tenant, by).await? {
        return Ok(found);
    }
    let name = names::display("external_workspace_id", name, names::LONG)?;
    let slug = if external.is_none() { default_slug()? } else { free_slug(env, name)? };
    let new = new_workspace(env, tenant, name, slug, external);
    workspaces::insert(db, &new).await?;
    Ok(new)
}

async fn project(
    db: &mut AnyConnection,
    env: &Env,
    workspace: &Workspace,
    selectors: &Selectors,
) -> Result<ProjectId, Error> {
    let missing = |id: &str| Error::NotFound { kind: "project", id: id.to_owned() };
    let slug = given(selectors.project_slug.as_ref());
    let name = given(selectors.project_name.as_ref());
    let external = given(selectors.external_project_id.as_ref());
    let by = match (slug, name, external) {
        (Some(slug), ..) => projects::By::Slug(slug),
        (None, Some(name), _) => projects::By::Name(name),
        (None, None, Some(external)) => projects::By::External(external),
        (None, None, None) => projects::By::Slug(DEFAULT_SLUG),
    };
    if let Some(found) = projects::find_in(db, workspace.tenant, workspace.id, by).await? {
        return Ok(found.id);
    }
    let (name, slug) = match (slug, name, external) {
        (Some(slug), Some(name), _) => {
            let name = names::display("project_name", name, names::SHORT)?;
            (name, names::slug("project_slug", slug)?)
        }
        (Some(slug), None, _) => return Err(missing(slug)),
        (None, Some(name), _) => return Err(missing(name)),
        (None, None, Some(external)) => {
            let name = names::display("external_project_id", external, names::LONG)?;
            (name, free_slug(env, external)?)
        }
        (None, None, None) => (DEFAULT_NAME, default_slug()?),
    };
    let now = env.now();
    let new = Project {
        id: env.id(),
        tenant: workspace.tenant,
        workspace: workspace.id,
        name: name.to_owned(),
        slug,
        description: None,
        external_project_id: external.map(str::to_owned),
        metadata: Map::new(),
        created_at: now,
        updated_at: now,
    };
    projects::insert(db, &new).await?;
    Ok(new.id)
}

pub(crate) const DEFAULT_SLUG: &str = "default";
const DEFAULT_NAME: &str = "Default";

fn default_slug() -> Result<Slug, Error> {
    names::slug("slug", DEFAULT_SLUG)
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// A slug that tells the name and is free: the name alone may be taken by another spelling.
pub(crate) fn free_slug(env: &Env, name: &str) -> Result<Slug, Error> {
    let base = Slug::from_display(name).map_or(String::new(), |slug| slug.to_string());
    let base: String = base.chars().take(30).collect();
    let tail = env.slug(6);
    let text = if base.is_empty() { tail } else { format!("{}-{tail}", base.trim_matches('-')) };
    names::slug("slug", &text)
}

pub(crate) fn new_workspace(
    env: &Env,
    tenant: TenantId,
    name: &str,
    slug: Slug,
    external: Option<&str>,
) -> Workspace {
    let now: Timestamp = env.now();
    Workspace {
        id: env.id(),
        tenant,
        name: name.to_owned(),
        slug,
        description: None,
        external_workspace_id: external.map(str::to_owned),
        branding: None,
        metadata: Map::new(),
        created_at: now,
        updated_at: now,
    }
}
