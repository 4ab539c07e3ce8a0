//! Makes every deployment served by the version that is wanted.
//!
//! `rollout::plan` decides; this gathers what it needs, does what it says, and writes down what
//! was observed. Promises: while the provider's state is unknown it does nothing; a fault in one
//! deployment keeps no other from its turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use miosa_provider::{Error as ProviderError, Key, Observed, Owner, Phase};
use miosa_store::{
    deployments::{self, Deployment},
    instances as rows,
    versions::{self, Version},
};
use miosa_types::{
    DeploymentId, VersionId,
    deployment::VersionState,
    host,
    link::{self, Entry, ReplicaState, Target},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    Control,
    driver::{Reconciler, Report, StepError},
    healing, instances,
    rollout::{self, Action, Desired, Seen},
    routes, waiting,
    workloads::{self, STOP_GRACE_S},
};

mod recorder;

use recorder::Recorder;

/// Bytes of output kept of a replica that does not become ready.
const LOG_BYTES: u32 = 4096;
/// How long its guest may take to tell them.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

/// Rows written in one transaction: a commit costs as much as many rows.
const BATCH: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Deployments {
    control: Arc<Control>,
    recorder: Recorder,
}

/// What one step looks at.
struct World {
    versions: BTreeMap<VersionId, Version>,
    replicas: Vec<Observed>,
}

/// What visitors get.
enum Live {
    /// Not certain, or nothing that is ready now.
    Unknown,
    /// Nothing, because nothing shall be.
    Nothing,
    /// This version.
    Version(VersionId),
}

/// A deployment that edges serve by another version than was noted.
struct Switched<'a> {
    deployment: &'a Deployment,
    serving: Option<VersionId>,
    failure: Option<&'a str>,
}

/// One deployment in its turn.
struct Turn<'a> {
    deployment: &'a Deployment,
    desired: Desired,
    seen: &'a [Seen],
    world: &'a World,
}

impl Deployments {
    /// Deployments of this installation.
    pub fn new(control: Arc<Control>) -> Self {
        Self { recorder: Recorder::new(control.clone()), control }
    }

    /// Replicas that no deployment can want: of failed, archived or deleted versions.
    async fn remove_orphans(&self, world: &World, all: &[Deployment]) -> Result<usize, StepError> {
        let wanted: BTreeSet<_> = all.iter().map(|d| d.id).collect();
        let mut keys = BTreeSet::new();
        for observed in &world.replicas {
            let Owner::Version(version) = observed.owner else { continue };
            let row = world.versions.get(&version);
            let is_wanted = row
                .is_some_and(|v| v.state == VersionState::Ready && wanted.contains(&v.deployment));
            if !is_wanted {
                keys.insert((version, observed.key));
            }
        }
        for (version, key) in &keys {
            self.delete_workload(world, *version, *key).await?;
        }
        Ok(keys.len())
    }

    async fn delete_workload(
        &self,
        world: &World,
        version: VersionId,
        key: Key,
    ) -> Result<(), StepError> {
        self.recorder.tell_to_go(world, version).await?;
        let mut db = self.control.store.conn().await?;
        versions::raise_revision(&mut db, version, key.revision).await?;
        drop(db);
        Ok(self.control.provider.delete(key, STOP_GRACE_S).await?)
    }

    async fn turn(&self, turn: &Turn<'_>) -> Result<usize, StepError> {
        let now = self.control.env.now();
        let actions = rollout::plan(&turn.desired, turn.seen, now);
        for action in &actions {
            tracing::debug!(deployment = %turn.deployment.id, ?action, "acts");
            self.act(turn, *action).await?;
        }
        Ok(actions.len())
    }

