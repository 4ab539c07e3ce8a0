//! What is told of apps that fail and come back: events, and the counters of `/metrics`.
//!
//! Promises: [`change`] and [`ended_by`] are pure; every event is written in the transaction of
//! the row that it tells about, so a restart neither loses nor repeats one; a recovery is counted
//! from the moment when the failure was seen to the moment when the replacement answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
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
use miosa_types::{Env, InstanceId, deployment::InstanceState};
use serde_json::{Value, json};
use sqlx::AnyConnection;

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
pub const BUCKETS_MS: [u64; 10] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

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
#[derive(Clone, Debug, Default)]
pub struct Healing(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    failures: AtomicU64,
    recoveries: AtomicU64,
    recovery_ms: AtomicU64,
    /// One more than [`BUCKETS_MS`] has bounds.
    buckets: [AtomicU64; BUCKETS_MS.len() + 1],
}

/// A copy of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Healed {
    /// Replicas that failed after they had answered.
    pub failures: u64,
    /// Failures that are over.
    pub recoveries: u64,
    /// How long those took together, in milliseconds.
    pub recovery_ms: u64,
    /// How many took at most as long as the bound of [`BUCKETS_MS`] at the same place; the last
    /// counts all.
    #[serde(skip)]
    pub at_most: Vec<u64>,
}

impl Healing {
    /// What was counted.
    pub fn counts(&self) -> Healed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut sum = 0;
        let at_most = self.0.buckets.iter().map(|bucket| {
            sum += read(bucket);
            sum
        });
        Healed {
            at_most: at_most.collect(),
            failures: read(&self.0.failures),
            recoveries: read(&self.0.recoveries),
            recovery_ms: read(&self.0.recovery_ms),
        }
    }

    fn count(&self, told: &Noted) {
        match told.recovery {
            None => drop(self.0.failures.fetch_add(1, Ordering::Relaxed)),
            Some(recovery) => {
                let ms = u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX);
                let bucket = BUCKETS_MS.partition_point(|bound| *bound < ms);
                self.0.recoveries.fetch_add(1, Ordering::Relaxed);
                self.0.recovery_ms.fetch_add(ms, Ordering::Relaxed);
                if let Some(bucket) = self.0.buckets.get(bucket) {
                    bucket.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Counts what was committed.
    pub fn count_all(&self, told: &[Noted]) {
        for one in told {
            self.count(one);
        }
    }
}

/// Something that was written down; to be counted once it is committed.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// How long it took, if it tells the end of a failure.
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
    let subject = row.deployment.to_string();
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
        write(db, env, row, UNHEALTHY, data).await?;
        events::prune(db, row.tenant, &subject, KEEP).await?;
        return Ok(had_answered.then_some(Noted { recovery: None }));
    }
    let known = events::of_subject(db, row.tenant, &subject, KEEP).await?;
    let open = open(&known);
    let Some(ended) = ended_by(change, row, &open) else { return Ok(None) };
    let at = match change {
        Change::Ready => row.ready_at.unwrap_or(row.last_seen_at),
        Change::Failed | Change::Recovered => row.last_seen_at,
    };
    let recovery = Duration::try_from(at.duration_since(ended.since)).unwrap_or_default();
    let ms = u64::try_from(recovery.as_millis()).unwrap_or(u64::MAX);
    let data = with(base, json!({"unhealthy_at": ended.since, "recovery_ms": ms}));
    if change == Change::Recovered {
        write(db, env, row, RECOVERED, data).await?;
    } else {
        let data = with(data, json!({"replaced_instance_id": ended.instance}));
        write(db, env, row, REPLACED, data).await?;
    }
    tracing::info!(deployment = %row.deployment, instance = %row.id, ?change, ms, "a failure is over");
    Ok(Some(Noted { recovery: Some(recovery) }))
}

/// Writes down what became of a deployment.
pub async fn tell_of(
    db: &mut AnyConnection,
    env: &Env,
    deployment: &Deployment,
    kind: &str,
    data: Value,
) -> Result<(), miosa_store::Error> {
    let id = deployment.id;
    let data = with(json!({"deployment_id": id, "name": deployment.name}), data);
    let event = event(env, deployment.tenant, id.to_string(), kind, data);
    events::insert(db, &event).await?;
    events::prune(db, deployment.tenant, &event.subject, KEEP).await
}

async fn write(
    db: &mut AnyConnection,
    env: &Env,
    row: &Instance,
    kind: &str,
    data: Value,
) -> Result<(), miosa_store::Error> {
    let event = event(env, row.tenant, row.deployment.to_string(), kind, data);
    events::insert(db, &event).await?;
    Ok(())
}

fn event(
    env: &Env,
    tenant: miosa_types::TenantId,
    subject: String,
    kind: &str,
    data: Value,
) -> Event {
    Event { id: env.id(), tenant, kind: kind.to_owned(), subject, data, at: env.now() }
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
