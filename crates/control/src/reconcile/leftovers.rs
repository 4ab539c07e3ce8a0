//! Removes slots and sandboxes at the provider that no row wants, so that a leak cannot last.
//!
//! Only what was unwanted for [`GRACE`] without a break is removed, and never while nothing is
//! known: a row that is just being written, or a watch that has just begun, is not a leak.
//! Workloads of versions and builds are their own reconcilers'.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_provider::{Key, Observed, Owner};
use miosa_store::{pool_slots, sandboxes as rows};
use miosa_types::WorkloadId;
use tokio::sync::Notify;

use crate::{Control, Reconciler, Report, driver::StepError, sandboxes::State};

/// How long something must have been unwanted.
pub const GRACE: Duration = Duration::from_secs(15);
/// Rows read at once.
const PAGE: u32 = 500;
/// Slots read at once; with more, nothing is removed.
const SLOTS: u32 = 10_000;

/// Since when each unwanted workload is seen.
pub type Since = BTreeMap<WorkloadId, Timestamp>;

/// What to delete now, and what to remember for the next time.
pub fn plan(
    seen: &[Observed],
    wanted: &BTreeSet<WorkloadId>,
    since: &Since,
    now: Timestamp,
) -> (Vec<Key>, Since) {
    let (mut deletes, mut next) = (BTreeMap::new(), Since::new());
    for replica in seen {
        let workload = replica.key.workload;
        let is_ours = matches!(replica.owner, Owner::Pool | Owner::Sandbox(_));
        if !is_ours || wanted.contains(&workload) {
            continue;
        }
        let first = since.get(&workload).copied().unwrap_or(now);
        next.insert(workload, first);
        if now.duration_since(first).unsigned_abs() >= GRACE {
            let key = deletes.entry(workload).or_insert(replica.key);
            *key = (*key).max(replica.key);
        }
    }
    (deletes.into_values().collect(), next)
}

/// The reconciler.
#[derive(Debug)]
pub struct Leftovers {
    control: Arc<Control>,
    since: Mutex<Since>,
    wake: Arc<Notify>,
}

impl Leftovers {
    /// Has seen nothing yet.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, since: Mutex::default(), wake: Arc::default() }
    }

    async fn wanted(&self) -> Result<Option<BTreeSet<WorkloadId>>, StepError> {
        let mut db = self.control.store.conn().await?;
        let mut wanted = BTreeSet::new();
        let mut after = None;
        loop {
            let page = rows::unfinished(&mut db, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            // What is to go is wanted here as well: its own reconciler removes it.
            wanted.extend(
                page.iter().filter(|row| row.state() != State::Destroyed).map(|row| row.workload),
            );
        }
        let slots = pool_slots::free(&mut db, SLOTS).await?;
        if slots.len() >= usize::try_from(SLOTS)? {
            return Ok(None);
        }
        wanted.extend(slots.iter().map(|slot| slot.workload));
        Ok(Some(wanted))
    }
}

#[async_trait]
impl Reconciler for Leftovers {
    fn name(&self) -> &'static str {
        "leftovers"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        // Seen before the rows are read: what is written meanwhile is wanted.
        let Some(seen) = self.control.observed.replicas() else {
            self.since.lock().unwrap_or_else(PoisonError::into_inner).clear();
            return Ok(Report::default());
        };
        let Some(wanted) = self.wanted().await? else { return Ok(Report::default()) };
        let deletes = {
            let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
            let (deletes, next) = plan(&seen, &wanted, &since, self.control.env.now());
            *since = next;
            deletes
        };
        let mut report = Report { looked_at: seen.len(), ..Report::default() };
        for key in deletes {
            tracing::warn!(workload = %key.workload, "removing a workload that nobody wants");
            match self.control.provider.delete(key, 0).await {
                Ok(()) => report.acted += 1,
                Err(error) => {
                    report.failed += 1;
                    tracing::warn!(workload = %key.workload, %error, "cannot remove it yet");
                }
            }
        }
        Ok(report)
    }
}
