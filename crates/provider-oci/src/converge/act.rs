//! Carrying out what was decided, and taking note of what happened.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use jiff::Timestamp;
use miosa_provider::{
    Confinement, Exit,
    plan::{Action, STABLE, Stage, pause, plan},
};
use miosa_types::{InstanceId, guest::Endpoint};
use rustix::process::{Signal, pidfd_send_signal};

use super::{
    Actor, Happened, Replica,
    failure::{self, Failure},
    start::{self, Order, Started},
};
use crate::{files, launch, readiness, state::InstanceRecord};

/// Grace of a replica that goes because another took its place.
const GRACE: Duration = Duration::from_secs(10);
/// Between the news that a replica drains and its SIGTERM, so that whoever routes to it can stop.
const LAME_DUCK: Duration = Duration::from_secs(1);
/// Bytes of output that an exit is reported with.
const LOG_TAIL: u64 = 4096;

impl Actor {
    /// Acts until nothing is left to do; when to look again. `None`: the workload is gone.
    pub(super) async fn settle(&mut self) -> Option<Option<Timestamp>> {
        loop {
            let now = self.host.env.now();
            let (actions, wake_at) = plan(&self.desired(), &self.seen(), now);
            if actions.is_empty() {
                return Some(earliest(wake_at, self.count_stable(now).await));
            }
            for action in actions {
                match action {
                    Action::Create => self.create(now),
                    Action::Start(instance) => self.start(instance),
                    Action::Drain(instance) => self.drain(instance).await,
                    Action::Kill(instance) => self.kill(instance).await,
                    Action::Remove(instance) => self.remove(instance),
                    Action::Forget => return None,
                }
            }
        }
    }

    /// Ends a row of exits once a replica was ready for long enough; else says when that will be.
    async fn count_stable(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.record.exits_in_a_row == 0 {
            return None;
        }
        let is_ready = |replica: &&Replica| replica.stage == Stage::Ready;
        let ready_at = |replica: &Replica| replica.record.as_ref()?.ready_at;
        let first = self.replicas.values().filter(is_ready).filter_map(ready_at).min()?;
        let at = first + STABLE;
        if at > now {
            return Some(at);
        }
        self.record.exits_in_a_row = 0;
        self.save_or_warn().await;
        self.publish_all();
        None
    }

    fn create(&mut self, now: Timestamp) {
        let instance = self.host.env.id();
        let rest = pause(self.record.exits_in_a_row);
        let until = match &self.record.last_exit {
            Some(exit) if !rest.is_zero() => (exit.at + rest).max(now),
            _ => now,
        };
        let replica = Replica {
            revision: self.record.spec.key.revision,
            stage: Stage::Waiting { until },
            leave: None,
            created_at: now,
            unmade: 0,
            why: None,
            record: None,
            netns: None,
            pidfd: None,
            tasks: Vec::new(),
        };
        self.replicas.insert(instance, replica);
        self.publish(instance);
    }

    fn start(&mut self, instance: InstanceId) {
        let now = self.host.env.now();
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        replica.stage = Stage::Starting;
        replica.created_at = now;
        self.publish(instance);
        let spec = self.record.spec.clone();
        let (host, happened) = (Arc::clone(&self.host), self.happened.clone());
        let (size, found) = (self.record.size, self.template.clone());
        self.tasks.spawn(async move {
            let template = match found {
                Some(template) => Ok(template),
                None => host.resolve(spec.root.template.clone()).await.map_err(Failure::template),
            };
            let result = match template {
                Ok(template) => {
                    let order = Order { spec, size, instance, started_at: now, template };
                    start::start(&host, order).await.map(Box::new)
                }
                Err(failure) => Err(failure),
            };
            if let Err(Failure::NoRoom(_)) = &result {
                let _ = tokio::task::spawn_blocking(move || host.state.give_room()).await;
            }
            happened.send((instance, Happened::Started(result))).await.ok();
        });
    }

    fn remove(&mut self, instance: InstanceId) {
        if let Err(error) = self.host.state.remove_instance(instance) {
            tracing::warn!(%instance, %error, "an instance's record could not be removed");
        }
        self.replicas.remove(&instance);
        self.host.board.gone(instance);
    }

