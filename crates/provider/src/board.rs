//! What is observed, and who watches it. Shared by the implementations of `Provider`.
//!
//! Promises: a watcher gets a snapshot first and then every later change, in order, with none
//! missed in between; one that is too slow sees its stream end instead of a gap.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use miosa_types::InstanceId;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::{Event, Events, Observed};

/// Changes that a watcher may lag behind.
const BACKLOG: usize = 4096;

/// The observed replicas.
#[derive(Debug)]
pub struct Board {
    replicas: Mutex<BTreeMap<InstanceId, Observed>>,
    changes: broadcast::Sender<Event>,
}

impl Default for Board {
    fn default() -> Self {
        Self { replicas: Mutex::default(), changes: broadcast::Sender::new(BACKLOG) }
    }
}

impl Board {
    /// Records what is seen of a replica. Telling the same twice makes no event.
    pub fn upsert(&self, observed: Observed) {
        let mut replicas = self.lock();
        if replicas.get(&observed.instance) == Some(&observed) {
            return;
        }
        replicas.insert(observed.instance, observed.clone());
        // Sent under the lock, so that events are in the order of the changes. An error means
        // that nobody watches.
        self.changes.send(Event::Upsert(Box::new(observed))).ok();
    }

    /// Records that a replica is no more.
    pub fn gone(&self, instance: InstanceId) {
        let mut replicas = self.lock();
        if replicas.remove(&instance).is_some() {
            self.changes.send(Event::Gone(instance)).ok();
        }
    }

    /// All replicas.
    pub fn all(&self) -> Vec<Observed> {
        self.lock().values().cloned().collect()
    }

    /// One replica.
    pub fn get(&self, instance: InstanceId) -> Option<Observed> {
        self.lock().get(&instance).cloned()
    }

    /// A stream as [`crate::Provider::watch`] promises it.
    pub fn watch(&self) -> Events {
        let replicas = self.lock();
        let changes = self.changes.subscribe();
        let snapshot = Event::Snapshot(replicas.values().cloned().collect());
        drop(replicas);
        let changes = BroadcastStream::new(changes)
            // Lagged: an event is missing, so the stream ends here.
            .take_while(|change| std::future::ready(change.is_ok()))
            .filter_map(|change| std::future::ready(change.ok()));
        Box::pin(stream::once(std::future::ready(snapshot)).chain(changes))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Observed>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
