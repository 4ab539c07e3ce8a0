//! Fills the warm pool up to its targets and retires slots that do not fit them.
//!
//! [`plan`] decides and does no I/O. At most one slot starts at a time, and none while a sandbox
//! of a tenant comes up, so that filling never starves a create.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_provider::{Confinement, Key, Observed, Owner, Phase, Readiness, Root, WorkloadSpec};
use miosa_store::pool_slots::{self, Slot};
use miosa_types::{Digest, Size, WorkloadId};
use tokio::sync::Notify;

use crate::{Control, Reconciler, Report, driver::StepError, sandboxes::START_DEADLINE};

/// Slots looked at in one step; targets beyond it are not filled.
const LOOK_AT: u32 = 1000;

/// What to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the template.
    pub template: String,
    /// What it means now.
    pub digest: Digest,
    /// Size of each slot.
    pub size: Size,
    /// How many.
    pub count: usize,
}

/// A slot that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Free {
    /// Its workload.
    pub workload: WorkloadId,
    /// What it was started from.
    pub digest: Digest,
    /// Its limits.
    pub size: Size,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// What is seen of it; `None`: nothing is there.
    pub phase: Option<Phase>,
}

/// Each may be repeated at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Add a slot of this target.
    Start(Target),
    /// Ask again for a slot that is not there.
    Again(WorkloadId),
    /// Remove a slot.
    Retire(WorkloadId),
}

/// Compares targets with slots. `is_busy`: a sandbox of a tenant is coming up.
///
/// Invariants (tested): never two starts; never a start that would exceed a target; never
/// retires a good slot that is within its target.
pub fn plan(targets: &[Target], free: &[Free], is_busy: bool, now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut starting = 0;
    let mut missing = None;
    let mut kept = vec![0_usize; targets.len()];
    let mut slots: Vec<_> = free.iter().collect();
    // Ready ones are kept first, then the older.
    slots.sort_by_key(|slot| (!is_ready(slot), slot.created_at, slot.workload));
    for slot in slots {
        let of = |target: &Target| target.digest == slot.digest && target.size == slot.size;
        let place = targets.iter().position(of).filter(|n| kept[*n] < targets[*n].count);
        match place {
            Some(n) if !is_spoilt(slot, now) => {
                kept[n] += 1;
                starting += usize::from(!is_ready(slot));
                if slot.phase.is_none() {
                    missing = Some(slot.workload);
                }
            }
            _ => actions.push(Action::Retire(slot.workload)),
        }
    }
    if is_busy {
        return actions;
    }
    if let Some(workload) = missing {
        actions.push(Action::Again(workload));
    } else if starting == 0 {
        let short = targets.iter().zip(&kept).find(|(target, kept)| **kept < target.count);
        actions.extend(short.map(|(target, _)| Action::Start(target.clone())));
    }
    actions
}

const fn is_ready(slot: &Free) -> bool {
    matches!(slot.phase, Some(Phase::Ready { .. }))
}

fn is_spoilt(slot: &Free, now: Timestamp) -> bool {
    match slot.phase {
        Some(Phase::Ready { .. }) => false,
        Some(Phase::Exited { .. } | Phase::Draining { .. } | Phase::Lost) => true,
        Some(Phase::Pending { .. } | Phase::Running { .. }) | None => {
            now.duration_since(slot.created_at).unsigned_abs() >= START_DEADLINE
        }
    }
}

/// The reconciler.
#[derive(Debug)]
pub struct Pool(pub Arc<Control>);

#[async_trait]
impl Reconciler for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn wake(&self) -> Arc<Notify> {
        self.0.wakes.pool.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        let control = &self.0;
        let rows = pool_slots::free(&mut *control.store.conn().await?, LOOK_AT).await?;
        // Nothing is known: a slot that is not seen may be there.
        let Some(seen) = control.observed.replicas() else { return Ok(Report::default()) };
        let free: Vec<_> = rows.iter().map(|slot| free(slot, &seen)).collect();
        let is_busy = control.in_hand.count() > 0;
        let mut report = Report { looked_at: free.len(), ..Report::default() };
        for action in plan(&targets(control), &free, is_busy, control.env.now()) {
            match self.act(&rows, &action).await {
                Ok(()) => report.acted += 1,
                Err(error) => {
                    report.failed += 1;
                    tracing::warn!(?action, %error, "cannot act on the warm pool yet");
                }
            }
        }
        Ok(report)
    }
}

