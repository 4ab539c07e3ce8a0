//! Sandboxes and commands (contract: `miosa-api` 2.3).

use std::collections::BTreeMap;

use miosa_types::{
    ProjectId, SandboxId, Size, TenantId, WorkspaceId,
    size::{SizeError, Tier},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST /sandboxes`, without the selectors of workspace and project.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = NewSandbox)]
#[serde(default)]
pub struct Create {
    /// Template; aliases `template` and `image`.
    pub template_id: Option<String>,
    /// See `template_id`.
    pub template: Option<String>,
    /// See `template_id`.
    pub image: Option<String>,
    /// Name of a tier.
    pub size: Option<Tier>,
    /// Whole virtual CPUs.
    pub cpu_count: Option<u32>,
    /// Memory in MiB.
    pub memory_mb: Option<u32>,
    /// Disk in MiB.
    pub disk_size_mb: Option<u32>,
    /// See `disk_size_mb`.
    pub disk_mb: Option<u32>,
    /// Display name.
    pub name: Option<String>,
    /// Label in preview hosts.
    pub slug: Option<String>,
    /// Environment.
    pub env: Option<BTreeMap<String, String>>,
    /// The tenant's own data.
    pub metadata: Option<Map<String, Value>>,
    /// The tenant's own words.
    pub tags: Option<Vec<String>>,
    /// Life time in seconds.
    pub timeout_sec: Option<u32>,
    /// Whether the life time never runs out.
    pub always_on: Option<bool>,
    /// Whether the disk shall be kept.
    pub persistent: Option<bool>,
    /// Answer 503 rather than wait for room.
    pub fail_fast: Option<bool>,
    /// The tenant's own id of a user.
    pub external_user_id: Option<String>,
}

/// Why no size follows from a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Outside the ranges.
    #[error(transparent)]
    Range(#[from] SizeError),
    /// CPU or memory alone, or a pair that is no tier, without a disk.
    #[error(
        "give `size`, or a `cpu_count` and `memory_mb` that are a published tier, or `cpu_count`, \
         `memory_mb` and `disk_size_mb` together"
    )]
    Incomplete,
}

impl Create {
    /// The template it names.
    pub fn template(&self) -> Option<&str> {
        let named = [&self.template_id, &self.template, &self.image];
        named.into_iter().flatten().map(String::as_str).find(|name| !name.is_empty())
    }

    /// The limits it asks for; a tier's own disk unless it names one.
    pub fn shape(&self) -> Result<Size, ShapeError> {
        let disk = self.disk_size_mb.or(self.disk_mb);
        let base = match (self.cpu_count, self.memory_mb) {
            (None, None) => self.size.unwrap_or(Tier::Small).size(),
            (Some(cpus), Some(memory_mib)) => {
                let cpu_millis = cpus.saturating_mul(1000);
                let size = Size { memory_mib, cpu_millis, ..Tier::Small.size() };
                if disk.is_none() && size.tier().is_none() {
                    return Err(ShapeError::Incomplete);
                }
                size
            }
            _ => match self.size.map(Tier::size) {
                Some(size) if self.agrees(size) => size,
                _ => return Err(ShapeError::Incomplete),
            },
        };
        let disk_mib = disk.unwrap_or(base.disk_mib);
        Ok(Size::new(base.memory_mib, base.cpu_millis, disk_mib)?)
    }

    fn agrees(&self, size: Size) -> bool {
        self.cpu_count.is_none_or(|cpus| cpus.saturating_mul(1000) == size.cpu_millis)
            && self.memory_mb.is_none_or(|memory| memory == size.memory_mib)
    }
}

/// `PATCH /sandboxes/:id`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ChangeSandbox)]
#[serde(default)]
pub struct Update {
    /// Display name.
    pub name: Option<String>,
    /// Fields to add or replace; null removes one.
    pub metadata: Option<Map<String, Value>>,
    /// All tags.
    pub tags: Option<Vec<String>>,
    /// Life time from now, in seconds.
    pub timeout_sec: Option<u32>,
    /// Whether the life time never runs out.
    pub always_on: Option<bool>,
}

/// `POST /sandboxes/:id/extend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = ExtendSandbox)]
#[serde(default)]
pub struct Extend {
    /// Life time from now, in seconds; the same as before if not given.
    pub timeout_sec: Option<u32>,
}

