//! The boundary between control and whatever runs workloads.
//!
//! Promises: nothing here knows how a workload is run. Exec and files are not here: they go to
//! the guest. [`conformance`] is the contract as tests; it runs unchanged against every
//! implementation, the in-memory [`fake`] included.

pub mod board;
pub mod conformance;
pub mod fake;
pub mod plan;

use std::{collections::BTreeMap, fmt, net::SocketAddr, pin::Pin, time::Duration};

use async_trait::async_trait;
use futures_util::Stream;
use jiff::Timestamp;
use miosa_types::{Digest, InstanceId, SandboxId, Size, VersionId, WorkloadId, guest::Endpoint};
use serde::{Deserialize, Serialize};

/// Runs workloads: an OCI runtime on this host, Kubernetes, a fake.
///
/// # Contract (checked by [`conformance`] for every implementation)
///
/// - Every call is idempotent and keyed by id + revision; calling again after a time-out is
///   always safe, and an older revision never undoes a newer one (`Conflict`).
/// - The provider keeps the count and restarts what exits if the spec says so: first at once,
///   then with back-off. Each attempt is a new instance with a new id. A start that it could not
///   make is no exit: the replica stays `Pending`, says why, and is tried again. It judges no
///   health and never gives up; control does both.
/// - It reports what is true now, never what was asked, and it reports every workload of this
///   installation, so that leaked ones can be found.
/// - Nothing here retries. The reconciler calls again.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// What it can do. A capability that is not claimed is never asked for.
    fn caps(&self) -> Caps;

    /// What is missing on this machine and how to get it; empty when ready.
    async fn preflight(&self) -> Result<Vec<Missing>, Error>;

    /// Creates the workload or moves it to this revision. Returns once accepted; what became of
    /// it is seen in [`Provider::watch`].
    async fn apply(&self, spec: &WorkloadSpec) -> Result<(), Error>;

    /// Sets the number of replicas.
    async fn scale(&self, key: Key, replicas: u32) -> Result<(), Error>;

    /// Swaps one replica for a fresh one. `Ok` if that replica is gone already.
    async fn replace(&self, key: Key, instance: InstanceId, when: When) -> Result<(), Error>;

    /// Sends SIGTERM to the replicas, SIGKILL after `grace_s` seconds, and removes everything of
    /// the workload. `Ok` if there is nothing to remove.
    async fn delete(&self, key: Key, grace_s: u32) -> Result<(), Error>;

    /// Gives a pool slot to its owner, its limits set down to `size` first. `Conflict` if
    /// another has it or if the slot is gone; `Ok` if this owner has it already.
    async fn claim(&self, slot: Key, owner: Owner, size: Size) -> Result<(), Error>;

    /// Whether a new sandbox or build would have room now; else [`Error::Quota`], which
    /// [`Provider::apply`] of one and [`Provider::claim`] answer with then.
    async fn room(&self) -> Result<(), Error>;

    /// Memory of the host; `None` if there is no single host, or if it cannot be told.
    async fn memory(&self) -> Option<Memory> {
        None
    }

    /// CPU time that a replica has used since it began; `None` if that cannot be told.
    async fn cpu_time(&self, instance: InstanceId) -> Option<Duration>;

    /// A `Snapshot` first, then changes, in order. When the stream ends nothing is known (which
    /// is not "gone"): watch again and compare with the new snapshot.
    async fn watch(&self) -> Result<Events, Error>;
}

/// Memory of a host, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_mib: u64,
    /// What a new program could have without anything being paged out.
    pub available_mib: u64,
}

/// What [`Provider::watch`] returns.
pub type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// Names one revision of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The workload.
    pub workload: WorkloadId,
    /// Raised with each change of its spec; counts from 1.
    pub revision: u64,
}

/// Whom a workload belongs to. A slot is claimed once. Only `Version` can ever become a
/// production route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Owner {
    /// The warm pool.
    Pool,
    /// An edit environment.
    Sandbox(SandboxId),
    /// A build of a version; gone when the build ends.
    Build(VersionId),
    /// A published version.
    Version(VersionId),
}

/// What to run: `replicas` interchangeable replicas of one immutable revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {
    /// Id and revision.
    pub key: Key,
    /// Whose it is.
    pub owner: Owner,
    /// What the root filesystem is made from.
    pub root: Root,
    /// Limits of each replica.
    pub size: Size,
    /// How many replicas.
    pub replicas: u32,
    /// Whether a replica that exits is started again. False for a sandbox: one replica that is
    /// never restarted.
    pub restart: bool,
    /// What it may do inside.
    pub confinement: Confinement,
    /// The process that the replica exists for. `None`: the guest alone (a sandbox). When this
    /// process ends, the replica ends with its exit code.
    pub command: Option<Command>,
    /// When a replica counts as ready.
    pub readiness: Readiness,
    /// Host name inside.
    pub hostname: String,
}

