//! `/projects`.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use miosa_store::{
    projects::{self, Project},
    workspaces,
};
use miosa_types::{ProjectId, Slug, WorkspaceId};
use miosa_wire::{
    Data,
    workspaces::{self as wire, Change, NewProject, ProjectList},
};
use serde::Deserialize;
use sqlx::AnyConnection;

use crate::{
    AppState, Caller, Error, Json, Path, Query, names,
    paging::Paging,
    scope::{self, Selectors},
    tenants::check_name,
};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/projects", get(list).post(create))
        .route("/projects/{project}", get(read).patch(change).delete(delete))
}

#[derive(Debug, Deserialize)]
struct Filter {
    workspace_id: Option<String>,
    external_project_id: Option<String>,
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(filter): Query<Filter>,
    paging: Paging,
) -> Result<Json<ProjectList>, Error> {
    let workspace: Option<WorkspaceId> =
        filter.workspace_id.filter(|id| !id.is_empty()).map(|id| id.parse()).transpose().map_err(
            |error: miosa_types::id::IdError| Error::InvalidId { message: error.to_string() },
        )?;
    let mut db = state.control.store.conn().await?;
    let all = projects::of_tenant(caller.tenant, workspace, filter.external_project_id);
    let part = paging.read(&mut db, &all).await?;
    let total = match part.page {
        Some(page) => page.total,
        None => all.count(&mut db).await?,
    };
    let mut data = Vec::with_capacity(part.rows.len());
    for project in &part.rows {
        data.push(render(&mut db, project).await?);
    }
    Ok(Json(ProjectList { total, data, next_cursor: part.next_cursor, page: part.page }))
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewProject>,
) -> Result<(StatusCode, Json<Data<wire::Project>>), Error> {
    let env = &state.control.env;
    let name = check_name(&new.name)?.to_owned();
    names::check_free_data(&new.metadata)?;
    let selectors = Selectors {
        workspace_id: new.workspace_id,
        workspace_slug: new.workspace_slug,
        workspace_name: new.workspace_name,
        external_workspace_id: new.external_workspace_id,
        ..Selectors::default()
    };
    let mut tx = state.control.store.begin().await?;
    let workspace = scope::workspace(&mut tx, env, caller.tenant, &selectors).await?;
    let slug = match &new.slug {
        Some(slug) => names::slug("slug", slug)?,
        None => free_slug(&mut tx, &state, &workspace, &name).await?,
    };
    let project = Project {
        id: env.id(),
        tenant: caller.tenant,
        workspace: workspace.id,
        name,
        slug,
        description: new.description,
        external_project_id: new.external_project_id.filter(|text| !text.is_empty()),
        metadata: new.metadata.unwrap_or_default(),
        created_at: env.now(),
        updated_at: env.now(),
    };
    projects::insert(&mut tx, &project).await?;
    let answer = render(&mut tx, &project).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok((StatusCode::CREATED, Json(Data::new(answer))))
}

async fn free_slug(
    db: &mut AnyConnection,
    state: &AppState,
    workspace: &workspaces::Workspace,
    name: &str,
) -> Result<Slug, Error> {
    if let Some(slug) = Slug::from_display(name) {
        let by = projects::By::Slug(slug.as_str());
        if projects::find_in(db, workspace.tenant, workspace.id, by).await?.is_none() {
            return Ok(slug);
        }
    }
    scope::free_slug(&state.control.env, name)
}

async fn read(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ProjectId>,
) -> Result<Json<Data<wire::Project>>, Error> {
    let mut db = state.control.store.conn().await?;
    let project = find(&mut db, &caller, id).await?;
    Ok(Json(Data::new(render(&mut db, &project).await?)))
}

async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ProjectId>,
    Json(change): Json<Change>,
) -> Result<Json<Data<wire::Project>>, Error> {
    names::check_free_data(&change.metadata)?;
    let mut tx = state.control.store.begin().await?;
    let mut project = find(&mut tx, &caller, id).await?;
    if let Some(name) = &change.name {
        check_name(name)?.clone_into(&mut project.name);
    }
    project.description = change.description.or(project.description);
    project.metadata = change.metadata.unwrap_or(project.metadata);
    project.updated_at = state.control.env.now();
    projects::update(&mut tx, &project, project.updated_at).await?;
    let answer = render(&mut tx, &project).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok(Json(Data::new(answer)))
}

async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ProjectId>,
) -> Result<StatusCode, Error> {
    let mut tx = state.control.store.begin().await?;
    let project = find(&mut tx, &caller, id).await?;
    let why = if project.slug.as_str() == scope::DEFAULT_SLUG {
        Some("the default project cannot be deleted")
    } else if projects::is_used(&mut tx, caller.tenant, id).await? {
        Some("the project still has sandboxes or deployments")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(Error::Conflict {
            code: "RESOURCE_STATE",
            message: why.to_owned(),
            retryable: false,
        });
    }
    projects::delete(&mut tx, caller.tenant, id).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// A project of the caller's tenant.
pub(crate) async fn find(
    db: &mut AnyConnection,
    caller: &Caller,
    id: ProjectId,
) -> Result<Project, Error> {
    let found = projects::find(db, caller.tenant, id).await?;
    found.ok_or_else(|| Error::NotFound { kind: "project", id: id.to_string() })
}

async fn render(db: &mut AnyConnection, project: &Project) -> Result<wire::Project, Error> {
    let by = workspaces::By::Id(project.workspace);
    let workspace = workspaces::find(db, project.tenant, by).await?;
    Ok(wire::Project {
        id: project.id,
        tenant_id: project.tenant,
        workspace_id: project.workspace,
        external_workspace_id: workspace.and_then(|found| found.external_workspace_id),
        external_project_id: project.external_project_id.clone(),
        name: project.name.clone(),
        slug: project.slug.to_string(),
        description: project.description.clone(),
        metadata: project.metadata.clone(),
        settings: serde_json::Map::new(),
        created_at: project.created_at,
        updated_at: project.updated_at,
    })
}
