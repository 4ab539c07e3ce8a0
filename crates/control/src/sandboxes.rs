//! Sandboxes: create, look up, change, destroy, and the way into a running one.
//!
//! Promises: whatever a caller can reach takes the tenant first, and another tenant's sandbox
//! does not exist; the state is derived from intent and observation, never written by the code
//! that issued a command; a create whose caller goes away is finished all the same.

mod bring_up;
mod in_hand;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use miosa_provider::Key;
use miosa_store::{
    idempotency::{self, Claim},
    pool_slots,
    sandboxes::{self as rows, BootPath, Desired},
    tenants,
};
use miosa_types::{
    Env, ProjectId, SandboxId, Size, Slug, TenantId, WorkspaceId, guest, guest::Endpoint,
};

use crate::{Control, pool, templates::Template};

pub(crate) use bring_up::HOSTNAME;
pub use bring_up::bring_up;
pub use in_hand::{Guard, InHand};
pub use miosa_store::sandboxes::{External, Filter, Sandbox, State};

/// A sandbox that takes no commands by then has failed.
pub const START_DEADLINE: Duration = Duration::from_mins(1);
/// How long destroy waits until nothing is left; the reconciler goes on after that.
const DESTROY_WAIT: Duration = Duration::from_secs(5);
/// Attempts at a compare-and-set before giving up.
const ATTEMPTS: u32 = 5;

/// Where a sandbox belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The project, in that workspace.
    pub project: ProjectId,
}

/// What to create.
#[derive(Clone, Debug)]
pub struct New {
    /// Where it belongs.
    pub place: Place,
    /// Display name.
    pub name: Option<String>,
    /// Label in preview hosts; `None`: a random one.
    pub slug: Option<Slug>,
    /// Name, alias or digest of a template; `None`: the default one.
    pub template: Option<String>,
    /// Limits.
    pub size: Size,
    /// Environment of its processes.
    pub env: BTreeMap<String, String>,
    /// The tenant's own data.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The tenant's own words.
    pub tags: Vec<String>,
    /// The tenant's own ids.
    pub external: External,
    /// Life time in seconds.
    pub timeout_s: u32,
    /// Whether the life time never runs out.
    pub is_always_on: bool,
    /// Whether the tenant asked to keep the disk.
    pub is_persistent: bool,
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This tenant has no such sandbox.
    #[error("there is no sandbox `{id}`")]
    NotFound {
        /// What was asked for.
        id: String,
    },
    /// No such template.
    #[error("there is no template `{name}`")]
    NoTemplate {
        /// What was asked for.
        name: String,
    },
    /// It is not up yet: ask again soon.
    #[error("the sandbox is starting")]
    Starting,
    /// It is not up and will not be.
    #[error("the sandbox is {}: {why}", state.as_str())]
    NotRunning {
        /// What it is instead.
        state: State,
        /// Why, as far as known.
        why: String,
    },
    /// The host can never give that size.
    #[error(transparent)]
    TooLarge(#[from] pool::TooLarge),
    /// The host has no room for another one now.
    #[error("no sandbox can be started: {reason}")]
    NoRoom {
        /// What is short.
        reason: String,
    },
    /// It has as many preview tokens as one may have.
    #[error(
        "the sandbox has {limit} live preview tokens already; revoke some or wait until they end"
    )]
    TooManyTokens {
        /// How many.
        limit: usize,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] miosa_store::Error),
    /// The guest.
    #[error(transparent)]
    Guest(#[from] guest::Error),
}

/// Adds a sandbox and begins to bring it up; waits at most `wait` until it takes commands. The
/// answer's state tells how far it came. Under a `claim` that made one before, that one is the
/// answer.
pub async fn create(
    control: &Arc<Control>,
    tenant: TenantId,
    new: New,
    claim: Option<&Claim>,
    wait: Duration,
) -> Result<Sandbox, Error> {
    if let Some(made) = claim.and_then(|claim| claim.made) {
        return wait_ready(control, tenant, SandboxId::from_uuid(made), wait).await;
    }
    let name = new.template.as_deref().unwrap_or(&control.config.default_template);
    let template = control
        .templates
        .resolve(name)
        .ok_or_else(|| Error::NoTemplate { name: name.to_owned() })?;
    // Nothing is made that could not write. Whatever else is wrong is seen when it starts.
    if let Err(miosa_provider::Error::Quota { reason }) = control.provider.room().await {
        return Err(Error::NoRoom { reason });
    }
    pool::check_fits(new.size, control.provider.memory().await)?;
    let mut tx = control.store.begin().await?;
    let found = tenants::find(&mut tx, tenant).await?;
    let domain = found.and_then(|tenant| tenant.preview_domain);
    let mut row = row(&control.env, tenant, new, &template)?;
    row.preview_domain = domain.unwrap_or_else(|| control.config.domains.apps.clone());
    let need = pool::Need { template: template.digest, size: row.size };
    let slot = pool::take(&mut tx, &control.observed, need, (row.id, row.created_at)).await?;
    if let Some(workload) = slot {
        row.workload = workload;
        row.boot_path = BootPath::Warm;
    }
    rows::insert(&mut tx, &row).await?;
    idempotency::claim(&mut tx, tenant, claim, row.id.uuid(), row.created_at).await?;
    // In hand before the row can be seen, so that the reconciler does not begin beside us.
    let guard = control.in_hand.enter(row.id);
    tx.commit().await.map_err(miosa_store::Error::from)?;
    control.pool.took(slot.is_some());
    control.wakes.pool.notify_one();
    control.wakes.routes.notify_one();
    let Some(guard) = guard else { return Ok(row) };
    let id = row.id;
    // A task of its own: it ends what it began even if the caller goes away meanwhile.
    tokio::spawn(bring_up(control.clone(), row, guard));
    wait_ready(control, tenant, id, wait).await
}