/// A root filesystem: a template, and on top of it at most one immutable layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Name or alias of a template, or its digest.
    pub template: String,
    /// Artifact (a tar whose paths are relative to `/`) that lies over the template.
    pub layer: Option<Digest>,
}

/// A process of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working folder.
    pub cwd: String,
    /// Environment, in addition to the template's.
    pub env: BTreeMap<String, String>,
}

/// What processes inside may do (design §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// Root, sudo and apt work, inside an own uid range. Sandboxes and builds.
    Sandbox,
    /// No capability, no new privileges, not root. Runtime instances.
    Runtime,
}

/// When a replica is ready. The provider checks it until it is true once; whether it stays
/// healthy is control's to judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum Readiness {
    /// The guest answers. Its address becomes `Ready { addr }`.
    Guest,
    /// A TCP connection to the port is accepted.
    Tcp {
        /// Port inside.
        port: u16,
    },
    /// `GET path` on the port is answered with a status from 200 to 399.
    Http {
        /// Port inside.
        port: u16,
        /// Path with a leading slash.
        path: String,
    },
}

/// When a replaced replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before the new one starts.
    Now,
    /// After the new one is ready.
    WhenNewIsReady,
}

/// A change of what is observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that is there.
    Snapshot(Vec<Observed>),
    /// A replica that is new or changed.
    Upsert(Box<Observed>),
    /// A replica that is no more.
    Gone(InstanceId),
}

/// What is seen of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Workload and the revision that this replica runs.
    pub key: Key,
    /// This replica.
    pub instance: InstanceId,
    /// Whose it is now.
    pub owner: Owner,
    /// What it does.
    pub phase: Phase,
    /// Its limits now.
    pub size: Size,
    /// Digest of the template that it was started from: tells slots of an old template.
    pub template: Digest,
    /// The way in, while it runs.
    pub guest: Option<Endpoint>,
    /// When this replica began to start.
    pub started_at: Timestamp,
    /// When it became ready.
    pub ready_at: Option<Timestamp>,
    /// How often this workload's replicas were started again, over its whole life.
    pub restarts: u32,
    /// Exits since a replica of this workload was last ready for [`plan::STABLE`].
    pub exits_in_a_row: u32,
    /// The last exit of this workload before this replica, if any.
    pub last_exit: Option<Exit>,
}

/// How a replica ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 + signal; `None` if nobody could tell.
    pub code: Option<i32>,
    /// When.
    pub at: Timestamp,
    /// The end of its output, at most 4 KiB, as text.
    pub log_tail: String,
}

/// The one place an address comes from; rows never store a copy to route by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Being prepared, or waiting for the end of a back-off.
    Pending {
        /// What for.
        why: String,
    },
    /// Its process runs; it is not ready.
    Running {
        /// Where it will be reached.
        addr: SocketAddr,
    },
    /// It answers.
    Ready {
        /// Where it is reached.
        addr: SocketAddr,
    },
    /// It was told to end.
    Draining {
        /// Where it is still reached.
        addr: SocketAddr,
    },
    /// Cannot be seen any more; it may still run.
    Lost,
    /// It ended.
    Exited {
        /// Exit code, or 128 + signal; -1 if nobody could tell.
        code: i32,
    },
}

impl Phase {
    /// Only a ready replica has an address that may become a route.
    pub const fn ready(&self) -> Option<SocketAddr> {
        if let Self::Ready { addr } = self { Some(*addr) } else { None }
    }
}

/// What a provider can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Snapshots of a filesystem.
    pub snapshot: bool,
    /// Pause and resume.
    pub pause: bool,
    /// Change of limits while it runs.
    pub resize: bool,
    /// Whether disk limits are enforced by the kernel.
    pub hard_disk_limit: bool,
}

/// A prerequisite that this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub what: String,
    /// What to do about it.
    pub hint: String,
    /// Whether nothing can run without it.
    pub is_fatal: bool,
}

/// Split by what the caller does next, not by what went wrong inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Asking again cannot help until the spec changes.
    #[error("workload refused: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The request is fine: another host, or later.
    #[error("no room: {reason}")]
    Quota {
        /// What is short.
        reason: String,
    },
    /// A newer revision or another owner was here first. Read again, plan again.
    #[error("{workload:?} was changed by someone else")]
    Conflict {
        /// Which.
        workload: WorkloadId,
    },
    /// Outcome unknown. Observe before deciding anything.
    #[error("provider did not answer")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An operator must act; shown by `miosa doctor`.
    #[error("provider may not {action}")]
    Forbidden {
        /// What it tried.
        action: String,
    },
}
