//! `/workspaces`.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use miosa_store::workspaces::{self, By, Workspace};
use miosa_types::{Slug, WorkspaceId};
use miosa_wire::{
    Data,
    envelope::Listed,
    workspaces::{self as wire, Change, NewWorkspace, WorkspaceCreated},
};
use sqlx::AnyConnection;

use crate::{
    AppState, Caller, Error, Json, Path, names, paging::Paging, scope, tenants::check_name,
};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/workspaces", get(list).post(create))
        .route("/workspaces/{workspace}", get(read).patch(change).delete(delete))
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    paging: Paging,
) -> Result<Json<Listed<wire::Workspace>>, Error> {
    let all = workspaces::of_tenant(caller.tenant);
    let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
    Ok(part.show(|workspace| render(&workspace)))
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewWorkspace>,
) -> Result<Response, Error> {
    let env = &state.control.env;
    let name = check_name(&new.name)?;
    names::check_free_data(&new.metadata)?;
    let external = new.external_workspace_id.as_deref().filter(|text| !text.is_empty());
    let mut tx = state.control.store.begin().await?;
    if let Some(external) = external
        && let Some(found) =
            workspaces::find(&mut tx, caller.tenant, By::External(external)).await?
    {
        return Ok(Json(WorkspaceCreated { data: render(&found), reused: true }).into_response());
    }
    if !new.allow_duplicate_name
        && let Some(found) = workspaces::find(&mut tx, caller.tenant, By::Name(name)).await?
    {
        return Err(Error::Exists {
            code: "WORKSPACE_NAME_EXISTS",
            message: format!("a workspace named `{name}` exists"),
            existing: serde_json::to_value(render(&found)).unwrap_or_default(),
        });
    }
    let slug = slug(&mut tx, &state, &caller, &new).await?;
    let mut workspace = scope::new_workspace(env, caller.tenant, name, slug, external);
    workspace.description = new.description;
    workspace.metadata = new.metadata.unwrap_or_default();
    workspaces::insert(&mut tx, &workspace).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    let answer = WorkspaceCreated { data: render(&workspace), reused: false };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// The wanted slug, or one that follows from the name.
async fn slug(
    db: &mut AnyConnection,
    state: &AppState,
    caller: &Caller,
    new: &NewWorkspace,
) -> Result<Slug, Error> {
    if let Some(slug) = &new.slug {
        return names::slug("slug", slug);
    }
    if let Some(slug) = Slug::from_display(&new.name)
        && workspaces::find(db, caller.tenant, By::Slug(slug.as_str())).await?.is_none()
    {
        return Ok(slug);
    }
    scope::free_slug(&state.control.env, &new.name)
}

async fn read(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
) -> Result<Json<Data<wire::Workspace>>, Error> {
    let found = find(&mut *state.control.store.conn().await?, &caller, id).await?;
    Ok(Json(Data::new(render(&found))))
}

async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
    Json(change): Json<Change>,
) -> Result<Json<Data<wire::Workspace>>, Error> {
    names::check_free_data(&change.metadata)?;
    let mut tx = state.control.store.begin().await?;
    let mut workspace = find(&mut tx, &caller, id).await?;
    if let Some(name) = &change.name {
        check_name(name)?.clone_into(&mut workspace.name);
    }
    workspace.description = change.description.or(workspace.description);
    workspace.metadata = change.metadata.unwrap_or(workspace.metadata);
    workspace.updated_at = state.control.env.now();
    workspaces::update(&mut tx, &workspace, workspace.updated_at).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok(Json(Data::new(render(&workspace))))
}

async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
) -> Result<StatusCode, Error> {
    let mut tx = state.control.store.begin().await?;
    find(&mut tx, &caller, id).await?;
    if workspaces::is_used(&mut tx, caller.tenant, id).await? {
        return Err(Error::Conflict {
            code: "RESOURCE_STATE",
            message: "the workspace still has projects, sandboxes or deployments".to_owned(),
            retryable: false,
        });
    }
    workspaces::delete(&mut tx, caller.tenant, id).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn find(
    db: &mut AnyConnection,
    caller: &Caller,
    id: WorkspaceId,
) -> Result<Workspace, Error> {
    let found = workspaces::find(db, caller.tenant, By::Id(id)).await?;
    found.ok_or_else(|| Error::NotFound { kind: "workspace", id: id.to_string() })
}

pub(crate) fn render(workspace: &Workspace) -> wire::Workspace {
    wire::Workspace {
        id: workspace.id,
        tenant_id: workspace.tenant,
        name: workspace.name.clone(),
        slug: workspace.slug.to_string(),
        description: workspace.description.clone(),
        external_workspace_id: workspace.external_workspace_id.clone(),
        metadata: workspace.metadata.clone(),
        created_at: workspace.created_at,
        updated_at: workspace.updated_at,
    }
}