    /// SIGTERM to everything inside by way of the guest, SIGKILL when the grace is over.
    async fn drain(&mut self, instance: InstanceId) {
        let (duck, grace) = match self.record.deleting {
            Some(seconds) => (Duration::ZERO, Duration::from_secs(seconds.into())),
            None => (LAME_DUCK, GRACE),
        };
        if grace.is_zero() {
            return self.kill(instance).await;
        }
        self.set_draining(instance).await;
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        let (Some(record), Some(pidfd)) = (&replica.record, copy(replica.pidfd.as_ref())) else {
            return;
        };
        let guest = Endpoint {
            addr: (record.address, miosa_types::guest::PORT).into(),
            token: record.token.clone(),
        };
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(duck).await;
            match readiness::shut_down(&guest, grace).await {
                // The guest ends it; it gets a moment more than it was told.
                Ok(()) => tokio::time::sleep(grace + Duration::from_secs(1)).await,
                Err(error) => tracing::info!(%instance, %error, "ended without grace"),
            }
            send_kill(&pidfd);
        });
        replica.tasks.push(task);
    }

    /// A drain that began with more grace than is given now is begun again.
    pub(super) fn shorten_drains(&mut self) {
        for replica in self.replicas.values_mut() {
            if replica.stage == Stage::Draining {
                replica.stage = Stage::Running;
            }
        }
    }

    async fn kill(&mut self, instance: InstanceId) {
        self.set_draining(instance).await;
        if let Some(pidfd) = self.replicas.get(&instance).and_then(|r| r.pidfd.as_ref()) {
            send_kill(pidfd);
        }
    }

    async fn set_draining(&mut self, instance: InstanceId) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        replica.stage = Stage::Draining;
        if let Some(record) = &mut replica.record {
            record.is_draining = true;
        }
        self.save_instance(instance).await;
        self.publish(instance);
    }

    pub(super) async fn take_note(&mut self, instance: InstanceId, happened: Happened) {
        match happened {
            Happened::Started(Ok(started)) => self.started(instance, *started),
            Happened::Started(Err(failure)) => self.not_started(instance, &failure).await,
            Happened::Ready => self.ready(instance).await,
            Happened::Exited => {
                let exit = self.look_at_exit(instance);
                self.clean(instance).await;
                self.exited(instance, exit).await;
            }
        }
    }

    /// The app did nothing, so it is no exit of the app: the replica waits for the next attempt.
    /// What is not restarted has only one, and its owner is told, as of what can never start.
    async fn not_started(&mut self, instance: InstanceId, failure: &Failure) {
        let workload = self.record.spec.key.workload;
        let (reason, now) = (failure.to_string(), self.host.env.now());
        let error = failure.source_text();
        tracing::warn!(%workload, %instance, reason, error, "an instance could not be started");
        if !self.record.spec.restart || failure.is_final() {
            return self.exited(instance, Exit { code: None, at: now, log_tail: reason }).await;
        }
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        replica.unmade = replica.unmade.saturating_add(1);
        replica.why = Some(reason);
        replica.stage = Stage::Waiting { until: now + failure::pause(replica.unmade) };
        self.publish(instance);
    }

    fn started(&mut self, instance: InstanceId, started: Started) {
        let Started { record, netns, pidfd } = started;
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        replica.stage = Stage::Running;
        (replica.unmade, replica.why) = (0, None);
        replica.netns = Some(netns);
        replica.record = Some(record);
        self.watch(instance, pidfd);
        self.publish(instance);
        self.await_ready(instance);
    }

    /// Watches for the exit; without a process it has happened already.
    fn watch(&mut self, instance: InstanceId, pidfd: Option<OwnedFd>) {
        let (happened, watched) = (self.happened.clone(), copy(pidfd.as_ref()));
        let task = self.tasks.spawn(async move {
            if let Some(pidfd) = watched
                && let Err(error) = wait_for_exit(pidfd).await
            {
                // Taken for an exit: what may still run is killed by the cleaning.
                tracing::error!(%instance, %error, "cannot watch a process");
            }
            happened.send((instance, Happened::Exited)).await.ok();
        });
        if let Some(replica) = self.replicas.get_mut(&instance) {
            replica.pidfd = pidfd;
            // Not among the tasks that are ended: an exit is always seen.
            drop(task);
        }
    }

    fn await_ready(&mut self, instance: InstanceId) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        let Some(record) = &replica.record else { return };
        let (ip, readiness) = (record.address.into(), self.record.spec.readiness.clone());
        let happened = self.happened.clone();
        let task = self.tasks.spawn(async move {
            readiness::wait(&readiness, ip).await;
            happened.send((instance, Happened::Ready)).await.ok();
        });
        replica.tasks.push(task);
    }

    async fn ready(&mut self, instance: InstanceId) {
        let now = self.host.env.now();
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        if replica.stage != Stage::Running {
            return;
        }
        replica.stage = Stage::Ready;
        if let Some(record) = &mut replica.record {
            record.ready_at = Some(now);
        }
        self.publish(instance);
        self.save_instance(instance).await;
    }

    fn look_at_exit(&self, instance: InstanceId) -> Exit {
        let state = &self.host.state;
        let replica = self.replicas.get(&instance);
        let is_killed = replica.is_some_and(|replica| replica.stage == Stage::Draining);
        Exit {
            code: state.exit_code(instance).or(is_killed.then_some(137)),
            at: self.host.env.now(),
            log_tail: files::tail(&state.log(instance), LOG_TAIL),
        }
    }

    /// Counts the exit and tells of it.
    async fn exited(&mut self, instance: InstanceId, exit: Exit) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        let was_asked = replica.stage == Stage::Draining;
        replica.stage = Stage::Exited;
        let mut is_kept = false;
        let mut ready_at = None;
        if let Some(record) = &mut replica.record {
            record.exit = Some(exit.clone());
            ready_at = record.ready_at;
            is_kept = !self.record.spec.restart;
        }
        if !was_asked {
            let was_stable = ready_at.is_some_and(|at| at + STABLE <= exit.at);
            self.record.exits_in_a_row =
                if was_stable { 1 } else { self.record.exits_in_a_row.saturating_add(1) };
            if self.record.spec.restart {
                self.record.restarts = self.record.restarts.saturating_add(1);
            }
            self.record.last_exit = Some(exit);
            self.save_or_warn().await;
        }
        if is_kept {
            self.save_instance(instance).await;
        }
        self.publish(instance);
    }

    /// Removes what an ended instance used; its address is unreachable first.
    async fn clean(&mut self, instance: InstanceId) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        for task in replica.tasks.drain(..) {
            task.abort();
        }
        replica.pidfd = None;
        let (netns, record) = (replica.netns.take(), replica.record.clone());
        let Some(record) = record else { return };
        clean(&self.host, record, netns).await;
    }

    /// Takes over an instance from before.
    pub(super) async fn adopt(&mut self, record: InstanceRecord) {
        let instance = record.instance;
        if record.process.is_none() && record.exit.is_none() {
            // Its start was cut short. It never was; a new one is made.
            clean(&self.host, record, None).await;
            self.host.state.remove_instance(instance).ok();
            return;
        }
        let alive = record.process.as_ref().filter(|process| process.is_alive());
        let pidfd = alive.and_then(|process| start::open_pid(process.pid).ok().flatten());
        let netns = alive
            .and_then(|process| fs_err::File::open(format!("/proc/{}/ns/net", process.pid)).ok());
        let stage = match () {
            () if record.exit.is_some() => Stage::Exited,
            // One that ended since was asked to: no exit of its own.
            () if record.is_draining => Stage::Draining,
            () if record.ready_at.is_some() && alive.is_some() => Stage::Ready,
            () => Stage::Running,
        };
        if self.record.spec.confinement == Confinement::Sandbox
            && alive.is_some()
            && let Err(error) =
                self.host.storage.yields(&instance.simple(), self.record.size.disk_mib.into())
        {
            tracing::warn!(%instance, %error, "a sandbox is not held when room is short");
        }
        let (is_draining, is_ready) = (record.is_draining, record.ready_at.is_some());
        let replica = Replica {
            revision: record.revision,
            stage,
            leave: is_draining.then_some(miosa_provider::When::WhenNewIsReady),
            created_at: record.started_at,
            unmade: 0,
            why: None,
            record: Some(record),
            netns: netns.map(|file| file.into_parts().0.into()),
            pidfd: None,
            tasks: Vec::new(),
        };
        self.replicas.insert(instance, replica);
        if stage == Stage::Exited {
            self.publish(instance);
        } else if pidfd.is_none() {
            let exit = self.look_at_exit(instance);
            self.clean(instance).await;
            self.exited(instance, exit).await;
        } else {
            self.watch(instance, pidfd);
            self.publish(instance);
            if is_draining {
                self.drain(instance).await;
            } else if !is_ready {
                self.await_ready(instance);
            }
        }
    }

    async fn save_or_warn(&self) {
        if let Err(error) = self.save().await {
            tracing::warn!(%error, "a workload's record could not be kept");
        }
    }

    async fn save_instance(&self, instance: InstanceId) {
        let Some(record) = self.replicas.get(&instance).and_then(|r| r.record.clone()) else {
            return;
        };
        let host = Arc::clone(&self.host);
        let work = move || host.state.save_instance(&record);
        if let Err(error) =
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten()
        {
            tracing::warn!(%instance, %error, "an instance's record could not be kept");
        }
    }
}

/// Removes what an instance used. What cannot be removed is left to the sweep.
pub(crate) async fn clean(
    host: &Arc<crate::host::Host>,
    record: InstanceRecord,
    netns: Option<OwnedFd>,
) {
    let instance = record.instance;
    let released = host.network.release(record.address, netns).await;
    let cleaning = Arc::clone(host);
    let work = move || start::clean(&cleaning, &record);
    let cleaned = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    for error in [released, cleaned].into_iter().filter_map(Result::err) {
        tracing::warn!(%instance, %error, "something of an ended instance is left");
    }
}

/// A pidfd is readable once its process has ended, also one that is not our child.
async fn wait_for_exit(pidfd: OwnedFd) -> io::Result<()> {
    launch::readable(pidfd)?.readable().await.map(drop)
}

fn send_kill(pidfd: &OwnedFd) {
    // It may have ended by itself.
    pidfd_send_signal(pidfd, Signal::KILL).ok();
}

fn copy(fd: Option<&OwnedFd>) -> Option<OwnedFd> {
    fd.and_then(|fd| fd.try_clone().ok())
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
