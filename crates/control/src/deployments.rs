//! Deployments as a tenant sees them: create, look up, change, switch versions, stop, delete.
//!
//! Promises: whatever a caller can reach takes the tenant first, and another tenant's deployment
//! does not exist; these functions write intent only, the reconcilers do the rest; the state is
//! derived from intent and observation.

mod cancel;
mod switch;

use std::{collections::BTreeSet, time::Duration};

use miosa_provider::{Observed, Owner, Phase};
use miosa_store::{
    deployments as rows,
    idempotency::{self, Claim},
    instances, tenants, versions,
};
use miosa_types::{
    DeploymentId, InstanceId, ProjectId, Slug, TenantId, VersionId, WorkspaceId, host, link::Key,
};
use serde_json::{Map, Value, json};

use crate::{Control, healing, sandboxes, waiting};

pub use cancel::cancel;
pub use switch::{promote, roll_back};

pub use miosa_store::{
    deployments::{Deployment, External, Filter},
    instances::Instance,
    versions::Version,
};

/// Why the builds of a deleted deployment end.
const DELETED: &str = "The deployment was deleted.";
/// Attempts at a compare-and-set before giving up.
pub(crate) const ATTEMPTS: u32 = 5;
/// Versions shown at most.
const MAX_LISTED: u32 = 500;
/// How long an answer waits for edges.
const HOST_WAIT: Duration = Duration::from_secs(1);
/// How long the edge holds a request by default, in seconds.
const HOLD_S: u32 = 30;

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object for this tenant.
    #[error("{kind} `{id}` does not exist")]
    NotFound {
        /// The word for the object.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// Another deployment has this host name.
    #[error("`{name}` is already used")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A value that cannot be used.
    #[error("{message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Why.
        message: String,
    },
    /// The version is not in a state that allows this.
    #[error("{message}")]
    NotReady {
        /// Why.
        message: String,
    },
    /// The version is not being built, so there is nothing to cancel.
    #[error("version {number} is {state}; only a build can be cancelled")]
    NotCancellable {
        /// Its number.
        number: u32,
        /// The word for its state.
        state: &'static str,
    },
    /// The version's artifact was deleted for good.
    #[error("version {number} was archived")]
    Archived {
        /// Its number.
        number: u32,
    },
    /// The source sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandboxes::Error),
    /// The disk for artifacts is full.
    #[error("no space is left for artifacts")]
    NoSpace,
    /// A part did not answer; nothing was done.
    #[error("the source could not be saved")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] miosa_store::Error),
}

/// What is shown of a deployment beside its row.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its row.
    pub deployment: Deployment,
    /// `pending`, `building`, `running`, `stopped` or `failed`.
    pub state: &'static str,
    /// Where it is reached.
    pub url: String,
    /// The version that shall serve, if any.
    pub active: Option<Version>,
    /// Address of a ready replica.
    pub runtime: Option<std::net::SocketAddr>,
    /// Why the active version does not answer yet, if it does not.
    pub waiting: Option<String>,
}

/// A deployment without a version.
#[derive(Clone, Debug)]
pub struct New {
    /// Where it belongs.
    pub workspace: WorkspaceId,
    /// Where it belongs, in that workspace.
    pub project: ProjectId,
    /// Display name; `None`: a random slug.
    pub name: Option<String>,
    /// Stored defaults of a publish.
    pub settings: Map<String, Value>,
    /// Free data of the tenant.
    pub metadata: Map<String, Value>,
    /// The tenant's own ids.
    pub external: External,
}

/// Adds a deployment. `NameTaken` if another has its host name. Under a `claim` that made one
/// before, that one is the answer.
pub async fn create(
    control: &Control,
    tenant: TenantId,
    new: New,
    claim: Option<&Claim>,
) -> Result<Deployment, Error> {
    if let Some(made) = claim.and_then(|claim| claim.made) {
        return get(control, tenant, &made.to_string()).await;
    }
    let mut tx = control.store.begin().await?;
    let row = insert(control, &mut tx, tenant, new).await?;
    idempotency::claim(&mut tx, tenant, claim, row.id.uuid(), row.created_at).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    control.wakes.routes.notify_one();
    wait_for_host(control, &row).await;
    Ok(row)
}

/// Waits a moment until edges know the host, so that the address in the answer is not a 404.
pub(crate) async fn wait_for_host(control: &Control, row: &Deployment) {
    let key = Key::Route(host::app(&row.slug, &row.deployment_domain));
    if !control.edges.wait_live(&key, HOST_WAIT).await {
        tracing::debug!(deployment = %row.id, "its host is not at every edge yet");
    }
}