/// A sandbox as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Label in preview hosts.
    pub slug: String,
    /// Display name.
    pub name: Option<String>,
    /// `creating`, `running`, `error`, `destroying` or `destroyed`.
    pub state: &'static str,
    /// Whether it takes commands.
    pub ready: bool,
    /// When it first took commands.
    pub ready_at: Option<String>,
    /// When it was asked for.
    pub created_at: String,
    /// Same as `ready_at`.
    pub started_at: Option<String>,
    /// When nothing of it was left.
    pub destroyed_at: Option<String>,
    /// Its template.
    pub template_id: String,
    /// Same as `template_id`.
    pub image_id: String,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where it belongs.
    pub workspace_id: WorkspaceId,
    /// Where it belongs.
    pub project_id: ProjectId,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// Its tier, if it has the resources of one.
    pub size: Option<&'static str>,
    /// Its limits by name.
    pub resource_contract: ResourceContract,
    /// Whole virtual CPUs.
    pub cpu_count: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB.
    pub disk_size_mb: u32,
    /// Life time in seconds.
    pub timeout_sec: u32,
    /// What is left of it; null if it never runs out.
    pub timeout_remaining_ms: Option<i64>,
    /// 0: it is never ended for being idle.
    pub idle_timeout_sec: u32,
    /// Whether the life time never runs out.
    pub always_on: bool,
    /// Whether its disk outlives its life time.
    pub persistent: bool,
    /// The tenant's own data.
    pub metadata: Map<String, Value>,
    /// The tenant's own words.
    pub tags: Vec<String>,
    /// URL of the template's port, if it has one.
    pub preview_url: Option<String>,
    /// Domain of its preview hosts.
    pub preview_domain: String,
    /// `warm` or `cold`.
    pub boot_path: &'static str,
    /// From create until it took commands.
    pub boot_ms: Option<i64>,
    /// Always false: nothing is saved in the background.
    pub checkpoint_pending: bool,
    /// Seconds that it ran.
    pub total_runtime_sec: i64,
    /// Why it ended, if it did.
    pub end_reason: Option<String>,
}

/// `PATCH /sandboxes/:id/tags`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = TagSandbox)]
pub struct Tag {
    /// All tags.
    pub tags: Vec<String>,
}

/// Limits by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResourceContract {
    /// `sandbox/<size>@v1` or `sandbox/custom-<cpu>x<mem>x<disk>@v1`.
    pub id: String,
    /// Always `sandbox`.
    pub product: &'static str,
    /// Tier, or `custom`.
    pub size: &'static str,
    /// Always `v1`.
    pub version: &'static str,
    /// Whole virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB.
    pub disk_size_mb: u32,
}

impl ResourceContract {
    /// The contract of a size.
    pub fn of(size: Size) -> Self {
        let tier = size.tier().map_or("custom", Tier::as_str);
        let Size { memory_mib, cpu_millis, disk_mib } = size;
        let vcpus = cpu_millis.div_ceil(1000);
        let id = match tier {
            "custom" => format!("sandbox/custom-{vcpus}x{memory_mib}x{disk_mib}@v1"),
            tier => format!("sandbox/{tier}@v1"),
        };
        let (product, version) = ("sandbox", "v1");
        let (memory_mb, disk_size_mb) = (memory_mib, disk_mib);
        Self { id, product, size: tier, version, vcpus, memory_mb, disk_size_mb }
    }
}

/// Parts that must be ready before commands are taken.
pub const COMPONENTS: [&str; 8] = [
    "command_agent",
    "process_control",
    "resource_contract",
    "clock",
    "identity",
    "durability",
    "filesystem",
    "internal_probe",
];

/// `GET /sandboxes/:id/readiness`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Readiness {
    /// Whether it takes commands.
    pub ready: bool,
    /// State of the sandbox.
    pub state: &'static str,
    /// Each of [`COMPONENTS`].
    pub components: BTreeMap<&'static str, Component>,
}

