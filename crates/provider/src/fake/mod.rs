//! An in-memory provider that fails on request.
//!
//! It keeps the contract of [`Provider`] (the conformance suite runs against it) and does nothing
//! by itself but what [`Auto`] says: tests say when a replica runs, is ready, exits or is lost,
//! and which call fails. Its time is the [`Env`]'s; after moving that clock call [`Fake::tick`].

mod workload;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_types::{Env, InstanceId, Size, WorkloadId};

use self::workload::{Replica, Workload, address};
use crate::{
    Caps, Confinement, Error, Events, Exit, Key, Memory, Missing, Observed, Owner, Provider, When,
    WorkloadSpec,
    board::Board,
    plan::{Action, Stage, plan},
};

/// How far a started replica goes by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Auto {
    /// It stays pending.
    Pending,
    /// It runs.
    Running,
    /// It is ready, and ends as soon as it is told to.
    #[default]
    Ready,
}

/// When a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was done.
    Before,
    /// Everything was done; only the answer is lost.
    After,
}

/// A call that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`Provider::apply`].
    Apply(Key),
    /// [`Provider::scale`].
    Scale(Key, u32),
    /// [`Provider::replace`].
    Replace(Key, InstanceId, When),
    /// [`Provider::delete`].
    Delete(Key),
    /// [`Provider::claim`].
    Claim(Key, Owner),
}

/// The fake.
#[derive(Debug)]
pub struct Fake {
    env: Env,
    board: Board,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    auto: Auto,
    /// Templates that there are; any if empty.
    templates: Vec<String>,
    calls: Vec<Call>,
    /// By number of the call, counted from 0.
    faults: BTreeMap<usize, Fault>,
    workloads: BTreeMap<WorkloadId, Workload>,
    memory: Option<Memory>,
    addresses: u32,
    /// What is short, if something is.
    short: Option<String>,
    /// CPU time used, and what is added each time that somebody asks.
    cpu_steps: BTreeMap<InstanceId, (Duration, Duration)>,
}

impl Fake {
    /// With no workload, and replicas that become ready by themselves.
    pub fn new(env: Env) -> Self {
        Self { env, board: Board::default(), state: Mutex::default() }
    }

    /// How far replicas go by themselves from now on.
    pub fn set_auto(&self, auto: Auto) {
        self.lock().auto = auto;
    }