/// [`create`] inside a transaction.
pub(crate) async fn insert(
    control: &Control,
    tx: &mut sqlx::AnyConnection,
    tenant: TenantId,
    new: New,
) -> Result<Deployment, Error> {
    let found = tenants::find(tx, tenant).await?;
    let domain = found.ok_or_else(|| not_found("tenant", tenant))?.deployment_domain;
    let slug = slug(control, new.name.as_deref())?;
    let now = control.env.now();
    let row = Deployment {
        id: control.env.id(),
        tenant,
        workspace: new.workspace,
        project: new.project,
        name: new.name.unwrap_or_else(|| slug.to_string()),
        slug,
        deployment_domain: domain,
        settings: new.settings,
        metadata: new.metadata,
        external: new.external,
        replicas: 1,
        hold_s: HOLD_S,
        active_version: None,
        is_stopped: false,
        serving_version: None,
        failure: None,
        generation: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    rows::insert(tx, &row).await.map_err(|error| match error {
        miosa_store::Error::Taken { name } => Error::NameTaken { name },
        error => Error::Store(error),
    })?;
    Ok(row)
}

/// The slug for a display name; a random one if there is no name.
fn slug(control: &Control, name: Option<&str>) -> Result<Slug, Error> {
    let Some(name) = name else {
        let text = control.env.slug(12);
        return Slug::parse(&text)
            .map_err(|error| Error::Invalid { field: "name", message: error.to_string() });
    };
    if name.trim().is_empty() || name.chars().count() > 200 {
        let message = "a name has 1 to 200 characters".to_owned();
        return Err(Error::Invalid { field: "name", message });
    }
    Slug::parse(name).or_else(|error| {
        Slug::from_display(name).ok_or(Error::Invalid { field: "name", message: error.to_string() })
    })
}

/// A deployment by id, slug or name.
pub async fn get(control: &Control, tenant: TenantId, key: &str) -> Result<Deployment, Error> {
    let mut db = control.store.conn().await?;
    let found = match key.parse::<DeploymentId>() {
        Ok(id) => rows::find(&mut db, tenant, id).await?,
        Err(_) => rows::find_by_name(&mut db, tenant, key).await?,
    };
    found.ok_or_else(|| not_found("deployment", key))
}

/// What is shown of each of a tenant's deployments.
pub async fn show_all(
    control: &Control,
    tenant: TenantId,
    listed: Vec<Deployment>,
) -> Result<Vec<Shown>, Error> {
    let mut db = control.store.conn().await?;
    let building: BTreeSet<_> = versions::building(&mut db, tenant).await?.into_iter().collect();
    let mut shown = Vec::with_capacity(listed.len());
    for deployment in listed {
        let active = match deployment.active_version {
            Some(id) => versions::find(&mut db, tenant, id).await?,
            None => None,
        };
        let is_building = building.contains(&deployment.id);
        shown.push(show_row(control, deployment, active, is_building));
    }
    Ok(shown)
}

/// What is shown of one deployment.
pub async fn show(control: &Control, deployment: Deployment) -> Result<Shown, Error> {
    let mut db = control.store.conn().await?;
    let tenant = deployment.tenant;
    let active = match deployment.active_version {
        Some(id) => versions::find(&mut db, tenant, id).await?,
        None => None,
    };
    let is_building = versions::building(&mut db, tenant).await?.contains(&deployment.id);
    drop(db);
    let waiting = match &active {
        Some(version) => waiting::explain(control, version).await?,
        None => None,
    };
    Ok(Shown { waiting, ..show_row(control, deployment, active, is_building) })
}

fn show_row(
    control: &Control,
    deployment: Deployment,
    active: Option<Version>,
    is_building: bool,
) -> Shown {
    let host = host::app(&deployment.slug, &deployment.deployment_domain);
    let ready = |o: &Observed| o.phase.ready();
    let runtime = deployment
        .serving_version
        .and_then(|version| control.observed.of_owner(Owner::Version(version)))
        .and_then(|replicas| replicas.iter().find_map(ready));
    Shown {
        state: state(&deployment, is_building),
        url: control.config.domains.url(&host),
        active,
        runtime,
        waiting: None,
        deployment,
    }
}

/// The state as the API names it.
pub fn state(deployment: &Deployment, is_building: bool) -> &'static str {
    let Deployment { active_version, serving_version, failure, .. } = deployment;
    match (active_version, serving_version) {
        _ if deployment.is_stopped => "stopped",
        _ if is_building => "building",
        (_, None) if failure.is_some() => "failed",
        (Some(active), Some(serving)) if active == serving => "running",
        (None, Some(_)) => "running",
        (Some(_), _) => "building",
        (None, None) => "pending",
    }
}

/// What may be changed of a deployment.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Display name; the host name stays.
    pub name: Option<String>,
    /// Put over the stored defaults of a publish.
    pub settings: Map<String, Value>,
    /// In place of the metadata.
    pub metadata: Option<Map<String, Value>>,
}

/// Changes what `change` says.
pub async fn update(
    control: &Control,
    tenant: TenantId,
    key: &str,
    change: Change,
) -> Result<Deployment, Error> {
    with_row(control, tenant, key, None, |row| {
        if let Some(name) = &change.name {
            row.name.clone_from(name);
        }
        row.settings.extend(change.settings.clone());
        if let Some(metadata) = &change.metadata {
            row.metadata.clone_from(metadata);
        }
    })
    .await
}

/// Takes a deployment off the air; its versions stay.
pub async fn stop(control: &Control, tenant: TenantId, key: &str) -> Result<Deployment, Error> {
    with_row(control, tenant, key, Some(healing::STOPPED), |row| row.is_stopped = true).await
}

