//! Brings one sandbox up: hands over a warm slot or starts a workload, then tells its guest who
//! it is.
//!
//! Every step may be repeated. A hand-over that fails half-way costs the slot, which is deleted,
//! never returned: nobody can tell what happened inside.

use std::{sync::Arc, time::Duration};

use miosa_provider::{
    Confinement, Error as ProviderError, Observed, Owner, Phase, Readiness, Root, WorkloadSpec,
};
use miosa_store::sandboxes::{self as rows, BootPath, Desired};
use miosa_types::guest::{Endpoint, Init};

use super::{Error, Guard, START_DEADLINE, Sandbox, State, edit, key, mark_ended};
use crate::{Control, pool};

/// Slots tried for one sandbox before it is started cold.
const HAND_OVERS: u32 = 3;
/// How long one call to the provider or the guest may take while a sandbox comes up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Works on `row` until it takes commands, has failed, or only time can help; then the
/// reconciler begins again.
pub async fn bring_up(control: Arc<Control>, row: Sandbox, guard: Guard) {
    let id = row.id;
    if let Err(error) = attempt(&control, row).await {
        tracing::warn!(sandbox = %id, %error, "a sandbox does not come up yet");
    }
    drop(guard);
    control.in_hand.changed(id);
    control.wakes.sandboxes.notify_one();
    control.wakes.pool.notify_one();
}

/// Why an attempt ended early.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Row(#[from] Error),
    #[error(transparent)]
    Guest(#[from] miosa_types::guest::Error),
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("it is not seen ready")]
    Unseen,
}

impl From<miosa_store::Error> for NotYet {
    fn from(error: miosa_store::Error) -> Self {
        Self::Row(error.into())
    }
}

async fn attempt(control: &Control, mut row: Sandbox) -> Result<(), NotYet> {
    for hand_over in 1.. {
        if row.boot_path != BootPath::Warm {
            break;
        }
        match claim(control, &row).await {
            Ok(endpoint) => return greet(control, &row, &endpoint).await,
            Err(error) => {
                tracing::warn!(sandbox = %row.id, %error, "a warm slot could not be handed over");
                row = leave_slot(control, row, hand_over < HAND_OVERS).await?;
            }
        }
        if row.state() != State::Creating {
            return Ok(());
        }
    }
    start(control, &row).await
}

/// Makes the slot this sandbox's and speaks to its guest once.
async fn claim(control: &Control, row: &Sandbox) -> Result<Endpoint, NotYet> {
    let owner = Owner::Sandbox(row.id);
    let claim = control.provider.claim(key(row), owner, row.size);
    tokio::time::timeout(CALL_TIMEOUT, claim).await??;
    let seen = control.observed.of_workload(row.workload).unwrap_or_default();
    let endpoint = seen.into_iter().find_map(|o| o.guest).ok_or(NotYet::Unseen)?;
    tokio::time::timeout(CALL_TIMEOUT, control.guest.init(&endpoint, &init(control, row)))
        .await??;
    Ok(endpoint)
}

/// Moves the sandbox to another slot or to a workload of its own, and deletes the slot it had.
async fn leave_slot(control: &Control, row: Sandbox, may_take: bool) -> Result<Sandbox, NotYet> {
    let old = key(&row);
    let mut tx = control.store.begin().await?;
    let Some(mut row) = rows::get(&mut tx, row.tenant, row.id).await? else {
        return Err(Error::NotFound { id: row.id.to_string() }.into());
    };
    if row.workload == old.workload && row.state() == State::Creating {
        let need = pool::Need { template: row.template_digest, size: row.size };
        let now = control.env.now();
        let slot = if may_take {
            pool::take(&mut tx, &control.observed, need, (row.id, now)).await?
        } else {
            None
        };
        row.boot_path = if slot.is_some() { BootPath::Warm } else { BootPath::Cold };
        row.workload = slot.unwrap_or_else(|| control.env.id());
        rows::update(&mut tx, &mut row, now).await?;
    }
    tx.commit().await.map_err(miosa_store::Error::from)?;
    if row.workload != old.workload
        && let Err(error) = control.provider.delete(old, 0).await
    {
        tracing::warn!(workload = %old.workload, %error, "cannot delete a spent slot yet");
    }
    Ok(row)
}