    async fn act(&self, turn: &Turn<'_>, action: Action) -> Result<(), StepError> {
        let provider = &self.control.provider;
        match action {
            Action::Apply { version, replicas } => {
                let row = turn.version(version)?;
                match provider.apply(&workloads::spec(row, turn.deployment, replicas)?).await {
                    Err(ProviderError::Invalid { reason }) => {
                        self.give_up(turn, version, &reason).await
                    }
                    Err(error @ ProviderError::Conflict { .. }) => {
                        // It was deleted at this revision before; the next try is newer.
                        let mut db = self.control.store.conn().await?;
                        versions::raise_revision(&mut db, version, row.revision).await?;
                        Err(error.into())
                    }
                    outcome => Ok(outcome?),
                }
            }
            Action::Scale { version, replicas } => {
                let Some(key) = turn.key(version) else { return Ok(()) };
                let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
                Ok(provider.scale(key, replicas).await?)
            }
            Action::Replace { instance, when } => {
                let found = turn.world.replicas.iter().find(|o| o.instance == instance);
                let Some(observed) = found else { return Ok(()) };
                let version = match observed.owner {
                    Owner::Version(version) => turn.world.versions.get(&version),
                    _ => None,
                };
                let expected = version.and_then(waiting::Expected::of);
                self.note_late(observed, expected.as_ref()).await?;
                Ok(provider.replace(observed.key, instance, when).await?)
            }
            Action::Delete { version } => {
                let Some(key) = turn.key(version) else { return Ok(()) };
                self.delete_workload(turn.world, version, key).await
            }
            Action::GiveUp { version } => {
                let reason = self.reason(turn, version).await?;
                self.give_up(turn, version, &reason).await
            }
            Action::Fail { version } => {
                let reason = self.reason(turn, version).await?;
                let mut tx = self.control.store.begin().await?;
                deployments::observe(&mut tx, turn.deployment.id, None, Some(&reason)).await?;
                self.tell_failed(&mut tx, turn.deployment, version, &reason).await?;
                tx.commit().await.map_err(miosa_store::Error::from)?;
                tracing::warn!(deployment = %turn.deployment.id, "does not come up any more");
                self.control.wakes.routes.notify_one();
                Ok(())
            }
        }
    }

    /// Keeps what a replica printed that is replaced because it did not become ready.
    async fn note_late(
        &self,
        observed: &Observed,
        expected: Option<&waiting::Expected>,
    ) -> Result<(), StepError> {
        let Phase::Running { .. } = observed.phase else { return Ok(()) };
        let mut text = format!("It was not ready within {} s", rollout::START_DEADLINE.as_secs());
        if let (Some(endpoint), Some(expected)) = (&observed.guest, expected) {
            let ports = waiting::ports(&self.control, endpoint).await;
            text = format!("{text}: {}", expected.missed(ports.as_deref()));
        }
        text.push('.');
        if let Some(endpoint) = &observed.guest {
            let asked = self.control.guest.logs(endpoint, LOG_BYTES);
            if let Ok(Ok(log)) = tokio::time::timeout(LOG_DEADLINE, asked).await {
                let log = String::from_utf8_lossy(&log);
                text = instances::with_output(text, &log);
            }
        }
        let mut db = self.control.store.conn().await?;
        Ok(rows::set_error(&mut db, observed.instance, &text).await?)
    }

    /// Why a version does not come up, for the owner of the app.
    async fn reason(&self, turn: &Turn<'_>, version: VersionId) -> Result<String, StepError> {
        let port = turn.world.versions.get(&version).and_then(workloads::port);
        let what = match port {
            Some(port) => format!("The app did not become ready on port {port}."),
            None => "The app did not become ready.".to_owned(),
        };
        let mut db = self.control.store.conn().await?;
        let last = rows::last_error(&mut db, version).await?;
        Ok(last.map_or(what.clone(), |last| format!("{what} {last}")))
    }

