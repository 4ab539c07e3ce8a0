//! Publishing: from a sandbox to a version that is being built.
//!
//! Promises: when [`publish`] returns, the source is durable and the sandbox may be destroyed;
//! deployment and version appear together or not at all; nothing waits for the build.

use miosa_publish::{SnapshotError, WORKSPACE, snapshot, source_excludes};
use miosa_store::{
    deployments as rows,
    idempotency::{self, Claim},
    versions,
};
use miosa_types::{
    Digest, SandboxId, TenantId, VersionId,
    deployment::{VersionKind, VersionState},
};
use serde_json::{Map, Value};

use crate::{
    Control,
    deployments::{self, ATTEMPTS, Deployment, Error, External, New, Version},
    sandboxes::{self, Sandbox},
    workloads,
};

pub use miosa_publish::{KindChoice, Request, RunConfig};

/// What to publish, and as what.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Where the source is.
    pub sandbox: SandboxId,
    /// Which deployment gets the version.
    pub target: Target,
    /// How to build and run it. What it leaves open is taken from the deployment's last publish.
    pub request: Request,
    /// Folder of the source; `None`: the workspace.
    pub source_path: Option<String>,
    /// Whether the version serves as soon as it is ready.
    pub is_promoted_when_ready: bool,
    /// Free data of the tenant, for a new deployment.
    pub metadata: Map<String, Value>,
    /// The tenant's own ids, for a new deployment.
    pub external: External,
    /// The key of the request.
    pub claim: Option<Claim>,
}

/// Which deployment gets the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This one: id, slug or name.
    Existing(String),
    /// The one of that name in the sandbox's project, or a new one.
    Named(String),
    /// A new one with a random name.
    New,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Published {
    /// The deployment.
    pub deployment: Deployment,
    /// Its new version.
    pub version: Version,
}

/// Saves the source of a sandbox and adds a version that is built from it. Under a
/// claim that made a version before, that one is the answer, even if the sandbox is gone.
pub async fn publish(
    control: &Control,
    tenant: TenantId,
    publish: Publish,
) -> Result<Published, Error> {
    if let Some(made) = publish.claim.as_ref().and_then(|claim| claim.made) {
        return published(control, tenant, VersionId::from_uuid(made)).await;
    }
    publish
        .request
        .check()
        .map_err(|error| Error::Invalid { field: error.field, message: error.to_string() })?;
    let (sandbox, endpoint) = sandboxes::enter(control, tenant, publish.sandbox).await?;
    // A name that cannot be had is told before the source is copied.
    find_target(control, tenant, &sandbox, &publish.target).await?;
    let root = publish.source_path.as_deref().unwrap_or(WORKSPACE);
    let excludes = source_excludes();
    let source = snapshot(&*control.guest, &endpoint, &control.artifacts, root, &excludes).await;
    let source = source.map_err(|error| match error {
        SnapshotError::Invalid { reason } => {
            Error::Invalid { field: "source_snapshot_path", message: reason }
        }
        SnapshotError::NoSpace => Error::NoSpace,
        error @ SnapshotError::Unavailable { .. } => Error::Unavailable { source: Box::new(error) },
    })?;
    let mut attempt = 1;
    loop {
        match record(control, tenant, &sandbox, &publish, source.digest).await {
            // Someone published at the same time, or a random slug was in use.
            Err(Error::Store(
                miosa_store::Error::Stale { .. } | miosa_store::Error::Taken { .. },
            )) if attempt < ATTEMPTS => {}
            Err(Error::NameTaken { .. })
                if attempt < ATTEMPTS && !matches!(publish.target, Target::Existing(_)) => {}
            outcome => {
                control.wakes.builds.notify_one();
                control.wakes.routes.notify_one();
                let made = outcome?;
                deployments::wait_for_host(control, &made.deployment).await;
                return Ok(made);
            }
        }
        attempt += 1;
    }
}

/// What an earlier run of the same request made.
async fn published(
    control: &Control,
    tenant: TenantId,
    version: VersionId,
) -> Result<Published, Error> {
    let mut db = control.store.conn().await?;
    let found = versions::find(&mut db, tenant, version).await?;
    let version = found.ok_or_else(|| deployments::not_found("version", version))?;
    let found = rows::find(&mut db, tenant, version.deployment).await?;
    let deployment =
        found.ok_or_else(|| deployments::not_found("deployment", version.deployment))?;
    Ok(Published { deployment, version })
}

async fn find_target(
    control: &Control,
    tenant: TenantId,
    sandbox: &Sandbox,
    target: &Target,
) -> Result<Option<Deployment>, Error> {
    match target {
        Target::Existing(key) => Ok(Some(deployments::get(control, tenant, key).await?)),
        Target::Named(name) => {
            let mut db = control.store.conn().await?;
            Ok(rows::find_in_project(&mut db, tenant, sandbox.project, name).await?)
        }
        Target::New => Ok(None),
    }
}

