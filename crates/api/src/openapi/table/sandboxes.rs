//! Sandboxes, commands in them, their previews, and templates.

use miosa_wire::{previews, sandboxes as sb, templates as tp, workspaces::Selectors};

use crate::openapi::operation::{
    Access::{self, AnyKey, Scope},
    Operation, Parameter, both, data, delete, events, get, nothing, of, patch, post, text_data,
};

const READ: Access = Scope("sandboxes:read");
const CREATE: Access = Scope("sandboxes:create");
const WRITE: Access = Scope("sandboxes:write");
const EXEC: Access = Scope("sandboxes:exec");

/// The sandbox does not run, or stopped answering.
const AWAY: &[u16] = &[409, 502, 503];

const OUTPUT: &str = "`stdout` and `stderr` with `{\"line\"}`, then `exit` with `{\"exit_code\"}`.";

const LIST: &[Parameter] = &[
    ("state", "string", "Only in this state."),
    ("tags", "string", "Only with this tag."),
    ("external_workspace_id", "string", "Only with this id of yours."),
    ("external_project_id", "string", "Only with this id of yours."),
    ("external_user_id", "string", "Only with this id of yours."),
    ("project_id", "string", "Only of this project."),
    ("workspace_id", "string", "Only of this workspace."),
];

const LINES: &[Parameter] = &[
    ("tail", "integer", "How many of the last lines; 200 if not given."),
    ("lines", "integer", "Same as `tail`."),
];

pub(super) fn sandboxes() -> Vec<Operation> {
    vec![
        post("/sandboxes", "createSandbox", CREATE, "Makes a sandbox and waits until it runs")
            .query(&[("wait", "string", "`true`, `false` or seconds to wait; 20 if not given.")])
            .takes_shape(both::<sb::Create, Selectors>())
            .makes::<sb::Sandbox>()
            .fails(&[404, 503]),
        get("/sandboxes", "listSandboxes", READ, "Sandboxes, newest first")
            .query(LIST)
            .lists::<sb::Sandbox>(),
        get("/sandboxes/by-name/{name}", "getSandboxByName", READ, "The newest of that name")
            .shows::<sb::Sandbox>(),
        get("/sandboxes/{id}", "getSandbox", READ, "One sandbox").shows::<sb::Sandbox>(),
        patch("/sandboxes/{id}", "changeSandbox", WRITE, "Changes what is given")
            .takes::<sb::Update>()
            .shows::<sb::Sandbox>()
            .fails(&[409]),
        delete("/sandboxes/{id}", "destroySandbox", WRITE, "Ends a sandbox for good")
            .shows::<sb::Sandbox>(),
        post("/sandboxes/{id}/extend", "extendSandbox", WRITE, "Gives it more time")
            .takes::<sb::Extend>()
            .shows::<sb::Sandbox>(),
        patch("/sandboxes/{id}/tags", "tagSandbox", WRITE, "Replaces its tags")
            .takes::<sb::Tag>()
            .shows::<sb::Sandbox>()
            .fails(&[409]),
        get("/sandboxes/{id}/readiness", "getSandboxReadiness", READ, "Whether it takes commands")
            .shows::<sb::Readiness>(),
        get("/sandboxes/{id}/readiness/stream", "awaitSandbox", READ, "Waits until it does")
            .gives(200, events("`ready` once it takes commands, else `timeout`.")),
    ]
}