/// Starts a workload of its own and waits until its guest answers.
async fn start(control: &Control, row: &Sandbox) -> Result<(), NotYet> {
    let spec = spec(row);
    match tokio::time::timeout(CALL_TIMEOUT, control.provider.apply(&spec)).await? {
        Ok(()) => {}
        // Room that ran out since it was asked for may be long in coming; the caller asks again.
        Err(
            error @ (ProviderError::Invalid { .. }
            | ProviderError::Forbidden { .. }
            | ProviderError::Quota { .. }),
        ) => {
            mark_ended(control, row, &error.to_string()).await?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let outcome = |seen: &crate::Observations| {
        seen.of_workload(row.workload)?.into_iter().find_map(|o| match o.phase {
            Phase::Ready { .. } if o.guest.is_some() => Some(Ok(o)),
            Phase::Exited { code } => Some(Err(code)),
            _ => None,
        })
    };
    match control.observed.wait_for(left(control, row), outcome).await {
        Some(Ok(Observed { guest: Some(endpoint), .. })) => {
            let init = init(control, row);
            tokio::time::timeout(CALL_TIMEOUT, control.guest.init(&endpoint, &init)).await??;
            greet(control, row, &endpoint).await
        }
        Some(Err(code)) => {
            let reason = format!("it ended with code {code} before it took commands");
            mark_ended(control, row, &reason).await?;
            Ok(())
        }
        Some(Ok(_)) | None => Err(NotYet::Unseen),
    }
}

/// Records that the guest took its first call.
async fn greet(control: &Control, row: &Sandbox, endpoint: &Endpoint) -> Result<(), NotYet> {
    tracing::debug!(sandbox = %row.id, addr = %endpoint.addr, "sandbox takes commands");
    let now = control.env.now();
    let mut is_first = false;
    let fresh = edit(control, row.tenant, row.id, |fresh| {
        let is_news = fresh.ready_at.is_none()
            && fresh.desired == Desired::Running
            && fresh.workload == row.workload;
        if is_news {
            fresh.ready_at = Some(now);
        }
        is_first = is_news;
        is_news
    })
    .await?;
    if is_first {
        let wait = now.duration_since(row.created_at).unsigned_abs();
        control.pool.ready(row.boot_path, wait);
    }
    control.wakes.routes.notify_one();
    if fresh.desired == Desired::Destroyed {
        control.provider.delete(key(row), 0).await?;
    }
    Ok(())
}

/// What is left of the time in which it must come up.
fn left(control: &Control, row: &Sandbox) -> Duration {
    let age = control.env.now().duration_since(row.created_at).unsigned_abs();
    START_DEADLINE.saturating_sub(age)
}

fn init(control: &Control, row: &Sandbox) -> Init {
    let template = control.templates.resolve(&row.template);
    Init {
        env: row.env.clone(),
        hostname: None,
        workdir: template.map(|template| template.workdir),
    }
}

/// Host name inside every sandbox. A slot of the pool has it before anyone claims it, and nobody
/// inside may change it then, so one that was started for its owner has no other.
pub(crate) const HOSTNAME: &str = "sandbox";

/// The workload of a sandbox that was started for it.
pub(super) fn spec(row: &Sandbox) -> WorkloadSpec {
    WorkloadSpec {
        key: key(row),
        owner: Owner::Sandbox(row.id),
        root: Root { template: row.template_digest.to_string(), layer: None },
        size: row.size,
        replicas: 1,
        restart: false,
        confinement: Confinement::Sandbox,
        command: None,
        readiness: Readiness::Guest,
        hostname: HOSTNAME.to_owned(),
    }
}