/// State of one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReadinessComponent)]
pub struct Component {
    /// `ready` or `pending`.
    pub status: &'static str,
}

impl Readiness {
    /// All parts become ready at once: when the guest took its first call.
    pub fn of(is_ready: bool, state: &'static str) -> Self {
        let status = if is_ready { "ready" } else { "pending" };
        let components = COMPONENTS.into_iter().map(|name| (name, Component { status })).collect();
        Self { ready: is_ready, state, components }
    }
}

/// `POST …/exec`, `…/exec/stream`, `…/commands`, `…/processes`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = Command)]
#[serde(default)]
pub struct Exec {
    /// A line for a login shell.
    pub command: String,
    /// Working folder; alias `dir`.
    pub cwd: Option<String>,
    /// See `cwd`.
    pub dir: Option<String>,
    /// See `cwd`.
    pub working_dir: Option<String>,
    /// Added to the environment.
    pub env: Option<BTreeMap<String, String>>,
    /// Seconds after which it is killed; aliases `timeout_sec` and `timeout_seconds`.
    pub timeout: Option<f64>,
    /// See `timeout`.
    pub timeout_sec: Option<f64>,
    /// See `timeout`.
    pub timeout_seconds: Option<f64>,
    /// Text for its standard input.
    pub stdin: Option<String>,
    /// Whether to return at once and leave it running.
    pub detached: Option<bool>,
    /// Display name of a background process.
    pub name: Option<String>,
    /// Whether to run as root.
    pub sudo: Option<bool>,
    /// Unix user.
    pub user: Option<String>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = CommandResult)]
pub struct ExecResult {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code, or 128 + signal; 124 if its time was over.
    pub exit_code: i32,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// Whether output was cut.
    pub truncated: bool,
}

/// A process that runs in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Process {
    /// Its id inside.
    pub pid: u32,
    /// The same as text.
    pub id: String,
    /// `running` or `exited`.
    pub state: String,
    /// Same as `state`.
    pub status: String,
    /// Exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// Display name.
    pub name: Option<String>,
    /// What was started.
    pub command: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_follows_from_a_tier_or_from_a_whole_triple() {
        let shape = |body: Value| serde_json::from_value::<Create>(body).unwrap().shape();
        let tier = |tier: Tier, disk_mib| Ok(Size { disk_mib, ..tier.size() });
        for (body, expected) in [
            (serde_json::json!({}), tier(Tier::Small, 10_240)),
            (serde_json::json!({"size": "xs"}), tier(Tier::Xs, 10_240)),
            (serde_json::json!({"size": "xs", "disk_mb": 512}), tier(Tier::Xs, 512)),
            (serde_json::json!({"cpu_count": 4, "memory_mb": 8192}), tier(Tier::Medium, 10_240)),
            (serde_json::json!({"size": "xs", "cpu_count": 1}), tier(Tier::Xs, 10_240)),
            (serde_json::json!({"size": "xs", "cpu_count": 2}), Err(ShapeError::Incomplete)),
            (serde_json::json!({"cpu_count": 4}), Err(ShapeError::Incomplete)),
            (serde_json::json!({"cpu_count": 3, "memory_mb": 8192}), Err(ShapeError::Incomplete)),
            (
                serde_json::json!({"cpu_count": 3, "memory_mb": 1000, "disk_size_mb": 100}),
                Ok(Size { memory_mib: 1000, cpu_millis: 3000, disk_mib: 100 }),
            ),
        ] {
            assert_eq!(shape(body.clone()), expected, "{body}");
        }
        let huge =
            serde_json::json!({"cpu_count": 4_000_000_000_u32, "memory_mb": 1, "disk_mb": 1});
        assert!(matches!(shape(huge), Err(ShapeError::Range(_))));
    }

    #[test]
    fn a_contract_names_its_size() {
        assert_eq!(ResourceContract::of(Tier::Small.size()).id, "sandbox/small@v1");
        let size = Size { memory_mib: 1000, cpu_millis: 3000, disk_mib: 100 };
        assert_eq!(ResourceContract::of(size).id, "sandbox/custom-3x1000x100@v1");
    }
}
