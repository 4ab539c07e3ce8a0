//! What is told of apps that fail and come back: events, and the counters of `/metrics`.
//!
//! Promises: [`change`] and [`ended_by`] are pure; every event is written in the transaction of
//! the row that it tells about, so a restart neither loses nor repeats one; a recovery is counted
//! from the moment when the failure was seen to the moment when the replacement answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use miosa_store::{
    deployments::Deployment,
    events::{self, Event},
    instances::{self, Instance},
};
use miosa_types::{DeploymentId, Env, InstanceId, TenantId, deployment::InstanceState};
use serde_json::{Value, json};
use sqlx::AnyConnection;

use crate::histogram::Histogram;

/// A replica failed: it ended by itself, cannot be seen, or does not answer.
pub const UNHEALTHY: &str = "runtime.unhealthy";
/// A replica that did not answer does so again.
pub const RECOVERED: &str = "runtime.recovered";
/// Another replica answers in the place of one that failed.
pub const REPLACED: &str = "runtime.replaced";
/// A deployment is served by another version than before.
pub const LIVE: &str = "deployment.live";
/// A version, or the deployment, does not come up.
pub const FAILED: &str = "deployment.failed";
/// A deployment was taken off the air.
pub const STOPPED: &str = "deployment.stopped";

/// Events kept of one deployment. A failure that is not among them is never said to be over.
const KEEP: u32 = 200;
/// Bytes of an app's output in one event.
const MAX_REASON: usize = 2000;
/// Upper bounds of the buckets of recovery times, in milliseconds.
const BUCKETS_MS: [u64; 10] = [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

/// How an instance's row changed, as far as it is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It failed.
    Failed,
    /// It answers again.
    Recovered,
    /// It answers for the first time.
    Ready,
}

/// Compares an instance's row with the one before.
pub fn change(old: Option<&Instance>, new: &Instance) -> Option<Change> {
    use InstanceState::{Error, Healthy, Unhealthy};
    let before = old.map(|old| old.state);
    match (before, new.state) {
        (Some(Unhealthy), Healthy) => Some(Change::Recovered),
        (Some(Healthy), Healthy) => None,
        (_, Healthy) => Some(Change::Ready),
        // Who does not answer and then ends failed once.
        (Some(Unhealthy | Error), Unhealthy | Error) => None,
        (_, Unhealthy | Error) => Some(Change::Failed),
        _ => None,
    }
}

/// A failure that nothing has made good yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The replica that failed.
    pub instance: InstanceId,
    /// When.
    pub since: Timestamp,
}

/// Failures of replicas which had answered before, oldest first. `newest_first` are the events of
/// one deployment. One that was stopped in between waits for nobody.
pub fn open(newest_first: &[Event]) -> Vec<Open> {
    let mut open: BTreeMap<InstanceId, Timestamp> = BTreeMap::new();
    for event in newest_first.iter().rev() {
        let id = |name: &str| event.data[name].as_str().and_then(|text| text.parse().ok());
        match event.kind.as_str() {
            UNHEALTHY if event.data["had_answered"] == true => {
                open.extend(id("instance_id").map(|instance| (instance, event.at)));
            }
            RECOVERED => drop(id("instance_id").and_then(|instance| open.remove(&instance))),
            REPLACED => drop(id("replaced_instance_id").and_then(|gone| open.remove(&gone))),
            STOPPED => open.clear(),
            _ => {}
        }
    }
    let mut all: Vec<_> =
        open.into_iter().map(|(instance, since)| Open { instance, since }).collect();
    all.sort_by_key(|one| (one.since, one.instance));
    all
}

/// The failure that ends because `row` answers now: the oldest of another replica, or its own.
pub fn ended_by<'a>(change: Change, row: &Instance, open: &'a [Open]) -> Option<&'a Open> {
    match change {
        Change::Failed => None,
        Change::Recovered => open.iter().find(|one| one.instance == row.id),
        Change::Ready => open.iter().find(|one| one.instance != row.id),
    }
}

/// Counters since control started. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Healing(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    failures: AtomicU64,
    recoveries: Mutex<Recoveries>,
}

/// How long failures took to be made good.
pub type Recoveries = Histogram<{ BUCKETS_MS.len() }>;

