//! Tests of the decision: situations by hand, every state, and slots that fail.

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
        ready_at: (code == 'r').then(now),
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
        assert_eq!(plan(&targets, &slots, &[], is_busy, now()), expected, "{slots:?}");
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
        let actions = plan(&targets, &slots, &[], is_busy, now());
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
            for action in plan(&targets, &slots, &[], false, now()) {
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
        prop_assert_eq!(plan(&targets, &slots, &[], false, now()), vec![]);
        prop_assert_eq!(slots.len(), counts[0] + counts[1]);
    }
}

fn failure(n: u128, template: u8, size_n: u32, ago: i64) -> Failure {
    let Free { workload, digest, size, .. } = slot(n, 'x', template, size_n);
    Failure { workload, digest, size, at: now() - jiff::SignedDuration::from_secs(ago) }
}

#[test]
fn a_target_that_fails_rests_and_the_other_has_its_turn() {
    let targets = [target(0, 0, 1), target(0, 1, 1)];
    let start = |n: usize| Action::Start(targets[n].clone());
    let again = Action::Again(WorkloadId::from_uuid(Uuid::from_u128(1)));
    let (a, b) = (|ago| failure(1, 0, 0, ago), |ago| failure(2, 0, 1, ago));
    for (slots, failures, expected) in [
        (vec![], vec![a(0)], vec![start(1)]),
        (vec![], vec![a(30)], vec![start(1)]), // it may start, after the one that never failed
        (vec![slot(3, 'r', 0, 1)], vec![a(0)], vec![]),
        (vec![slot(3, 'r', 0, 1)], vec![a(1)], vec![start(0)]),
        (vec![slot(3, 'r', 0, 1)], vec![a(9), a(1)], vec![]),
        (vec![slot(3, 'r', 0, 1)], vec![a(9), a(2)], vec![start(0)]),
        (vec![], vec![a(0), b(0)], vec![]),
        (vec![], vec![a(9), a(5), b(1)], vec![start(1)]),
        (vec![slot(1, 'n', 0, 0)], vec![a(0)], vec![start(1)]),
        (vec![slot(1, 'n', 0, 0)], vec![a(1)], vec![again]),
    ] {
        assert_eq!(plan(&targets, &slots, &failures, false, now()), expected, "{slots:?}");
    }
}

#[test]
fn a_slot_that_comes_up_ends_a_row_of_failures_and_an_older_one_does_not() {
    let targets = [target(0, 0, 2)];
    let ready = slot(3, 'r', 0, 0);
    let failures = vec![failure(1, 0, 0, 5), failure(2, 0, 0, 1)];
    assert_eq!(learn(&targets, std::slice::from_ref(&ready), failures.clone(), now()), []);
    let older = Free { ready_at: Some(failures[1].at), ..ready };
    assert_eq!(learn(&targets, &[older], failures.clone(), now()), failures);
    let spoilt = slot(4, 'x', 0, 0);
    let learnt = learn(&targets, std::slice::from_ref(&spoilt), failures, now());
    assert_eq!(learnt.len(), 3);
    assert_eq!(learn(&targets, &[spoilt], learnt.clone(), now()), learnt, "it counts once");
    assert_eq!(learn(&[], &[], learnt, now()), [], "nobody wants it any more");
}

