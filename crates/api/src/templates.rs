//! The catalogue of templates, and starting a template's app for its live preview.

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use miosa_control::{Control, pool, previews, sandboxes, templates::Template};
use miosa_types::{SandboxId, guest::Endpoint, size::Tier};
use miosa_wire::{
    Data,
    sandboxes::{Exec, ResourceContract},
    templates as wire,
};

use crate::{AppState, Caller, Error, Json, Path, exec, paging::Paging, processes};

/// Size that a sandbox has if it names none.
const DEFAULT_TIER: Tier = Tier::Small;
/// Longest time for the install command.
const MAX_INSTALL: Duration = Duration::from_mins(10);
/// How long start waits for the port if the caller does not say.
const DEFAULT_START: Duration = Duration::from_secs(20);
/// Longest that start waits for the port.
const MAX_START: Duration = Duration::from_mins(2);
/// How often it is looked whether somebody listens.
const LOOK: Duration = Duration::from_millis(200);

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandbox-templates", get(list))
        .route("/sandbox-templates/{name}", get(show))
        .route("/templates", get(catalogue))
        .route("/sandboxes/{id}/template/start", post(start))
}

async fn list(
    State(state): State<AppState>,
    _caller: Caller,
    paging: Paging,
) -> Result<Json<wire::Templates>, Error> {
    let control = &state.control;
    let part = paging.of(control.templates.list(), |template| template.name.clone())?;
    Ok(Json(wire::Templates {
        default_template_id: control.config.default_template.clone(),
        data: part.rows.into_iter().map(|template| view(control, template)).collect(),
        next_cursor: part.next_cursor,
        page: part.page,
    }))
}

