//! `/deployments`: create, look up, change, versions, releases, switches, instances, logs.

pub mod publish;
mod render;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use miosa_control::{
    deployments::{self as control, Change, Error as ControlError, Filter, New},
    waiting,
};
use miosa_store::{
    Window,
    deployments::{self as rows, External},
    versions::of_deployment,
};
use miosa_types::{InstanceId, ProjectId, Slug, VersionId, deployment::VersionState};
use miosa_wire::{
    Data,
    deployments::{self as wire, ChangeDeployment, LogLine, Logs, NewDeployment, Rollback},
    envelope::Listed,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    AppState, Caller, Error, Json, Path, Query,
    error::FILES_AWAY,
    idempotency::Keyed,
    names,
    paging::{Paging, Part},
    scope::{self, Selectors},
    unsupported,
};

/// Deployments that are looked at for those in one state.
const MOST_OF_A_STATE: u32 = 1000;
/// Bytes of a log that are looked at.
const LOG_BYTES: u32 = 256 * 1024;

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/deployments", get(list).post(create))
        .route("/projects/{project}/deployments", get(list_of_project).post(create_in_project))
        .route("/deployments/{deployment}", get(read).patch(change).delete(delete))
        .route("/deployments/{deployment}/stop", post(stop))
        .route("/deployments/{deployment}/logs", get(logs))
        .route("/deployments/{deployment}/versions", get(versions))
        .route("/deployments/{deployment}/versions/{version}", get(version))
        .route("/deployments/{deployment}/versions/{version}/logs", get(version_logs))
        .route("/deployments/{deployment}/versions/{version}/promote", post(promote))
        .route("/deployments/{deployment}/versions/{version}/cancel", post(cancel))
        .route("/deployments/{deployment}/releases", get(releases))
        .route("/deployments/{deployment}/releases/{version}", get(release))
        .route("/deployments/{deployment}/releases/{version}/promote", post(promote))
        .route("/deployments/{deployment}/rollback", post(roll_back))
        .route("/deployments/{deployment}/runtime-instances", get(instances))
        .route("/deployments/{deployment}/runtime-instances/{instance}", get(instance))
        .route("/deployments/{deployment}/runtime-instances/{instance}/logs", get(instance_logs))
        .merge(publish::routes())
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::NotFound { kind, id } => Self::NotFound { kind, id },
            ControlError::NameTaken { name } => Self::NameTaken { name },
            ControlError::Invalid { field, message } => Self::Invalid { field, message },
            ControlError::NotReady { .. } => {
                Self::Conflict { code: "RESOURCE_STATE", message, retryable: false }
            }
            ControlError::NotCancellable { .. } => {
                Self::Conflict { code: "OPERATION_NOT_CANCELLABLE", message, retryable: false }
            }
            ControlError::Archived { .. } => Self::Gone { message },
            ControlError::Sandbox(error) => error.into(),
            ControlError::NoSpace => {
                Self::Busy { code: "NO_SPACE", message, retry_after_ms: 30_000 }
            }
            ControlError::Unavailable { source } => {
                tracing::warn!(error = &*source, "a source could not be saved");
                Self::Busy { code: FILES_AWAY, message, retry_after_ms: 1000 }
            }
            ControlError::Store(error) => error.into(),
        }
    }
}

type One = Result<Json<Data<wire::Deployment>>, Error>;