    /// Only these templates are known from now on.
    pub fn set_templates(&self, names: &[&str]) {
        self.lock().templates = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// Lets the call of that number fail, counted from 0 over all calls ([`Fake::calls`]).
    pub fn fail_call(&self, number: usize, fault: Fault) {
        self.lock().faults.insert(number, fault);
    }

    /// Lets the next call fail.
    pub fn fail_next(&self, fault: Fault) {
        let mut state = self.lock();
        let number = state.calls.len();
        state.faults.insert(number, fault);
    }

    /// Memory of the host from now on.
    pub fn set_memory(&self, memory: Option<Memory>) {
        self.lock().memory = memory;
    }

    /// New sandboxes and builds have no room from now on, for that reason; or they have again.
    pub fn set_short(&self, reason: Option<&str>) {
        self.lock().short = reason.map(str::to_owned);
    }

    /// The calls so far, those that failed included.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// What is observed now.
    pub fn observed(&self) -> Vec<Observed> {
        self.board.all()
    }

    /// What is observed now of one workload, oldest first.
    pub fn of_workload(&self, workload: WorkloadId) -> Vec<Observed> {
        self.board.all().into_iter().filter(|one| one.key.workload == workload).collect()
    }

    /// The replica's process runs. No effect on one that is not starting.
    pub fn running(&self, instance: InstanceId) {
        self.change(instance, |replica, _| {
            if replica.stage == Stage::Starting {
                replica.stage = Stage::Running;
            }
        });
    }

    /// The replica is ready.
    pub fn ready(&self, instance: InstanceId) {
        self.change(instance, |replica, now| {
            if matches!(replica.stage, Stage::Starting | Stage::Running) {
                replica.stage = Stage::Ready;
                replica.ready_at = Some(now);
            }
            replica.is_lost = false;
        });
    }

    /// The replica cannot be seen any more. [`Fake::ready`] brings it back.
    pub fn lose(&self, instance: InstanceId) {
        self.change(instance, |replica, _| replica.is_lost = true);
    }

    /// The replica answers at this address from now on.
    pub fn set_addr(&self, instance: InstanceId, addr: SocketAddr) {
        self.change(instance, |replica, _| replica.addr = addr);
    }

    /// The replica uses CPU time from now on, or none at all. Until then nobody can tell.
    pub fn set_busy(&self, instance: InstanceId, is_busy: bool) {
        let step = if is_busy { Duration::from_millis(100) } else { Duration::ZERO };
        self.lock().cpu_steps.insert(instance, (Duration::ZERO, step));
    }

    /// The replica's process ends.
    pub fn exit(&self, instance: InstanceId, code: i32) {
        self.exit_with(instance, Some(code), "");
    }

    /// The replica's process ends, having written that last.
    pub fn exit_with(&self, instance: InstanceId, code: Option<i32>, log_tail: &str) {
        let now = self.env.now();
        let mut state = self.lock();
        let Some(workload) = state.of_instance(instance) else { return };
        workload.exited(instance, Exit { code, at: now, log_tail: log_tail.to_owned() });
        let workload = workload.spec.key.workload;
        self.settle(&mut state, workload);
    }

    /// Looks at the clock again: starts what waited for its time.
    pub fn tick(&self) {
        let mut state = self.lock();
        for workload in state.workloads.keys().copied().collect::<Vec<_>>() {
            self.settle(&mut state, workload);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, instance: InstanceId, change: impl FnOnce(&mut Replica, Timestamp)) {
        let now = self.env.now();
        let mut state = self.lock();
        let Some(workload) = state.of_instance(instance) else { return };
        if let Some(replica) = workload.replicas.get_mut(&instance) {
            change(replica, now);
        }
        let workload = workload.spec.key.workload;
        self.settle(&mut state, workload);
    }

    /// Takes a call in, with the fault that is planned for it.
    fn call(
        &self,
        call: Call,
        work: impl FnOnce(&mut State) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut state = self.lock();
        let number = state.calls.len();
        let fault = state.faults.remove(&number);
        let key = match &call {
            Call::Apply(key)
            | Call::Scale(key, _)
            | Call::Replace(key, ..)
            | Call::Delete(key)
            | Call::Claim(key, _) => *key,
        };
        state.calls.push(call);
        let failed = || Err(Error::Unavailable { source: "a planned fault".into() });
        if fault == Some(Fault::Before) {
            return failed();
        }
        let done = work(&mut state);
        self.settle(&mut state, key.workload);
        if fault == Some(Fault::After) { failed() } else { done }
    }

    /// Acts until nothing is left to do.
    fn settle(&self, state: &mut State, id: WorkloadId) {
        let (now, auto) = (self.env.now(), state.auto);
        loop {
            let Some(workload) = state.workloads.get_mut(&id) else { return };
            workload.count_stable(now);
            // Also what is about to be removed is seen once: an exit, for example.
            workload.publish(&self.board);
            let (actions, _) = plan(&workload.desired(), &workload.seen(), now);
            let is_at_rest = actions.is_empty();
            for action in actions {
                match action {
                    Action::Create => {
                        state.addresses += 1;
                        let addr = address(&workload.spec.readiness, state.addresses);
                        workload.create(self.env.id(), addr, now, &self.env);
                    }
                    Action::Start(instance) => workload.start(instance, auto, now),
                    Action::Drain(instance) => {
                        workload
                            .drain(instance, if auto == Auto::Ready { Some(now) } else { None });
                    }
                    Action::Kill(instance) => workload.drain(instance, Some(now)),
                    Action::Remove(instance) => {
                        workload.replicas.remove(&instance);
                        self.board.gone(instance);
                    }
                    Action::Forget => {
                        state.workloads.remove(&id);
                        return;
                    }
                }
                workload.publish(&self.board);
            }
            if is_at_rest {
                return;
            }
        }
    }
}

impl State {
    fn room(&self) -> Result<(), Error> {
        self.short.clone().map_or(Ok(()), |reason| Err(Error::Quota { reason }))
    }

    fn of_instance(&mut self, instance: InstanceId) -> Option<&mut Workload> {
        self.workloads.values_mut().find(|workload| workload.replicas.contains_key(&instance))
    }

    /// The workload, if `key` names what it is now.
    fn current(&mut self, key: Key) -> Result<&mut Workload, Error> {
        let conflict = Error::Conflict { workload: key.workload };
        let workload = self.workloads.get_mut(&key.workload);
        workload
            .filter(|workload| !workload.is_deleting && workload.spec.key.revision == key.revision)
            .ok_or(conflict)
    }

    fn apply(&mut self, spec: &WorkloadSpec) -> Result<(), Error> {
        let Size { memory_mib, cpu_millis, disk_mib } = spec.size;
        if let Err(error) = Size::new(memory_mib, cpu_millis, disk_mib) {
            return Err(Error::Invalid { reason: error.to_string() });
        }
        let template = &spec.root.template;
        if !self.templates.is_empty() && !self.templates.contains(template) {
            return Err(Error::Invalid { reason: format!("there is no template `{template}`") });
        }
        let new = Workload {
            spec: spec.clone(),
            owner: spec.owner,
            size: spec.size,
            restarts: 0,
            exits_in_a_row: 0,
            last_exit: None,
            is_deleting: false,
            replicas: BTreeMap::new(),
        };
        let Some(old) = self.workloads.get_mut(&spec.key.workload) else {
            self.workloads.insert(spec.key.workload, new);
            return Ok(());
        };
        if spec.key.revision < old.spec.key.revision || old.is_deleting {
            return Err(Error::Conflict { workload: spec.key.workload });
        }
        if spec.key.revision > old.spec.key.revision {
            let (restarts, last_exit) = (old.restarts, old.last_exit.take());
            let replicas = std::mem::take(&mut old.replicas);
            *old = Workload { restarts, last_exit, replicas, ..new };
        }
        Ok(())
    }

    fn claim(&mut self, slot: Key, owner: Owner, size: Size) -> Result<(), Error> {
        let workload = self.current(slot)?;
        if workload.owner == owner {
            return Ok(());
        }
        let is_ready = workload.replicas.values().any(|one| one.stage == Stage::Ready);
        if workload.owner != Owner::Pool || !is_ready {
            return Err(Error::Conflict { workload: slot.workload });
        }
        if !workload.size.fits(size) {
            return Err(Error::Invalid { reason: "the slot is smaller than what is asked".into() });
        }
        workload.owner = owner;
        workload.size = size;
        Ok(())
    }
}

#[async_trait]
impl Provider for Fake {
    fn caps(&self) -> Caps {
        Caps { hard_disk_limit: true, ..Caps::default() }
    }

    async fn preflight(&self) -> Result<Vec<Missing>, Error> {
        Ok(Vec::new())
    }

    async fn apply(&self, spec: &WorkloadSpec) -> Result<(), Error> {
        self.call(Call::Apply(spec.key), |state| {
            let is_new = !state.workloads.contains_key(&spec.key.workload);
            if is_new && spec.confinement == Confinement::Sandbox {
                state.room()?;
            }
            state.apply(spec)
        })
    }

    async fn scale(&self, key: Key, replicas: u32) -> Result<(), Error> {
        self.call(Call::Scale(key, replicas), |state| {
            state.current(key)?.spec.replicas = replicas;
            Ok(())
        })
    }

    async fn replace(&self, key: Key, instance: InstanceId, when: When) -> Result<(), Error> {
        self.call(Call::Replace(key, instance, when), |state| {
            if !state.workloads.contains_key(&key.workload) {
                return Ok(());
            }
            if let Some(replica) = state.current(key)?.replicas.get_mut(&instance) {
                let is_now = replica.leave == Some(When::Now);
                replica.leave = Some(if is_now { When::Now } else { when });
            }
            Ok(())
        })
    }

    async fn delete(&self, key: Key, grace_s: u32) -> Result<(), Error> {
        self.call(Call::Delete(key), |state| {
            let Some(workload) = state.workloads.get_mut(&key.workload) else { return Ok(()) };
            if key.revision < workload.spec.key.revision {
                return Err(Error::Conflict { workload: key.workload });
            }
            workload.is_deleting = true;
            if grace_s == 0 {
                let now = self.env.now();
                let up: Vec<_> = workload.replicas.keys().copied().collect();
                for instance in up {
                    workload.drain(instance, Some(now));
                }
            }
            Ok(())
        })
    }

    async fn claim(&self, slot: Key, owner: Owner, size: Size) -> Result<(), Error> {
        self.call(Call::Claim(slot, owner), |state| state.claim(slot, owner, size))
    }

    async fn room(&self) -> Result<(), Error> {
        self.lock().room()
    }

    async fn memory(&self) -> Option<Memory> {
        self.lock().memory
    }

    async fn cpu_time(&self, instance: InstanceId) -> Option<Duration> {
        let mut state = self.lock();
        let (used, step) = state.cpu_steps.get_mut(&instance)?;
        *used += *step;
        Some(*used)
    }

    async fn watch(&self) -> Result<Events, Error> {
        Ok(self.board.watch())
    }
}

#[cfg(test)]
mod tests;