impl Default for Healing {
    fn default() -> Self {
        let recoveries = Mutex::new(Recoveries::new(&BUCKETS_MS));
        Self(Arc::new(Counters { failures: AtomicU64::new(0), recoveries }))
    }
}

impl Healing {
    /// Replicas that failed after they had answered.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Failures that are over.
    pub fn recoveries(&self) -> Recoveries {
        *self.0.recoveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was committed.
    pub fn count(&self, noted: &[Noted]) {
        for one in noted {
            match one.recovery {
                None => drop(self.0.failures.fetch_add(1, Ordering::Relaxed)),
                Some(took) => {
                    let mut recoveries =
                        self.0.recoveries.lock().unwrap_or_else(PoisonError::into_inner);
                    recoveries.record(took);
                }
            }
        }
    }
}

/// Something that was written down; to be counted once it is committed.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// How long it took, in whole milliseconds, if it tells the end of a failure.
    recovery: Option<Duration>,
}

/// Writes down how a row changed.
pub async fn tell(
    db: &mut AnyConnection,
    env: &Env,
    old: Option<&Instance>,
    row: &Instance,
) -> Result<Option<Noted>, miosa_store::Error> {
    let Some(change) = change(old, row) else { return Ok(None) };
    let of = (row.tenant, row.deployment);
    let base = json!({
        "deployment_id": row.deployment, "version_id": row.version, "instance_id": row.id,
    });
    if change == Change::Failed {
        let had_answered = row.ready_at.is_some();
        // Why it was replaced may have been noted before it was seen to end.
        let reason = instances::error_of(db, row.id).await?;
        let reason = reason.unwrap_or_else(|| match row.state {
            InstanceState::Unhealthy => "It does not answer.".to_owned(),
            _ => "It cannot be seen any more.".to_owned(),
        });
        let data = with(base, json!({"reason": short(&reason), "had_answered": had_answered}));
        write(db, env, of, (UNHEALTHY, data)).await?;
        return Ok(had_answered.then_some(Noted { recovery: None }));
    }
    let known = events::of_subject(db, row.tenant, &row.deployment.to_string(), KEEP).await?;
    let open = open(&known);
    let Some(ended) = ended_by(change, row, &open) else { return Ok(None) };
    let (kind, at) = match change {
        Change::Ready => (REPLACED, row.ready_at.unwrap_or(row.last_seen_at)),
        Change::Failed | Change::Recovered => (RECOVERED, row.last_seen_at),
    };
    let ms = u64::try_from(at.duration_since(ended.since).as_millis()).unwrap_or_default();
    let mut data = with(base, json!({"unhealthy_at": ended.since, "recovery_ms": ms}));
    if kind == REPLACED {
        data = with(data, json!({"replaced_instance_id": ended.instance}));
    }
    write(db, env, of, (kind, data)).await?;
    tracing::info!(deployment = %row.deployment, instance = %row.id, ?change, ms, "a failure is over");
    Ok(Some(Noted { recovery: Some(Duration::from_millis(ms)) }))
}

/// Writes down what became of a deployment.
pub async fn tell_of(
    db: &mut AnyConnection,
    env: &Env,
    deployment: &Deployment,
    kind: &str,
    data: Value,
) -> Result<(), miosa_store::Error> {
    let data = with(json!({"deployment_id": deployment.id, "name": deployment.name}), data);
    write(db, env, (deployment.tenant, deployment.id), (kind, data)).await
}

async fn write(
    db: &mut AnyConnection,
    env: &Env,
    (tenant, deployment): (TenantId, DeploymentId),
    (kind, data): (&str, Value),
) -> Result<(), miosa_store::Error> {
    let (kind, subject) = (kind.to_owned(), deployment.to_string());
    let event = Event { id: env.id(), tenant, kind, subject, data, at: env.now() };
    events::insert(db, &event).await?;
    events::prune(db, tenant, &event.subject, KEEP).await
}

fn with(mut base: Value, more: Value) -> Value {
    if let (Value::Object(base), Value::Object(more)) = (&mut base, more) {
        base.extend(more);
    }
    base
}

/// The end of a long text: that is where the reason stands.
fn short(text: &str) -> &str {
    let start = text.len().saturating_sub(MAX_REASON);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[start..]
}

#[cfg(test)]
mod tests;