async fn show(state: &AppState, row: control::Deployment) -> One {
    let shown = control::show(&state.control, row).await?;
    Ok(Json(Data::new(render::deployment(&shown))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    project_id: Option<String>,
    state: Option<String>,
    external_workspace_id: Option<String>,
    external_project_id: Option<String>,
    external_user_id: Option<String>,
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
    paging: Paging,
) -> Result<Json<Listed<wire::Deployment>>, Error> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let project: Option<ProjectId> =
        given(wanted.project_id).map(|id| parse_id(&id)).transpose()?;
    let external = External {
        workspace: given(wanted.external_workspace_id),
        project: given(wanted.external_project_id),
        user: given(wanted.external_user_id),
    };
    let all = rows::of_tenant(caller.tenant, &Filter { project, external });
    // A connection is given back before the next one is asked for.
    let part = match given(wanted.state) {
        None => {
            let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
            let Part { rows, next_cursor, page } = part;
            let rows = control::show_all(&state.control, caller.tenant, rows).await?;
            Part { rows, next_cursor, page }
        }
        // A state is no column: what has it is known only once it is looked at.
        Some(state_wanted) => {
            let window = Window::first(MOST_OF_A_STATE);
            let rows = all.window(&mut *state.control.store.conn().await?, &window).await?;
            let mut shown = control::show_all(&state.control, caller.tenant, rows).await?;
            shown.retain(|shown| shown.state == state_wanted);
            paging.of(shown, |shown| shown.deployment.id.to_string())?
        }
    };
    Ok(part.show(|shown| render::deployment(&shown)))
}

async fn list_of_project(
    State(state): State<AppState>,
    caller: Caller,
    Path(project): Path<ProjectId>,
    Query(wanted): Query<Wanted>,
    paging: Paging,
) -> Result<Json<Listed<wire::Deployment>>, Error> {
    crate::projects::find(&mut *state.control.store.conn().await?, &caller, project).await?;
    let wanted = Wanted { project_id: Some(project.to_string()), ..wanted };
    list(State(state), caller, Query(wanted), paging).await
}

fn parse_id<K: miosa_types::id::Kind>(text: &str) -> Result<miosa_types::id::Id<K>, Error> {
    text.parse()
        .map_err(|error: miosa_types::id::IdError| Error::InvalidId { message: error.to_string() })
}

#[derive(Debug, Default, Deserialize)]
struct Create {
    #[serde(flatten)]
    selectors: Selectors,
    #[serde(flatten)]
    new: NewDeployment,
    /// Everything else.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    keyed: Keyed,
    Json(body): Json<Create>,
) -> Result<Response, Error> {
    let Create { selectors, new, rest } = body;
    unsupported::refuse(&rest, &unsupported::CREATE_DEPLOYMENT)?;
    let name = check_name(&new.name.unwrap_or_default())?;
    if let Some(slug) = rest.get("slug").and_then(Value::as_str).filter(|slug| !slug.is_empty()) {
        check_slug(slug, Some(&name))?;
    }
    names::check_free_data(&new.metadata)?;
    let mut tx = state.control.store.begin().await?;
    let scope = scope::resolve(&mut tx, &state.control.env, caller.tenant, &selectors).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    let new = New {
        workspace: scope.workspace,
        project: scope.project,
        name: Some(name),
        settings: settings([
            ("build_command", new.build_command.map(Value::from)),
            ("run_command", new.run_command.map(Value::from)),
            ("port", new.port.map(Value::from)),
            ("health_check_path", new.health_check_path.map(Value::from)),
        ]),
        metadata: new.metadata.unwrap_or_default(),
        external: External {
            workspace: selectors.external_workspace_id,
            project: selectors.external_project_id,
            user: new.external_user_id,
        },
    };
    let row = control::create(&state.control, caller.tenant, new, keyed.0.as_ref()).await?;
    Ok((StatusCode::CREATED, show(&state, row).await?).into_response())
}

async fn create_in_project(
    State(state): State<AppState>,
    caller: Caller,
    Path(project): Path<ProjectId>,
    keyed: Keyed,
    Json(mut body): Json<Create>,
) -> Result<Response, Error> {
    body.selectors.project_id = Some(project.to_string());
    create(State(state), caller, keyed, Json(body)).await
}

fn check_name(name: &str) -> Result<String, Error> {
    names::display("name", name, names::LONG).map(str::to_owned)
}

/// The slug follows from the name, so one that is asked for beside it must be that.
fn check_slug(wanted: &str, name: Option<&str>) -> Result<(), Error> {
    let wanted = names::slug("slug", wanted)?;
    let Some(own) = name.and_then(Slug::from_display).filter(|own| *own != wanted) else {
        return Ok(());
    };
    let message = format!("the slug follows from the name: it is `{own}`; give one of the two");
    Err(Error::Invalid { field: "slug", message })
}

fn settings<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

async fn read(State(state): State<AppState>, caller: Caller, Path(key): Path<String>) -> One {
    let row = control::get(&state.control, caller.tenant, &key).await?;
    show(&state, row).await
}

async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    Json(body): Json<ChangeDeployment>,
) -> One {
    names::check_free_data(&body.metadata)?;
    let change = Change {
        name: body.name.map(|name| check_name(&name)).transpose()?,
        settings: settings([
            ("build_command", body.build_command.map(Value::from)),
            ("run_command", body.run_command.map(Value::from)),
        ]),
        metadata: body.metadata,
    };
    let row = control::update(&state.control, caller.tenant, &key, change).await?;
    show(&state, row).await
}

