//! What to do about one workload's replicas, for providers that keep the count themselves. Pure:
//! no I/O, no clock.
//!
//! Rules: the number of replicas of the wanted revision is kept; what leaves for a new one stays
//! until that is ready, unless it must go first; what exits is removed and a new replica made, if
//! the workload restarts; nothing starts before its time.

use std::time::Duration;

use jiff::Timestamp;
use miosa_types::InstanceId;

use crate::When;

/// Ready for that long ends a row of exits: a crash loop is one of starts. An app that serves for
/// a while and dies of something else each time is started again at once.
pub const STABLE: Duration = Duration::from_secs(10);
const FIRST_PAUSE_MS: u64 = 100;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The revision that replicas should run.
    pub revision: u64,
    /// How many.
    pub replicas: usize,
    /// Whether exits are replaced.
    pub restart: bool,
    /// Everything goes.
    pub is_deleting: bool,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not begun.
    Waiting {
        /// When it may begin.
        until: Timestamp,
    },
    /// Being started; cannot be interrupted, but ends by itself.
    Starting,
    /// Runs.
    Running,
    /// Answered.
    Ready,
    /// Told to end.
    Draining,
    /// Ended.
    Exited,
}

/// What is seen of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub instance: InstanceId,
    /// The revision it runs.
    pub revision: u64,
    /// How far it is.
    pub stage: Stage,
    /// Whether it is to be replaced.
    pub leave: Option<When>,
}

/// Each may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Makes a new replica, waiting for its time.
    Create,
    /// Starts a waiting replica.
    Start(InstanceId),
    /// Tells a replica to end, and ends it when its grace is over.
    Drain(InstanceId),
    /// Ends a replica at once.
    Kill(InstanceId),
    /// Forgets a replica that waits or has ended.
    Remove(InstanceId),
    /// Forgets the workload.
    Forget,
}

/// The next actions, and when to look again if nothing happens before.
pub fn plan(desired: &Desired, seen: &[Seen], now: Timestamp) -> (Vec<Action>, Option<Timestamp>) {
    if desired.is_deleting {
        return (delete(seen), None);
    }
    let mut actions = Vec::new();
    let (mut staying, mut yielding, mut blocking) = (Vec::new(), Vec::new(), 0);
    for one in seen {
        match (leaves(desired, one), one.stage) {
            (Some(_), Stage::Waiting { .. } | Stage::Exited) => {
                actions.push(Action::Remove(one.instance));
            }
            (None, Stage::Exited) if desired.restart => actions.push(Action::Remove(one.instance)),
            (Some(When::Now), Stage::Running | Stage::Ready) => {
                blocking += 1;
                actions.push(Action::Kill(one.instance));
            }
            (Some(When::Now), Stage::Starting | Stage::Draining) => blocking += 1,
            (Some(When::WhenNewIsReady), Stage::Running | Stage::Ready) => yielding.push(one),
            (Some(When::WhenNewIsReady), Stage::Starting | Stage::Draining)
            | (None, Stage::Draining) => {}
            (None, _) => staying.push(one),
        }
    }
    let ready = staying.iter().filter(|one| one.stage == Stage::Ready).count();
    // Ready ones stay longest.
    yielding.sort_by_key(|one| one.stage == Stage::Ready);
    let needed = desired.replicas.saturating_sub(ready);
    let gone = yielding.len().saturating_sub(needed);
    actions.extend(yielding.iter().take(gone).map(|one| Action::Drain(one.instance)));

    // The least useful go first: those that do not run yet, and of equals the newest.
    staying.sort_by_key(|one| (rank(one.stage), std::cmp::Reverse(one.instance)));
    let surplus = staying.len().saturating_sub(desired.replicas);
    let (extra, kept) = staying.split_at(surplus);
    actions.extend(extra.iter().filter_map(|one| end(one)));
    let missing = desired.replicas.saturating_sub(kept.len() + blocking);
    actions.extend(std::iter::repeat_n(Action::Create, missing));

    let mut wake_at = None;
    for one in kept {
        if let Stage::Waiting { until } = one.stage {
            if until <= now {
                actions.push(Action::Start(one.instance));
            } else {
                wake_at = Some(wake_at.map_or(until, |at: Timestamp| at.min(until)));
            }
        }
    }
    (actions, wake_at)
}

