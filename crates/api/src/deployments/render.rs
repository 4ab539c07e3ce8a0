//! Rows as the API shows them.

use miosa_control::{
    deployments::{Deployment, Instance, Shown, Version},
    workloads,
};
use miosa_types::{
    deployment::{InstanceState, VersionKind, VersionState},
    host::{self, Domains},
};
use miosa_wire::deployments as wire;
use serde_json::{Map, Value, json};

/// What SDKs know this kind of deployment as.
pub(super) const PRODUCT: &str = "miosa_deploy";

pub(super) fn deployment(shown: &Shown) -> wire::Deployment {
    let Shown { deployment: row, .. } = shown;
    let setting = |name: &str| row.settings.get(name).and_then(Value::as_str).map(str::to_owned);
    let mut metadata = row.metadata.clone();
    if let Some(addr) = shown.runtime {
        metadata.insert("runtime".into(), json!({ "ip": addr.ip(), "port": addr.port() }));
    }
    let artifact = shown.active.as_ref().and_then(|version| version.artifact);
    wire::Deployment {
        id: row.id,
        tenant_id: row.tenant,
        owner_id: None,
        workspace_id: row.workspace,
        project_id: row.project,
        name: row.name.clone(),
        slug: row.slug.to_string(),
        state: shown.state.to_owned(),
        repo_url: None,
        repo_provider: None,
        branch: None,
        build_command: setting("build_command"),
        run_command: setting("run_command"),
        runtime_image: None,
        current_build_id: None,
        active_version_id: row.active_version,
        active_release_id: row.active_version,
        running_artifact_sha256: artifact.map(|artifact| artifact.digest.to_string()),
        source_type: Some("sandbox".into()),
        auto_deploy: false,
        custom_domain_id: None,
        linked_database_id: None,
        deployment_product: Some(PRODUCT.into()),
        docker_deploy_host_id: None,
        docker_deploy_app: None,
        metadata,
        external_workspace_id: row.external.workspace.clone(),
        external_user_id: row.external.user.clone(),
        external_project_id: row.external.project.clone(),
        public_url: Some(shown.url.clone()),
        auto_subdomain: Some(row.slug.to_string()),
        error_message: row.failure.clone().or_else(|| shown.waiting.clone()),
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

/// While it is being built its kind may not be known; SDKs need one.
fn kind(version: &Version) -> VersionKind {
    let runs = version.request.get("run_command").is_some_and(Value::is_string);
    let guess = if runs { VersionKind::Dynamic } else { VersionKind::Static };
    version.kind.unwrap_or(guess)
}

fn manifest(version: &Version) -> Map<String, Value> {
    let mut manifest = Map::new();
    if let Some(artifact) = version.artifact {
        manifest.insert("files".into(), artifact.files.into());
        manifest.insert("total_bytes".into(), artifact.bytes.into());
        if version.kind == Some(VersionKind::Static) {
            manifest.insert("entrypoint".into(), "index.html".into());
        }
    }
    manifest
}

pub(super) fn version(domains: &Domains, row: &Deployment, version: &Version) -> wire::Version {
    let run = workloads::run_config(version).ok();
    let digest = version.artifact.map(|artifact| artifact.digest.to_string());
    let is_served =
        version.kind == Some(VersionKind::Static) && version.state == VersionState::Ready;
    let own_host = host::version(version.number, &row.slug, &row.deployment_domain);
    wire::Version {
        id: version.id,
        deployment_id: row.id,
        tenant_id: row.tenant,
        workspace_id: row.workspace,
        project_id: row.project,
        created_by: None,
        source_sandbox_id: version.source_sandbox,
        build_id: Some(version.id),
        version_number: version.number,
        kind: kind(version).as_str().to_owned(),
        state: version.state.as_str().to_owned(),
        artifact_uri: digest.as_ref().map(|digest| format!("sha256:{digest}")),
        artifact_manifest: manifest(version),
        artifact_sha256: digest,
        runtime_image: None,
        runtime_command: run.as_ref().map(miosa_control::publishing::RunConfig::display),
        runtime_port: run.as_ref().map(|run| run.port),
        health_check_path: run.and_then(|run| run.health_check_path),
        build_log_uri: Some(format!("/api/v1/deployments/{}/versions/{}/logs", row.id, version.id)),
        metadata: Map::new(),
        error_message: version.failure.clone(),
        public_url: is_served.then(|| domains.url(&own_host)),
        promoted_at: version.promoted_at,
        archived_at: version.archived_at,
        external_workspace_id: row.external.workspace.clone(),
        external_user_id: row.external.user.clone(),
        external_project_id: row.external.project.clone(),
        created_at: version.created_at,
        updated_at: version.updated_at,
    }
}

pub(super) fn release(row: &Deployment, version: &Version) -> wire::Release {
    let run = workloads::run_config(version).ok();
    let digest = version.artifact.map(|artifact| artifact.digest.to_string());
    let kind = match kind(version) {
        VersionKind::Static => "static",
        VersionKind::Dynamic => "rootfs",
    };
    wire::Release {
        id: version.id,
        deployment_id: row.id,
        deployment_version_id: version.id,
        tenant_id: row.tenant,
        workspace_id: row.workspace,
        project_id: row.project,
        source_sandbox_id: version.source_sandbox,
        build_id: Some(version.id),
        kind: kind.to_owned(),
        state: version.state.as_str().to_owned(),
        artifact_uri: digest.as_ref().map(|digest| format!("sha256:{digest}")),
        artifact_sha256: digest.clone(),
        sha256: digest,
        artifact_manifest: manifest(version),
        size_bytes: version.artifact.map(|artifact| artifact.bytes),
        start_command: run.as_ref().map(miosa_control::publishing::RunConfig::display),
        port: run.as_ref().map(|run| run.port),
        health_check_path: run.and_then(|run| run.health_check_path),
        metadata: Map::new(),
        ready_at: version.ready_at,
        archived_at: version.archived_at,
        created_at: version.created_at,
        updated_at: version.updated_at,
    }
}

pub(super) fn service(shown: &Shown, version: &Version) -> wire::Service {
    let row = &shown.deployment;
    let kind = match kind(version) {
        VersionKind::Static => "static_web",
        VersionKind::Dynamic => "web",
    };
    wire::Service {
        id: row.id,
        deployment_id: row.id,
        tenant_id: row.tenant,
        kind: kind.to_owned(),
        name: Some(row.name.clone()),
        desired_replicas: row.replicas,
        state: shown.state.to_owned(),
        metadata: Map::new(),
    }
}

pub(super) fn instance(row: &Instance) -> wire::RuntimeInstance {
    let is_wanted = row.ended_at.is_none() && row.state != InstanceState::Stopped;
    let size = workloads::replica_size();
    wire::RuntimeInstance {
        id: row.id,
        deployment_id: row.deployment,
        version_id: row.version,
        release_id: row.version,
        tenant_id: row.tenant,
        desired_state: if is_wanted { "running" } else { "stopped" }.to_owned(),
        state: row.state.as_str().to_owned(),
        ip_address: row.ip.clone(),
        port: row.port,
        health_check_path: None,
        last_health_check_at: row.ready_at.map(|_| row.last_seen_at),
        last_heartbeat_at: Some(row.last_seen_at),
        started_at: Some(row.started_at),
        ready_at: row.ready_at,
        stopped_at: row.ended_at,
        error_message: row.error.clone(),
        restart_count: row.restarts,
        cpu_limit_millicores: Some(size.cpu_millis),
        memory_limit_mb: Some(size.memory_mib),
        metadata: Map::new(),
        created_at: Some(row.started_at),
        updated_at: Some(row.last_seen_at),
    }
}
