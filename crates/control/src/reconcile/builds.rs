//! Builds versions: a fresh sandbox for each attempt, at most [`MAX_AT_ONCE`] at a time.
//!
//! Promises: a build starts from the durable source only, so control may die at any moment and
//! the next one builds again; a version leaves `building` in one transaction with what follows
//! from that; a build sandbox that no build of this process uses is removed; what was not the
//! app's fault is tried again, ever later, and its owner is told meanwhile; one for which there
//! is no room waits for it; one whose version is not `building` any more is ended at once.

mod attempts;
mod reason;
mod record;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_provider::{Key, Observed, Owner, Phase};
use miosa_publish::{BuildContext, BuildError, BuildLog, Deadlines};
use miosa_store::versions::{self, Version};
use miosa_types::{TenantId, VersionId, WorkloadId, deployment::VersionState, guest::Endpoint};
use tokio::sync::Notify;

use crate::{
    Control,
    driver::{Reconciler, Report, StepError},
    workloads,
};

pub use attempts::{ATTEMPTS, REST, ROOM_WAIT};
use attempts::{Interrupted, Outcome, Verdict, verdict};
use reason::{ended, sentence, with_causes};
use record::{record, record_interrupted};

/// Builds at once.
pub const MAX_AT_ONCE: usize = 3;
/// Of one tenant.
pub const MAX_EACH: usize = 2;
/// Longest time of one attempt.
pub const TIME_LIMIT: Duration = Duration::from_mins(15);
/// How long the build sandbox may take to start.
pub const START_DEADLINE: Duration = Duration::from_mins(1);
/// How long the end of a build sandbox may take to be seen.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// The log is saved this often while a build runs.
const SAVE_LOG: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Builds {
    control: Arc<Control>,
    running: Arc<Mutex<Running>>,
}

/// A build of this process.
#[derive(Clone, Debug)]
struct Build {
    tenant: TenantId,
    /// Its sandbox.
    workload: WorkloadId,
    /// Ends it.
    stop: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Running {
    builds: BTreeMap<VersionId, Build>,
    interrupted: BTreeMap<VersionId, Interrupted>,
}

/// The versions whose build begins now, of those that wait for one: the oldest of the tenants that
/// have the fewest, and no tenant takes the last slot.
fn plan(waiting: &[(VersionId, TenantId)], running: &Running, now: Timestamp) -> Vec<VersionId> {
    let mut counts: BTreeMap<TenantId, usize> = BTreeMap::new();
    for build in running.builds.values() {
        *counts.entry(build.tenant).or_default() += 1;
    }
    let is_due = |id: &VersionId| {
        let rests = running.interrupted.get(id).is_some_and(|one| now < one.until);
        !rests && !running.builds.contains_key(id)
    };
    let mut due: Vec<_> = waiting.iter().copied().filter(|(id, _)| is_due(id)).collect();
    let mut chosen = Vec::new();
    for _ in running.builds.len()..MAX_AT_ONCE {
        let count = |tenant| counts.get(&tenant).copied().unwrap_or(0);
        let next = due.iter().copied().enumerate();
        let next = next.filter(|(_, (_, tenant))| count(*tenant) < MAX_EACH);
        let Some((at, (id, tenant))) = next.min_by_key(|(_, (_, tenant))| count(*tenant)) else {
            break;
        };
        due.remove(at);
        *counts.entry(tenant).or_default() += 1;
        chosen.push(id);
    }
    chosen
}

impl Builds {
    /// Builds of this installation.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, running: Arc::default() }
    }