async fn show(
    State(state): State<AppState>,
    _caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Data<wire::Template>>, Error> {
    let found = state.control.templates.resolve(&name);
    let template = found.ok_or(Error::NotFound { kind: "template", id: name })?;
    Ok(Json(Data::new(view(&state.control, template))))
}

fn view(control: &Control, template: Template) -> wire::Template {
    let size = DEFAULT_TIER.size();
    wire::Template {
        default: template.is_called(&control.config.default_template),
        id: template.name.clone(),
        image_id: template.name.clone(),
        name: template.name,
        description: template.description,
        built_in: true,
        status: "active",
        disk_mb: size.disk_mib,
        workdir: template.workdir,
        preview_port: template.preview_port,
        install_command: template.install_command,
        start_command: template.start_command,
        readiness_probe: None,
        runtimes: template.runtimes,
        artifact_paths: vec![],
        tags: vec![],
        categories: vec![],
        aliases: template.aliases,
        default_cpu: size.cpu_millis.div_ceil(1000),
        default_memory_mb: size.memory_mib,
    }
}

async fn catalogue(
    State(state): State<AppState>,
    _caller: Caller,
    paging: Paging,
) -> Result<Json<wire::Catalogue>, Error> {
    let control = &state.control;
    let free = pool::fill(&control.store, &control.observed).await?;
    let part = paging.of(control.templates.list(), |template| template.name.clone())?;
    let templates: Vec<_> =
        part.rows.into_iter().map(|template| product(template, &free)).collect();
    let sandbox = Tier::ALL.into_iter().map(|tier| ResourceContract::of(tier.size())).collect();
    Ok(Json(wire::Catalogue {
        data: templates.clone(),
        next_cursor: part.next_cursor,
        page: part.page,
        templates,
        shape_contracts: wire::Shapes { sandbox, computer: vec![] },
        readiness_states: ["fast_ready", "cold_boot_only", "missing"],
    }))
}

fn product(template: Template, free: &[pool::Free]) -> wire::Product {
    let sizes: Vec<_> = Tier::ALL
        .into_iter()
        .map(|tier| {
            let need = pool::Need { template: template.digest, size: tier.size() };
            let is_warm = !pool::plan_take(free, need).is_empty();
            wire::ProductSize {
                size: tier.as_str(),
                state: if is_warm { "fast_ready" } else { "cold_boot_only" },
                resource_contract: ResourceContract::of(tier.size()),
            }
        })
        .collect();
    let is_warm = sizes.iter().any(|size| size.state == "fast_ready");
    wire::Product {
        id: template.name.clone(),
        product: "sandbox",
        default_size: DEFAULT_TIER.as_str(),
        primitive: "sandbox",
        sdk_name: template.name.clone(),
        cli_name: template.name.clone(),
        name: template.name,
        installed_tools: template.runtimes,
        readiness_contract: "command_ready",
        benchmark_lane: "sandbox",
        aliases: template.aliases,
        sizes,
        readiness: if is_warm { "fast_ready" } else { "cold_boot_only" },
    }
}

/// Installs if there is something to install, starts the app in the background and waits until
/// somebody listens on its port.
async fn start(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Start>,
) -> Result<Json<Data<wire::Started>>, Error> {
    let control = &state.control;
    let (row, endpoint) = sandboxes::enter(control, caller.tenant, id).await?;
    let template = control.templates.resolve(&row.template);
    let install = body.install_command.clone();
    let install = install.or_else(|| template.as_ref()?.install_command.clone());
    let command = body.start_command.clone();
    let command = command.or_else(|| template.as_ref()?.start_command.clone());
    let command = command.ok_or_else(|| Error::Invalid {
        field: "start_command",
        message: "the template has no start command, so one must be given".to_owned(),
    })?;
    let port = body.port.or_else(|| template.as_ref()?.preview_port).ok_or_else(|| {
        let message = "the template has no port, so one must be given".to_owned();
        Error::Invalid { field: "port", message }
    })?;
    let mut installed = None;
    if let Some(line) = install.filter(|_| body.install.unwrap_or(true)) {
        installed = Some(run_install(control, &endpoint, &body, line).await?);
    }
    let process = Exec {
        command,
        cwd: body.workdir.clone(),
        env: Some([("PORT".to_owned(), port.to_string())].into()),
        name: Some("preview".to_owned()),
        ..Exec::default()
    };
    let process = processes::start_in(control, &endpoint, &process).await?;
    let wait = body.start_timeout_sec.map_or(DEFAULT_START, |s| Duration::from_secs(s.into()));
    let is_listening = listens(control, &endpoint, port, wait.min(MAX_START)).await;
    let url = previews::url(control, &row, port);
    Ok(Json(Data::new(wire::Started {
        preview_url: url.clone(),
        url,
        port,
        ready: is_listening,
        process,
        install: installed,
    })))
}

async fn run_install(
    control: &Control,
    endpoint: &Endpoint,
    body: &wire::Start,
    line: String,
) -> Result<miosa_wire::sandboxes::ExecResult, Error> {
    let limit = body.install_timeout_sec.map_or(MAX_INSTALL, |s| Duration::from_secs(s.into()));
    let limit = limit.min(MAX_INSTALL);
    let exec = Exec {
        command: line,
        cwd: body.workdir.clone(),
        timeout: Some(limit.as_secs_f64()),
        ..Exec::default()
    };
    let result = exec::run(control, endpoint, &exec).await?;
    if result.exit_code != 0 {
        let text = if result.stderr.is_empty() { &result.stdout } else { &result.stderr };
        let start = text.char_indices().rev().nth(1999).map_or(0, |(at, _)| at);
        let message =
            format!("the install command ended with {}: {}", result.exit_code, &text[start..]);
        return Err(Error::Invalid { field: "install_command", message });
    }
    Ok(result)
}

async fn listens(control: &Control, endpoint: &Endpoint, port: u16, wait: Duration) -> bool {
    let look = async {
        loop {
            let ports = control.guest.ports(endpoint).await.unwrap_or_default();
            if ports.iter().any(|listening| listening.port == port) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(wait, look).await.is_ok()
}
