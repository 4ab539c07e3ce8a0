//! Fills the warm pool up to its targets and retires slots that do not fit them.
//!
//! [`plan`] decides and does no I/O. At most one slot starts at a time, and none while a sandbox
//! of a tenant comes up, so that filling never starves a create. A target whose slots fail rests
//! longer each time and keeps no other from its turn. A host that is short of memory gets that of
//! the slots first.

mod pressure;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_provider::{Confinement, Key, Observed, Owner, Phase, Readiness, Root, WorkloadSpec};
use miosa_store::pool_slots::{self, Slot};
use miosa_types::{Digest, Size, WorkloadId};
use tokio::sync::Notify;

use crate::{
    Control, Reconciler, Report,
    back_off::BackOff,
    driver::StepError,
    pool::targets as wanted,
    sandboxes::{HOSTNAME, START_DEADLINE},
};

pub use pressure::{Pressure, pressure, under};

/// Slots looked at in one step; targets beyond it are not filled.
const LOOK_AT: u32 = 1000;
/// Before the next start of a target whose slots failed.
pub const REST: BackOff =
    BackOff { first: Duration::from_secs(1), longest: Duration::from_mins(1) };
/// Failures remembered of each target; with as many the rest is the longest.
const REMEMBERED: usize = 8;

/// What to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the template.
    pub template: String,
    /// What it means now.
    pub digest: Digest,
    /// Size of each slot.
    pub size: Size,
    /// How many.
    pub count: usize,
}

/// A slot that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    /// Its workload.
    pub workload: WorkloadId,
    /// What it was started from.
    pub digest: Digest,
    /// Its limits.
    pub size: Size,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it became ready.
    pub ready_at: Option<Timestamp>,
    /// What is seen of it; `None`: nothing is there.
    pub phase: Option<Phase>,
}

/// A slot that could not be started, or that ended or was lost while nobody had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its workload.
    pub workload: WorkloadId,
    /// What it was started from.
    pub digest: Digest,
    /// Its limits.
    pub size: Size,
    /// When that was seen.
    pub at: Timestamp,
}

/// Each may be repeated at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add a slot of this target.
    Start(Target),
    /// Ask again for a slot that is not there.
    Again(WorkloadId),
    /// Remove a slot.
    Retire(WorkloadId),
}

/// Compares targets with slots. `failures`: what [`learn`] made of the slots that failed;
/// `is_busy`: a sandbox of a tenant is coming up.
///
/// Invariants (tested): never two starts; never a start that would exceed a target; never
/// retires a good slot that is within its target; never starts for a target that rests.
pub fn plan(
    targets: &[Target],
    free: &[Free],
    failures: &[Failure],
    is_busy: bool,
    now: Timestamp,
) -> Vec<Action> {
    let rests = |target: &Target| rest_ends(target, failures).is_some_and(|end| now < end);
    let mut actions = Vec::new();
    let mut is_starting = false;
    let mut missing = None;
    let mut kept = vec![0_usize; targets.len()];
    let mut slots: Vec<_> = free.iter().collect();
    // Ready ones are kept first, then the older.
    slots.sort_by_key(|slot| (!is_ready(slot), slot.created_at, slot.workload));
    for slot in slots {
        let place = targets.iter().position(|target| is_of(target, slot.digest, slot.size));
        match place.filter(|n| kept[*n] < targets[*n].count) {
            Some(n) if !is_spoilt(slot, now) => {
                kept[n] += 1;
                if slot.phase.is_some() {
                    is_starting |= !is_ready(slot);
                } else if !rests(&targets[n]) {
                    missing = Some(slot.workload);
                }
            }
            _ => actions.push(Action::Retire(slot.workload)),
        }
    }
    if is_busy || is_starting {
        return actions;
    }
    if let Some(workload) = missing {
        actions.push(Action::Again(workload));
        return actions;
    }
    let short = targets.iter().zip(&kept).filter(|(target, kept)| **kept < target.count);
    let able = short.map(|(target, _)| target).filter(|target| !rests(target));
    // One that fails comes after those that do not, or it could take every turn.
    let next = able.min_by_key(|target| count(target, failures));
    actions.extend(next.cloned().map(Action::Start));
    actions
}

/// What to remember of failures after a look at the slots: a slot that is spoilt counts once, and
/// one that came up after them ends a row of failures.
pub fn learn(
    targets: &[Target],
    free: &[Free],
    mut failures: Vec<Failure>,
    now: Timestamp,
) -> Vec<Failure> {
    for slot in free.iter().filter(|slot| is_spoilt(slot, now)) {
        if failures.iter().all(|failure| failure.workload != slot.workload) {
            let Free { workload, digest, size, .. } = *slot;
            failures.push(Failure { workload, digest, size, at: now });
        }
    }
    let mut kept = Vec::new();
    for target in targets {
        let of = |failure: &&Failure| is_of(target, failure.digest, failure.size);
        let slots = free.iter().filter(|slot| is_of(target, slot.digest, slot.size));
        let came_up = slots.filter(|slot| is_ready(slot)).filter_map(|slot| slot.ready_at).max();
        let newest = failures.iter().filter(of).map(|failure| failure.at).max();
        if came_up.is_none() || came_up <= newest {
            let skipped = failures.iter().filter(of).count().saturating_sub(REMEMBERED);
            kept.extend(failures.iter().filter(of).skip(skipped).cloned());
        }
    }
    kept
}

fn is_of(target: &Target, digest: Digest, size: Size) -> bool {
    target.digest == digest && target.size == size
}

fn count(target: &Target, failures: &[Failure]) -> usize {
    failures.iter().filter(|failure| is_of(target, failure.digest, failure.size)).count()
}

