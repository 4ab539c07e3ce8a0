//! Cancelling a build.
//!
//! Promises: whatever the build does at that moment, the version ends either `failed` with that
//! reason or as the build left it, in which case the caller is told so; what serves goes on.

use miosa_store::{deployments as rows, versions};
use miosa_types::{TenantId, VersionId, deployment::VersionState};

use super::{ATTEMPTS, Deployment, Error, Version, get_version, not_found};
use crate::Control;

/// What the owner reads.
const REASON: &str = "The build was cancelled.";

/// Ends the build of a version, which fails with that reason.
pub async fn cancel(
    control: &Control,
    tenant: TenantId,
    key: &str,
    version: VersionId,
) -> Result<(Deployment, Version), Error> {
    for _ in 0..ATTEMPTS {
        let (deployment, found) = get_version(control, tenant, key, version).await?;
        if found.state != VersionState::Building {
            let (number, state) = (found.number, found.state.as_str());
            return Err(Error::NotCancellable { number, state });
        }
        let mut tx = control.store.begin().await?;
        match versions::set_cancelled(&mut tx, found.id, REASON, control.env.now()).await {
            // It was built at this moment.
            Err(miosa_store::Error::Stale { .. }) => continue,
            outcome => outcome?,
        }
        rows::set_failure(&mut tx, deployment.id, REASON).await?;
        tx.commit().await.map_err(miosa_store::Error::from)?;
        control.wakes.builds.notify_one();
        control.wakes.deployments.notify_one();
        control.wakes.routes.notify_one();
        return get_version(control, tenant, key, version).await;
    }
    Err(not_found("version", version))
}