async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, Error> {
    control::delete(&state.control, caller.tenant, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stop(State(state): State<AppState>, caller: Caller, Path(key): Path<String>) -> One {
    let row = control::stop(&state.control, caller.tenant, &key).await?;
    show(&state, row).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WantedVersions {
    state: Option<String>,
}

async fn list_versions(
    state: &AppState,
    caller: &Caller,
    key: &str,
    (wanted, paging): (WantedVersions, Paging),
    is_built: bool,
) -> Result<(control::Deployment, Part<control::Version>), Error> {
    let row = control::get(&state.control, caller.tenant, key).await?;
    let version_state = wanted.state.as_deref().and_then(VersionState::parse);
    let all = of_deployment(caller.tenant, row.id, version_state, is_built);
    let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
    Ok((row, part))
}

async fn versions(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    Query(wanted): Query<WantedVersions>,
    paging: Paging,
) -> Result<Json<Listed<wire::Version>>, Error> {
    let (row, part) = list_versions(&state, &caller, &key, (wanted, paging), false).await?;
    let domains = &state.control.config.domains;
    Ok(part.show(|version| render::version(domains, &row, &version)))
}

async fn version(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, VersionId)>,
) -> Result<Json<Data<wire::Version>>, Error> {
    let (row, found) = control::get_version(&state.control, caller.tenant, &key, id).await?;
    let mut shown = render::version(&state.control.config.domains, &row, &found);
    if shown.error_message.is_none() {
        shown.error_message =
            waiting::explain(&state.control, &found).await.map_err(ControlError::from)?;
    }
    Ok(Json(Data::new(shown)))
}

async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, VersionId)>,
) -> Result<Json<Data<wire::Version>>, Error> {
    let (row, version) = control::cancel(&state.control, caller.tenant, &key, id).await?;
    Ok(Json(Data::new(render::version(&state.control.config.domains, &row, &version))))
}

async fn releases(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    Query(wanted): Query<WantedVersions>,
    paging: Paging,
) -> Result<Json<Listed<wire::Release>>, Error> {
    let (row, part) = list_versions(&state, &caller, &key, (wanted, paging), true).await?;
    Ok(part.show(|version| render::release(&row, &version)))
}

async fn release(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, VersionId)>,
) -> Result<Json<Data<wire::Release>>, Error> {
    let (row, found) = control::get_version(&state.control, caller.tenant, &key, id).await?;
    Ok(Json(Data::new(render::release(&row, &found))))
}

async fn promote(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, version)): Path<(String, VersionId)>,
) -> One {
    let row = control::promote(&state.control, caller.tenant, &key, version).await?;
    show(&state, row).await
}

async fn roll_back(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    keyed: Keyed,
    Json(body): Json<Rollback>,
) -> One {
    let version = body.version_id.or(body.release_id);
    let claim = keyed.0.as_ref();
    let row = control::roll_back(&state.control, caller.tenant, &key, version, claim).await?;
    show(&state, row).await
}

