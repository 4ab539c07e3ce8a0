//! Deployments, their versions, releases, instances and logs; publishing.

use miosa_wire::{deployments as wire, events as happened, workspaces::Selectors};

use crate::openapi::operation::{
    Access::{self, Scope},
    Operation, Parameter, both, delete, events, get, nothing, of, patch, post, text,
};

const READ: Access = Scope("deployments:read");
const WRITE: Access = Scope("deployments:write");

const LIST: &[Parameter] = &[
    ("project_id", "string", "Only of this project."),
    ("state", "string", "Only in this state."),
    ("external_workspace_id", "string", "Only with this id of yours."),
    ("external_project_id", "string", "Only with this id of yours."),
    ("external_user_id", "string", "Only with this id of yours."),
];

const LIST_VERSIONS: &[Parameter] = &[("state", "string", "Only in this state.")];

const LINES: &[Parameter] =
    &[("lines", "integer", "How many of the last lines; 100 if not given.")];

/// The sandbox does not run, or the platform has no room.
const AWAY: &[u16] = &[409, 410, 502, 503];

pub(super) fn deployments() -> Vec<Operation> {
    [objects(), publishing(), versions(), instances()].concat()
}

const EVENTS: &[Parameter] = &[
    ("after", "string", "Id of the last event that you have."),
    ("types", "string", "Only these, with commas between; `runtime.*` names all that begin so."),
    ("deployment_id", "string", "Only of this deployment."),
];

const EVENT_LIST: &[Parameter] = &[
    EVENTS[0],
    EVENTS[1],
    EVENTS[2],
    ("limit", "integer", "Longest page, up to 500; 100 if not given."),
];

/// What happened: failures and recoveries of apps, versions that went live.
pub(super) fn happened() -> Vec<Operation> {
    vec![
        get("/events", "listEvents", READ, "Events, oldest first")
            .query(EVENT_LIST)
            .gives(200, of::<happened::Page>()),
        get("/events/stream", "followEvents", READ, "Events as they happen")
            .query(EVENTS)
            .gives(200, events("Frames with `id`, `event` (the type) and `data` (an Event).")),
    ]
}

fn objects() -> Vec<Operation> {
    let list = |operation: Operation| operation.query(LIST).lists::<wire::Deployment>();
    let create = |operation: Operation| {
        let operation = operation.takes_shape(both::<wire::NewDeployment, Selectors>());
        operation.makes::<wire::Deployment>().fails(&[404, 409])
    };
    vec![
        list(get("/deployments", "listDeployments", READ, "Deployments, newest first")),
        create(post("/deployments", "createDeployment", WRITE, "Makes an empty deployment")),
        list(get(
            "/projects/{project}/deployments",
            "listDeploymentsOfProject",
            READ,
            "Deployments of one project",
        )),
        create(post(
            "/projects/{project}/deployments",
            "createDeploymentInProject",
            WRITE,
            "Makes an empty deployment in a project",
        )),
        get("/deployments/{deployment}", "getDeployment", READ, "One deployment")
            .shows::<wire::Deployment>(),
        patch("/deployments/{deployment}", "changeDeployment", WRITE, "Changes what is given")
            .takes::<wire::ChangeDeployment>()
            .shows::<wire::Deployment>()
            .fails(&[409]),
        delete("/deployments/{deployment}", "deleteDeployment", WRITE, "Deletes it for good")
            .gives(204, nothing()),
        post("/deployments/{deployment}/stop", "stopDeployment", WRITE, "Stops to serve it")
            .shows::<wire::Deployment>(),
        get("/deployments/{deployment}/logs", "getDeploymentLogs", READ, "Last lines of its log")
            .query(LINES)
            .shows::<wire::Logs>()
            .gives(200, events("`log_line` for each line, if events are accepted first.")),
    ]
}

fn publishing() -> Vec<Operation> {
    let deploy = |operation: Operation| {
        let operation = operation.takes::<wire::PublishRequest>();
        operation.gives(201, of::<wire::Deployed>()).fails(AWAY)
    };
    vec![
        post("/deployments/{deployment}/publish", "publish", WRITE, "Publishes a sandbox's files")
            .takes::<wire::PublishRequest>()
            .makes::<wire::Published>()
            .fails(AWAY),
        deploy(post(
            "/sandboxes/{sandbox}/deploy",
            "deploySandbox",
            WRITE,
            "Publishes a sandbox, to a new deployment if none is named",
        )),
        deploy(post("/sandboxes/{sandbox}/publish", "publishSandbox", WRITE, "Same as `deploy`")),
        post("/deployments/{deployment}/rollback", "rollBack", WRITE, "Goes back to a version")
            .takes::<wire::Rollback>()
            .shows::<wire::Deployment>()
            .fails(&[409, 410]),
    ]
}

fn versions() -> Vec<Operation> {
    let promote = |operation: Operation| operation.shows::<wire::Deployment>().fails(&[409, 410]);
    vec![
        get("/deployments/{deployment}/versions", "listVersions", READ, "Versions, newest first")
            .query(LIST_VERSIONS)
            .lists::<wire::Version>(),
        get("/deployments/{deployment}/versions/{version}", "getVersion", READ, "One version")
            .shows::<wire::Version>(),
        get(
            "/deployments/{deployment}/versions/{version}/logs",
            "getBuildLog",
            READ,
            "What its build printed",
        )
        .gives(200, text()),
        promote(post(
            "/deployments/{deployment}/versions/{version}/promote",
            "promoteVersion",
            WRITE,
            "Serves this version",
        )),
        post(
            "/deployments/{deployment}/versions/{version}/cancel",
            "cancelBuild",
            WRITE,
            "Ends its build; the version fails",
        )
        .shows::<wire::Version>()
        .fails(&[409]),
        get("/deployments/{deployment}/releases", "listReleases", READ, "Versions with artifacts")
            .query(LIST_VERSIONS)
            .lists::<wire::Release>(),
        get("/deployments/{deployment}/releases/{version}", "getRelease", READ, "One release")
            .shows::<wire::Release>(),
        promote(post(
            "/deployments/{deployment}/releases/{version}/promote",
            "promoteRelease",
            WRITE,
            "Serves this release",
        )),
    ]
}

fn instances() -> Vec<Operation> {
    vec![
        get(
            "/deployments/{deployment}/runtime-instances",
            "listInstances",
            READ,
            "Replicas that run or ran lately",
        )
        .lists::<wire::RuntimeInstance>(),
        get(
            "/deployments/{deployment}/runtime-instances/{instance}",
            "getInstance",
            READ,
            "One replica",
        )
        .shows::<wire::RuntimeInstance>(),
        get(
            "/deployments/{deployment}/runtime-instances/{instance}/logs",
            "getInstanceLogs",
            READ,
            "Last lines that it printed",
        )
        .query(LINES)
        .shows::<wire::Logs>(),
    ]
}