fn row(env: &Env, tenant: TenantId, new: New, template: &Template) -> Result<Sandbox, Error> {
    let slug = match new.slug {
        Some(slug) => slug,
        None => Slug::parse(&env.slug(12)).map_err(|error| {
            Error::Store(miosa_store::Error::Corrupt { table: "sandboxes", why: error.to_string() })
        })?,
    };
    let now = env.now();
    Ok(Sandbox {
        id: env.id(),
        tenant,
        workspace: new.place.workspace,
        project: new.place.project,
        name: new.name,
        slug,
        preview_domain: String::new(),
        template: template.name.clone(),
        template_digest: template.digest,
        size: new.size,
        workload: env.id(),
        revision: 1,
        boot_path: BootPath::Cold,
        env: new.env,
        metadata: new.metadata,
        tags: new.tags,
        external: new.external,
        timeout_s: new.timeout_s,
        is_always_on: new.is_always_on,
        is_persistent: new.is_persistent,
        expires_at: expiry(new.is_always_on, new.timeout_s, now),
        desired: Desired::Running,
        ready_at: None,
        ended_at: None,
        end_reason: None,
        generation: 1,
        created_at: now,
        updated_at: now,
        destroyed_at: None,
    })
}

fn expiry(is_always_on: bool, timeout_s: u32, now: Timestamp) -> Option<Timestamp> {
    (!is_always_on).then(|| now + Duration::from_secs(timeout_s.into()))
}

/// One sandbox.
pub async fn get(control: &Control, tenant: TenantId, id: SandboxId) -> Result<Sandbox, Error> {
    let found = rows::get(&mut *control.store.conn().await?, tenant, id).await?;
    found.ok_or_else(|| Error::NotFound { id: id.to_string() })
}

/// The newest wanted sandbox of that name; names need not be unique.
pub async fn by_name(control: &Control, tenant: TenantId, name: &str) -> Result<Sandbox, Error> {
    let found = rows::by_name(&mut *control.store.conn().await?, tenant, name).await?;
    found.ok_or_else(|| Error::NotFound { id: name.to_owned() })
}

/// What to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Display name.
    pub name: Option<String>,
    /// Fields to add or replace; a null value removes one.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// All tags.
    pub tags: Option<Vec<String>>,
    /// Life time from now, in seconds.
    pub timeout_s: Option<u32>,
    /// Whether the life time never runs out.
    pub is_always_on: Option<bool>,
}

/// Changes a sandbox.
pub async fn update(
    control: &Control,
    tenant: TenantId,
    id: SandboxId,
    change: &Change,
) -> Result<Sandbox, Error> {
    let now = control.env.now();
    edit(control, tenant, id, |row| {
        if let Some(name) = &change.name {
            row.name = Some(name.clone());
        }
        for (key, value) in change.metadata.iter().flatten() {
            if value.is_null() {
                row.metadata.remove(key);
            } else {
                row.metadata.insert(key.clone(), value.clone());
            }
        }
        if let Some(tags) = &change.tags {
            row.tags.clone_from(tags);
        }
        if change.timeout_s.is_some() || change.is_always_on.is_some() {
            row.timeout_s = change.timeout_s.unwrap_or(row.timeout_s);
            row.is_always_on = change.is_always_on.unwrap_or(row.is_always_on);
            row.expires_at = expiry(row.is_always_on, row.timeout_s, now);
        }
        true
    })
    .await
}

