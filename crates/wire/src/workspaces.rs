//! Workspaces and projects (contract: `miosa-api` 2.6).

use jiff::Timestamp;
use miosa_types::{ProjectId, TenantId, WorkspaceId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::envelope::PageOf;

/// `POST /workspaces`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NewWorkspace {
    /// Display name.
    pub name: String,
    /// Permanent; made from the name if not given.
    pub slug: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Free data.
    pub metadata: Option<Map<String, Value>>,
    /// The tenant's own name; a workspace that has it already is the answer.
    pub external_workspace_id: Option<String>,
    /// Whether another workspace may have the same name.
    #[serde(default)]
    pub allow_duplicate_name: bool,
}

/// Answer of `POST /workspaces`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkspaceCreated {
    /// The workspace.
    pub data: Workspace,
    /// Whether it was there already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reused: bool,
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Display name.
    pub name: String,
    /// Permanent.
    pub slug: String,
    /// What it is for.
    pub description: Option<String>,
    /// The tenant's own name.
    pub external_workspace_id: Option<String>,
    /// Free data.
    pub metadata: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// `PATCH /workspaces/{id}` and `PATCH /projects/{id}`: what is not given stays.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = ChangeWorkspace)]
pub struct Change {
    /// Display name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Free data; replaces the old.
    pub metadata: Option<Map<String, Value>>,
}

/// `POST /projects`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NewProject {
    /// Display name.
    pub name: String,
    /// Permanent; made from the name if not given.
    pub slug: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Free data.
    pub metadata: Option<Map<String, Value>>,
    /// The tenant's own name.
    pub external_project_id: Option<String>,
    /// Its workspace, by id.
    pub workspace_id: Option<String>,
    /// Its workspace, by slug.
    pub workspace_slug: Option<String>,
    /// Its workspace, by name.
    pub workspace_name: Option<String>,
    /// Its workspace, by the tenant's own name.
    pub external_workspace_id: Option<String>,
}

/// A project.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where it is.
    pub workspace_id: WorkspaceId,
    /// The tenant's own name for the workspace.
    pub external_workspace_id: Option<String>,
    /// The tenant's own name.
    pub external_project_id: Option<String>,
    /// Display name.
    pub name: String,
    /// Permanent.
    pub slug: String,
    /// What it is for.
    pub description: Option<String>,
    /// Free data.
    pub metadata: Map<String, Value>,
    /// Always empty.
    pub settings: Map<String, Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// `GET /projects`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProjectList {
    /// The projects.
    pub data: Vec<Project>,
    /// How many there are, on all pages.
    pub total: u64,
    /// `cursor` of the next part; null on the last.
    pub next_cursor: Option<String>,
    /// Which page it is, if asked for so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<PageOf>,
}

/// How a caller names workspace and project; the default ones if it names none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(default)]
pub struct Selectors {
    /// Canonical id.
    pub workspace_id: Option<String>,
    /// Slug; made with the name if missing and both are given.
    pub workspace_slug: Option<String>,
    /// Display name.
    pub workspace_name: Option<String>,
    /// Canonical id.
    pub project_id: Option<String>,
    /// Slug; made with the name if missing and both are given.
    pub project_slug: Option<String>,
    /// Display name.
    pub project_name: Option<String>,
    /// The tenant's own name; found or made if no canonical selector is given.
    pub external_workspace_id: Option<String>,
    /// The tenant's own name; found or made if no canonical selector is given.
    pub external_project_id: Option<String>,
}
