//! Writes down what was observed of runtime instances, and which of them were told to go.
//!
//! Promises: rows and events of one observation are one transaction; after a fault everything is
//! read again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use miosa_provider::{Observed, Owner, Phase};
use miosa_store::{
    deployments::Deployment,
    instances::{self as rows, Instance},
};
use miosa_types::{InstanceId, VersionId, deployment::InstanceState};

use super::{BATCH, World};
use crate::{
    Control, healing,
    instances::{self, Facts, News},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Recorder {
    control: Arc<Control>,
    /// Rows of instances that had not ended, as last written; `None` before they were read.
    known: Mutex<Option<BTreeMap<InstanceId, Instance>>>,
    /// Replicas whose workload was told to go: what becomes of them is no fault.
    told: Mutex<BTreeSet<InstanceId>>,
}

impl Recorder {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { control, known: Mutex::new(None), told: Mutex::default() }
    }

    /// Writes what changed since the last time.
    pub(super) async fn observe(&self, world: &World) -> Result<(), miosa_store::Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut known = if let Some(known) = known {
            known
        } else {
            let mut db = self.control.store.conn().await?;
            rows::alive(&mut db).await?.into_iter().map(|row| (row.id, row)).collect()
        };
        let suspects = self.control.suspects.all();
        let now = self.control.env.now();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let facts = Facts { suspects: &suspects, told: &told, now };
        let mut changes = instances::changes(&known, &world.versions, &world.replicas, &facts);
        // What failed is told before what took its place: both may be seen at once.
        let is_failure = |news: &News| {
            healing::change(known.get(&news.row.id), &news.row) == Some(healing::Change::Failed)
        };
        changes.sort_by_key(|news| !is_failure(news));
        for part in changes.chunks(BATCH) {
            self.write(&known, part).await?;
        }
        for News { row, is_final } in changes {
            if is_final {
                known.remove(&row.id);
            } else {
                known.insert(row.id, row);
            }
        }
        let is_open = |at: Timestamp| now.duration_since(at) < instances::WAIT_FOR_EXIT;
        known.retain(|_, row| row.ended_at.is_none_or(is_open));
        // After a fault the map is gone and is read again.
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(())
    }

    async fn write(
        &self,
        known: &BTreeMap<InstanceId, Instance>,
        part: &[News],
    ) -> Result<(), miosa_store::Error> {
        let mut noted = Vec::new();
        let mut tx = self.control.store.begin().await?;
        for News { row, .. } in part {
            rows::observe(&mut tx, row).await?;
            noted.extend(healing::tell(&mut tx, &self.control.env, known.get(&row.id), row).await?);
            if row.ended_at.is_some() {
                rows::prune(&mut tx, row.deployment, instances::KEEP).await?;
            }
        }
        tx.commit().await?;
        self.control.healing.count(&noted);
        Ok(())
    }

    /// Notes that the replicas of a version are told to go: in the database before the provider
    /// hears of it, or the end could be seen before its reason.
    pub(super) async fn tell_to_go(
        &self,
        world: &World,
        version: VersionId,
    ) -> Result<(), miosa_store::Error> {
        let mut db = self.control.store.conn().await?;
        rows::set_stopping(&mut db, version).await?;
        drop(db);
        let of = |o: &&Observed| o.owner == Owner::Version(version);
        let replicas = world.replicas.iter().filter(of).map(|o| o.instance);
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(replicas);
        if let Some(known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner) {
            for row in known.values_mut().filter(|row| row.version == version) {
                if row.ended_at.is_none() {
                    row.state = InstanceState::Stopped;
                }
            }
        }
        Ok(())
    }

    /// What is wanted again and still serves may fail again; what is gone is forgotten. One that
    /// ends already was told to, whatever is wanted now.
    pub(super) fn forget_told(&self, world: &World, all: &[Deployment]) {
        let is_on = |d: &&Deployment| !d.is_stopped && d.deleted_at.is_none();
        let wanted: BTreeSet<_> =
            all.iter().filter(is_on).filter_map(|d| d.active_version).collect();
        let is_going = |o: &&Observed| match o.owner {
            Owner::Version(version) => {
                let ends = matches!(o.phase, Phase::Draining { .. } | Phase::Exited { .. });
                ends || !wanted.contains(&version)
            }
            _ => false,
        };
        let going: BTreeSet<_> =
            world.replicas.iter().filter(is_going).map(|o| o.instance).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |id: &InstanceId| known.as_ref().is_some_and(|known| known.contains_key(id));
        let seen = |id: &InstanceId| world.replicas.iter().any(|o| o.instance == *id);
        told.retain(|id| going.contains(id) || (is_open(id) && !seen(id)));
    }
}