/// Says that a sandbox is not wanted any more and waits a little until nothing of it is left.
/// May be repeated.
pub async fn destroy(control: &Control, tenant: TenantId, id: SandboxId) -> Result<Sandbox, Error> {
    let row = edit(control, tenant, id, |row| {
        let is_wanted = row.desired == Desired::Running;
        row.desired = Desired::Destroyed;
        is_wanted
    })
    .await?;
    control.wakes.routes.notify_one();
    if row.state() == State::Destroyed {
        return Ok(row);
    }
    let removal = async {
        if let Err(error) = control.provider.delete(key(&row), 0).await {
            tracing::warn!(sandbox = %id, %error, "cannot delete the workload; the reconciler will");
            return;
        }
        let is_gone = |seen: &crate::Observations| {
            seen.of_workload(row.workload).filter(Vec::is_empty).map(drop)
        };
        control.observed.wait_for(DESTROY_WAIT, is_gone).await;
    };
    if tokio::time::timeout(DESTROY_WAIT, removal).await.is_err() {
        tracing::debug!(sandbox = %id, "destroy answers before everything is gone");
    }
    let gone = control.observed.of_workload(row.workload).is_some_and(|seen| seen.is_empty());
    if gone && !control.in_hand.contains(id) {
        return mark_destroyed(control, &row).await;
    }
    control.wakes.sandboxes.notify_one();
    Ok(row)
}

/// Records that nothing of a sandbox is left.
pub(crate) async fn mark_destroyed(control: &Control, row: &Sandbox) -> Result<Sandbox, Error> {
    let now = control.env.now();
    pool_slots::forget(&mut *control.store.conn().await?, row.workload).await?;
    edit(control, row.tenant, row.id, |row| {
        row.destroyed_at = row.destroyed_at.or(Some(now));
        true
    })
    .await
}

/// Records that a sandbox ended although it is wanted.
pub(crate) async fn mark_ended(
    control: &Control,
    row: &Sandbox,
    reason: &str,
) -> Result<Sandbox, Error> {
    let now = control.env.now();
    let row = edit(control, row.tenant, row.id, |row| {
        let is_news = row.ended_at.is_none() && row.desired == Desired::Running;
        if is_news {
            row.ended_at = Some(now);
            row.end_reason = Some(reason.to_owned());
        }
        is_news
    })
    .await?;
    control.wakes.sandboxes.notify_one();
    control.wakes.routes.notify_one();
    Ok(row)
}

/// Ends a sandbox whose time is over.
pub(crate) async fn expire(control: &Control, row: &Sandbox) -> Result<Sandbox, Error> {
    let now = control.env.now();
    edit(control, row.tenant, row.id, |row| {
        // It may have been extended since it was read.
        let is_over = row.expires_at.is_some_and(|at| at <= now);
        if is_over && row.desired == Desired::Running {
            row.desired = Desired::Destroyed;
            row.end_reason = Some(format!("its time of {} s was over", row.timeout_s));
        }
        is_over
    })
    .await
}

/// Reads, changes and writes a row until nobody was faster. `change` tells whether to write.
pub(crate) async fn edit(
    control: &Control,
    tenant: TenantId,
    id: SandboxId,
    mut change: impl FnMut(&mut Sandbox) -> bool,
) -> Result<Sandbox, Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut row = get(control, tenant, id).await?;
        if !change(&mut row) {
            return Ok(row);
        }
        let now = control.env.now();
        match rows::update(&mut *control.store.conn().await?, &mut row, now).await {
            Ok(()) => {
                control.in_hand.changed(id);
                return Ok(row);
            }
            Err(error @ miosa_store::Error::Stale { .. }) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| Error::NotFound { id: id.to_string() }, Error::Store))
}

/// The way into a running sandbox. Changes nothing.
pub async fn enter(
    control: &Control,
    tenant: TenantId,
    id: SandboxId,
) -> Result<(Sandbox, Endpoint), Error> {
    let row = get(control, tenant, id).await?;
    match row.state() {
        State::Running => {
            // Unknown for a moment (control has just started) is not gone.
            let seen = control.observed.of_workload(row.workload).unwrap_or_default();
            let ready = seen.into_iter().find(|o| o.phase.ready().is_some());
            let endpoint = ready.and_then(|o| o.guest).ok_or(Error::Starting)?;
            Ok((row, endpoint))
        }
        State::Creating => Err(Error::Starting),
        state => {
            let why = row.end_reason.unwrap_or_else(|| "it takes no commands".to_owned());
            Err(Error::NotRunning { state, why })
        }
    }
}

/// Waits until a sandbox is no longer `creating`, at most `deadline`; its row then.
pub async fn wait_ready(
    control: &Control,
    tenant: TenantId,
    id: SandboxId,
    deadline: Duration,
) -> Result<Sandbox, Error> {
    let mut changes = control.in_hand.changes();
    let wait = async {
        loop {
            let row = get(control, tenant, id).await?;
            if row.state() != State::Creating {
                return Ok(row);
            }
            changes.of(id).await;
        }
    };
    match tokio::time::timeout(deadline, wait).await {
        Ok(outcome) => outcome,
        Err(_) => get(control, tenant, id).await,
    }
}

/// Names the workload of a sandbox.
pub(crate) const fn key(row: &Sandbox) -> Key {
    Key { workload: row.workload, revision: row.revision }
}

#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod tests;