    /// The intent returns to the version that serves; the version is marked failed.
    async fn give_up(
        &self,
        turn: &Turn<'_>,
        version: VersionId,
        reason: &str,
    ) -> Result<(), StepError> {
        let now = self.control.env.now();
        let mut tx = self.control.store.begin().await?;
        // One that served before may serve again another time.
        if turn.version(version)?.served_at.is_none() {
            versions::set_failed(&mut tx, version, reason, now).await?;
        }
        for observed in &turn.world.replicas {
            if observed.owner == Owner::Version(version) {
                rows::add_error(&mut tx, observed.instance, &given_up(observed)).await?;
            }
        }
        let mut deployment = turn.deployment.clone();
        deployment.active_version = deployment.serving_version;
        deployment.failure = Some(reason.to_owned());
        deployments::update(&mut tx, &deployment, now).await?;
        self.tell_failed(&mut tx, &deployment, version, reason).await?;
        tx.commit().await?;
        tracing::warn!(deployment = %deployment.id, %version, "gave up on a version");
        self.control.wakes.routes.notify_one();
        self.control.wakes.deployments.notify_one();
        Ok(())
    }

    async fn tell_failed(
        &self,
        db: &mut sqlx::AnyConnection,
        deployment: &Deployment,
        version: VersionId,
        reason: &str,
    ) -> Result<(), miosa_store::Error> {
        let data = json!({"version_id": version, "reason": reason});
        healing::tell_of(db, &self.control.env, deployment, healing::FAILED, data).await
    }

    /// Notes for each deployment the version that every leased edge serves.
    async fn record_serving(&self, all: &[Turn<'_>]) -> Result<(), StepError> {
        let news: Vec<_> = all.iter().filter_map(|turn| self.switched(turn)).collect();
        let now = self.control.env.now();
        for part in news.chunks(BATCH) {
            let mut tx = self.control.store.begin().await?;
            for Switched { deployment, serving, failure } in part {
                deployments::observe(&mut tx, deployment.id, *serving, *failure).await?;
                if let Some(serving) = serving {
                    versions::set_served(&mut tx, *serving, now).await?;
                    let (env, data) = (&self.control.env, json!({"version_id": serving}));
                    healing::tell_of(&mut tx, env, deployment, healing::LIVE, data).await?;
                }
            }
            tx.commit().await?;
            for Switched { deployment, serving, .. } in part {
                tracing::info!(deployment = %deployment.id, ?serving, "every edge serves it");
            }
        }
        if !news.is_empty() {
            self.control.wakes.deployments.notify_one();
            self.control.wakes.routes.notify_one();
        }
        Ok(())
    }

    /// What is to be noted of one deployment, if anything.
    fn switched<'a>(&self, turn: &Turn<'a>) -> Option<Switched<'a>> {
        let deployment = turn.deployment;
        let serving = match self.live(turn) {
            Live::Unknown => return None,
            Live::Nothing => None,
            Live::Version(version) => Some(version),
        };
        if serving == deployment.serving_version {
            return None;
        }
        let has_recovered = serving.is_some() && deployment.serving_version.is_none();
        let has_switched = serving.is_some() && serving == deployment.active_version;
        let failure = deployment.failure.as_deref().filter(|_| !has_recovered && !has_switched);
        Some(Switched { deployment, serving, failure })
    }

    /// What every leased edge serves.
    fn live(&self, turn: &Turn<'_>) -> Live {
        let deployment = turn.deployment;
        let edges = &self.control.edges;
        let Ok(app) = edges.live(&link::Key::App(deployment.id)) else { return Live::Unknown };
        if deployment.deleted_at.is_some() {
            // The slug may belong to another by now; the app's entry goes with its replicas.
            return if app.is_none() { Live::Nothing } else { Live::Unknown };
        }
        let host = host::app(&deployment.slug, &deployment.deployment_domain);
        let Ok(Some(Entry::Route(route))) = edges.live(&link::Key::Route(host)) else {
            return Live::Unknown;
        };
        if let Target::Static { version, .. } = route.target {
            return Live::Version(version);
        }
        let Some(Entry::App(app)) = app else { return Live::Unknown };
        if deployment.is_stopped && app.replicas.is_empty() {
            return Live::Nothing;
        }
        let ready = app.replicas.iter().find(|replica| replica.state == ReplicaState::Ready);
        let seen = ready.and_then(|ready| turn.seen.iter().find(|s| s.instance == ready.instance));
        seen.map_or(Live::Unknown, |seen| Live::Version(seen.version))
    }

    async fn late_starts(
        &self,
        db: &mut sqlx::AnyConnection,
        deployment: &Deployment,
        versions: &BTreeMap<VersionId, Version>,
    ) -> Result<u32, miosa_store::Error> {
        let wanted = deployment.active_version.and_then(|id| versions.get(&id));
        let Some(wanted) = wanted.filter(|v| Some(v.id) != deployment.serving_version) else {
            return Ok(0);
        };
        let since = wanted.promoted_at.unwrap_or(wanted.created_at);
        let given_ms = rollout::START_DEADLINE.as_millis().try_into().unwrap_or(i64::MAX);
        rows::late_starts(db, wanted.id, since, given_ms).await
    }
}

