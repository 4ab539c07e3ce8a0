//! What a version runs as: the workload of its replicas, and the one that builds it.

use miosa_provider::{Command, Confinement, Key, Owner, Readiness, Root, WorkloadSpec};
use miosa_publish::RunConfig;
use miosa_store::{deployments::Deployment, versions::Version};
use miosa_types::{Size, WorkloadId, size::Tier};

/// How long a replica may take to end after SIGTERM, in seconds.
pub const STOP_GRACE_S: u32 = 30;

/// A version whose row does not say how to run it.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("version {number} cannot be run: {why}")]
pub struct NotRunnable {
    /// Its number.
    pub number: u32,
    /// Why.
    pub why: String,
}

/// Limits of each replica.
pub const fn replica_size() -> Size {
    Tier::Xs.size()
}

/// Limits of a build: bundlers need memory.
pub const fn build_size() -> Size {
    Tier::Small.size()
}

/// How a dynamic version runs.
pub fn run_config(version: &Version) -> Result<RunConfig, NotRunnable> {
    let number = version.number;
    let run = version.run.clone();
    let run = run.ok_or_else(|| NotRunnable { number, why: "it has no command".to_owned() })?;
    serde_json::from_value(run).map_err(|error| NotRunnable { number, why: error.to_string() })
}

/// The port on which a dynamic version listens.
pub fn port(version: &Version) -> Option<u16> {
    run_config(version).ok().map(|run| run.port)
}

/// The replicas of a version.
pub fn spec(
    version: &Version,
    deployment: &Deployment,
    replicas: usize,
) -> Result<WorkloadSpec, NotRunnable> {
    let run = run_config(version)?;
    let readiness = match &run.health_check_path {
        Some(path) => Readiness::Http { port: run.port, path: path.clone() },
        None => Readiness::Tcp { port: run.port },
    };
    Ok(WorkloadSpec {
        key: Key { workload: version.workload, revision: version.revision },
        owner: Owner::Version(version.id),
        root: Root {
            template: version.template.clone(),
            layer: version.artifact.map(|artifact| artifact.digest),
        },
        size: version.size,
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        restart: true,
        confinement: Confinement::Runtime,
        command: Some(Command { argv: run.argv(), cwd: run.cwd.clone(), env: run.env.clone() }),
        readiness,
        hostname: deployment.slug.to_string(),
    })
}

/// The sandbox that builds a version. It has an id of its own for each attempt.
pub fn build_spec(version: &Version, workload: WorkloadId) -> WorkloadSpec {
    WorkloadSpec {
        key: Key { workload, revision: 1 },
        owner: Owner::Build(version.id),
        root: Root { template: version.template.clone(), layer: None },
        size: build_size(),
        replicas: 1,
        restart: false,
        confinement: Confinement::Sandbox,
        command: None,
        readiness: Readiness::Guest,
        hostname: "build".to_owned(),
    }
}
