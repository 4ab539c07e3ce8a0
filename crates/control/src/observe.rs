//! What the provider last reported, in memory.
//!
//! Written only by [`follow`], from `Provider::watch`. While no watch is open nothing is known:
//! [`Observations::replicas`] is `None` then, which is not an empty list, and nobody may conclude
//! that something is gone.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures_util::StreamExt as _;
use miosa_provider::{Event, Observed, Owner, Provider};
use miosa_types::{InstanceId, WorkloadId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::driver::Wakes;

/// The replicas of this installation as last seen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Observations {
    replicas: Arc<RwLock<Option<BTreeMap<InstanceId, Observed>>>>,
    changes: watch::Sender<u64>,
}

impl Default for Observations {
    fn default() -> Self {
        Self { replicas: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl Observations {
    /// All replicas; `None` while nothing is known.
    pub fn replicas(&self) -> Option<Vec<Observed>> {
        self.read(|replicas| replicas.values().cloned().collect())
    }

    /// Replicas of one workload; `None` while nothing is known.
    pub fn of_workload(&self, workload: WorkloadId) -> Option<Vec<Observed>> {
        self.read(|all| all.values().filter(|o| o.key.workload == workload).cloned().collect())
    }

    /// Replicas of one owner; `None` while nothing is known.
    pub fn of_owner(&self, owner: Owner) -> Option<Vec<Observed>> {
        self.read(|all| all.values().filter(|o| o.owner == owner).cloned().collect())
    }

    /// Changes with every observation. Mark it seen, look, then await the next change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until `look` finds something, at most `deadline`. `look` runs at once and after
    /// every observation.
    pub async fn wait_for<T>(
        &self,
        deadline: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Option<T> {
        let mut changes = self.changes();
        let search = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look(self) {
                    return Some(found);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(deadline, search).await.ok().flatten()
    }

    /// Takes in one event, or `None` when the watch ended.
    pub fn record(&self, event: Option<Event>) {
        let mut replicas = self.replicas.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            None => *replicas = None,
            Some(Event::Snapshot(all)) => {
                *replicas = Some(all.into_iter().map(|o| (o.instance, o)).collect());
            }
            Some(Event::Upsert(one)) => {
                if let Some(replicas) = &mut *replicas {
                    replicas.insert(one.instance, *one);
                }
            }
            Some(Event::Gone(instance)) => {
                if let Some(replicas) = &mut *replicas {
                    replicas.remove(&instance);
                }
            }
        }
        drop(replicas);
        self.changes.send_modify(|count| *count += 1);
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<InstanceId, Observed>) -> T) -> Option<T> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }
}

/// Follows the provider until `stop`, and wakes reconcilers with each event.
pub async fn follow(
    provider: Arc<dyn Provider>,
    observed: Observations,
    wakes: Wakes,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            match provider.watch().await {
                Ok(mut events) => {
                    while let Some(event) = events.next().await {
                        observed.record(Some(event));
                        wakes.observed();
                    }
                    tracing::warn!("the provider's watch ended");
                }
                Err(error) => tracing::warn!(%error, "cannot watch the provider"),
            }
            observed.record(None);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