/// How long to wait before the next start, after that many exits in a row: not at all after the
/// first, then 100 ms, doubled each time, at most 30 s.
pub fn pause(exits_in_a_row: u32) -> Duration {
    match exits_in_a_row {
        0 | 1 => Duration::ZERO,
        n => Duration::from_millis(FIRST_PAUSE_MS << (n - 2).min(20)).min(LONGEST_PAUSE),
    }
}

fn delete(seen: &[Seen]) -> Vec<Action> {
    if seen.is_empty() {
        return vec![Action::Forget];
    }
    seen.iter().filter_map(end).collect()
}

fn end(one: &Seen) -> Option<Action> {
    match one.stage {
        Stage::Waiting { .. } | Stage::Exited => Some(Action::Remove(one.instance)),
        Stage::Running | Stage::Ready => Some(Action::Drain(one.instance)),
        Stage::Starting | Stage::Draining => None,
    }
}

/// Whether a replica leaves, and how. One of an old revision leaves when a new one is ready; where
/// there is only ever one (no restarts) it goes first.
fn leaves(desired: &Desired, one: &Seen) -> Option<When> {
    let is_old = one.revision != desired.revision;
    let by_revision = if desired.restart { When::WhenNewIsReady } else { When::Now };
    one.leave.or_else(|| is_old.then_some(by_revision))
}

