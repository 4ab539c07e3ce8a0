//! Switching versions: promote and roll back.
//!
//! Promises: the intent changes in one transaction with what it says of the version; a repeat under
//! the same key switches to the same version again.

use miosa_store::{
    deployments as rows,
    idempotency::{self, Claim},
    versions,
};
use miosa_types::{TenantId, VersionId, deployment::VersionState};

use super::{ATTEMPTS, Deployment, Error, get, get_version, not_found};
use crate::Control;

/// Makes a version the one that shall serve.
pub async fn promote(
    control: &Control,
    tenant: TenantId,
    key: &str,
    version: VersionId,
) -> Result<Deployment, Error> {
    switch(control, tenant, key, version, None).await
}

/// Promotes; under a `claim`, a repeat switches to the same version again.
async fn switch(
    control: &Control,
    tenant: TenantId,
    key: &str,
    version: VersionId,
    claim: Option<&Claim>,
) -> Result<Deployment, Error> {
    for attempt in 1.. {
        let (mut row, version) = get_version(control, tenant, key, version).await?;
        let number = version.number;
        match version.state {
            VersionState::Ready => {}
            VersionState::Archived => return Err(Error::Archived { number }),
            VersionState::Building | VersionState::Failed => {
                let state = version.state.as_str();
                let message = format!("version {number} is {state}, so it cannot serve");
                return Err(Error::NotReady { message });
            }
        }
        row.active_version = Some(version.id);
        row.is_stopped = false;
        row.failure = None;
        let now = control.env.now();
        let mut tx = control.store.begin().await?;
        match rows::update(&mut tx, &row, now).await {
            Err(miosa_store::Error::Stale { .. }) if attempt < ATTEMPTS => continue,
            outcome => outcome?,
        }
        versions::set_promoted(&mut tx, version.id, now).await?;
        idempotency::claim(&mut tx, tenant, claim, version.id.uuid(), now).await?;
        tx.commit().await.map_err(miosa_store::Error::from)?;
        row.generation += 1;
        control.wakes.routes.notify_one();
        control.wakes.deployments.notify_one();
        return Ok(row);
    }
    Err(not_found("deployment", key))
}

/// Makes `version`, or else the ready version before the active one, the one that shall serve.
/// A repeat under the same `claim` does not go back a second time.
pub async fn roll_back(
    control: &Control,
    tenant: TenantId,
    key: &str,
    version: Option<VersionId>,
    claim: Option<&Claim>,
) -> Result<Deployment, Error> {
    let made = claim.and_then(|claim| claim.made).map(VersionId::from_uuid);
    if let Some(version) = version.or(made) {
        return promote(control, tenant, key, version).await;
    }
    let deployment = get(control, tenant, key).await?;
    let mut db = control.store.conn().await?;
    let active = match deployment.active_version {
        Some(id) => versions::find(&mut db, tenant, id).await?,
        None => None,
    };
    let number = active.map_or(u32::MAX, |active| active.number);
    let previous = versions::previous_ready(&mut db, tenant, deployment.id, number).await?;
    drop(db);
    let message = "there is no earlier version to go back to".to_owned();
    let previous = previous.ok_or(Error::NotReady { message })?;
    switch(control, tenant, key, previous.id, claim).await
}
