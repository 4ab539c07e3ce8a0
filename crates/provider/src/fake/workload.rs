//! One workload of the fake.

use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;
use miosa_types::{
    Digest, Env, InstanceId, Secret, Size,
    guest::{self, Endpoint},
};

use super::Auto;
use crate::{
    Exit, Key, Observed, Owner, Phase, Readiness, When, WorkloadSpec,
    board::Board,
    plan::{Desired, STABLE, Seen, Stage, pause},
};

#[derive(Debug)]
pub(super) struct Workload {
    pub(super) spec: WorkloadSpec,
    pub(super) owner: Owner,
    pub(super) size: Size,
    pub(super) restarts: u32,
    pub(super) exits_in_a_row: u32,
    pub(super) last_exit: Option<Exit>,
    pub(super) is_deleting: bool,
    pub(super) replicas: BTreeMap<InstanceId, Replica>,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) revision: u64,
    pub(super) stage: Stage,
    pub(super) leave: Option<When>,
    pub(super) is_lost: bool,
    pub(super) addr: SocketAddr,
    pub(super) token: Secret,
    pub(super) created_at: Timestamp,
    pub(super) ready_at: Option<Timestamp>,
    pub(super) exit: Option<Exit>,
}

impl Workload {
    pub(super) fn desired(&self) -> Desired {
        Desired {
            revision: self.spec.key.revision,
            replicas: usize::try_from(self.spec.replicas).unwrap_or(usize::MAX),
            restart: self.spec.restart,
            is_deleting: self.is_deleting,
        }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        let see = |(instance, replica): (&InstanceId, &Replica)| Seen {
            instance: *instance,
            revision: replica.revision,
            stage: replica.stage,
            leave: replica.leave,
        };
        self.replicas.iter().map(see).collect()
    }

    pub(super) fn create(
        &mut self,
        instance: InstanceId,
        addr: SocketAddr,
        now: Timestamp,
        env: &Env,
    ) {
        let rest = pause(self.exits_in_a_row);
        let until = self.last_exit.as_ref().map_or(now, |exit| (exit.at + rest).max(now));
        let replica = Replica {
            revision: self.spec.key.revision,
            stage: Stage::Waiting { until },
            leave: None,
            is_lost: false,
            addr,
            token: Secret::new(env.token(32)),
            created_at: now,
            ready_at: None,
            exit: None,
        };
        self.replicas.insert(instance, replica);
    }

    pub(super) fn start(&mut self, instance: InstanceId, auto: Auto, now: Timestamp) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        replica.created_at = now;
        replica.stage = match auto {
            Auto::Pending => Stage::Starting,
            Auto::Running => Stage::Running,
            Auto::Ready => Stage::Ready,
        };
        replica.ready_at = (auto == Auto::Ready).then_some(now);
    }

    /// `ends_at`: it ends at once.
    pub(super) fn drain(&mut self, instance: InstanceId, ends_at: Option<Timestamp>) {
        if let Some(replica) = self.replicas.get_mut(&instance) {
            replica.stage = Stage::Draining;
        }
        if let Some(at) = ends_at {
            self.exited(instance, Exit { code: Some(143), at, log_tail: String::new() });
        }
    }

    pub(super) fn exited(&mut self, instance: InstanceId, exit: Exit) {
        let Some(replica) = self.replicas.get_mut(&instance) else { return };
        let was_asked = replica.stage == Stage::Draining;
        replica.stage = Stage::Exited;
        replica.exit = Some(exit.clone());
        if !was_asked {
            let was_stable = replica.ready_at.is_some_and(|at| at + STABLE <= exit.at);
            self.exits_in_a_row = if was_stable { 1 } else { self.exits_in_a_row + 1 };
            self.restarts += u32::from(self.spec.restart);
            self.last_exit = Some(exit);
        }
    }

    pub(super) fn count_stable(&mut self, now: Timestamp) {
        let is_stable = |replica: &Replica| {
            replica.stage == Stage::Ready && replica.ready_at.is_some_and(|at| at + STABLE <= now)
        };
        if self.replicas.values().any(is_stable) {
            self.exits_in_a_row = 0;
        }
    }

    pub(super) fn publish(&self, board: &Board) {
        for (instance, replica) in &self.replicas {
            let addr = replica.addr;
            let phase = match replica.stage {
                _ if replica.is_lost => Phase::Lost,
                Stage::Waiting { .. } => {
                    Phase::Pending { why: "waiting for its time to start".into() }
                }
                Stage::Starting => Phase::Pending { why: "starting".into() },
                Stage::Running => Phase::Running { addr },
                Stage::Ready => Phase::Ready { addr },
                Stage::Draining => Phase::Draining { addr },
                Stage::Exited => Phase::Exited {
                    code: replica.exit.as_ref().and_then(|exit| exit.code).unwrap_or(-1),
                },
            };
            let is_up = matches!(replica.stage, Stage::Running | Stage::Ready | Stage::Draining);
            let guest = is_up.then(|| Endpoint {
                addr: SocketAddr::new(addr.ip(), guest::PORT),
                token: replica.token.clone(),
            });
            board.upsert(Observed {
                key: Key { revision: replica.revision, ..self.spec.key },
                instance: *instance,
                owner: self.owner,
                phase,
                size: self.size,
                template: Digest::of(self.spec.root.template.as_bytes()),
                guest,
                started_at: replica.created_at,
                ready_at: replica.ready_at,
                restarts: self.restarts,
                exits_in_a_row: self.exits_in_a_row,
                last_exit: replica.exit.as_ref().or(self.last_exit.as_ref()).cloned(),
            });
        }
    }
}

/// An address of the benchmark range (RFC 2544), where nothing answers.
pub(super) fn address(readiness: &Readiness, number: u32) -> SocketAddr {
    let port = match readiness {
        Readiness::Guest => guest::PORT,
        Readiness::Tcp { port } | Readiness::Http { port, .. } => *port,
    };
    let ip = u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0)) + (number & 0x1_ffff);
    SocketAddr::from((std::net::Ipv4Addr::from(ip), port))
}