    fn start(&self, version: Version) {
        let workload = self.control.env.id();
        let stop = Arc::new(Notify::new());
        let build = Build { tenant: version.tenant, workload, stop: stop.clone() };
        lock(&self.running).builds.insert(version.id, build);
        let (control, running) = (self.control.clone(), self.running.clone());
        tokio::spawn(async move {
            let id = version.id;
            let log = BuildLog::new();
            let earlier = lock(&running).interrupted.get(&id).cloned().unwrap_or_default();
            earlier.reasons.iter().for_each(|reason| log.note(reason));
            let outcome = tokio::select! {
                outcome = attempt(&control, &version, workload, &log) => Some(outcome),
                () = stop.notified() => None,
            };
            let rest = if let Some(outcome) = outcome {
                let outcome = with_regard_to_room(&control, outcome).await;
                conclude(&control, &version, (outcome, earlier), &log).await
            } else {
                log.note("The build was ended.");
                save_log(&control, id, &log.text()).await;
                None
            };
            let pause = {
                let mut running = lock(&running);
                running.builds.remove(&id);
                let pause = rest.as_ref().map(|(_, pause)| *pause);
                match rest {
                    Some((interrupted, _)) => running.interrupted.insert(id, interrupted),
                    None => running.interrupted.remove(&id),
                };
                pause
            };
            let key = Key { workload, revision: 1 };
            if let Err(error) = control.provider.delete(key, 0).await {
                tracing::debug!(version = %id, %error, "a build sandbox is removed later");
            }
            control.wakes.builds.notify_one();
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
                control.wakes.builds.notify_one();
            }
        });
    }

    /// Ends the builds whose version is not being built any more. Returns how many.
    async fn end_cancelled(&self, waiting: &[(VersionId, TenantId)]) -> Result<usize, StepError> {
        let unlisted: Vec<_> = {
            let running = lock(&self.running);
            let is_listed = |id: &VersionId| waiting.iter().any(|(listed, _)| listed == id);
            let builds = running.builds.iter().filter(|(id, _)| !is_listed(id));
            builds.map(|(id, build)| (*id, build.clone())).collect()
        };
        let mut ended = 0;
        for (id, build) in unlisted {
            // A list has an end, so what is not on it is asked for.
            let mut db = self.control.store.conn().await?;
            let version = versions::find(&mut db, build.tenant, id).await?;
            if version.is_none_or(|version| version.state != VersionState::Building) {
                build.stop.notify_one();
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Build sandboxes that no build of this process uses.
    fn strays(&self, replicas: &[Observed]) -> Vec<Key> {
        let running = lock(&self.running);
        let is_used = |o: &Observed| running.builds.values().any(|b| b.workload == o.key.workload);
        let is_build = |o: &Observed| matches!(o.owner, Owner::Build(_));
        replicas.iter().filter(|o| is_build(o) && !is_used(o)).map(|o| o.key).collect()
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn attempt(
    control: &Control,
    version: &Version,
    workload: WorkloadId,
    log: &BuildLog,
) -> Outcome {
    let work = async {
        let endpoint = match sandbox(control, version, workload).await {
            Ok(endpoint) => endpoint,
            Err(outcome) => return outcome,
        };
        let building = build(control, version, (&endpoint, workload), log);
        tokio::select! {
            outcome = building => outcome,
            Some(why) = sandbox_end(control, workload, TIME_LIMIT) => Outcome::Interrupted(why),
        }
    };
    let save = async {
        let mut saved = String::new();
        loop {
            tokio::time::sleep(SAVE_LOG).await;
            let text = log.text();
            if text != saved {
                save_log(control, version.id, &text).await;
                saved = text;
            }
        }
    };
    tokio::select! {
        outcome = tokio::time::timeout(TIME_LIMIT, work) => outcome.unwrap_or_else(|_| {
            let minutes = TIME_LIMIT.as_secs() / 60;
            Outcome::Failed(format!("The build took longer than {minutes} minutes."))
        }),
        never = save => never,
    }
}

/// While there is no room a sandbox cannot write, so whatever a build then complains of may be due
/// to that.
async fn with_regard_to_room(control: &Control, outcome: Outcome) -> Outcome {
    if !matches!(outcome, Outcome::Failed(_) | Outcome::Interrupted(_)) {
        return outcome;
    }
    let is_short =
        matches!(control.provider.room().await, Err(miosa_provider::Error::Quota { .. }));
    match outcome {
        Outcome::Failed(why) | Outcome::Interrupted(why) if is_short => Outcome::NoRoom(why),
        outcome => outcome,
    }
}

async fn save_log(control: &Control, version: VersionId, text: &str) {
    let saved = async {
        let mut db = control.store.conn().await?;
        versions::set_build_log(&mut db, version, text).await
    };
    if let Err(error) = saved.await {
        tracing::warn!(%version, %error, "the log of a build is not saved");
    }
}

/// Starts the build sandbox and waits until it takes commands.
async fn sandbox(
    control: &Control,
    version: &Version,
    workload: WorkloadId,
) -> Result<Endpoint, Outcome> {
    let spec = workloads::build_spec(version, workload);
    control.provider.apply(&spec).await.map_err(|error| match error {
        miosa_provider::Error::Invalid { reason } => Outcome::Failed(reason),
        miosa_provider::Error::Quota { reason } => Outcome::NoRoom(sentence(&reason)),
        error => Outcome::Interrupted(format!(
            "The build sandbox could not be started: {}.",
            with_causes(&error)
        )),
    })?;
    let look = |observed: &crate::Observations| {
        let replica = observed.of_workload(workload)?.into_iter().next()?;
        match (ended(&replica), replica.phase) {
            (Some(why), _) => Some(Err(why)),
            (None, Phase::Ready { .. }) => replica.guest.map(Ok),
            _ => None,
        }
    };
    let seconds = START_DEADLINE.as_secs();
    match control.observed.wait_for(START_DEADLINE, look).await {
        Some(outcome) => outcome.map_err(Outcome::Interrupted),
        None => Err(Outcome::Interrupted(format!(
            "The build sandbox could not be started: it was not ready within {seconds} s."
        ))),
    }
}

/// How the sandbox of a running build ended, once it did.
async fn sandbox_end(
    control: &Control,
    workload: WorkloadId,
    deadline: Duration,
) -> Option<String> {
    let look = |observed: &crate::Observations| {
        let replicas = observed.of_workload(workload)?;
        let Some(replica) = replicas.first() else {
            return Some("The build sandbox was removed.".to_owned());
        };
        ended(replica)
    };
    control.observed.wait_for(deadline, look).await
}

async fn build(
    control: &Control,
    version: &Version,
    (endpoint, workload): (&Endpoint, WorkloadId),
    log: &BuildLog,
) -> Outcome {
    let Some(source) = version.source else {
        return Outcome::Failed("This version has no source.".to_owned());
    };
    let request = match serde_json::from_value(version.request.clone()) {
        Ok(request) => request,
        Err(error) => return Outcome::Failed(format!("Its request cannot be read: {error}.")),
    };
    let context = BuildContext {
        guest: &*control.guest,
        endpoint,
        artifacts: &control.artifacts,
        request: &request,
        source,
        log,
        deadlines: Deadlines::default(),
    };
    match miosa_publish::build(&context).await {
        Ok(built) => Outcome::Built(built),
        Err(BuildError::Failed { reason, .. }) => Outcome::Failed(reason),
        Err(error @ BuildError::NoSpace) => Outcome::Interrupted(sentence(&error.to_string())),
        Err(error @ BuildError::Unavailable { .. }) => {
            // A guest that does not answer is most often one that ended.
            let end = sandbox_end(control, workload, EXIT_WAIT).await;
            Outcome::Interrupted(end.unwrap_or_else(|| sentence(&with_causes(&error))))
        }
    }
}

/// Writes down how an attempt ended. What is to be remembered, and the pause before the next
/// attempt, if there is to be one.
async fn conclude(
    control: &Control,
    version: &Version,
    (outcome, mut earlier): (Outcome, Interrupted),
    log: &BuildLog,
) -> Option<(Interrupted, Duration)> {
    let id = version.id;
    let outcome = match verdict(outcome, &mut earlier, &control.env) {
        Verdict::Again { why, next, pause } => {
            log.note(&why);
            log.note(&next);
            save_log(control, id, &log.text()).await;
            tracing::warn!(version = %id, why, next, "a build was interrupted");
            if let Err(error) = record_interrupted(control, version, &format!("{why} {next}")).await
            {
                tracing::warn!(version = %id, %error, "its interruption is not recorded");
            }
            return Some((earlier, pause));
        }
        Verdict::Over(outcome) => outcome,
    };
    if let Outcome::Failed(why) = &outcome
        && earlier.attempts() > 0
    {
        log.note(why);
    }
    save_log(control, id, &log.text()).await;
    let error = record(control, version, outcome, log).await.err()?;
    // The version is still `building`, so it is built again.
    tracing::warn!(version = %id, %error, "the outcome of a build is not recorded");
    let pause = earlier.again("The outcome of the build could not be saved.".into(), &control.env);
    Some((earlier, pause))
}

#[async_trait]
impl Reconciler for Builds {
    fn name(&self) -> &'static str {
        "builds"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn wake(&self) -> Arc<Notify> {
        self.control.wakes.builds.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        let Some(replicas) = self.control.observed.replicas() else {
            return Ok(Report::default());
        };
        let strays = self.strays(&replicas);
        for key in &strays {
            self.control.provider.delete(*key, 0).await?;
        }
        let mut db = self.control.store.conn().await?;
        let waiting = versions::page(&mut db, VersionState::Building, None).await?;
        drop(db);
        let mut report =
            Report { looked_at: waiting.len(), acted: strays.len(), ..Report::default() };
        let ids: Vec<_> = waiting.iter().map(|version| (version.id, version.tenant)).collect();
        report.acted += self.end_cancelled(&ids).await?;
        let due = {
            let mut running = lock(&self.running);
            let Running { builds, interrupted } = &mut *running;
            interrupted.retain(|id, _| {
                ids.iter().any(|(listed, _)| listed == id) || builds.contains_key(id)
            });
            plan(&ids, &running, self.control.env.now())
        };
        for version in waiting.into_iter().filter(|version| due.contains(&version.id)) {
            self.start(version);
            report.acted += 1;
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