async fn instances(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    paging: Paging,
) -> Result<Json<Listed<wire::RuntimeInstance>>, Error> {
    let row = control::get(&state.control, caller.tenant, &key).await?;
    let all = miosa_store::instances::of_deployment(caller.tenant, row.id);
    let part = paging.read(&mut *state.control.store.conn().await?, &all).await?;
    let rows = control::explain_instances(&state.control, caller.tenant, part.rows).await?;
    Ok(Part { rows, ..part }.show(|instance| render::instance(&instance)))
}

async fn find_instance(
    state: &AppState,
    caller: &Caller,
    key: &str,
    id: InstanceId,
) -> Result<control::Instance, Error> {
    let (_, listed) = control::list_instances(&state.control, caller.tenant, key).await?;
    let found = listed.into_iter().find(|instance| instance.id == id);
    found.ok_or_else(|| Error::NotFound { kind: "runtime instance", id: id.to_string() })
}

async fn instance(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, InstanceId)>,
) -> Result<Json<Data<wire::RuntimeInstance>>, Error> {
    let found = find_instance(&state, &caller, &key, id).await?;
    Ok(Json(Data::new(render::instance(&found))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WantedLines {
    lines: Option<usize>,
}

async fn instance_logs(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, InstanceId)>,
    Query(wanted): Query<WantedLines>,
) -> Result<Json<Data<Logs>>, Error> {
    let found = find_instance(&state, &caller, &key, id).await?;
    let text = control::instance_log(&state.control, &found, LOG_BYTES).await;
    Ok(Json(Data::new(last_lines("stdout", &text, wanted.lines))))
}

fn last_lines(stream: &str, text: &str, count: Option<usize>) -> Logs {
    let all: Vec<_> = text.lines().collect();
    let kept = &all[all.len().saturating_sub(count.unwrap_or(100))..];
    let line =
        |line: &&str| LogLine { stream: stream.to_owned(), line: (*line).to_owned(), ts: None };
    Logs { lines: kept.iter().map(line).collect(), logs: kept.join("\n") }
}

/// What the newest instance printed; of a deployment without instances, the log of its newest
/// build.
async fn logs(
    State(state): State<AppState>,
    caller: Caller,
    Path(key): Path<String>,
    Query(wanted): Query<WantedLines>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (row, instances) = control::list_instances(&state.control, caller.tenant, &key).await?;
    let logs = if let Some(newest) = instances.first() {
        let text = control::instance_log(&state.control, newest, LOG_BYTES).await;
        last_lines("stdout", &text, wanted.lines)
    } else {
        let id = row.id.to_string();
        let (_, versions) =
            control::list_versions(&state.control, caller.tenant, &id, None, 1).await?;
        let text = match versions.first() {
            Some(newest) => control::build_log(&state.control, caller.tenant, newest.id).await?,
            None => String::new(),
        };
        last_lines("build", &text, wanted.lines)
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    // SDKs name both; the one that they want comes first.
    if accept.is_some_and(|accept| accept.trim_start().starts_with("text/event-stream")) {
        return Ok(as_events(&logs));
    }
    Ok(Json(Data::new(logs)).into_response())
}

fn as_events(logs: &Logs) -> Response {
    let mut body = String::new();
    for line in &logs.lines {
        let data = serde_json::to_string(line).unwrap_or_default();
        for part in ["event: log_line\ndata: ", &data, "\n\n"] {
            body.push_str(part);
        }
    }
    body.push_str("data: {\"type\":\"done\"}\n\n");
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")], body)
        .into_response()
}

async fn version_logs(
    State(state): State<AppState>,
    caller: Caller,
    Path((key, id)): Path<(String, VersionId)>,
) -> Result<Response, Error> {
    let (_, found) = control::get_version(&state.control, caller.tenant, &key, id).await?;
    let text = control::build_log(&state.control, caller.tenant, found.id).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
