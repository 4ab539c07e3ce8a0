//! Judges whether ready replicas still answer.
//!
//! Promises: it never starts or stops anything by itself except through `Provider::replace`;
//! [`judge`] is the whole decision and does no I/O.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use miosa_types::InstanceId;

/// Replicas that did not answer two probes in a row. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Suspects(Arc<RwLock<BTreeSet<InstanceId>>>);

impl Suspects {
    /// All of them.
    pub fn all(&self) -> BTreeSet<InstanceId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this one is suspect.
    pub fn contains(&self, instance: InstanceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&instance)
    }

    /// Replaces the set; whether it changed.
    pub fn set(&self, suspects: BTreeSet<InstanceId>) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *current != suspects;
        *current = suspects;
        has_changed
    }
}
