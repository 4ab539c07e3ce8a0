//! `/sandboxes`: create, look up, change, destroy, readiness.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
    routing::{get, post},
};
use futures_util::{Stream, stream};
use http::StatusCode;
use jiff::Timestamp;
use miosa_control::{
    Control, previews,
    sandboxes::{self, Change, Error as ControlError, External, Filter, New, Place, Sandbox},
};
use miosa_store::{idempotency, sandboxes::of_tenant};
use miosa_types::{ProjectId, SandboxId, Size, Slug, WorkspaceId, guest, size::Tier};
use miosa_wire::{Data, envelope::Listed, sandboxes as wire};
use serde::Deserialize;

use crate::{
    AppState, Caller, Error, Json, Path, Query,
    error::FILES_AWAY,
    extract::parse,
    idempotency::Keyed,
    names::{self, check_free_data},
    paging::Paging,
    scope::{self, Selectors},
    unsupported,
};

/// Life time of a sandbox that names none, in seconds.
const DEFAULT_TIMEOUT_S: u32 = 3600;
/// Longest life time, in seconds: 30 days.
const MAX_TIMEOUT_S: u32 = 30 * 86_400;
/// How long create waits for a sandbox if the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(20);
/// Below the 60 s after which SDKs hang up.
const MAX_WAIT: Duration = Duration::from_secs(50);
/// How long a readiness stream stays open.
const STREAM_WAIT: Duration = Duration::from_mins(2);
/// Between two comments that keep a stream alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandboxes", post(create).get(list))
        .route("/sandboxes/by-name/{name}", get(by_name))
        .route("/sandboxes/{id}", get(show).patch(update).delete(destroy))
        .route("/sandboxes/{id}/extend", post(extend))
        .route("/sandboxes/{id}/tags", axum::routing::patch(tag))
        .route("/sandboxes/{id}/readiness", get(readiness))
        .route("/sandboxes/{id}/readiness/stream", get(readiness_stream))
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::NotFound { id } => Self::NotFound { kind: "sandbox", id },
            ControlError::NoTemplate { name } => Self::NotFound { kind: "template", id: name },
            ControlError::Starting => {
                Self::Conflict { code: "SANDBOX_STARTING", message, retryable: true }
            }
            ControlError::NotRunning { .. } => {
                Self::Conflict { code: "SANDBOX_NOT_RUNNING", message, retryable: false }
            }
            ControlError::TooLarge(_) => Self::Invalid { field: "size", message },
            ControlError::NoRoom { .. } => {
                Self::Busy { code: "NO_SPACE", message, retry_after_ms: 30_000 }
            }
            ControlError::TooManyTokens { .. } => {
                Self::Conflict { code: "TOO_MANY_TOKENS", message, retryable: false }
            }
            ControlError::Store(error) => error.into(),
            ControlError::Guest(error) => guest_error(error),
        }
    }
}

