//! Domains that tenants bring, by deployment and by name.

use miosa_wire::domains as wire;

use crate::openapi::operation::{
    Access::{self, Scope},
    Operation, Parameter, delete, get, nothing, of, patch, post,
};

const READ: Access = Scope("deployments:read");
const WRITE: Access = Scope("domains:write");

const LIST: &[Parameter] = &[
    ("status", "string", "Only in this state."),
    ("external_workspace_id", "string", "Only with this id of yours."),
    ("external_project_id", "string", "Only with this id of yours."),
    ("external_user_id", "string", "Only with this id of yours."),
];

const LIST_ALL: &[Parameter] = &[
    ("deployment_id", "string", "Only of this deployment."),
    ("status", "string", "Only in this state."),
    ("external_workspace_id", "string", "Only with this id of yours."),
    ("external_project_id", "string", "Only with this id of yours."),
    ("external_user_id", "string", "Only with this id of yours."),
];

pub(super) fn domains() -> Vec<Operation> {
    [of_deployment(), by_name()].concat()
}

/// An operation that answers with one domain.
fn one(operation: Operation) -> Operation {
    operation.shows::<wire::Domain>()
}

fn add(operation: Operation) -> Operation {
    operation.takes::<wire::NewDomain>().makes::<wire::Domain>().fails(&[404, 409])
}

fn of_deployment() -> Vec<Operation> {
    let read = |path, id, summary| get(path, id, READ, summary);
    vec![
        read("/deployments/{deployment}/domains", "listDomainsOfDeployment", "Its domains")
            .query(LIST)
            .lists::<wire::Domain>(),
        add(post(
            "/deployments/{deployment}/domains",
            "addDomainToDeployment",
            WRITE,
            "Adds a domain; it is served once it is proved to be yours",
        )),
        one(read(
            "/deployments/{deployment}/domains/{domain}",
            "getDomainOfDeployment",
            "One domain, by id or name",
        )),
        one(patch(
            "/deployments/{deployment}/domains/{domain}",
            "changeDomain",
            WRITE,
            "Changes where it leads",
        ))
        .takes::<wire::ChangeDomain>()
        .fails(&[409]),
        one(post(
            "/deployments/{deployment}/domains/{domain}/verify",
            "verifyDomainOfDeployment",
            WRITE,
            "Looks now whether it is proved",
        )),
        delete(
            "/deployments/{deployment}/domains/{domain}",
            "removeDomainFromDeployment",
            WRITE,
            "Removes it with its certificate",
        )
        .gives(204, nothing()),
    ]
}

fn by_name() -> Vec<Operation> {
    let list =
        |path, id, summary| get(path, id, READ, summary).query(LIST_ALL).lists::<wire::Domain>();
    let remove =
        |path, id, summary| delete(path, id, WRITE, summary).gives(200, of::<wire::Deleted>());
    vec![
        list("/domains", "listDomains", "Domains of all deployments"),
        add(post("/domains", "addDomain", WRITE, "Adds a domain to the deployment that is named")),
        one(get("/domains/{domain}", "getDomain", READ, "One domain, by name or id")),
        one(post("/domains/{domain}/verify", "verifyDomain", WRITE, "Looks whether it is proved")),
        one(post(
            "/domains/{domain}/assign",
            "assignDomain",
            WRITE,
            "Has another deployment answer it",
        ))
        .takes::<wire::Assign>(),
        remove("/domains/{domain}", "removeDomain", "Removes it with its certificate"),
        list("/custom-domains", "listCustomDomains", "Same as `/domains`"),
        add(post("/custom-domains", "addCustomDomain", WRITE, "Same as `/domains`")),
        remove("/custom-domains/{domain}", "removeCustomDomain", "Same as `/domains`"),
    ]
}
