//! Judges whether ready replicas still answer.
//!
//! Promises: [`judge`] is the whole decision and does no I/O; a replica is probed at once when an
//! edge suspects it and every [`IDLE`] otherwise; nothing is replaced on a single failure; while
//! the provider's state is unknown nothing is replaced at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use miosa_provider::{Observed, Owner, Phase, When};
use miosa_store::versions;
use miosa_types::{
    InstanceId, VersionId,
    deployment::VersionState,
    probe::{Outcome, Target},
};
use tokio_util::sync::CancellationToken;

use crate::{Control, workloads};

/// A replica that nobody suspects is probed this often.
pub const IDLE: SignedDuration = SignedDuration::from_secs(10);
/// Longest time that a probe may take.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Failures in a row that make a replica suspect.
pub const FAILURES: u32 = 2;
/// A replica that is silent but whose port is open may be busy; it gets this long.
pub const BUSY: SignedDuration = SignedDuration::from_secs(15);
/// CPU time that even a stopped process may seem to use, its guest beside it.
const FROZEN: Duration = Duration::from_millis(2);
/// One probe is sent this long after the other while a replica fails.
const TICK: Duration = Duration::from_secs(1);
/// Probes at once.
const AT_ONCE: usize = 64;

/// Replicas that did not answer two probes in a row, and how many probes there were. Cheap to
/// clone.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    current: Arc<RwLock<BTreeSet<InstanceId>>>,
    checks: Arc<AtomicU64>,
}

impl Suspects {
    /// All of them.
    pub fn all(&self) -> BTreeSet<InstanceId> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Probes since control started.
    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }

    /// Replaces the set; whether it changed.
    fn set(&self, suspects: BTreeSet<InstanceId>) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *current != suspects;
        *current = suspects;
        has_changed
    }
}

/// What is known of one replica's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failures in a row.
    pub failures: u32,
    /// How many of them were refused connections.
    pub refused: u32,
    /// When the first of them was.
    pub failing_since: Option<Timestamp>,
    /// CPU time that it had used then.
    pub cpu_then: Option<Duration>,
    /// When it was last probed.
    pub probed_at: Option<Timestamp>,
}

/// What follows from the answers of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Well,
    /// Send requests elsewhere if there is another.
    Suspect,
    /// Start another beside it and end it.
    Replace,
}

/// Takes in one outcome. A refused port serves nobody, and who has used no CPU time since the
/// first failure is frozen; a silent one that works may be busy. The new one starts before the
/// old one ends, so nothing is lost should the verdict be wrong.
pub fn judge(
    before: Health,
    outcome: Outcome,
    cpu_time: Option<Duration>,
    now: Timestamp,
) -> (Health, Verdict) {
    if let Outcome::Answered(_) = outcome {
        return (Health { probed_at: Some(now), ..Health::default() }, Verdict::Well);
    }
    let is_first = before.failures == 0;
    let since = before.failing_since.unwrap_or(now);
    let health = Health {
        failures: before.failures + 1,
        refused: if outcome == Outcome::Refused { before.refused + 1 } else { 0 },
        failing_since: Some(since),
        cpu_then: if is_first { cpu_time } else { before.cpu_then },
        probed_at: Some(now),
    };
    let is_frozen = match (health.cpu_then, cpu_time) {
        (Some(then), Some(now)) => now.saturating_sub(then) <= FROZEN,
        _ => false,
    };
    let verdict = if health.failures < FAILURES {
        Verdict::Well
    } else if health.refused >= FAILURES || is_frozen || now.duration_since(since) >= BUSY {
        Verdict::Replace
    } else {
        Verdict::Suspect
    };
    (health, verdict)
}

/// Whether what was found of a replica still counts: while one that hung is ended, edges must not
/// wait for it.
const fn is_remembered(phase: &Phase) -> bool {
    matches!(phase, Phase::Ready { .. } | Phase::Draining { .. })
}