impl Pool {
    async fn act(&self, rows: &[Slot], action: &Action) -> Result<(), StepError> {
        let control = &self.0;
        match action {
            Action::Start(target) => {
                let slot = Slot {
                    workload: control.env.id(),
                    template: target.template.clone(),
                    template_digest: target.digest,
                    size: target.size,
                    sandbox: None,
                    created_at: control.env.now(),
                };
                // The row first: what is there without a row is a leftover.
                pool_slots::insert(&mut *control.store.conn().await?, &slot).await?;
                control.provider.apply(&spec(&slot)).await?;
            }
            Action::Again(workload) => {
                if let Some(slot) = rows.iter().find(|slot| slot.workload == *workload) {
                    control.provider.apply(&spec(slot)).await?;
                }
            }
            Action::Retire(workload) => {
                let mut db = control.store.conn().await?;
                let is_ours = pool_slots::retire(&mut db, *workload).await?;
                drop(db);
                if is_ours {
                    control.provider.delete(Key { workload: *workload, revision: 1 }, 0).await?;
                }
            }
        }
        Ok(())
    }
}

fn targets(control: &Control) -> Vec<Target> {
    let resolve = |target: &crate::PoolTarget| {
        let template = control.templates.resolve(&target.template)?;
        let count = usize::try_from(target.count).unwrap_or(usize::MAX);
        let (digest, template) = (template.digest, template.name);
        Some(Target { template, digest, size: target.size, count })
    };
    control.config.pool.iter().filter_map(resolve).collect()
}

fn free(slot: &Slot, seen: &[Observed]) -> Free {
    let replica = seen.iter().find(|o| o.key.workload == slot.workload);
    Free {
        workload: slot.workload,
        digest: slot.template_digest,
        size: slot.size,
        created_at: slot.created_at,
        phase: replica.map(|o| o.phase.clone()),
    }
}