proptest! {
    /// One target's slots always fail, after `life` tenths of a second; the other's come up. The
    /// first is tried ever more seldom, and the second is full all the same.
    #[test]
    fn slots_that_always_fail_are_no_hot_loop(
        life in 0..50_u32, is_first in any::<bool>(), code in proptest::sample::select(vec!['x', 'l']),
    ) {
        let (bad, good) = (target(0, 0, 2), target(0, 1, 3));
        let targets = if is_first { [bad.clone(), good] } else { [good, bad.clone()] };
        let (mut slots, mut failures) = (Vec::<Free>::new(), Vec::new());
        let (mut starts, mut next) = (Vec::new(), 100);
        for tick in 0..6000 {
            let now = now() + Duration::from_millis(100 * tick);
            for s in &mut slots {
                let is_bad = s.size == bad.size;
                let is_due = now.duration_since(s.created_at).unsigned_abs() >= Duration::from_millis(100) * life;
                if is_due && matches!(s.phase, Some(Phase::Pending { .. })) {
                    s.phase = slot(0, if is_bad { code } else { 'r' }, 0, 0).phase;
                    s.ready_at = (!is_bad).then_some(now);
                }
            }
            failures = learn(&targets, &slots, failures, now);
            for action in plan(&targets, &slots, &failures, false, now) {
                match action {
                    Action::Retire(id) => slots.retain(|s| s.workload != id),
                    Action::Again(_) => prop_assert!(false, "every slot is seen"),
                    Action::Start(target) => {
                        next += 1;
                        let new = slot(next, 'p', 0, target.size.memory_mib - 64);
                        slots.push(Free { created_at: now, ..new });
                        if target == bad {
                            starts.push(now);
                        }
                    }
                }
            }
            prop_assert!(failures.len() <= REMEMBERED);
        }
        // 1 + 2 + 4 + 8 + 16 + 32 s, and one each minute after that.
        prop_assert!((10..=16).contains(&starts.len()), "{} starts in 10 min", starts.len());
        for (n, pair) in starts.windows(2).enumerate() {
            let pause = REST.pause(u32::try_from(n).unwrap() + 1);
            prop_assert!(pair[1].duration_since(pair[0]).unsigned_abs() >= pause);
        }
        let good = slots.iter().filter(|s| s.size != bad.size && is_ready(s)).count();
        prop_assert_eq!(good, 3);
    }
}

prop_compose! {
    fn any_memory()(total_mib in 100..100_000_u64, percent in 0..=100_u64)
        -> miosa_provider::Memory {
        miosa_provider::Memory { total_mib, available_mib: total_mib * percent / 100 }
    }
}

proptest! {
    #[test]
    fn a_host_that_is_short_of_memory_gets_that_of_the_slots_and_starts_none(
        mut slots in proptest::collection::vec(any_slot(), 0..8), memory in any_memory(),
        counts in proptest::collection::vec(0..3_usize, 2),
    ) {
        slots.sort_by_key(|s| s.workload);
        slots.dedup_by_key(|s| s.workload);
        let targets = [target(0, 0, counts[0]), target(0, 1, counts[1])];
        let planned = plan(&targets, &slots, &[], false, now());
        let left = under(pressure(Some(memory)), &slots, planned.clone());
        let is_retire = |action: &&Action| matches!(action, Action::Retire(_));
        if memory.available_mib >= memory.total_mib / 10 {
            prop_assert_eq!(left, planned);
            return Ok(());
        }
        prop_assert!(left.iter().all(|action| is_retire(&action)), "nothing starts");
        let due: Vec<_> = planned.iter().filter(is_retire).cloned().collect();
        if memory.available_mib >= memory.total_mib / 20 || !due.is_empty() {
            prop_assert_eq!(left, due);
            return Ok(());
        }
        prop_assert_eq!(left.len(), usize::from(!slots.is_empty()), "one at a time");
        for action in left {
            let Action::Retire(id) = action else { continue };
            let gone = slots.iter().find(|s| s.workload == id).unwrap();
            prop_assert!(slots.iter().all(|s| s.size.memory_mib <= gone.size.memory_mib));
        }
    }
}

#[test]
fn a_slot_has_the_host_name_of_every_sandbox() {
    let slot = Slot {
        workload: WorkloadId::from_uuid(Uuid::from_u128(1)),
        template: "base".into(),
        template_digest: Digest::of(b"t"),
        size: size(1),
        sandbox: None,
        created_at: now(),
    };
    assert_eq!(spec(&slot).hostname, HOSTNAME);
}
