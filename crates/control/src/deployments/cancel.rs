//! Cancelling a build.
//!
//! Promises: whatever the build does at that moment, the version ends either `failed` with that
//! reason or as the build left it, in which case the caller is told so; what serves goes on.

use miosa_store::{deployments as rows, versions};
use miosa_types::{TenantId, VersionId};

use super::{Deployment, Error, Version, get_version};
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
    let (deployment, found) = get_version(control, tenant, key, version).await?;
    let mut tx = control.store.begin().await?;
    match versions::set_cancelled(&mut tx, found.id, REASON, control.env.now()).await {
        Err(miosa_store::Error::Stale { .. }) => {
            drop(tx);
            // It may have been built at this moment.
            let (_, found) = get_version(control, tenant, key, version).await?;
            let (number, state) = (found.number, found.state.as_str());
            return Err(Error::NotCancellable { number, state });
        }
        outcome => outcome?,
    }
    rows::set_failure(&mut tx, deployment.id, REASON).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    control.wakes.builds.notify_one();
    control.wakes.deployments.notify_one();
    control.wakes.routes.notify_one();
    get_version(control, tenant, key, version).await
}
