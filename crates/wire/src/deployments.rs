//! Deployments, versions, releases and runtime instances (contract: `miosa-api` 2.4).
//!
//! Promises: every object has every field that the strict SDK models require; `metadata` and
//! `artifact_manifest` are objects, never null.

use jiff::Timestamp;
use miosa_types::{
    DeploymentId, InstanceId, ProjectId, SandboxId, TenantId, VersionId, WorkspaceId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A published app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Nobody in particular.
    pub owner_id: Option<String>,
    /// The downstream customer.
    pub workspace_id: WorkspaceId,
    /// What it is part of.
    pub project_id: ProjectId,
    /// Display name.
    pub name: String,
    /// First label of its host.
    pub slug: String,
    /// `pending`, `building`, `running`, `stopped` or `failed`.
    pub state: String,
    /// Always null: sources are sandboxes.
    pub repo_url: Option<String>,
    /// Always null.
    pub repo_provider: Option<String>,
    /// Always null.
    pub branch: Option<String>,
    /// Stored default of a publish.
    pub build_command: Option<String>,
    /// Stored default of a publish.
    pub run_command: Option<String>,
    /// Always null.
    pub runtime_image: Option<String>,
    /// The version that is being built, if that is the newest.
    pub current_build_id: Option<VersionId>,
    /// The version that shall serve.
    pub active_version_id: Option<VersionId>,
    /// The same: each version has one release, which carries its id.
    pub active_release_id: Option<VersionId>,
    /// Digest of the artifact that shall serve.
    pub running_artifact_sha256: Option<String>,
    /// `sandbox`.
    pub source_type: Option<String>,
    /// False: nothing is built unasked.
    pub auto_deploy: bool,
    /// Always null.
    pub custom_domain_id: Option<String>,
    /// Always null.
    pub linked_database_id: Option<String>,
    /// `miosa_deploy`.
    pub deployment_product: Option<String>,
    /// Always null.
    pub docker_deploy_host_id: Option<String>,
    /// Always null.
    pub docker_deploy_app: Option<Value>,
    /// The tenant's data, and `runtime: {ip, port}` while a replica is ready.
    pub metadata: Map<String, Value>,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// Where it is reached.
    pub public_url: Option<String>,
    /// First label of its host.
    pub auto_subdomain: Option<String>,
    /// Why the newest attempt failed.
    pub error_message: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its intent changed last.
    pub updated_at: Timestamp,
}

/// An immutable version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// What it is a version of.
    pub deployment_id: DeploymentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The downstream customer.
    pub workspace_id: WorkspaceId,
    /// What it is part of.
    pub project_id: ProjectId,
    /// Nobody in particular.
    pub created_by: Option<String>,
    /// Where its source came from.
    pub source_sandbox_id: Option<SandboxId>,
    /// Its build, which carries its id.
    pub build_id: Option<VersionId>,
    /// Counts from 1.
    pub version_number: u32,
    /// `static` or `dynamic`; a guess while it is being built.
    pub kind: String,
    /// `building`, `ready`, `failed` or `archived`.
    pub state: String,
    /// Where its artifact is, as `sha256:…`.
    pub artifact_uri: Option<String>,
    /// `files`, `total_bytes`, `entrypoint`.
    pub artifact_manifest: Map<String, Value>,
    /// Digest of its artifact.
    pub artifact_sha256: Option<String>,
    /// Always null.
    pub runtime_image: Option<String>,
    /// What its instances run; null for static.
    pub runtime_command: Option<String>,
    /// Where they listen; null for static.
    pub runtime_port: Option<u16>,
    /// Path that tells readiness.
    pub health_check_path: Option<String>,
    /// Path of its log in this API.
    pub build_log_uri: Option<String>,
    /// Empty.
    pub metadata: Map<String, Value>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Address of exactly this version, if it is static.
    pub public_url: Option<String>,
    /// When it was last made the active version.
    pub promoted_at: Option<Timestamp>,
    /// When its artifact was deleted.
    pub archived_at: Option<Timestamp>,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// What a version released; carries its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Id of the version.
    pub id: VersionId,
    /// What it is a release of.
    pub deployment_id: DeploymentId,
    /// The version.
    pub deployment_version_id: VersionId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The downstream customer.
    pub workspace_id: WorkspaceId,
    /// What it is part of.
    pub project_id: ProjectId,
    /// Where its source came from.
    pub source_sandbox_id: Option<SandboxId>,
    /// Its build.
    pub build_id: Option<VersionId>,
    /// `static` or `rootfs`.
    pub kind: String,
    /// State of the version.
    pub state: String,
    /// Where its artifact is.
    pub artifact_uri: Option<String>,
    /// Digest of its artifact.
    pub artifact_sha256: Option<String>,
    /// The same.
    pub sha256: Option<String>,
    /// `files`, `total_bytes`, `entrypoint`.
    pub artifact_manifest: Map<String, Value>,
    /// Bytes of the artifact.
    pub size_bytes: Option<u64>,
    /// What its instances run.
    pub start_command: Option<String>,
    /// Where they listen.
    pub port: Option<u16>,
    /// Path that tells readiness.
    pub health_check_path: Option<String>,
    /// Empty.
    pub metadata: Map<String, Value>,
    /// When its artifact was complete.
    pub ready_at: Option<Timestamp>,
    /// When its artifact was deleted.
    pub archived_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// The one service of a deployment; carries its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeploymentService)]
pub struct Service {
    /// Id of the deployment.
    pub id: DeploymentId,
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// `static_web` or `web`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: Option<String>,
    /// How many replicas.
    pub desired_replicas: u32,
    /// State of the deployment.
    pub state: String,
    /// Empty.
    pub metadata: Map<String, Value>,
}

