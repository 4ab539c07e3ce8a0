//! `/sandboxes/{id}/expose` and `/previews`.

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use miosa_control::{
    Control, previews,
    sandboxes::{self, Sandbox},
};
use miosa_types::{PreviewId, SandboxId, guest};
use miosa_wire::{Data, previews as wire};
use serde::Deserialize;

use crate::{AppState, Caller, Error, Json, Path, sandboxes::time};

/// Port of a preview if neither caller nor template names one.
const DEFAULT_PORT: u16 = 3000;

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandboxes/{id}/expose", post(expose))
        .route("/sandboxes/{id}/previews", post(create).get(list))
        .route("/sandboxes/{id}/previews/{preview}", get(show).delete(delete))
}

async fn expose(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Expose>,
) -> Result<Json<Data<wire::Exposed>>, Error> {
    let row = sandboxes::get(&state.control, caller.tenant, id).await?;
    let template = state.control.templates.resolve(&row.template);
    let own = template.and_then(|template| template.preview_port).unwrap_or(DEFAULT_PORT);
    let port = body.port.unwrap_or(own);
    check_port(port)?;
    Ok(Json(Data::new(wire::Exposed {
        url: previews::url(&state.control, &row, port),
        port,
        url_class: "temporary_preview",
        stable_for_embedding: false,
        recommended_next_action: "create_alias_or_publish",
    })))
}

fn check_port(port: u16) -> Result<(), Error> {
    if port == 0 || port == guest::PORT {
        let message = format!("port {port} cannot be previewed");
        return Err(Error::Invalid { field: "port", message });
    }
    Ok(())
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Create>,
) -> Result<(StatusCode, Json<Data<wire::Preview>>), Error> {
    check_port(body.port)?;
    if let Some(other) = body.visibility.as_deref().filter(|word| *word != "public") {
        // Said rather than ignored: a preview that is thought to be private must be.
        let message = format!("`{other}` previews are not available, only `public` ones");
        return Err(Error::Invalid { field: "visibility", message });
    }
    let new =
        previews::New { name: body.name.or(body.label), port: body.port, metadata: body.metadata };
    let (row, preview) = previews::create(&state.control, caller.tenant, id, new).await?;
    Ok((StatusCode::CREATED, Json(Data::new(view(&state.control, &row, preview)))))
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
) -> Result<Json<Data<Vec<wire::Preview>>>, Error> {
    let (row, all) = previews::list(&state.control, caller.tenant, id).await?;
    let all = all.into_iter().map(|preview| view(&state.control, &row, preview)).collect();
    Ok(Json(Data::new(all)))
}

#[derive(Debug, Deserialize)]
struct At {
    id: SandboxId,
    preview: PreviewId,
}

async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<Json<Data<wire::Preview>>, Error> {
    let found = previews::get(&state.control, caller.tenant, at.id, at.preview).await;
    let (row, preview) = found.map_err(not_found)?;
    Ok(Json(Data::new(view(&state.control, &row, preview))))
}

async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<StatusCode, Error> {
    if previews::delete(&state.control, caller.tenant, at.id, at.preview).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Error::NotFound { kind: "preview", id: at.preview.to_string() })
}

fn not_found(error: sandboxes::Error) -> Error {
    match error {
        sandboxes::Error::NotFound { id } => Error::NotFound { kind: "preview", id },
        other => other.into(),
    }
}

fn view(control: &Control, row: &Sandbox, preview: previews::Preview) -> wire::Preview {
    wire::Preview {
        id: preview.id,
        sandbox_id: preview.sandbox,
        tenant_id: preview.tenant,
        name: preview.name,
        port: preview.port,
        visibility: "public",
        state: "active",
        url: previews::url(control, row, preview.port),
        metadata: preview.metadata,
        external_workspace_id: row.external.workspace.clone(),
        external_project_id: row.external.project.clone(),
        external_user_id: row.external.user.clone(),
        created_at: time(preview.created_at),
        updated_at: time(preview.updated_at),
    }
}