/// Whether a replica is to be probed now.
pub fn is_due(health: &Health, is_suspected: bool, now: Timestamp) -> bool {
    is_suspected
        || health.failures > 0
        || health.probed_at.is_none_or(|at| now.duration_since(at) >= IDLE)
}

/// Probes until `stop`.
pub async fn run(control: Arc<Control>, stop: CancellationToken) {
    let mut monitor = Monitor { control, health: BTreeMap::new(), paths: BTreeMap::new() };
    let mut suspected = monitor.control.edges.suspects();
    loop {
        monitor.round().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
            changed = suspected.changed() => if changed.is_err() { return },
        }
    }
}

struct Monitor {
    control: Arc<Control>,
    health: BTreeMap<InstanceId, Health>,
    /// What to ask for, by version.
    paths: BTreeMap<VersionId, String>,
}

impl Monitor {
    async fn round(&mut self) {
        let suspected = self.control.edges.take_suspects();
        let Some(replicas) = self.control.observed.replicas() else { return };
        let ids: BTreeSet<_> =
            replicas.iter().filter(|o| is_remembered(&o.phase)).map(|o| o.instance).collect();
        self.health.retain(|id, _| ids.contains(id));
        let ready: Vec<_> = replicas
            .into_iter()
            .filter(|o| matches!(o.owner, Owner::Version(_)) && o.phase.ready().is_some())
            .collect();
        let now = self.control.env.now();
        let due: Vec<_> = ready
            .into_iter()
            .filter(|o| {
                // The provider asked it when it became ready.
                let health = self
                    .health
                    .entry(o.instance)
                    .or_insert(Health { probed_at: o.ready_at, ..Health::default() });
                is_due(health, suspected.contains(&o.instance), now)
            })
            .collect();
        if !due.is_empty() {
            self.learn_paths(&due).await;
            self.probe(due).await;
        }
        let suspects = self
            .health
            .iter()
            .filter(|(_, health)| health.failures >= FAILURES)
            .map(|(id, _)| *id)
            .collect();
        if self.control.suspects.set(suspects) {
            self.control.wakes.routes.notify_one();
            self.control.wakes.deployments.notify_one();
        }
    }

    async fn probe(&mut self, due: Vec<Observed>) {
        let control = self.control.clone();
        let ask = |observed: Observed| {
            let path = match observed.owner {
                Owner::Version(version) => self.paths.get(&version).cloned(),
                _ => None,
            };
            let path = path.unwrap_or_else(|| "/".to_owned());
            let (probe, checks) = (control.probe.clone(), control.suspects.checks.clone());
            async move {
                let addr = observed.phase.ready()?;
                let host = addr.to_string();
                let target = Target { addr, host, path, timeout: TIMEOUT };
                let outcome = probe.probe(&target).await;
                checks.fetch_add(1, Ordering::Relaxed);
                Some((outcome, observed))
            }
        };
        let asked: Vec<_> = futures_util::stream::iter(due.into_iter().map(ask))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (outcome, observed) in asked.into_iter().flatten() {
            self.conclude(outcome, &observed).await;
        }
    }

    async fn conclude(&mut self, outcome: Outcome, observed: &Observed) {
        let instance = observed.instance;
        let before = self.health.get(&instance).copied().unwrap_or_default();
        let cpu_time = match outcome {
            Outcome::Answered(_) => None,
            _ => self.control.provider.cpu_time(instance).await,
        };
        let (health, verdict) = judge(before, outcome, cpu_time, self.control.env.now());
        self.health.insert(instance, health);
        if verdict != Verdict::Replace {
            return;
        }
        // What was probed may have ended meanwhile.
        let is_there = self.control.observed.replicas().is_some_and(|replicas| {
            replicas.iter().any(|o| o.instance == instance && o.phase.ready().is_some())
        });
        if !is_there {
            return;
        }
        tracing::warn!(%instance, ?outcome, "a replica does not answer and is replaced");
        if let Err(error) =
            self.control.provider.replace(observed.key, instance, When::WhenNewIsReady).await
        {
            tracing::warn!(%instance, %error, "it could not be replaced");
        }
    }

