//! Templates (contract: `miosa-api` 2.3).

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::envelope::PageOf;

use crate::sandboxes::{ExecResult, Process, ResourceContract};

/// A row of `GET /sandbox-templates`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Template {
    /// Its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// One sentence.
    pub description: String,
    /// Its name.
    pub image_id: String,
    /// Whether sandboxes get it that name none.
    pub default: bool,
    /// Always true.
    pub built_in: bool,
    /// `active`.
    pub status: &'static str,
    /// Disk of the default size in MiB.
    pub disk_mb: u32,
    /// Default working folder.
    pub workdir: String,
    /// Port of its start command.
    pub preview_port: Option<u16>,
    /// Installs what an app needs.
    pub install_command: Option<String>,
    /// Starts an app.
    pub start_command: Option<String>,
    /// None: it is ready when its guest answers.
    pub readiness_probe: Option<Value>,
    /// What is installed.
    pub runtimes: Vec<String>,
    /// None.
    pub artifact_paths: Vec<String>,
    /// None.
    pub tags: Vec<String>,
    /// None.
    pub categories: Vec<String>,
    /// Other names.
    pub aliases: Vec<String>,
    /// CPUs of the default size.
    pub default_cpu: u32,
    /// Memory of the default size in MiB.
    pub default_memory_mb: u32,
}

/// `GET /sandbox-templates`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Templates {
    /// The one that sandboxes get that name none.
    pub default_template_id: String,
    /// The templates.
    pub data: Vec<Template>,
    /// `cursor` of the next part; null on the last.
    pub next_cursor: Option<String>,
    /// Which page it is, if asked for so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<PageOf>,
}

/// `GET /templates`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Catalogue {
    /// The templates.
    pub data: Vec<Product>,
    /// `cursor` of the next part; null on the last.
    pub next_cursor: Option<String>,
    /// Which page it is, if asked for so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<PageOf>,
    /// All again, where SDKs look.
    pub templates: Vec<Product>,
    /// Limits by name.
    pub shape_contracts: Shapes,
    /// Words that `readiness` and `state` can be.
    pub readiness_states: [&'static str; 3],
}

/// Limits by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Shapes {
    /// Of sandboxes.
    pub sandbox: Vec<ResourceContract>,
    /// None.
    pub computer: Vec<ResourceContract>,
}

/// A template and how fast each size of it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Product {
    /// Its name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Always `sandbox`.
    pub product: &'static str,
    /// Always `small`.
    pub default_size: &'static str,
    /// Always `sandbox`.
    pub primitive: &'static str,
    /// Its name.
    pub sdk_name: String,
    /// Its name.
    pub cli_name: String,
    /// What is installed.
    pub installed_tools: Vec<String>,
    /// Always `command_ready`.
    pub readiness_contract: &'static str,
    /// Always `sandbox`.
    pub benchmark_lane: &'static str,
    /// Other names.
    pub aliases: Vec<String>,
    /// Each tier.
    pub sizes: Vec<ProductSize>,
    /// The best of its sizes.
    pub readiness: &'static str,
}

/// How fast one size starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProductSize {
    /// Tier.
    pub size: &'static str,
    /// `fast_ready` while a warm slot is ready, else `cold_boot_only`.
    pub state: &'static str,
    /// Its limits.
    pub resource_contract: ResourceContract,
}

/// `POST …/template/start`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = StartTemplate)]
#[serde(default)]
pub struct Start {
    /// Whether to install first; yes if there is an install command.
    pub install: Option<bool>,
    /// Instead of the template's.
    pub install_command: Option<String>,
    /// Instead of the template's.
    pub start_command: Option<String>,
    /// Seconds for installing.
    pub install_timeout_sec: Option<u32>,
    /// Seconds until the port is listened on.
    pub start_timeout_sec: Option<u32>,
    /// Instead of the template's.
    pub port: Option<u16>,
    /// Working folder.
    pub workdir: Option<String>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = TemplateStarted)]
pub struct Started {
    /// Where the app is seen.
    pub preview_url: String,
    /// The same.
    pub url: String,
    /// Its port.
    pub port: u16,
    /// Whether somebody listens on the port already.
    pub ready: bool,
    /// The process that was started.
    pub process: Process,
    /// What the install command did, if one ran.
    pub install: Option<ExecResult>,
}