/// One observed replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeInstance {
    /// Its id.
    pub id: InstanceId,
    /// What it serves.
    pub deployment_id: DeploymentId,
    /// Which version of that.
    pub version_id: VersionId,
    /// The same.
    pub release_id: VersionId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// `running`, or `stopped` once it ended.
    pub desired_state: String,
    /// `provisioning`, `starting`, `healthy`, `unhealthy`, `error`, `stopped` or `destroyed`.
    pub state: String,
    /// Its address.
    pub ip_address: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Path that tells readiness.
    pub health_check_path: Option<String>,
    /// When it was last seen.
    pub last_health_check_at: Option<Timestamp>,
    /// When it was last seen.
    pub last_heartbeat_at: Option<Timestamp>,
    /// When it began to start.
    pub started_at: Option<Timestamp>,
    /// When it became ready.
    pub ready_at: Option<Timestamp>,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// Why it ended or is stuck.
    pub error_message: Option<String>,
    /// Restarts of its workload until then.
    pub restart_count: u32,
    /// Limit.
    pub cpu_limit_millicores: Option<u32>,
    /// Limit.
    pub memory_limit_mb: Option<u32>,
    /// Empty.
    pub metadata: Map<String, Value>,
    /// When it began to start.
    pub created_at: Option<Timestamp>,
    /// When it changed last.
    pub updated_at: Option<Timestamp>,
}

/// `POST /deployments`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewDeployment {
    /// Display name.
    pub name: Option<String>,
    /// Default of a publish.
    pub build_command: Option<String>,
    /// Default of a publish.
    pub run_command: Option<String>,
    /// Default of a publish.
    pub port: Option<u16>,
    /// Default of a publish.
    pub health_check_path: Option<String>,
    /// Free data of the tenant.
    pub metadata: Option<Map<String, Value>>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
}

/// `PATCH /deployments/:id`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct ChangeDeployment {
    /// Display name.
    pub name: Option<String>,
    /// Default of a publish.
    pub build_command: Option<String>,
    /// Default of a publish.
    pub run_command: Option<String>,
    /// Free data of the tenant.
    pub metadata: Option<Map<String, Value>>,
}

/// `POST /deployments/:id/publish`, `POST /sandboxes/:id/deploy` and `…/publish`: the union of
/// what SDKs and CLI send.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(default)]
pub struct PublishRequest {
    /// Where the source is; in the path of the sandbox calls.
    pub source_sandbox_id: Option<SandboxId>,
    /// Deployment that gets the version: id, slug or name.
    pub deployment_id: Option<String>,
    /// Name of the deployment.
    pub name: Option<String>,
    /// The same, from the CLI.
    pub slug: Option<String>,
    /// `auto`, `static` or `dynamic`.
    pub kind: Option<String>,
    /// The same.
    #[serde(rename = "type")]
    pub kind_as_type: Option<String>,
    /// The same.
    pub mode: Option<String>,
    /// Folder of the finished files.
    pub output_path: Option<String>,
    /// The same, from the CLI.
    pub path: Option<String>,
    /// Folder of the source.
    pub source_snapshot_path: Option<String>,
    /// File that starts a server.
    pub entrypoint: Option<String>,
    /// Shell line that builds.
    pub build_command: Option<String>,
    /// Shell line that serves.
    pub run_command: Option<String>,
    /// The same.
    pub start_command: Option<String>,
    /// Port on which the app listens.
    pub port: Option<u16>,
    /// Path that tells readiness.
    pub health_check_path: Option<String>,
    /// Environment of the build and of the app.
    pub env: Option<std::collections::BTreeMap<String, String>>,
    /// Whether it serves as soon as it is ready; yes if it is not said.
    pub promote: Option<bool>,
    /// Free data of the tenant.
    pub metadata: Option<Map<String, Value>>,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// `POST …/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(default)]
pub struct Rollback {
    /// The version to go back to; the one before the active one if it is not said.
    pub version_id: Option<VersionId>,
    /// The same.
    pub release_id: Option<VersionId>,
}

/// Answer to a publish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = PublishAnswer)]
pub struct Published {
    /// The deployment.
    pub deployment: Deployment,
    /// Its new version.
    pub version: Version,
    /// Its release.
    pub release: Release,
    /// Its service.
    pub services: Vec<Service>,
    /// Whether it serves as soon as it is ready.
    pub promoted: bool,
}

/// What SDK and CLI read of a deploy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployScalars {
    /// The deployment.
    pub deployment_id: DeploymentId,
    /// Its new version.
    pub version_id: VersionId,
    /// The same.
    pub release_id: VersionId,
    /// Where it will be reached.
    pub url: String,
    /// The same.
    pub public_url: String,
    /// `building`.
    pub state: String,
    /// `miosa_deploy`.
    pub deployment_product: String,
}

/// Answer to a deploy of a sandbox: the SDK reads `data`, the CLI the top level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeployAnswer)]
pub struct Deployed {
    /// For the CLI.
    #[serde(flatten)]
    pub top: DeployScalars,
    /// For the SDK.
    pub data: DeployData,
}

/// `data` of [`Deployed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployData {
    /// The same as on top.
    #[serde(flatten)]
    pub scalars: DeployScalars,
    /// The objects.
    #[serde(flatten)]
    pub published: Published,
}

/// Lines of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Logs {
    /// Oldest first.
    pub lines: Vec<LogLine>,
    /// The same as one text.
    pub logs: String,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// `build` or `stdout`.
    pub stream: String,
    /// The line without its end.
    pub line: String,
    /// When it was printed, if that is known.
    pub ts: Option<Timestamp>,
}
