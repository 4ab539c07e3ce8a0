//! One task for each workload: it keeps the count of replicas, and is the only one that changes
//! anything of them.
//!
//! Promises: idle, it only waits (for a request, an exit, the end of a pause); what it decides is
//! [`miosa_provider::plan`]'s; a request is kept on disk before it is answered; nothing here blocks the runtime.

mod act;
mod failure;
pub(crate) mod start;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use miosa_provider::{
    Error, Key, Observed, Owner, Phase, When, WorkloadSpec,
    plan::{Desired, Seen, Stage},
};
use miosa_types::{InstanceId, Size, WorkloadId, guest::Endpoint};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use crate::{
    cgroup::Limits,
    host::Host,
    readiness,
    state::{InstanceRecord, WorkloadRecord},
    template::Template,
};

/// Requests that wait for one workload.
const MAILBOX: usize = 64;

/// What is asked of a workload.
#[derive(Debug)]
pub(crate) enum Request {
    /// Moves to this spec.
    Apply(Box<WorkloadSpec>, Box<Template>),
    /// Sets the number of replicas.
    Scale(Key, u32),
    /// Swaps one replica.
    Replace(Key, InstanceId, When),
    /// Removes it, with that many seconds of grace.
    Delete(Key, u32),
    /// Gives it to an owner.
    Claim(Key, Owner, Size),
}

type Reply = oneshot::Sender<Result<(), Error>>;

/// The tasks by workload.
#[derive(Debug, Default)]
pub(crate) struct Workloads(Mutex<HashMap<WorkloadId, mpsc::Sender<(Request, Reply)>>>);

impl Workloads {
    /// The way to a workload's task.
    pub(crate) fn get(&self, workload: WorkloadId) -> Option<mpsc::Sender<(Request, Reply)>> {
        self.lock().get(&workload).cloned()
    }

    /// Ids of all.
    pub(crate) fn ids(&self) -> Vec<WorkloadId> {
        self.lock().keys().copied().collect()
    }