/// Deletes a deployment; its host names are free at once.
pub async fn delete(control: &Control, tenant: TenantId, key: &str) -> Result<(), Error> {
    let now = control.env.now();
    with_row(control, tenant, key, None, |row| row.deleted_at = Some(now)).await?;
    control.wakes.domains.notify_one();
    control.wakes.builds.notify_one();
    Ok(())
}

async fn with_row(
    control: &Control,
    tenant: TenantId,
    key: &str,
    event: Option<&str>,
    change: impl Fn(&mut Deployment),
) -> Result<Deployment, Error> {
    let mut id = key.to_owned();
    for attempt in 1.. {
        let mut row = get(control, tenant, &id).await?;
        // The name that it was found by may change under our hands.
        id = row.id.to_string();
        let before = row.clone();
        change(&mut row);
        let mut tx = control.store.begin().await?;
        match rows::update(&mut tx, &row, control.env.now()).await {
            Err(miosa_store::Error::Stale { .. }) if attempt < ATTEMPTS => {}
            outcome => {
                outcome?;
                if row.deleted_at.is_some() {
                    versions::cancel_all(&mut tx, row.id, DELETED, control.env.now()).await?;
                }
                if let Some(kind) = event.filter(|_| row != before) {
                    healing::tell_of(&mut tx, &control.env, &row, kind, json!({})).await?;
                }
                tx.commit().await.map_err(miosa_store::Error::from)?;
                row.generation += 1;
                control.wakes.routes.notify_one();
                control.wakes.deployments.notify_one();
                return Ok(row);
            }
        }
    }
    Err(not_found("deployment", key))
}

/// Versions of a deployment, newest first.
pub async fn list_versions(
    control: &Control,
    tenant: TenantId,
    key: &str,
    before: Option<u32>,
    limit: u32,
) -> Result<(Deployment, Vec<Version>), Error> {
    let deployment = get(control, tenant, key).await?;
    let mut db = control.store.conn().await?;
    let limit = limit.min(MAX_LISTED);
    let listed = versions::list(&mut db, tenant, deployment.id, before, limit).await?;
    Ok((deployment, listed))
}

/// One version of a deployment.
pub async fn get_version(
    control: &Control,
    tenant: TenantId,
    key: &str,
    version: VersionId,
) -> Result<(Deployment, Version), Error> {
    let deployment = get(control, tenant, key).await?;
    let mut db = control.store.conn().await?;
    let found = versions::find(&mut db, tenant, version).await?;
    let found = found.filter(|v| v.deployment == deployment.id);
    Ok((deployment, found.ok_or_else(|| not_found("version", version))?))
}

/// Runtime instances of a deployment, newest first, ended ones included.
pub async fn list_instances(
    control: &Control,
    tenant: TenantId,
    key: &str,
) -> Result<(Deployment, Vec<Instance>), Error> {
    let deployment = get(control, tenant, key).await?;
    let mut db = control.store.conn().await?;
    let listed = instances::list(&mut db, tenant, deployment.id, MAX_LISTED).await?;
    drop(db);
    Ok((deployment, explain_instances(control, tenant, listed).await?))
}

/// Adds to instances that are stuck why they are.
pub async fn explain_instances(
    control: &Control,
    tenant: TenantId,
    mut listed: Vec<Instance>,
) -> Result<Vec<Instance>, Error> {
    let mut db = control.store.conn().await?;
    for row in listed.iter_mut().filter(|row| row.ended_at.is_none() && row.error.is_none()) {
        let Some(replica) = running(control, row.id) else { continue };
        let Some(version) = versions::find(&mut db, tenant, row.version).await? else { continue };
        if let Some(expected) = waiting::Expected::of(&version) {
            row.error = waiting::of_replica(control, &expected, &replica).await;
        }
    }
    Ok(listed)
}

/// The end of what an instance printed: live from the guest, or what was kept when it ended.
pub async fn instance_log(control: &Control, instance: &Instance, bytes: u32) -> String {
    if let Some(observed) = running(control, instance.id)
        && let Some(endpoint) = &observed.guest
        && let Ok(log) = control.guest.logs(endpoint, bytes).await
    {
        return String::from_utf8_lossy(&log).into_owned();
    }
    instance.error.clone().unwrap_or_default()
}

fn running(control: &Control, id: InstanceId) -> Option<Observed> {
    let replicas = control.observed.replicas()?;
    let is_up = |o: &Observed| matches!(o.phase, Phase::Running { .. } | Phase::Ready { .. });
    replicas.into_iter().find(|o| o.instance == id && is_up(o))
}

/// The log of a version's build.
pub async fn build_log(
    control: &Control,
    tenant: TenantId,
    version: VersionId,
) -> Result<String, Error> {
    let mut db = control.store.conn().await?;
    Ok(versions::build_log(&mut db, tenant, version).await?.unwrap_or_default())
}

pub(crate) fn not_found(kind: &'static str, id: impl std::fmt::Display) -> Error {
    Error::NotFound { kind, id: id.to_string() }
}
