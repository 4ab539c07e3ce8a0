//! What is written down of a build: each in one transaction with what follows from it.

use miosa_publish::{Artifact, BuildLog};
use miosa_store::{
    deployments,
    versions::{self, Version},
};
use miosa_types::deployment::VersionKind;

use super::attempts::Outcome;
use crate::Control;

/// Log lines in the reason of a failure.
const TAIL_LINES: usize = 30;
/// Attempts at a compare-and-set.
const WRITES: u32 = 5;

/// Writes down the outcome, with the end of the log if it failed.
pub(super) async fn record(
    control: &Control,
    version: &Version,
    outcome: Outcome,
    log: &BuildLog,
) -> Result<(), miosa_store::Error> {
    match outcome {
        Outcome::Built(built) => {
            let mut last = Ok(());
            for _ in 0..WRITES {
                last = record_built(control, version, &built).await;
                if !matches!(last, Err(miosa_store::Error::Stale { .. })) {
                    break;
                }
            }
            last?;
            tracing::info!(version = %version.id, framework = built.framework, "built");
        }
        Outcome::Failed(reason) | Outcome::Interrupted(reason) | Outcome::NoRoom(reason) => {
            let tail = log.tail(TAIL_LINES).join("\n");
            let reason = if tail.is_empty() {
                reason
            } else {
                let stop = if reason.ends_with(['.', '!', '?']) { "" } else { "." };
                format!("{reason}{stop} The last lines of the build:\n{tail}")
            };
            record_failed(control, version, &reason).await?;
        }
    }
    control.wakes.deployments.notify_one();
    control.wakes.routes.notify_one();
    Ok(())
}

/// The version is ready and, if that was asked and no newer one is active, it becomes the one
/// that shall serve.
async fn record_built(
    control: &Control,
    version: &Version,
    built: &miosa_publish::Built,
) -> Result<(), miosa_store::Error> {
    let now = control.env.now();
    let mut tx = control.store.begin().await?;
    let before = versions::find(&mut tx, version.tenant, version.id).await?;
    versions::set_ready(&mut tx, version.id, &row(&built.artifact), now).await?;
    let mut deployment = deployments::find(&mut tx, version.tenant, version.deployment).await?;
    // What was told of an interrupted attempt is over.
    let told = before.and_then(|before| before.failure);
    if let Some(deployment) = &mut deployment
        && deployment.failure.is_some()
        && deployment.failure == told
    {
        deployment.failure = None;
        deployments::observe(&mut tx, deployment.id, deployment.serving_version, None).await?;
    }
    if let Some(mut deployment) = deployment.filter(|_| version.is_promoted_when_ready) {
        let active = match deployment.active_version {
            Some(active) => versions::find(&mut tx, version.tenant, active).await?,
            None => None,
        };
        // Builds may end in another order than they began.
        if active.is_none_or(|active| active.number < version.number) {
            deployment.active_version = Some(version.id);
            deployment.failure = None;
            deployments::update(&mut tx, &deployment, now).await?;
            versions::set_promoted(&mut tx, version.id, now).await?;
        }
    }
    Ok(tx.commit().await?)
}

/// Tells the owner why it is still being built.
pub(super) async fn record_interrupted(
    control: &Control,
    version: &Version,
    why: &str,
) -> Result<(), miosa_store::Error> {
    let mut tx = control.store.begin().await?;
    versions::note_interruption(&mut tx, version.id, why, control.env.now()).await?;
    deployments::set_failure(&mut tx, version.deployment, why).await?;
    Ok(tx.commit().await?)
}

async fn record_failed(
    control: &Control,
    version: &Version,
    reason: &str,
) -> Result<(), miosa_store::Error> {
    let mut tx = control.store.begin().await?;
    versions::set_failed(&mut tx, version.id, reason, control.env.now()).await?;
    deployments::set_failure(&mut tx, version.deployment, reason).await?;
    tracing::info!(version = %version.id, "its build failed");
    Ok(tx.commit().await?)
}

fn row(artifact: &Artifact) -> versions::Built {
    match artifact {
        Artifact::Site { manifest, files, total_bytes } => versions::Built {
            kind: VersionKind::Static,
            artifact: versions::Artifact { digest: *manifest, bytes: *total_bytes, files: *files },
            run: None,
        },
        Artifact::App { layer, files, run } => versions::Built {
            kind: VersionKind::Dynamic,
            artifact: versions::Artifact { digest: layer.digest, bytes: layer.size, files: *files },
            run: Some(serde_json::to_value(run).expect("a run configuration is plain data")),
        },
    }
}