pub(super) fn commands() -> Vec<Operation> {
    let stop = |operation: Operation| operation.shows::<sb::Process>().fails(AWAY);
    let logs = |operation: Operation| operation.query(LINES).gives(200, text_data()).fails(AWAY);
    vec![
        post("/sandboxes/{id}/exec", "exec", EXEC, "Runs a command to its end")
            .takes::<sb::Exec>()
            .shows::<sb::ExecResult>()
            .fails(AWAY),
        post("/sandboxes/{id}/exec/stream", "execStream", EXEC, "Runs a command, sends its output")
            .takes::<sb::Exec>()
            .gives(200, events(OUTPUT))
            .fails(AWAY),
        post("/sandboxes/{id}/commands", "runCommand", EXEC, "Runs it, or starts it `detached`")
            .takes::<sb::Exec>()
            .gives(200, data::<sb::ExecResult>())
            .gives(201, data::<sb::Process>())
            .fails(AWAY),
        get("/sandboxes/{id}/commands", "listCommands", READ, "Commands in the background")
            .lists::<sb::Process>()
            .fails(AWAY),
        get("/sandboxes/{id}/commands/{pid}", "getCommand", READ, "One of them")
            .shows::<sb::Process>()
            .fails(AWAY),
        logs(get("/sandboxes/{id}/commands/{pid}/logs", "getCommandLogs", READ, "Its last lines")),
        stop(post("/sandboxes/{id}/commands/{pid}/kill", "killCommand", EXEC, "Ends it")),
        post("/sandboxes/{id}/processes", "startProcess", EXEC, "Starts a process and returns")
            .takes::<sb::Exec>()
            .makes::<sb::Process>()
            .fails(AWAY),
        get("/sandboxes/{id}/processes", "listProcesses", READ, "Processes that were started")
            .lists::<sb::Process>()
            .fails(AWAY),
        get("/sandboxes/{id}/processes/{pid}", "getProcess", READ, "One of them")
            .shows::<sb::Process>()
            .fails(AWAY),
        stop(delete("/sandboxes/{id}/processes/{pid}", "stopProcess", EXEC, "Ends it")),
        logs(get("/sandboxes/{id}/processes/{pid}/logs", "getProcessLogs", READ, "Last lines")),
        get("/sandboxes/{id}/processes/{pid}/stream", "followProcess", READ, "Its output")
            .gives(200, events(OUTPUT))
            .fails(AWAY),
    ]
}

pub(super) fn previews() -> Vec<Operation> {
    vec![
        post("/sandboxes/{id}/expose", "exposePort", WRITE, "The address of a port")
            .takes::<previews::Expose>()
            .shows::<previews::Exposed>(),
        post("/sandboxes/{id}/previews", "createPreview", WRITE, "Makes a preview of a port")
            .takes::<previews::Create>()
            .makes::<previews::Preview>(),
        get("/sandboxes/{id}/previews", "listPreviews", READ, "Its previews")
            .lists::<previews::Preview>(),
        get("/sandboxes/{id}/previews/{preview}", "getPreview", READ, "One preview")
            .shows::<previews::Preview>(),
        delete("/sandboxes/{id}/previews/{preview}", "deletePreview", WRITE, "Deletes a preview")
            .gives(204, nothing()),
        post("/sandboxes/{id}/previews/{preview}/share", "sharePreview", WRITE, "Makes a link")
            .takes::<previews::Share>()
            .gives(201, of::<previews::Shared>()),
        delete("/sandboxes/{id}/previews/{preview}/share", "unsharePreview", WRITE, "Ends links")
            .gives(204, nothing()),
        post("/sandboxes/{id}/preview-token", "createPreviewToken", WRITE, "A token for all ports")
            .takes::<previews::NewToken>()
            .makes::<previews::Token>(),
    ]
}

pub(super) fn templates() -> Vec<Operation> {
    vec![
        get("/sandbox-templates", "listTemplates", AnyKey, "All templates")
            .gives(200, of::<tp::Templates>())
            .paged(),
        get("/sandbox-templates/{name}", "getTemplate", AnyKey, "One template")
            .shows::<tp::Template>(),
        get("/templates", "getCatalogue", AnyKey, "Templates, their sizes, how fast they start")
            .gives(200, of::<tp::Catalogue>())
            .paged(),
        post("/sandboxes/{id}/template/start", "startTemplate", EXEC, "Starts the template's app")
            .takes::<tp::Start>()
            .shows::<tp::Started>()
            .fails(AWAY),
    ]
}
