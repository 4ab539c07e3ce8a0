//! Which sandboxes a task of this process is bringing up, and news about rows.
//!
//! In memory only: after a restart the reconciler takes over what was in hand.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use miosa_types::SandboxId;
use tokio::sync::broadcast;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct InHand {
    ids: Arc<Mutex<BTreeSet<SandboxId>>>,
    news: broadcast::Sender<SandboxId>,
}

impl Default for InHand {
    fn default() -> Self {
        Self { ids: Arc::default(), news: broadcast::Sender::new(1024) }
    }
}

impl InHand {
    /// Takes a sandbox in hand until the guard is dropped; `None` if a task has it already.
    pub fn enter(&self, id: SandboxId) -> Option<Guard> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id).then(|| Guard { id, all: self.clone() })
    }

    /// Whether a task has it.
    pub fn contains(&self, id: SandboxId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// How many are in hand.
    pub fn count(&self) -> usize {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tells waiters that the row of `id` changed.
    pub(crate) fn changed(&self, id: SandboxId) {
        // Fails only if nobody waits.
        let _ = self.news.send(id);
    }

    /// News from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.news.subscribe())
    }
}

/// News about rows.
#[derive(Debug)]
pub(crate) struct Changes(broadcast::Receiver<SandboxId>);

impl Changes {
    /// Returns when the row of `id` may have changed.
    pub(crate) async fn of(&mut self, id: SandboxId) {
        loop {
            match self.0.recv().await {
                Ok(changed) if changed != id => {}
                // Lagging behind means that it may have changed.
                _ => return,
            }
        }
    }
}

/// Holds a sandbox in hand.
#[derive(Debug)]
pub struct Guard {
    id: SandboxId,
    all: InHand,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