    /// Reads the health paths of versions that were not seen before.
    async fn learn_paths(&mut self, due: &[Observed]) {
        let is_new = |o: &Observed| matches!(o.owner, Owner::Version(version) if !self.paths.contains_key(&version));
        if !due.iter().any(is_new) {
            return;
        }
        let read = async {
            let mut db = self.control.store.conn().await?;
            versions::all(&mut db, VersionState::Ready).await
        };
        match read.await {
            Ok(rows) => {
                let path = |row: &versions::Version| {
                    let run = workloads::run_config(row).ok();
                    run.and_then(|run| run.health_check_path).unwrap_or_else(|| "/".to_owned())
                };
                self.paths = rows.iter().map(|row| (row.id, path(row))).collect();
            }
            Err(error) => tracing::warn!(%error, "cannot read what to probe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Answered, Broken, Refused, TimedOut};

    #[test]
    fn two_failures_make_a_suspect_and_what_follows_depends_on_the_kind() {
        let start: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let run = |outcomes: &[(u32, Outcome)], cpu_per_second: Option<u32>| {
            let first = (Health::default(), Verdict::Well);
            let step = |(health, _), (second, outcome): &(u32, Outcome)| {
                let cpu_time = cpu_per_second.map(|ms| Duration::from_millis((ms * second).into()));
                let now = start + SignedDuration::from_secs((*second).into());
                judge(health, *outcome, cpu_time, now)
            };
            outcomes.iter().fold(first, step).1
        };
        for (outcomes, cpu, expected) in [
            (&[(0, Answered(200))][..], None, Verdict::Well),
            (&[(0, Answered(500))], Some(0), Verdict::Well), // an answer is an answer
            (&[(0, TimedOut)], Some(0), Verdict::Well),
            (&[(0, TimedOut), (1, TimedOut)], None, Verdict::Suspect), // nobody can tell
            (&[(0, TimedOut), (1, TimedOut)], Some(0), Verdict::Replace), // frozen
            (&[(0, TimedOut), (1, TimedOut)], Some(1), Verdict::Replace),
            (&[(0, TimedOut), (1, TimedOut)], Some(500), Verdict::Suspect), // busy
            (&[(0, TimedOut), (1, Broken)], Some(500), Verdict::Suspect),
            (&[(0, TimedOut), (1, Answered(200)), (2, TimedOut)], Some(0), Verdict::Well),
            (&[(0, Refused), (1, Refused)], Some(500), Verdict::Replace),
            (&[(0, TimedOut), (1, Refused)], Some(500), Verdict::Suspect),
            (&[(0, TimedOut), (14, TimedOut)], Some(500), Verdict::Suspect),
            (&[(0, TimedOut), (15, TimedOut)], Some(500), Verdict::Replace),
        ] {
            assert_eq!(run(outcomes, cpu), expected, "{outcomes:?} {cpu:?}");
        }
    }

    #[test]
    fn what_was_found_of_a_replica_counts_while_it_is_ended() {
        let addr = ([127, 0, 0, 1], 80).into();
        assert!(is_remembered(&Phase::Ready { addr }) && is_remembered(&Phase::Draining { addr }));
        assert!(!is_remembered(&Phase::Running { addr }), "a fresh start is judged afresh");
        assert!(!is_remembered(&Phase::Exited { code: 0 }));
    }

    #[test]
    fn suspicion_and_failures_are_probed_at_once_the_others_rarely() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let probed = |ago| Health {
            probed_at: Some(now - SignedDuration::from_secs(ago)),
            ..Health::default()
        };
        assert!(!is_due(&probed(9), false, now));
        assert!(is_due(&probed(10), false, now));
        assert!(is_due(&probed(0), true, now));
        assert!(is_due(&Health { failures: 1, ..probed(0) }, false, now));
    }
}