fn spec(slot: &Slot) -> WorkloadSpec {
    WorkloadSpec {
        key: Key { workload: slot.workload, revision: 1 },
        owner: Owner::Pool,
        root: Root { template: slot.template_digest.to_string(), layer: None },
        size: slot.size,
        replicas: 1,
        restart: false,
        confinement: Confinement::Sandbox,
        command: None,
        readiness: Readiness::Guest,
        hostname: "sandbox".to_owned(),
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

    fn size(n: u32) -> Size {
        Size { memory_mib: 64 + n, cpu_millis: 50, disk_mib: 64 }
    }

    fn target(template: u8, size_n: u32, count: usize) -> Target {
        let digest = Digest::of(&[template]);
        Target { template: template.to_string(), digest, size: size(size_n), count }
    }

    /// Codes: `n` not there, `p` pending, `P` pending too long, `r` ready, `x` exited, `l` lost.
    fn slot(n: u128, code: char, template: u8, size_n: u32) -> Free {
        let addr = ([10, 0, 0, 1], 1).into();
        Free {
            workload: WorkloadId::from_uuid(Uuid::from_u128(n)),
            digest: Digest::of(&[template]),
            size: size(size_n),
            created_at: if code == 'P' { now() - START_DEADLINE } else { now() },
            phase: match code {
                'n' => None,
                'p' | 'P' => Some(Phase::Pending { why: String::new() }),
                'r' => Some(Phase::Ready { addr }),
                'x' => Some(Phase::Exited { code: 1 }),
                _ => Some(Phase::Lost),
            },
        }
    }

    #[test]
    fn each_situation_has_its_actions() {
        let targets = [target(0, 0, 1), target(0, 1, 1)];
        let id = |n| WorkloadId::from_uuid(Uuid::from_u128(n));
        let start = |n: usize| Action::Start(targets[n].clone());
        let retire = |n| Action::Retire(id(n));
        for (slots, is_busy, expected) in [
            (vec![], false, vec![start(0)]),
            (vec![], true, vec![]),
            (vec![slot(1, 'p', 0, 0)], false, vec![]),
            (vec![slot(1, 'r', 0, 0)], false, vec![start(1)]),
            (vec![slot(1, 'n', 0, 0)], false, vec![Action::Again(id(1))]),
            (vec![slot(1, 'n', 0, 0)], true, vec![]),
            (vec![slot(1, 'P', 0, 0)], false, vec![retire(1), start(0)]),
            (vec![slot(1, 'x', 0, 0)], true, vec![retire(1)]),
            (vec![slot(1, 'r', 9, 0)], false, vec![retire(1), start(0)]), // old template
            (vec![slot(1, 'r', 0, 9)], false, vec![retire(1), start(0)]), // size of no target
            (vec![slot(1, 'p', 0, 0), slot(2, 'r', 0, 0)], true, vec![retire(1)]),
            (vec![slot(1, 'r', 0, 0), slot(2, 'r', 0, 0)], true, vec![retire(2)]),
        ] {
            assert_eq!(plan(&targets, &slots, is_busy, now()), expected, "{slots:?}");
        }
    }

    prop_compose! {
        fn any_slot()(n in 0..1000_u128, code in proptest::sample::select(vec!['n', 'p', 'P', 'r', 'x', 'l']),
                      template in 0..2_u8, size_n in 0..2_u32) -> Free {
            slot(n, code, template, size_n)
        }
    }

    proptest! {
        #[test]
        fn no_state_breaks_an_invariant(
            mut slots in proptest::collection::vec(any_slot(), 0..8),
            counts in proptest::collection::vec(0..3_usize, 2), is_busy in any::<bool>(),
        ) {
            slots.sort_by_key(|s| s.workload);
            slots.dedup_by_key(|s| s.workload);
            let targets = [target(0, 0, counts[0]), target(0, 1, counts[1])];
            let actions = plan(&targets, &slots, is_busy, now());
            let retired = |s: &Free| actions.contains(&Action::Retire(s.workload));
            let starts = actions.iter().filter(|a| !matches!(a, Action::Retire(_))).count();
            prop_assert!(starts <= usize::from(!is_busy));
            for target in &targets {
                let of = |s: &&Free| s.digest == target.digest && s.size == target.size;
                let kept = slots.iter().filter(of).filter(|s| !retired(s)).count();
                let adds = usize::from(actions.contains(&Action::Start(target.clone())));
                prop_assert!(kept + adds <= target.count);
                let ready = slots.iter().filter(of).filter(|s| is_ready(s)).count();
                let kept_ready =
                    slots.iter().filter(of).filter(|s| is_ready(s) && !retired(s)).count();
                prop_assert_eq!(kept_ready, ready.min(target.count));
            }
        }

        /// Whatever is there, steps whose starts come up lead to exactly the targets.
        #[test]
        fn it_converges(
            mut slots in proptest::collection::vec(any_slot(), 0..8),
            counts in proptest::collection::vec(0..3_usize, 2),
        ) {
            slots.sort_by_key(|s| s.workload);
            slots.dedup_by_key(|s| s.workload);
            let targets = [target(0, 0, counts[0]), target(0, 1, counts[1])];
            let mut next = 10_000;
            for _ in 0..20 {
                for action in plan(&targets, &slots, false, now()) {
                    match action {
                        Action::Retire(id) => slots.retain(|s| s.workload != id),
                        Action::Again(_) => {}
                        Action::Start(target) => {
                            next += 1;
                            let size_n = target.size.memory_mib - 64;
                            slots.push(slot(next, 'p', 0, size_n));
                        }
                    }
                }
                let up = slot(0, 'r', 0, 0).phase;
                for s in &mut slots {
                    if matches!(s.phase, None | Some(Phase::Pending { .. })) {
                        s.phase.clone_from(&up);
                    }
                }
            }
            prop_assert_eq!(plan(&targets, &slots, false, now()), vec![]);
            prop_assert_eq!(slots.len(), counts[0] + counts[1]);
        }
    }
}