fn rank(stage: Stage) -> u8 {
    match stage {
        Stage::Exited => 0,
        Stage::Waiting { .. } => 1,
        Stage::Starting => 2,
        Stage::Running => 3,
        Stage::Ready | Stage::Draining => 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn id(n: usize) -> InstanceId {
        InstanceId::from_uuid(Uuid::from_u128(n as u128 + 1))
    }

    /// `w` waiting, `W` waiting for later, `s` starting, `u` running, `r` ready, `d` draining, `x`
    /// exited; `-` behind it: to be replaced when the new one is ready, `!`: now, `o`: old
    /// revision.
    fn state(text: &str) -> Vec<Seen> {
        let one = |(n, word): (usize, &str)| {
            let stage = match word.as_bytes()[0] {
                b'w' => Stage::Waiting { until: now() },
                b'W' => Stage::Waiting { until: now() + Duration::from_secs(1) },
                b's' => Stage::Starting,
                b'u' => Stage::Running,
                b'r' => Stage::Ready,
                b'd' => Stage::Draining,
                _ => Stage::Exited,
            };
            let leave = match word.get(1..2) {
                Some("-") => Some(When::WhenNewIsReady),
                Some("!") => Some(When::Now),
                _ => None,
            };
            let revision = if word.ends_with('o') { 1 } else { 2 };
            Seen { instance: id(n), revision, stage, leave }
        };
        text.split_whitespace().enumerate().map(one).collect()
    }

    #[test]
    fn each_situation_has_its_actions() {
        use Action::{Create, Drain, Forget, Kill, Remove, Start};
        let two = Desired { revision: 2, replicas: 2, restart: true, is_deleting: false };
        let once = Desired { replicas: 1, restart: false, ..two };
        let delete = Desired { is_deleting: true, ..two };
        for (desired, text, expected) in [
            (two, "", vec![Create, Create]),
            (two, "w W", vec![Start(id(0))]),
            (two, "r s", vec![]),
            (two, "r x", vec![Remove(id(1)), Create]),
            (two, "r d", vec![Create]),
            (two, "r r r", vec![Drain(id(2))]),
            (two, "r u r", vec![Drain(id(1))]),
            (two, "r r-", vec![Create]),
            (two, "r r- s", vec![]),
            (two, "r r- r", vec![Drain(id(1))]),
            (two, "r r!", vec![Kill(id(1))]),
            (two, "r d!", vec![]),
            (two, "r x!", vec![Remove(id(1)), Create]),
            (two, "ro ro", vec![Create, Create]),
            (two, "ro uo r s", vec![Drain(id(1))]),
            (two, "ro ro r r", vec![Drain(id(0)), Drain(id(1))]),
            (once, "x", vec![]),
            (once, "xo", vec![Remove(id(0)), Create]),
            (once, "ro", vec![Kill(id(0))]),
            (delete, "w s u r d x", vec![Remove(id(0)), Drain(id(2)), Drain(id(3)), Remove(id(5))]),
            (delete, "", vec![Forget]),
        ] {
            assert_eq!(plan(&desired, &state(text), now()).0, expected, "in state `{text}`");
        }
        let (_, wake_at) = plan(&two, &state("r W"), now());
        assert_eq!(wake_at, Some(now() + Duration::from_secs(1)));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let ms: Vec<u128> = (0..5).map(|n| pause(n).as_millis()).collect();
        assert_eq!(ms, [0, 0, 100, 200, 400]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }

    /// A world in which every action works at once and every start becomes ready.
    fn live(desired: &Desired, mut seen: Vec<Seen>) -> (Vec<Seen>, bool) {
        for round in 0..20 {
            let (actions, wake_at) = plan(desired, &seen, now() + Duration::from_secs(5));
            assert_eq!(wake_at, None);
            if actions.contains(&Action::Forget) {
                return (seen, true);
            }
            for (n, action) in actions.iter().enumerate() {
                let stage = match action {
                    Action::Create => {
                        let stage = Stage::Waiting { until: now() };
                        let instance = id(1000 + round * 50 + n);
                        seen.push(Seen {
                            instance,
                            revision: desired.revision,
                            stage,
                            leave: None,
                        });
                        continue;
                    }
                    Action::Remove(gone) => {
                        seen.retain(|one| one.instance != *gone);
                        continue;
                    }
                    Action::Start(_) => Stage::Starting,
                    Action::Drain(_) | Action::Kill(_) => Stage::Draining,
                    Action::Forget => unreachable!(),
                };
                let (Action::Start(which) | Action::Drain(which) | Action::Kill(which)) = action
                else {
                    continue;
                };
                seen.iter_mut()
                    .filter(|one| one.instance == *which)
                    .for_each(|one| one.stage = stage);
            }
            for one in &mut seen {
                one.stage = match one.stage {
                    Stage::Draining if !actions.contains(&Action::Drain(one.instance)) => {
                        Stage::Exited
                    }
                    Stage::Starting => Stage::Running,
                    Stage::Running => Stage::Ready,
                    stage => stage,
                };
            }
        }
        (seen, false)
    }

    proptest! {
        /// Whatever the state, it comes to rest at what is wanted.
        #[test]
        fn every_state_converges(
            words in proptest::collection::vec("[wWsurdx][-!]?o?", 0..6),
            replicas in 0_usize..4, is_deleting: bool,
        ) {
            let desired = Desired { revision: 2, replicas, restart: true, is_deleting };
            let (seen, is_forgotten) = live(&desired, state(&words.join(" ")));
            prop_assert_eq!(is_forgotten, is_deleting);
            let wanted = if is_deleting { 0 } else { replicas };
            prop_assert_eq!(seen.len(), wanted, "{:?}", seen);
            prop_assert!(seen.iter().all(|one| one.stage == Stage::Ready && one.revision == 2));
        }

        /// With enough ready replicas of either kind, a step never leaves fewer than wanted
        /// unless it was told to go first.
        #[test]
        fn a_roll_never_serves_less(words in proptest::collection::vec("[surdx]-?o?", 0..6)) {
            let desired = Desired { revision: 2, replicas: 2, restart: true, is_deleting: false };
            let seen = state(&words.join(" "));
            let ready = |seen: &[Seen]| seen.iter().filter(|one| one.stage == Stage::Ready).count();
            let before = ready(&seen);
            let (actions, _) = plan(&desired, &seen, now());
            let after: Vec<_> = seen.into_iter().filter(|one| {
                !actions.contains(&Action::Drain(one.instance))
                    && !actions.contains(&Action::Kill(one.instance))
            }).collect();
            prop_assert!(ready(&after) >= before.min(2));
        }
    }
}
