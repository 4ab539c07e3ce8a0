//! Health, the organization, its keys, workspaces and projects, and what is the operator's.

use miosa_wire::{health, keys, pool, tenants, workspaces as ws};

use crate::openapi::operation::{
    Access::{self, AnyKey, Open, Operator, Scope},
    Operation, delete, get, nothing, object, object_data, of, patch, post, put,
};

const TENANT: Access = Scope("tenant:write");
const WRITE: Access = Scope("workspaces:write");
const KEYS_READ: Access = Scope("api_keys:read");
const KEYS_WRITE: Access = Scope("api_keys:write");

pub(super) fn health() -> Vec<Operation> {
    vec![
        get("/health", "getHealth", Open, "Tells that the platform answers")
            .gives(200, of::<health::Health>()),
        get("/health/ready", "getReadiness", Open, "Tells whether what it needs answers too")
            .gives(200, of::<health::Ready>())
            .fails(&[503]),
        get("/openapi.json", "getDescription", Open, "This description, as OpenAPI 3.1")
            .gives(200, object()),
    ]
}

pub(super) fn organization() -> Vec<Operation> {
    vec![
        get("/whoami", "whoAmI", AnyKey, "What the key is and may do").shows::<tenants::WhoAmI>(),
        get("/platform/tenants", "listOrganizations", AnyKey, "Organizations the key may act for")
            .lists::<tenants::Tenant>(),
        get("/platform/tenants/current", "getCurrentOrganization", AnyKey, "The organization")
            .shows::<tenants::Tenant>(),
        get("/tenants/{tenant}", "getOrganization", AnyKey, "An organization by id or slug")
            .shows::<tenants::Tenant>(),
        put("/tenants/{tenant}", "nameOrganization", TENANT, "Confirms the permanent name")
            .takes::<tenants::RenameTenant>()
            .shows::<tenants::Tenant>()
            .fails(&[409]),
        get("/tenant/plan", "getPlan", AnyKey, "Plan, limits and use").shows::<tenants::Plan>(),
        get("/tenant/branding", "getBranding", AnyKey, "The brand")
            .gives(200, of::<tenants::BrandingAnswer>()),
        put("/tenant/branding", "replaceBranding", TENANT, "Replaces the whole brand")
            .takes::<tenants::PutBranding>()
            .gives(200, of::<tenants::BrandingAnswer>()),
        delete("/tenant/branding", "deleteBranding", TENANT, "Removes the brand")
            .gives(200, of::<tenants::BrandingAnswer>()),
        get("/tenant/preview-domain", "getPreviewDomain", AnyKey, "The domain of previews")
            .shows::<tenants::PreviewDomain>(),
        put("/tenant/preview-domain", "setPreviewDomain", TENANT, "Sets the domain of previews")
            .takes::<tenants::PutPreviewDomain>()
            .shows::<tenants::PreviewDomain>()
            .fails(&[409]),
        delete("/tenant/preview-domain", "deletePreviewDomain", TENANT, "Goes back to the default")
            .gives(204, nothing()),
        post("/tenant/preview-domain/verify", "verifyPreviewDomain", TENANT, "Checks the domain")
            .shows::<tenants::PreviewDomain>(),
        get("/settings", "getSettings", AnyKey, "Settings of the organization")
            .gives(200, object_data()),
        put("/settings", "changeSettings", TENANT, "Changes the settings that are named")
            .takes_shape(object())
            .gives(200, object_data())
            .fails(&[409]),
        get("/settings/branding", "getBrandingFlat", AnyKey, "The brand, without a wrapper")
            .shows::<tenants::Brand>(),
        put("/settings/branding", "changeBranding", TENANT, "Changes what is named of the brand")
            .takes::<tenants::Brand>()
            .shows::<tenants::Brand>(),
    ]
}

