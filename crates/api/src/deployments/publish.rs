//! `POST /deployments/:id/publish`, `POST /sandboxes/:id/deploy` and `…/publish`.

use axum::{Router, extract::State, http::StatusCode, routing::post};
use miosa_control::{
    deployments as control,
    publishing::{self, KindChoice, Publish, Request, Target},
};
use miosa_store::deployments::External;
use miosa_types::SandboxId;
use miosa_wire::{
    Data,
    deployments::{self as wire, DeployData, DeployScalars, Deployed, PublishRequest},
};

use super::render;
use crate::{AppState, Caller, Error, Json, Path, idempotency::Keyed, names, unsupported};

pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/deployments/{deployment}/publish", post(publish))
        .route("/sandboxes/{sandbox}/deploy", post(deploy))
        .route("/sandboxes/{sandbox}/publish", post(deploy))
}

async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    Path(deployment): Path<String>,
    keyed: Keyed,
    Json(body): Json<PublishRequest>,
) -> Result<(StatusCode, Json<Data<wire::Published>>), Error> {
    let message = "it names the sandbox whose files are published".to_owned();
    let sandbox =
        body.source_sandbox_id.ok_or(Error::Invalid { field: "source_sandbox_id", message })?;
    let target = Target::Existing(deployment);
    let (published, _) = run(&state, &caller, order(sandbox, target, body, keyed)?).await?;
    Ok((StatusCode::CREATED, Json(Data::new(published))))
}

async fn deploy(
    State(state): State<AppState>,
    caller: Caller,
    Path(sandbox): Path<SandboxId>,
    keyed: Keyed,
    Json(body): Json<PublishRequest>,
) -> Result<(StatusCode, Json<Deployed>), Error> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let name = names::maybe("name", given(&body.name).as_deref(), names::LONG)?;
    if let Some(slug) = given(&body.slug) {
        super::check_slug(&slug, name.as_deref())?;
    }
    let target = match (given(&body.deployment_id), name, given(&body.slug)) {
        (Some(id), _, _) => Target::Existing(id),
        (None, Some(name), _) | (None, None, Some(name)) => Target::Named(name),
        (None, None, None) => Target::New,
    };
    let (published, url) = run(&state, &caller, order(sandbox, target, body, keyed)?).await?;
    let scalars = DeployScalars {
        deployment_id: published.deployment.id,
        version_id: published.version.id,
        release_id: published.version.id,
        public_url: url.clone(),
        url,
        state: published.deployment.state.clone(),
        deployment_product: render::PRODUCT.to_owned(),
    };
    let data = DeployData { scalars: scalars.clone(), published };
    Ok((StatusCode::CREATED, Json(Deployed { top: scalars, data })))
}

async fn run(
    state: &AppState,
    caller: &Caller,
    order: Publish,
) -> Result<(wire::Published, String), Error> {
    let promoted = order.is_promoted_when_ready;
    let made = publishing::publish(&state.control, caller.tenant, order).await?;
    let shown = control::show(&state.control, made.deployment).await?;
    let domains = &state.control.config.domains;
    let published = wire::Published {
        deployment: render::deployment(&shown),
        version: render::version(domains, &shown.deployment, &made.version),
        release: render::release(&shown.deployment, &made.version),
        services: vec![render::service(&shown, &made.version)],
        promoted,
    };
    Ok((published, shown.url))
}

fn order(
    sandbox: SandboxId,
    target: Target,
    body: PublishRequest,
    keyed: Keyed,
) -> Result<Publish, Error> {
    unsupported::refuse(&body.rest, &unsupported::PUBLISH)?;
    names::check_free_data(&(&body.env, &body.metadata))?;
    let kind = match body.kind.as_deref() {
        None => None,
        Some("auto" | "") => Some(KindChoice::Auto),
        Some("static") => Some(KindChoice::Static),
        Some("dynamic") => Some(KindChoice::Dynamic),
        Some(_) => {
            let message = "must be `auto`, `static` or `dynamic`".to_owned();
            return Err(Error::Invalid { field: "kind", message });
        }
    };
    // `type` and `mode` have other meanings too; only these words are about the kind.
    let hint =
        [&body.kind_as_type, &body.mode].into_iter().find_map(|word| match word.as_deref() {
            Some("static") => Some(KindChoice::Static),
            Some("dynamic") => Some(KindChoice::Dynamic),
            _ => None,
        });
    let request = Request {
        kind: kind.or(hint),
        build_command: body.build_command,
        run_command: body.run_command.or(body.start_command),
        port: body.port,
        health_check_path: body.health_check_path,
        output_path: body.output_path.or(body.path),
        entrypoint: body.entrypoint,
        env: body.env.unwrap_or_default(),
    };
    Ok(Publish {
        sandbox,
        target,
        request,
        source_path: body.source_snapshot_path.filter(|path| !path.is_empty()),
        is_promoted_when_ready: body.promote.unwrap_or(true),
        metadata: body.metadata.unwrap_or_default(),
        external: External {
            workspace: body.external_workspace_id,
            project: body.external_project_id,
            user: body.external_user_id,
        },
        claim: keyed.0,
    })
}
