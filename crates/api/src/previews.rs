//! `/sandboxes/{id}/expose`, `/previews` and the tokens that open private ones.

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use miosa_control::{
    Control,
    previews::{self, NewToken, Visibility},
    sandboxes::{self, Sandbox},
};
use miosa_store::{preview_tokens::PreviewToken, previews::of_sandbox};
use miosa_types::{PreviewId, SandboxId, guest};
use miosa_wire::{Data, envelope::Listed, previews as wire};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    AppState, Caller, Error, Json, Path, extract::parse, names, paging::Paging, sandboxes::time,
    unsupported,
};

/// Port of a preview if neither caller nor template names one.
const DEFAULT_PORT: u16 = 3000;

/// How long a token is good if the caller does not say, and at most.
const TOKEN_LIFE: Duration = Duration::from_hours(1);
const MAX_TOKEN_LIFE: Duration = Duration::from_hours(24);

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandboxes/{id}/expose", post(expose))
        .route("/sandboxes/{id}/previews", post(create).get(list))
        .route("/sandboxes/{id}/previews/{preview}", get(show).delete(delete))
        .route("/sandboxes/{id}/previews/{preview}/share", post(share).delete(unshare))
        .route("/sandboxes/{id}/preview-token", post(token))
}

async fn expose(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<Value>,
) -> Result<Json<Data<wire::Exposed>>, Error> {
    let wanted = unsupported::fields(&body).get("visibility");
    if wanted.is_some_and(|word| !word.is_null() && word != "public") {
        let message = "a port is made private by `POST …/previews` with `visibility`".to_owned();
        return Err(Error::Invalid { field: "visibility", message });
    }
    let body: wire::Expose = read(&body)?;
    let row = sandboxes::get(&state.control, caller.tenant, id).await?;
    let port = port(&state.control, &row, body.port)?;
    Ok(Json(Data::new(wire::Exposed {
        url: previews::url(&state.control, &row, port),
        port,
        url_class: "temporary_preview",
        stable_for_embedding: false,
        recommended_next_action: "create_alias_or_publish",
    })))
}

/// Reads a body; what it asks for and cannot have is said rather than ignored.
fn read<T: DeserializeOwned>(body: &Value) -> Result<T, Error> {
    unsupported::refuse(unsupported::fields(body), &unsupported::PREVIEW)?;
    parse(body.to_string().as_bytes())
}

/// The port that is asked for, or the template's.
fn port(control: &Control, row: &Sandbox, given: Option<u16>) -> Result<u16, Error> {
    let template = control.templates.resolve(&row.template);
    let own = template.and_then(|template| template.preview_port).unwrap_or(DEFAULT_PORT);
    let port = given.unwrap_or(own);
    check_port(port).map(|()| port)
}

fn visibility(word: &str) -> Result<Visibility, Error> {
    let message = "must be `public` or `private`".to_owned();
    Visibility::parse(word).ok_or(Error::Invalid { field: "visibility", message })
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
    let new = previews::New {
        name: names::maybe("name", name.as_deref(), names::MEDIUM)?,
        port: body.port,
        visibility: body.visibility.as_deref().map(visibility).transpose()?,
        metadata: body.metadata,
    };
    let (row, preview) = previews::create(&state.control, caller.tenant, id, new).await?;
    Ok((StatusCode::CREATED, Json(Data::new(view(&state.control, &row, preview, &[])))))
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    paging: Paging,
) -> Result<Json<Listed<wire::Preview>>, Error> {
    let row = sandboxes::get(&state.control, caller.tenant, id).await?;
    let tokens = previews::grants(&state.control, caller.tenant, id).await?;
    let all = of_sandbox(caller.tenant, id);
    let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
    Ok(part.show(|preview| view(&state.control, &row, preview, &tokens)))
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
    let tokens = previews::grants(&state.control, caller.tenant, at.id).await?;
    Ok(Json(Data::new(view(&state.control, &row, preview, &tokens))))
}

/// How long a token is good.
fn life(field: &'static str, given: Option<u64>) -> Result<Duration, Error> {
    match given {
        None => Ok(TOKEN_LIFE),
        Some(seconds) if (1..=MAX_TOKEN_LIFE.as_secs()).contains(&seconds) => {
            Ok(Duration::from_secs(seconds))
        }
        Some(_) => {
            let most = MAX_TOKEN_LIFE.as_secs();
            Err(Error::Invalid { field, message: format!("must be between 1 and {most} seconds") })
        }
    }
}

async fn share(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
    Json(body): Json<wire::Share>,
) -> Result<(StatusCode, Json<wire::Shared>), Error> {
    let control = &state.control;
    let life = life("ttl_seconds", body.ttl_seconds)?;
    let found = previews::get(control, caller.tenant, at.id, at.preview).await;
    let (row, preview) = found.map_err(not_found)?;
    let new = NewToken { preview: Some(preview.id), port: None, scope: "read", life };
    let (text, _) = previews::grant(control, caller.tenant, at.id, new).await?;
    let tokens = previews::grants(control, caller.tenant, at.id).await?;
    let url = previews::url(control, &row, preview.port);
    let shared = wire::Shared {
        data: view(control, &row, preview, &tokens),
        share_url: format!("{url}/?preview_token={}", text.expose()),
        preview_token: text.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(shared)))
}

async fn unshare(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<StatusCode, Error> {
    let found = previews::get(&state.control, caller.tenant, at.id, at.preview).await;
    let (_, preview) = found.map_err(not_found)?;
    previews::revoke(&state.control, caller.tenant, at.id, preview.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn token(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::NewToken>,
) -> Result<(StatusCode, Json<Data<wire::Token>>), Error> {
    let control = &state.control;
    let life = life("expires_in", body.expires_in)?;
    let scope = body.scope.unwrap_or_else(|| "read".to_owned());
    if scope != "read" {
        let message = "must be `read`: who may see a preview may use it".to_owned();
        return Err(Error::Invalid { field: "scope", message });
    }
    let row = sandboxes::get(control, caller.tenant, id).await?;
    let port = port(control, &row, body.port)?;
    // What the caller names is all that it opens; the template's port is only where its URL leads.
    let new = NewToken { preview: None, port: body.port, scope: &scope, life };
    let (text, token) = previews::grant(control, caller.tenant, id, new).await?;
    let url = format!("{}/?mt={}", previews::url(control, &row, port), text.expose());
    let token = wire::Token {
        token: text.expose().to_owned(),
        url,
        expires_at: time(token.expires_at),
        scope,
    };
    Ok((StatusCode::CREATED, Json(Data::new(token))))
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

/// `tokens`: live ones of the sandbox, longest first.
fn view(
    control: &Control,
    row: &Sandbox,
    preview: previews::Preview,
    tokens: &[PreviewToken],
) -> wire::Preview {
    let token = tokens.iter().find(|token| token.preview == Some(preview.id));
    wire::Preview {
        id: preview.id,
        sandbox_id: preview.sandbox,
        tenant_id: preview.tenant,
        name: preview.name,
        port: preview.port,
        visibility: preview.visibility.as_str(),
        state: "active",
        url: previews::url(control, row, preview.port),
        metadata: preview.metadata,
        external_workspace_id: row.external.workspace.clone(),
        external_project_id: row.external.project.clone(),
        external_user_id: row.external.user.clone(),
        share_token_prefix: token.map(|token| token.prefix.clone()),
        share_token_expires_at: token.map(|token| time(token.expires_at)),
        created_at: time(preview.created_at),
        updated_at: time(preview.updated_at),
    }
}