pub(super) fn keys() -> Vec<Operation> {
    vec![
        get("/api-keys", "listApiKeys", KEYS_READ, "All keys").lists::<keys::ApiKey>(),
        post("/api-keys", "createApiKey", KEYS_WRITE, "Makes a key, which is shown once")
            .takes::<keys::NewKey>()
            .makes::<keys::ApiKey>(),
        get("/api-keys/{key}", "getApiKey", KEYS_READ, "One key").shows::<keys::ApiKey>(),
        delete("/api-keys/{key}", "revokeApiKey", KEYS_WRITE, "Revokes a key")
            .gives(204, nothing()),
    ]
}

pub(super) fn workspaces() -> Vec<Operation> {
    vec![
        get("/workspaces", "listWorkspaces", AnyKey, "All workspaces").lists::<ws::Workspace>(),
        post("/workspaces", "createWorkspace", WRITE, "Makes a workspace")
            .takes::<ws::NewWorkspace>()
            .gives(200, of::<ws::WorkspaceCreated>())
            .gives(201, of::<ws::WorkspaceCreated>()),
        get("/workspaces/{workspace}", "getWorkspace", AnyKey, "One workspace")
            .shows::<ws::Workspace>(),
        patch("/workspaces/{workspace}", "changeWorkspace", WRITE, "Changes a workspace")
            .takes::<ws::Change>()
            .shows::<ws::Workspace>(),
        delete("/workspaces/{workspace}", "deleteWorkspace", WRITE, "Deletes an empty workspace")
            .gives(204, nothing())
            .fails(&[409]),
        get("/workspaces/{workspace}/branding", "getWorkspaceBranding", AnyKey, "Its own brand")
            .gives(200, of::<tenants::BrandingAnswer>()),
        put(
            "/workspaces/{workspace}/branding",
            "replaceWorkspaceBranding",
            WRITE,
            "Replaces its own brand; what it leaves open is the tenant's",
        )
        .takes::<tenants::PutBranding>()
        .gives(200, of::<tenants::BrandingAnswer>()),
        delete("/workspaces/{workspace}/branding", "deleteWorkspaceBranding", WRITE, "Removes it")
            .gives(200, of::<tenants::BrandingAnswer>()),
        get("/projects", "listProjects", AnyKey, "All projects")
            .query(&[
                ("workspace_id", "string", "Only of this workspace."),
                ("external_project_id", "string", "Only with this id of yours."),
            ])
            .gives(200, of::<ws::ProjectList>())
            .paged(),
        post("/projects", "createProject", WRITE, "Makes a project")
            .takes::<ws::NewProject>()
            .makes::<ws::Project>()
            .fails(&[404]),
        get("/projects/{project}", "getProject", AnyKey, "One project").shows::<ws::Project>(),
        patch("/projects/{project}", "changeProject", WRITE, "Changes a project")
            .takes::<ws::Change>()
            .shows::<ws::Project>(),
        delete("/projects/{project}", "deleteProject", WRITE, "Deletes an empty project")
            .gives(204, nothing())
            .fails(&[409]),
    ]
}

pub(super) fn operator() -> Vec<Operation> {
    vec![
        get("/admin/tenants", "listAllOrganizations", Operator, "All organizations")
            .lists::<tenants::Tenant>(),
        post("/admin/tenants", "createOrganization", Operator, "Makes an organization and a key")
            .takes::<tenants::NewTenant>()
            .makes::<tenants::TenantCreated>(),
        get("/admin/pool", "getPool", Operator, "What the warm pool keeps, has and did")
            .shows::<pool::Pool>(),
        put("/admin/pool", "setPool", Operator, "Sets what the warm pool keeps")
            .takes::<pool::PutPool>()
            .shows::<pool::Pool>(),
        get("/admin/status", "getStatus", Operator, "What runs, what waits, what fails")
            .gives(200, object_data()),
        get("/admin/reconcilers", "getReconcilers", Operator, "Last step of each reconciler")
            .gives(200, object_data()),
    ]
}