    /// Asks a workload's task; `None` if there is no such workload.
    pub(crate) async fn ask(
        &self,
        workload: WorkloadId,
        mut request: Request,
    ) -> Option<Result<(), Error>> {
        // A task may end between the look-up and the sending; then there is no workload, or a
        // new one of the same id.
        loop {
            let mailbox = self.get(workload)?;
            let (reply, answer) = oneshot::channel();
            match mailbox.send((request, reply)).await {
                Ok(()) => {
                    let gone = || Err(unavailable("the provider is being closed"));
                    return Some(answer.await.unwrap_or_else(|_| gone()));
                }
                Err(mpsc::error::SendError((returned, _))) => request = returned,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Starts a task for a record unless there is one.
    pub(crate) fn insert(
        self: &Arc<Self>,
        host: &Arc<Host>,
        record: WorkloadRecord,
        template: Template,
    ) {
        let mut all = self.lock();
        let workload = record.spec.key.workload;
        all.entry(workload).or_insert_with(|| {
            let (mailbox, requests) = mpsc::channel(MAILBOX);
            let actor = Actor::new(Arc::clone(host), Arc::downgrade(self), record, Some(template));
            tokio::spawn(actor.run(requests));
            mailbox
        });
    }

    /// Takes a workload over whose instances are from before.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        host: &Arc<Host>,
        record: WorkloadRecord,
        instances: Vec<InstanceRecord>,
    ) {
        let (mailbox, requests) = mpsc::channel(MAILBOX);
        let workload = record.spec.key.workload;
        let name = record.spec.root.template.clone();
        let found = host.resolve(name).await;
        let mut actor = Actor::new(Arc::clone(host), Arc::downgrade(self), record, found.ok());
        for instance in instances {
            actor.adopt(instance).await;
        }
        self.lock().insert(workload, mailbox);
        tokio::spawn(actor.run(requests));
    }

    /// Ends every task; instances go on.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<WorkloadId, mpsc::Sender<(Request, Reply)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened to an instance.
#[derive(Debug)]
enum Happened {
    Started(Result<Box<start::Started>, failure::Failure>),
    Ready,
    Exited,
}

#[derive(Debug)]
struct Replica {
    revision: u64,
    stage: Stage,
    leave: Option<When>,
    /// When this attempt began.
    created_at: Timestamp,
    /// Attempts in a row that the platform could not make, and why the last one.
    unmade: u32,
    why: Option<String>,
    record: Option<InstanceRecord>,
    netns: Option<OwnedFd>,
    pidfd: Option<OwnedFd>,
    /// Watching for exit and readiness; the time of grace.
    tasks: Vec<AbortHandle>,
}

#[derive(Debug)]
struct Actor {
    host: Arc<Host>,
    workloads: std::sync::Weak<Workloads>,
    record: WorkloadRecord,
    /// `None` only for a workload from before whose template is gone.
    template: Option<Template>,
    replicas: BTreeMap<InstanceId, Replica>,
    happened: mpsc::Sender<(InstanceId, Happened)>,
    happenings: mpsc::Receiver<(InstanceId, Happened)>,
    tasks: JoinSet<()>,
}

impl Actor {
    fn new(
        host: Arc<Host>,
        workloads: std::sync::Weak<Workloads>,
        record: WorkloadRecord,
        template: Option<Template>,
    ) -> Self {
        let (happened, happenings) = mpsc::channel(MAILBOX);
        let (replicas, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { host, workloads, record, template, replicas, happened, happenings, tasks }
    }

    async fn run(mut self, mut requests: mpsc::Receiver<(Request, Reply)>) {
        loop {
            let Some(wake_at) = self.settle().await else {
                if self.forget(&mut requests).await {
                    return;
                }
                continue;
            };
            while self.tasks.try_join_next().is_some() {}
            let pause = wake_at.map(|at| self.until(at));
            tokio::select! {
                request = requests.recv() => match request {
                    // The provider was dropped. What runs goes on.
                    None => return,
                    Some((request, reply)) => {
                        let answer = self.answer(request).await;
                        // Nobody waits for the answer any more: it was acted upon all the same.
                        reply.send(answer).ok();
                    }
                },
                Some((instance, happened)) = self.happenings.recv() => {
                    self.take_note(instance, happened).await;
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    fn until(&self, at: Timestamp) -> std::time::Duration {
        at.duration_since(self.host.env.now()).try_into().unwrap_or_default()
    }

    /// Ends this task, unless a request came in meanwhile.
    async fn forget(&mut self, requests: &mut mpsc::Receiver<(Request, Reply)>) -> bool {
        if let Err(error) = self.host.state.remove_workload(self.record.spec.key.workload) {
            tracing::warn!(%error, "a workload's record could not be removed");
        }
        if let Some(workloads) = self.workloads.upgrade() {
            workloads.lock().remove(&self.record.spec.key.workload);
        }
        requests.close();
        // Whoever asked in between is answered as if the workload were gone already.
        while let Some((request, reply)) = requests.recv().await {
            let answer = match request {
                Request::Delete(..) | Request::Replace(..) => Ok(()),
                Request::Apply(..) | Request::Scale(..) | Request::Claim(..) => self.conflict(),
            };
            reply.send(answer).ok();
        }
        true
    }

    async fn answer(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Apply(spec, template) => self.apply(*spec, *template).await,
            Request::Scale(key, replicas) => {
                self.check(key)?;
                if self.record.spec.replicas != replicas {
                    self.record.spec.replicas = replicas;
                    self.save().await?;
                }
                Ok(())
            }
            Request::Replace(key, instance, when) => {
                self.check(key)?;
                if let Some(replica) = self.replicas.get_mut(&instance) {
                    // `Now` is the stronger wish.
                    let is_now = replica.leave == Some(When::Now);
                    replica.leave = Some(if is_now { When::Now } else { when });
                }
                Ok(())
            }
            Request::Delete(key, grace_s) => {
                if key.revision < self.record.spec.key.revision {
                    return self.conflict();
                }
                if self.record.deleting.is_none_or(|grace| grace > grace_s) {
                    self.record.deleting = Some(grace_s);
                    self.save().await?;
                    self.shorten_drains();
                }
                Ok(())
            }
            Request::Claim(slot, owner, size) => self.claim(slot, owner, size).await,
        }
    }

    async fn apply(&mut self, spec: WorkloadSpec, template: Template) -> Result<(), Error> {
        let (new, old) = (spec.key.revision, self.record.spec.key.revision);
        if new < old || self.record.deleting.is_some() {
            return self.conflict();
        }
        if new == old {
            return Ok(());
        }
        self.record.owner = spec.owner;
        self.record.size = spec.size;
        self.record.exits_in_a_row = 0;
        self.record.spec = spec;
        self.template = Some(template);
        self.save().await
    }

    async fn claim(&mut self, slot: Key, owner: Owner, size: Size) -> Result<(), Error> {
        if self.record.owner == owner {
            return Ok(());
        }
        let ready = self.replicas.values().find(|replica| replica.stage == Stage::Ready);
        let is_free = self.record.owner == Owner::Pool
            && self.record.deleting.is_none()
            && slot.revision == self.record.spec.key.revision;
        let Some(instance) = ready.and_then(|replica| replica.record.as_ref()).filter(|_| is_free)
        else {
            return self.conflict();
        };
        if !self.record.size.fits(size) {
            return Err(Error::Invalid { reason: "the slot is smaller than what is asked".into() });
        }
        let instance = instance.instance;
        let record = WorkloadRecord { owner, size, ..self.record.clone() };
        let (host, kept, old) = (Arc::clone(&self.host), record.clone(), self.record.size);
        let work = move || {
            if old != size {
                let group = host.names.instance_cgroup(instance);
                host.runtime.cgroups().lower(&group, &Limits::of(size))?;
                host.storage
                    .set_limit(&instance.simple(), size.disk_mib.into())
                    .map_err(io::Error::other)?;
            }
            host.state.save_workload(&kept)
        };
        tokio::task::spawn_blocking(work).await.map_err(unavailable)?.map_err(unavailable)?;
        self.record = record;
        self.publish_all();
        Ok(())
    }

    /// Whether `key` names what this workload is now.
    fn check(&self, key: Key) -> Result<(), Error> {
        let is_now = key.revision == self.record.spec.key.revision;
        if is_now && self.record.deleting.is_none() { Ok(()) } else { self.conflict() }
    }

    fn conflict(&self) -> Result<(), Error> {
        Err(Error::Conflict { workload: self.record.spec.key.workload })
    }

    async fn save(&self) -> Result<(), Error> {
        let (host, record) = (Arc::clone(&self.host), self.record.clone());
        let work = move || host.state.save_workload(&record);
        tokio::task::spawn_blocking(work).await.map_err(unavailable)?.map_err(unavailable)
    }

    fn desired(&self) -> Desired {
        Desired {
            revision: self.record.spec.key.revision,
            replicas: usize::try_from(self.record.spec.replicas).unwrap_or(usize::MAX),
            restart: self.record.spec.restart,
            is_deleting: self.record.deleting.is_some(),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let see = |(instance, replica): (&InstanceId, &Replica)| Seen {
            instance: *instance,
            revision: replica.revision,
            stage: replica.stage,
            leave: replica.leave,
        };
        self.replicas.iter().map(see).collect()
    }

    fn publish_all(&self) {
        for instance in self.replicas.keys() {
            self.publish(*instance);
        }
    }

    /// Tells watchers what is true of a replica.
    fn publish(&self, instance: InstanceId) {
        let Some(replica) = self.replicas.get(&instance) else { return };
        let record = replica.record.as_ref();
        let ip = record.map(|record| std::net::IpAddr::V4(record.address));
        let addr = ip.map(|ip| readiness::address(&self.record.spec.readiness, ip));
        let why = |why: &str| Phase::Pending { why: why.into() };
        let exit = record.and_then(|record| record.exit.as_ref());
        let phase = match (replica.stage, addr) {
            (Stage::Waiting { .. }, _) => {
                why(replica.why.as_deref().unwrap_or("waiting for its time to start"))
            }
            (Stage::Running, Some(addr)) => Phase::Running { addr },
            (Stage::Ready, Some(addr)) => Phase::Ready { addr },
            (Stage::Draining, Some(addr)) => Phase::Draining { addr },
            (Stage::Exited, _) => {
                Phase::Exited { code: exit.and_then(|exit| exit.code).unwrap_or(-1) }
            }
            _ => why("starting"),
        };
        let is_up = matches!(replica.stage, Stage::Running | Stage::Ready | Stage::Draining);
        let guest = record.filter(|_| is_up).map(|record| Endpoint {
            addr: (record.address, miosa_types::guest::PORT).into(),
            token: record.token.clone(),
        });
        let template = self.template.as_ref().map(|template| template.digest);
        let none = miosa_types::Digest::from_bytes([0; 32]);
        self.host.board.upsert(Observed {
            key: Key { revision: replica.revision, ..self.record.spec.key },
            instance,
            owner: self.record.owner,
            phase,
            size: self.record.size,
            template: record.map(|record| record.template).or(template).unwrap_or(none),
            guest,
            started_at: replica.created_at,
            ready_at: record.and_then(|record| record.ready_at),
            restarts: self.record.restarts,
            exits_in_a_row: self.record.exits_in_a_row,
            last_exit: exit.or(self.record.last_exit.as_ref()).cloned(),
        });
    }
}

/// The outcome is unknown: observe first.
pub(crate) fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { source: source.into() }
}