async fn record(
    control: &Control,
    tenant: TenantId,
    sandbox: &Sandbox,
    publish: &Publish,
    source: Digest,
) -> Result<Published, Error> {
    let found = find_target(control, tenant, sandbox, &publish.target).await?;
    let now = control.env.now();
    let mut tx = control.store.begin().await?;
    let mut deployment = match found {
        Some(found) => found,
        None => deployments::insert(control, &mut tx, tenant, new(sandbox, publish)).await?,
    };
    deployment.settings = merged(&deployment.settings, &publish.request);
    let request = with_defaults(&publish.request, &deployment.settings);
    deployment.is_stopped = false;
    let version = Version {
        id: control.env.id(),
        tenant,
        deployment: deployment.id,
        number: versions::next_number(&mut tx, deployment.id).await?,
        kind: match request.kind() {
            KindChoice::Auto => None,
            KindChoice::Static => Some(VersionKind::Static),
            KindChoice::Dynamic => Some(VersionKind::Dynamic),
        },
        state: VersionState::Building,
        source_sandbox: Some(sandbox.id),
        source: Some(source),
        request: serde_json::to_value(&request).expect("a request is plain data"),
        artifact: None,
        run: None,
        template: sandbox.template.clone(),
        size: workloads::replica_size(),
        workload: control.env.id(),
        revision: 1,
        is_promoted_when_ready: publish.is_promoted_when_ready,
        failure: None,
        created_at: now,
        updated_at: now,
        ready_at: None,
        promoted_at: None,
        served_at: None,
        archived_at: None,
    };
    versions::insert(&mut tx, &version).await?;
    rows::update(&mut tx, &deployment, now).await?;
    let claim = publish.claim.as_ref();
    idempotency::claim(&mut tx, tenant, claim, version.id.uuid(), now).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    deployment.generation += 1;
    Ok(Published { deployment, version })
}

/// The deployment that a publish makes if there is none yet.
fn new(sandbox: &Sandbox, publish: &Publish) -> New {
    let name = match &publish.target {
        Target::Named(name) => Some(name.clone()),
        Target::Existing(_) | Target::New => None,
    };
    New {
        workspace: sandbox.workspace,
        project: sandbox.project,
        name,
        settings: Map::new(),
        metadata: publish.metadata.clone(),
        external: publish.external.clone(),
    }
}

/// The fields that a request sets.
fn said(request: &Request) -> Map<String, Value> {
    let value = serde_json::to_value(request).expect("a request is plain data");
    let Value::Object(mut fields) = value else { return Map::new() };
    fields.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        _ => true,
    });
    fields
}

/// Settings of a deployment after a request. What it leaves open stays as an earlier one said (the
/// SDK sends little), except for what would contradict it: a site that is asked for now is not run
/// by the command of the app before.
fn merged(settings: &Map<String, Value>, request: &Request) -> Map<String, Value> {
    let runs = request.run_command().is_some() || request.kind() == KindChoice::Dynamic;
    let obsolete: &[&str] = match (runs, request.wants_files()) {
        (true, _) => &["kind"],
        (false, true) => &["kind", "run_command", "port", "health_check_path"],
        (false, false) => &[],
    };
    let mut fields = settings.clone();
    fields.retain(|name, _| !obsolete.contains(&name.as_str()));
    fields.extend(said(request));
    fields
}

/// What the settings say, as a request.
fn with_defaults(request: &Request, settings: &Map<String, Value>) -> Request {
    // What else stands in the settings is none of ours.
    serde_json::from_value(Value::Object(settings.clone())).unwrap_or_else(|_| request.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_publish_leaves_open_is_taken_from_the_last_one() {
        let first = Request {
            run_command: Some("node server.js".into()),
            port: Some(3000),
            ..Request::default()
        };
        let settings = merged(&Map::new(), &first);
        assert_eq!(settings.len(), 2, "{settings:?}");
        let second = Request { port: Some(4000), ..Request::default() };
        let request = with_defaults(&second, &merged(&settings, &second));
        assert_eq!(request.run_command.as_deref(), Some("node server.js"));
        assert_eq!(request.port, Some(4000));
    }

    #[test]
    fn a_site_is_not_run_by_the_command_of_the_app_before() {
        let app = Request {
            run_command: Some("node server.js".into()),
            port: Some(3000),
            build_command: Some("npm run build".into()),
            ..Request::default()
        };
        let sites = [
            Request { kind: Some(KindChoice::Static), ..Request::default() },
            Request { output_path: Some("dist".into()), ..Request::default() },
        ];
        for site in sites {
            let settings = merged(&merged(&Map::new(), &app), &site);
            let request = with_defaults(&site, &settings);
            assert_eq!((request.run_command(), request.port), (None, None), "{site:?}");
            assert_eq!(request.build_command, app.build_command);
            assert!(request.check().is_ok());
            let again = with_defaults(&app, &merged(&settings, &app));
            assert_eq!(again.run_command(), Some("node server.js"));
            assert!(again.check().is_ok(), "{again:?}");
        }
    }
}
