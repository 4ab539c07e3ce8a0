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
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    AppState, Caller, Error, Json, Path, extract::parse, names, sandboxes::time, unsupported,
};

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
    Json(body): Json<Value>,
) -> Result<Json<Data<wire::Exposed>>, Error> {
    let body: wire::Expose = read(&body)?;
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

/// Reads a body whose preview is as public and lives as long as every preview here.
fn read<T: DeserializeOwned>(body: &Value) -> Result<T, Error> {
    let fields = unsupported::fields(body);
    match fields.get("visibility") {
        None | Some(Value::Null) => {}
        Some(Value::String(word)) if word == "public" => {}
        // Said rather than ignored: a preview that is thought to be private must be.
        Some(other) => {
            let message = format!("it is {other}, but every preview is \"public\"");
            return Err(Error::Invalid { field: "visibility", message });
        }
    }
    unsupported::refuse(fields, &unsupported::PREVIEW)?;
    parse(body.to_string().as_bytes())
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
    Json(body): Json<Value>,
) -> Result<(StatusCode, Json<Data<wire::Preview>>), Error> {
    let body: wire::Create = read(&body)?;
    check_port(body.port)?;
    names::check_free_data(&body.metadata)?;
    let name = body.name.or(body.label);
    let name = names::maybe("name", name.as_deref(), names::MEDIUM)?;
    let new = previews::New { name, port: body.port, metadata: body.metadata };
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