/// When the rest after the last failure of a target ends; `None` if there was none.
fn rest_ends(target: &Target, failures: &[Failure]) -> Option<Timestamp> {
    let of = failures.iter().filter(|failure| is_of(target, failure.digest, failure.size));
    let last = of.map(|failure| failure.at).max()?;
    Some(last + REST.pause(u32::try_from(count(target, failures)).unwrap_or(u32::MAX)))
}

const fn is_ready(slot: &Free) -> bool {
    matches!(slot.phase, Some(Phase::Ready { .. }))
}

fn is_spoilt(slot: &Free, now: Timestamp) -> bool {
    match slot.phase {
        Some(Phase::Ready { .. }) => false,
        Some(Phase::Exited { .. } | Phase::Draining { .. } | Phase::Lost) => true,
        Some(Phase::Pending { .. } | Phase::Running { .. }) | None => {
            now.duration_since(slot.created_at).unsigned_abs() >= START_DEADLINE
        }
    }
}

/// The reconciler.
#[derive(Debug)]
pub struct Pool {
    control: Arc<Control>,
    failures: Mutex<Vec<Failure>>,
}

#[async_trait]
impl Reconciler for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn wake(&self) -> Arc<Notify> {
        self.control.wakes.pool.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        let control = &self.control;
        let rows = pool_slots::free(&mut *control.store.conn().await?, LOOK_AT).await?;
        // Nothing is known: a slot that is not seen may be there.
        let Some(seen) = control.observed.replicas() else { return Ok(Report::default()) };
        let free: Vec<_> = rows.iter().map(|slot| free(slot, &seen)).collect();
        let is_busy = control.in_hand.count() > 0;
        let memory = control.provider.memory().await;
        let (targets, now) = (resolve(control, &wanted(control).await?.all), control.env.now());
        let failures = {
            let mut failures = self.failures();
            control.pool.failed(count_news(&free, &failures, now));
            *failures = learn(&targets, &free, std::mem::take(&mut failures), now);
            failures.clone()
        };
        let mut report = Report { looked_at: free.len(), ..Report::default() };
        let actions = plan(&targets, &free, &failures, is_busy, now);
        for action in under(pressure(memory), &free, actions) {
            match self.act(&rows, &action).await {
                Ok(()) => report.acted += 1,
                Err(error) => {
                    report.failed += 1;
                    tracing::warn!(?action, %error, "cannot act on the warm pool yet");
                }
            }
        }
        Ok(report)
    }
}

impl Pool {
    /// The pool of this installation.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, failures: Mutex::default() }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the provider for a slot.
    async fn start(&self, slot: &Slot) -> Result<(), StepError> {
        let started = self.control.provider.apply(&spec(slot)).await;
        if started.is_err() {
            let (workload, digest, size) = (slot.workload, slot.template_digest, slot.size);
            let at = self.control.env.now();
            self.failures().push(Failure { workload, digest, size, at });
            self.control.pool.failed(1);
        }
        Ok(started?)
    }

    async fn act(&self, rows: &[Slot], action: &Action) -> Result<(), StepError> {
        let control = &self.control;
        match action {
            Action::Start(target) => {
                let slot = Slot {
                    workload: control.env.id(),
                    template: target.template.clone(),
                    template_digest: target.digest,
                    size: target.size,
                    sandbox: None,
                    created_at: control.env.now(),
                };
                // The row first: what is there without a row is a leftover.
                pool_slots::insert(&mut *control.store.conn().await?, &slot).await?;
                self.start(&slot).await?;
            }
            Action::Again(workload) => {
                if let Some(slot) = rows.iter().find(|slot| slot.workload == *workload) {
                    self.start(slot).await?;
                }
            }
            Action::Retire(workload) => {
                let mut db = control.store.conn().await?;
                let is_ours = pool_slots::retire(&mut db, *workload).await?;
                drop(db);
                if is_ours {
                    control.provider.delete(Key { workload: *workload, revision: 1 }, 0).await?;
                }
            }
        }
        Ok(())
    }
}

/// Slots that are seen to have failed for the first time.
fn count_news(free: &[Free], failures: &[Failure], now: Timestamp) -> u64 {
    let is_news = |slot: &&Free| {
        is_spoilt(slot, now) && failures.iter().all(|known| known.workload != slot.workload)
    };
    u64::try_from(free.iter().filter(is_news).count()).unwrap_or(u64::MAX)
}

/// What the targets mean now; those of a template that is not there are left out.
fn resolve(control: &Control, wanted: &[crate::PoolTarget]) -> Vec<Target> {
    let resolve = |target: &crate::PoolTarget| {
        let template = control.templates.resolve(&target.template)?;
        let count = usize::try_from(target.count).unwrap_or(usize::MAX);
        let (digest, template) = (template.digest, template.name);
        Some(Target { template, digest, size: target.size, count })
    };
    wanted.iter().filter_map(resolve).collect()
}

fn free(slot: &Slot, seen: &[Observed]) -> Free {
    let replica = seen.iter().find(|o| o.key.workload == slot.workload);
    Free {
        workload: slot.workload,
        digest: slot.template_digest,
        size: slot.size,
        created_at: slot.created_at,
        ready_at: replica.and_then(|o| o.ready_at),
        phase: replica.map(|o| o.phase.clone()),
    }
}

fn spec(slot: &Slot) -> WorkloadSpec {
    WorkloadSpec {
        key: Key { workload: slot.workload, revision: 1 },
        owner: Owner::Pool,
        root: Root { template: slot.template_digest.to_string(), layer: None },
        size: slot.size,
        replicas: 1,
        restart: false,
        confinement: Confinement::Sandbox,
        command: None,
        readiness: Readiness::Guest,
        hostname: HOSTNAME.to_owned(),
    }
}

#[cfg(test)]
mod tests;