/// What the caller is told when the guest says no to something about a path.
pub(crate) fn guest_error(error: guest::Error) -> Error {
    match error {
        guest::Error::NotFound { what } => Error::NotFound { kind: "path", id: what },
        guest::Error::Invalid { reason } => {
            Error::BadRequest { code: "INVALID_PATH", message: reason }
        }
        guest::Error::NoSpace => Error::Conflict {
            code: "NO_SPACE",
            message: "no space is left in the sandbox".to_owned(),
            retryable: false,
        },
        guest::Error::Unavailable { source } => {
            tracing::warn!(error = %source, "a guest does not answer");
            Error::Busy {
                code: FILES_AWAY,
                message: "the sandbox does not answer".to_owned(),
                retry_after_ms: 500,
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct CreateQuery {
    wait: Option<String>,
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<CreateQuery>,
    keyed: Keyed,
    Json(body): Json<serde_json::Value>,
) -> Result<(StatusCode, Json<Data<wire::Sandbox>>), Error> {
    let control = &state.control;
    // Read twice rather than flattened, so that an error names the field.
    let text = body.to_string();
    let create: wire::Create = parse(text.as_bytes())?;
    let selectors: Selectors = parse(text.as_bytes())?;
    refuse_unsupported(&body)?;
    let wait = wait(query.wait.as_deref())?;
    check(&create)?;
    let mut tx = control.store.begin().await?;
    let scope = scope::resolve(&mut tx, &control.env, caller.tenant, &selectors).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    let place = Place { workspace: scope.workspace, project: scope.project };
    let is_urgent = create.fail_fast == Some(true);
    let new = new(create, selectors, place)?;
    let row = sandboxes::create(control, caller.tenant, new, keyed.0.as_ref(), wait).await?;
    if is_urgent && row.state() != sandboxes::State::Running {
        sandboxes::destroy(control, caller.tenant, row.id).await?;
        if let Some(claim) = &keyed.0 {
            let mut db = control.store.conn().await?;
            idempotency::forget(&mut db, caller.tenant, &claim.key).await?;
        }
        return Err(Error::Busy {
            code: "no_ready_machine",
            message: "no sandbox could be started at once".to_owned(),
            retry_after_ms: 1000,
        });
    }
    Ok((StatusCode::CREATED, Json(Data::new(view(control, row)))))
}

fn wait(text: Option<&str>) -> Result<Duration, Error> {
    match text {
        None => Ok(DEFAULT_WAIT),
        Some("true") => Ok(MAX_WAIT),
        Some("false") => Ok(Duration::ZERO),
        Some(text) => {
            let seconds: f64 = text.parse().unwrap_or(-1.0);
            Duration::try_from_secs_f64(seconds).map(|wait| wait.min(MAX_WAIT)).map_err(|_| {
                Error::Invalid {
                    field: "wait",
                    message: "`wait` is `true`, `false` or a number of seconds".to_owned(),
                }
            })
        }
    }
}

fn invalid(field: &'static str, message: impl Into<String>) -> Error {
    Error::Invalid { field, message: message.into() }
}

fn refuse_unsupported(body: &serde_json::Value) -> Result<(), Error> {
    let body = unsupported::fields(body);
    if body.get("auto_start") == Some(&false.into()) {
        return Err(unsupported::not_supported("auto_start"));
    }
    unsupported::refuse(body, &unsupported::CREATE_SANDBOX)
}

/// Checks everything that does not need the database, so that a bad request makes nothing.
fn check(create: &wire::Create) -> Result<(), Error> {
    create.name.as_deref().map_or(Ok(()), check_name)?;
    create.timeout_sec.map_or(Ok(()), check_timeout)?;
    for (name, value) in create.env.iter().flatten() {
        if !is_env_name(name) {
            return Err(invalid("env", format!("`{name}` cannot be the name of a variable")));
        }
        if value.contains('\0') {
            return Err(invalid("env", "a value must not hold a NUL character"));
        }
    }
    check_free_data(&(&create.env, &create.metadata, &create.tags))?;
    size(create)?;
    slug(create)?;
    Ok(())
}

fn size(create: &wire::Create) -> Result<Size, Error> {
    create.shape().map_err(|error| match error {
        wire::ShapeError::Range(error) => invalid(error.field, error.to_string()),
        wire::ShapeError::Incomplete => invalid("size", error.to_string()),
    })
}

fn slug(create: &wire::Create) -> Result<Option<Slug>, Error> {
    let given = create.slug.as_deref().filter(|slug| !slug.is_empty());
    given.map(Slug::parse).transpose().map_err(|error| invalid("slug", error.to_string()))
}

fn new(create: wire::Create, selectors: Selectors, place: Place) -> Result<New, Error> {
    Ok(New {
        place,
        slug: slug(&create)?,
        template: create.template().map(str::to_owned),
        size: size(&create)?,
        name: create.name.map(|name| name.trim().to_owned()),
        env: create.env.unwrap_or_default(),
        metadata: create.metadata.unwrap_or_default(),
        tags: create.tags.unwrap_or_default(),
        external: External {
            workspace: selectors.external_workspace_id,
            project: selectors.external_project_id,
            user: create.external_user_id,
        },
        timeout_s: create.timeout_sec.unwrap_or(DEFAULT_TIMEOUT_S),
        is_always_on: create.always_on.unwrap_or(false),
        is_persistent: create.persistent.unwrap_or(true),
    })
}

fn is_env_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_name(name: &str) -> Result<(), Error> {
    names::display("name", name, names::MEDIUM).map(drop)
}

fn check_timeout(timeout_s: u32) -> Result<(), Error> {
    let is_fine = (1..=MAX_TIMEOUT_S).contains(&timeout_s);
    let message = format!("it must be from 1 to {MAX_TIMEOUT_S} seconds");
    is_fine.then_some(()).ok_or_else(|| invalid("timeout_sec", message))
}

/// Query of the list.
#[derive(Debug, Deserialize)]
struct ListQuery {
    state: Option<String>,
    tags: Option<String>,
    workspace_id: Option<WorkspaceId>,
    project_id: Option<ProjectId>,
    external_workspace_id: Option<String>,
    external_project_id: Option<String>,
    external_user_id: Option<String>,
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<ListQuery>,
    paging: Paging,
) -> Result<Json<Listed<wire::Sandbox>>, Error> {
    let all = of_tenant(caller.tenant, &filter(&query)?);
    let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
    Ok(part.show(|row| view(&state.control, row)))
}

fn filter(query: &ListQuery) -> Result<Filter, Error> {
    let state = query.state.as_deref().filter(|word| !word.is_empty());
    let state = state
        .map(|word| match word {
            "provisioning" => Ok(sandboxes::State::Creating),
            word => sandboxes::State::parse(word)
                .ok_or_else(|| invalid("state", format!("there is no state `{word}`"))),
        })
        .transpose()?;
    // Only the first tag: sandboxes that carry several are found by any of them.
    let tag = query.tags.as_deref().and_then(|tags| tags.split(',').next());
    Ok(Filter {
        state,
        tag: tag.filter(|tag| !tag.is_empty()).map(str::to_owned),
        workspace: query.workspace_id,
        project: query.project_id,
        external: External {
            workspace: query.external_workspace_id.clone(),
            project: query.external_project_id.clone(),
            user: query.external_user_id.clone(),
        },
    })
}

async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    let row = sandboxes::get(&state.control, caller.tenant, id).await?;
    Ok(Json(Data::new(view(&state.control, row))))
}

async fn by_name(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    let row = sandboxes::by_name(&state.control, caller.tenant, &name).await?;
    Ok(Json(Data::new(view(&state.control, row))))
}

async fn update(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<serde_json::Value>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    unsupported::refuse(unsupported::fields(&body), &unsupported::UPDATE_SANDBOX)?;
    let body: wire::Update = parse(body.to_string().as_bytes())?;
    let name = names::maybe("name", body.name.as_deref(), names::MEDIUM)?;
    body.timeout_sec.map_or(Ok(()), check_timeout)?;
    check_free_data(&(&body.metadata, &body.tags))?;
    let change = Change {
        name,
        metadata: body.metadata,
        tags: body.tags,
        timeout_s: body.timeout_sec,
        is_always_on: body.always_on,
    };
    change_and_show(&state, &caller, id, &change).await
}

async fn change_and_show(
    state: &AppState,
    caller: &Caller,
    id: SandboxId,
    change: &Change,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    let row = sandboxes::update(&state.control, caller.tenant, id, change).await?;
    Ok(Json(Data::new(view(&state.control, row))))
}

async fn extend(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Extend>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    let timeout_s = match body.timeout_sec {
        Some(timeout_s) => timeout_s,
        None => sandboxes::get(&state.control, caller.tenant, id).await?.timeout_s,
    };
    check_timeout(timeout_s)?;
    let change = Change { timeout_s: Some(timeout_s), ..Change::default() };
    change_and_show(&state, &caller, id, &change).await
}

async fn tag(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Tag>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    check_free_data(&body.tags)?;
    let change = Change { tags: Some(body.tags), ..Change::default() };
    change_and_show(&state, &caller, id, &change).await
}

async fn destroy(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
) -> Result<Json<Data<wire::Sandbox>>, Error> {
    let row = sandboxes::destroy(&state.control, caller.tenant, id).await?;
    Ok(Json(Data::new(view(&state.control, row))))
}

async fn readiness(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
) -> Result<Json<Data<wire::Readiness>>, Error> {
    let row = sandboxes::get(&state.control, caller.tenant, id).await?;
    let state = row.state();
    let is_ready = state == sandboxes::State::Running;
    Ok(Json(Data::new(wire::Readiness::of(is_ready, state.as_str()))))
}

/// One event when the sandbox takes commands (`ready`), or will not, or not in time (`timeout`).
async fn readiness_stream(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    sandboxes::get(&state.control, caller.tenant, id).await?;
    let event = async move {
        let row = sandboxes::wait_ready(&state.control, caller.tenant, id, STREAM_WAIT).await.ok();
        let word = row.as_ref().map_or("unknown", |row| row.state().as_str());
        let is_ready = row.is_some_and(|row| row.state() == sandboxes::State::Running);
        let name = if is_ready { "ready" } else { "timeout" };
        let data = serde_json::json!({ "ready": is_ready, "state": word });
        Ok(Event::default().event(name).data(data.to_string()))
    };
    Ok(Sse::new(stream::once(event)).keep_alive(KeepAlive::new().interval(HEARTBEAT)))
}

/// A time as every SDK reads it: with milliseconds.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// A sandbox as the API shows it.
pub(crate) fn view(control: &Control, row: Sandbox) -> wire::Sandbox {
    let now = control.env.now();
    let state = row.state();
    let port = control.templates.resolve(&row.template).and_then(|t| t.preview_port);
    let end = row.ended_at.or(row.destroyed_at).unwrap_or(now);
    let mut metadata = row.metadata.clone();
    if let (sandboxes::State::Error, Some(reason)) = (state, &row.end_reason) {
        metadata.insert("last_error".to_owned(), serde_json::json!({ "reason": reason }));
    }
    wire::Sandbox {
        preview_url: port.map(|port| previews::url(control, &row, port)),
        id: row.id,
        slug: row.slug.to_string(),
        state: state.as_str(),
        ready: state == sandboxes::State::Running,
        ready_at: row.ready_at.map(time),
        created_at: time(row.created_at),
        started_at: row.ready_at.map(time),
        destroyed_at: row.destroyed_at.map(time),
        template_id: row.template.clone(),
        image_id: row.template,
        tenant_id: row.tenant,
        workspace_id: row.workspace,
        project_id: row.project,
        external_workspace_id: row.external.workspace,
        external_project_id: row.external.project,
        external_user_id: row.external.user,
        size: row.size.tier().map(Tier::as_str),
        resource_contract: wire::ResourceContract::of(row.size),
        cpu_count: row.size.cpu_millis.div_ceil(1000),
        memory_mb: row.size.memory_mib,
        disk_size_mb: row.size.disk_mib,
        timeout_sec: row.timeout_s,
        timeout_remaining_ms: row.expires_at.map(|at| left_ms(at, now)),
        idle_timeout_sec: 0,
        always_on: row.is_always_on,
        // A disk does not outlive the life time yet, whatever was asked for.
        persistent: false,
        metadata,
        tags: row.tags,
        preview_domain: row.preview_domain,
        boot_path: row.boot_path.as_str(),
        boot_ms: row.ready_at.map(|at| left_ms(at, row.created_at)),
        checkpoint_pending: false,
        total_runtime_sec: row.ready_at.map_or(0, |at| left_ms(end, at) / 1000),
        end_reason: row.end_reason,
        name: row.name,
    }
}

fn left_ms(to: Timestamp, from: Timestamp) -> i64 {
    (to.as_millisecond() - from.as_millisecond()).max(0)
}