/// What is said of a replica that ends because its version was given up.
fn given_up(observed: &Observed) -> String {
    let text = "It was ended because its version did not come up.".to_owned();
    let Some(exit) = &observed.last_exit else { return text };
    let how = instances::exit_text(exit.code, Some(&exit.log_tail));
    format!("{text} The one before: {how}")
}

impl Turn<'_> {
    fn version(&self, id: VersionId) -> Result<&Version, StepError> {
        self.world.versions.get(&id).ok_or_else(|| format!("{id:?} is not there").into())
    }

    /// The workload of a version as it runs.
    fn key(&self, version: VersionId) -> Option<Key> {
        let of = |o: &&Observed| o.owner == Owner::Version(version);
        self.world.replicas.iter().filter(of).map(|o| o.key).max()
    }
}

#[async_trait]
impl Reconciler for Deployments {
    fn name(&self) -> &'static str {
        "deployments"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn wake(&self) -> Arc<Notify> {
        self.control.wakes.deployments.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        // Observed before read: a replica is never newer than the row it belongs to.
        let Some(replicas) = self.control.observed.replicas() else {
            return Ok(Report::default());
        };
        let mut db = self.control.store.conn().await?;
        let all = deployments::all(&mut db).await?;
        let versions = versions::all(&mut db, VersionState::Ready).await?;
        drop(db);
        let versions = versions.into_iter().map(|version| (version.id, version)).collect();
        let world = World { versions, replicas };
        self.recorder.forget_told(&world, &all);
        self.recorder.observe(&world).await?;
        let suspects = self.control.suspects.all();
        let is_held = |instance| self.control.edges.holds(instance);
        let seen: BTreeMap<DeploymentId, Vec<Seen>> =
            routes::seen_by_deployment(&world.versions, &world.replicas, &suspects, is_held);
        let mut report = Report { looked_at: all.len(), ..Report::default() };
        report.acted += self.remove_orphans(&world, &all).await?;
        let mut turns = Vec::with_capacity(all.len());
        let mut db = self.control.store.conn().await?;
        for deployment in &all {
            let seen = seen.get(&deployment.id).map_or(&[][..], Vec::as_slice);
            let late = self.late_starts(&mut db, deployment, &world.versions).await?;
            let desired = routes::desired(deployment, &world.versions, late);
            turns.push(Turn { deployment, desired, seen, world: &world });
        }
        drop(db);
        self.record_serving(&turns).await?;
        for turn in &turns {
            match self.turn(turn).await {
                Ok(acted) => report.acted += acted,
                Err(error) => {
                    report.failed += 1;
                    tracing::warn!(deployment = %turn.deployment.id, %error, "could not act");
                }
            }
        }
        Ok(report)
    }
}
