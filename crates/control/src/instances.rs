//! Turns observations of replicas into rows of runtime instances.
//!
//! Promises: [`changes`] is pure; a row is only ever written from what was observed; an instance
//! that is not observed any more has ended, and its row says how.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use miosa_provider::{Exit, Observed, Owner, Phase};
use miosa_store::{instances::Instance, versions::Version};
use miosa_types::{InstanceId, VersionId, deployment::InstanceState};

/// How long after its end a row waits for the replica that tells how it ended.
pub const WAIT_FOR_EXIT: SignedDuration = SignedDuration::from_secs(60);
/// Ended instances that are kept for each deployment.
pub const KEEP: u32 = 50;

/// A row to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The row.
    pub row: Instance,
    /// Whether nothing more will be known of it. How a replica ended is told by the one that
    /// follows it, so an ended row may be written twice.
    pub is_final: bool,
}

/// What is known beside what the provider reports.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Replicas that do not answer the monitor.
    pub suspects: &'a BTreeSet<InstanceId>,
    /// Replicas whose workload was told to go.
    pub told: &'a BTreeSet<InstanceId>,
    /// The time.
    pub now: Timestamp,
}

/// The rows to write: what changed since `known`, which holds every row that is not final.
pub fn changes(
    known: &BTreeMap<InstanceId, Instance>,
    versions: &BTreeMap<VersionId, Version>,
    replicas: &[Observed],
    facts: &Facts<'_>,
) -> Vec<News> {
    let mut rows = Vec::new();
    let mut exits: BTreeMap<VersionId, &Exit> = BTreeMap::new();
    let mut present = BTreeSet::new();
    for observed in replicas {
        let Owner::Version(version) = observed.owner else { continue };
        present.insert(observed.instance);
        if let Some(exit) = &observed.last_exit {
            exits.insert(version, exit);
        }
        let Some(version) = versions.get(&version) else { continue };
        let row = row(observed, version, facts);
        let is_news = known.get(&row.id).is_none_or(|old| has_changed(old, &row));
        if is_news {
            rows.push(News { row, is_final: false });
        }
    }
    for old in known.values().filter(|old| !present.contains(&old.id)) {
        let exit = exits.get(&old.version).copied().filter(|exit| exit.at >= old.started_at);
        if exit.is_some() || old.ended_at.is_none() {
            rows.push(ended(old, exit, facts));
        }
    }
    rows
}

/// What an instance's state is called.
pub const fn state(phase: &Phase, is_suspect: bool) -> InstanceState {
    match phase {
        Phase::Pending { .. } => InstanceState::Provisioning,
        Phase::Running { .. } => InstanceState::Starting,
        Phase::Ready { .. } if is_suspect => InstanceState::Unhealthy,
        Phase::Ready { .. } => InstanceState::Healthy,
        Phase::Draining { .. } => InstanceState::Stopped,
        Phase::Lost | Phase::Exited { .. } => InstanceState::Error,
    }
}

fn row(observed: &Observed, version: &Version, facts: &Facts<'_>) -> Instance {
    let is_told = facts.told.contains(&observed.instance);
    let is_suspect = facts.suspects.contains(&observed.instance);
    let addr = match observed.phase {
        Phase::Running { addr } | Phase::Ready { addr } | Phase::Draining { addr } => Some(addr),
        Phase::Pending { .. } | Phase::Lost | Phase::Exited { .. } => None,
    };
    let error = match &observed.phase {
        _ if is_told => None,
        Phase::Exited { code } => Some(exit_text(Some(*code), None)),
        Phase::Lost => Some("It cannot be seen any more.".to_owned()),
        _ => None,
    };
    Instance {
        id: observed.instance,
        tenant: version.tenant,
        deployment: version.deployment,
        version: version.id,
        state: if is_told { InstanceState::Stopped } else { state(&observed.phase, is_suspect) },
        ip: addr.map(|addr| addr.ip().to_string()),
        port: addr.map(|addr| addr.port()),
        restarts: observed.restarts,
        error,
        started_at: observed.started_at,
        ready_at: observed.ready_at,
        last_seen_at: facts.now,
        ended_at: None,
    }
}

fn has_changed(old: &Instance, new: &Instance) -> bool {
    let of = |i: &Instance| (i.state, i.ip.clone(), i.port, i.restarts, i.ready_at);
    of(old) != of(new)
}

/// A replica that was told to end is `destroyed`; one that vanished by itself is `error`.
fn ended(old: &Instance, exit: Option<&Exit>, facts: &Facts<'_>) -> News {
    let was_told = facts.told.contains(&old.id)
        || matches!(old.state, InstanceState::Stopped | InstanceState::Destroyed);
    let error = match exit {
        Some(exit) if !was_told => Some(exit_text(exit.code, Some(&exit.log_tail))),
        _ => old.error.clone(),
    };
    let state = if was_told { InstanceState::Destroyed } else { InstanceState::Error };
    let ended_at = Some(old.ended_at.unwrap_or(facts.now));
    let row = Instance { state, error, ended_at, ..old.clone() };
    News { row, is_final: was_told || exit.is_some() }
}

/// How an exit is told to the owner of the app.
pub fn exit_text(code: Option<i32>, log_tail: Option<&str>) -> String {
    let text = match code {
        Some(code @ 129..=192) => format!("It was ended by signal {}.", code - 128),
        Some(code) if code >= 0 => format!("It ended with exit code {code}."),
        _ => "It ended.".to_owned(),
    };
    with_output(text, log_tail.unwrap_or_default())
}

/// `text` with the end of what was printed.
pub fn with_output(text: String, output: &str) -> String {
    match output.trim_end() {
        "" => text,
        output => format!("{text} Its last output:\n{output}"),
    }
}
