//! Which version of a deployment serves, and what to do next so that the wanted one does.
//!
//! [`route`] and [`plan`] are the whole decision and do no I/O. They take no hint about what
//! changed, so a restart, a lost wake-up and a normal tick are one path. The provider keeps the
//! count and restarts exits; this replaces what does not come up, switches, and gives up.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use miosa_provider::{Phase, When};
use miosa_types::{InstanceId, VersionId};

/// A replica that is not ready by then is replaced.
pub const START_DEADLINE: SignedDuration = SignedDuration::from_secs(60);
/// Exits in a row after which a version without a ready replica has failed.
pub const CRASH_LOOP_BUDGET: u32 = 5;
/// Exits in a row up to which requests to a version that served before wait for its next start:
/// that is at most 13 s away then (`BackOff` of the provider), and may be the one that succeeds.
pub const WORTH_WAITING: u32 = 8;
/// Late starts after which a version has failed: one that hangs at its start exits too seldom
/// for the other budget.
pub const LATE_START_BUDGET: u32 = 2;

/// What is wanted of one deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The version that shall serve; `None`: nothing shall.
    pub wanted: Option<Wanted>,
    /// The version that every leased edge was last seen to serve.
    pub serving: Option<Serving>,
    /// Whether the wanted version is known not to come up any more.
    pub is_failed: bool,
}

/// The version that shall serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub version: VersionId,
    /// How many replicas; 0: it is static and needs none.
    pub replicas: usize,
    /// Whether it ever served.
    pub has_served: bool,
    /// How many of its replicas were replaced because they were late, since it is wanted.
    pub late_starts: u32,
}

/// A version that was seen to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Which.
    pub version: VersionId,
    /// Whether it has no process.
    pub is_static: bool,
}

/// A replica of one of the deployment's versions. Made only from a provider's `Observed` that a
/// version owns, so a sandbox cannot get in here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The replica.
    pub instance: InstanceId,
    /// What it runs.
    pub version: VersionId,
    /// What it does.
    pub phase: Phase,
    /// When it began to start.
    pub started_at: Timestamp,
    /// Exits of its workload since a replica of it was last ready for a while.
    pub exits_in_a_row: u32,
    /// Whether an edge may still send requests to it or waits for its answers.
    pub is_held: bool,
    /// Whether it did not answer the monitor.
    pub is_suspect: bool,
}

/// Each may be repeated at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the workload of a version.
    Apply {
        /// Which.
        version: VersionId,
        /// How many replicas.
        replicas: usize,
    },
    /// Set the count of a workload that runs.
    Scale {
        /// Which.
        version: VersionId,
        /// How many replicas.
        replicas: usize,
    },
    /// Swap one replica for a fresh one.
    Replace {
        /// Which.
        instance: InstanceId,
        /// Whether it goes first.
        when: When,
    },
    /// Remove the workload; no edge needs it any more.
    Delete {
        /// Which.
        version: VersionId,
    },
    /// Record that a version which never served failed; the intent returns to one that served.
    GiveUp {
        /// Which.
        version: VersionId,
    },
    /// Record that the version which served does not come up any more. It is still tried.
    Fail {
        /// Which.
        version: VersionId,
    },
}

/// The version that answers requests now: the wanted one as soon as it carries what any other
/// does. `None`: nothing is wanted.
pub fn route(desired: &Desired, seen: &[Seen]) -> Option<VersionId> {
    let wanted = desired.wanted?;
    if wanted.replicas == 0 {
        return Some(wanted.version);
    }
    let rank = |version: VersionId, is_static: bool| {
        let carries = |n: usize| if is_static { wanted.replicas } else { n.min(wanted.replicas) };
        let ready = || seen.iter().filter(move |s| s.version == version && is_ready(s));
        let answering = ready().filter(|s| !s.is_suspect).count();
        (carries(answering), carries(ready().count()), version == wanted.version, version)
    };
    let mut best = rank(wanted.version, false);
    let kept = desired.serving.filter(|s| s.is_static).map(|s| rank(s.version, true));
    let others = seen.iter().map(|s| rank(s.version, false));
    for other in others.chain(kept) {
        best = best.max(other);
    }
    Some(best.3)
}

/// The replicas of `version` that requests are sent to: suspects only if there is no other.
pub fn targets(version: VersionId, seen: &[Seen]) -> Vec<&Seen> {
    let ready: Vec<_> = seen.iter().filter(|s| s.version == version && is_ready(s)).collect();
    let answering: Vec<_> = ready.iter().copied().filter(|s| !s.is_suspect).collect();
    if answering.is_empty() { ready } else { answering }
}

/// Compares what is wanted with what was seen and names the next actions.
///
/// Never deletes a version that is wanted, routed, or that an edge still needs.
pub fn plan(desired: &Desired, seen: &[Seen], now: Timestamp) -> Vec<Action> {
    let live = || seen.iter().filter(|s| !matches!(s.phase, Phase::Draining { .. }));
    let of = |version| live().filter(move |s| s.version == version);
    let routed = route(desired, seen);
    let is_wanted = |version| desired.wanted.is_some_and(|w| w.version == version);

    let mut actions = Vec::new();
    if let Some(wanted) = desired.wanted.filter(|w| w.replicas > 0) {
        match verdict(desired, wanted, of(wanted.version)) {
            Some(give_up @ Action::GiveUp { .. }) => return vec![give_up],
            verdict => actions.extend(verdict),
        }
    }
    let is_served = desired
        .wanted
        .is_none_or(|w| w.replicas == 0 || routed.is_some_and(|v| carries(desired, v, seen)));
    let versions: BTreeSet<_> = live().map(|s| s.version).collect();
    for version in versions {
        let is_needed = is_wanted(version) || routed == Some(version);
        if is_needed || !is_served {
            actions.extend(of(version).filter_map(|s| replacement(s, now)));
        } else if !seen.iter().any(|s| s.version == version && s.is_held) {
            actions.push(Action::Delete { version });
        }
    }
    if let Some(Wanted { version, replicas, .. }) = desired.wanted.filter(|w| w.replicas > 0) {
        let running = of(version).count();
        let is_settled = of(version).all(|s| is_ready(s) && !s.is_suspect);
        if running == 0 {
            actions.push(Action::Apply { version, replicas });
        } else if running < replicas || (running > replicas && is_settled) {
            actions.push(Action::Scale { version, replicas });
        }
    }
    actions
}

/// Whether `version` answers requests at all.
fn carries(desired: &Desired, version: VersionId, seen: &[Seen]) -> bool {
    desired.serving.is_some_and(|s| s.is_static && s.version == version)
        || seen.iter().any(|s| s.version == version && is_ready(s))
}

/// Whether enough was tried. While another version serves, or if it never served, the attempt is
/// over; a version that served and has no other beside it is only called failed.
fn verdict<'a>(
    desired: &Desired,
    wanted: Wanted,
    mut of_wanted: impl Iterator<Item = &'a Seen> + Clone,
) -> Option<Action> {
    let version = wanted.version;
    // The provider always tries again; only the next replica tells how the last one ended.
    let is_next = |s: &&Seen| !matches!(s.phase, Phase::Exited { .. });
    let exits = of_wanted.clone().filter(is_next).map(|s| s.exits_in_a_row).max()?;
    let is_over = exits >= CRASH_LOOP_BUDGET || wanted.late_starts >= LATE_START_BUDGET;
    if !is_over || of_wanted.any(is_ready) {
        return None;
    }
    let has_other = desired.serving.is_some_and(|s| s.version != version);
    if has_other || !wanted.has_served {
        return Some(Action::GiveUp { version });
    }
    (!desired.is_failed).then_some(Action::Fail { version })
}

/// Whether a version that is called failed is started again so soon that a visitor may wait.
pub fn is_tried_soon(wanted: Wanted, seen: &[Seen]) -> bool {
    let exits = seen.iter().filter(|s| s.version == wanted.version).map(|s| s.exits_in_a_row).max();
    wanted.has_served
        && wanted.late_starts < LATE_START_BUDGET
        && exits.is_some_and(|exits| exits < WORTH_WAITING)
}

const fn is_ready(seen: &Seen) -> bool {
    seen.phase.ready().is_some()
}

fn replacement(seen: &Seen, now: Timestamp) -> Option<Action> {
    let is_late = now.duration_since(seen.started_at) > START_DEADLINE;
    let when = match seen.phase {
        Phase::Pending { .. } | Phase::Running { .. } if is_late => When::Now,
        // It may still run, so a new one starts beside it.
        Phase::Lost => When::WhenNewIsReady,
        Phase::Pending { .. }
        | Phase::Running { .. }
        | Phase::Ready { .. }
        | Phase::Draining { .. }
        | Phase::Exited { .. } => return None,
    };
    Some(Action::Replace { instance: seen.instance, when })
}

#[cfg(test)]
mod tests;
