//! Sandboxes and warm pool over the in-memory provider, with faults.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use miosa_provider::{
    Owner, Provider as _,
    fake::{Auto, Call, Fault},
};
use miosa_types::size::Tier;

use super::{
    bench::{Bench, bench, tenant},
    *,
};
use crate::{PoolTarget, Reconciler as _, previews};

fn owner_of(bench: &Bench, row: &Sandbox) -> Option<Owner> {
    bench.fake.of_workload(row.workload).first().map(|one| one.owner)
}

#[tokio::test]
async fn without_a_slot_it_starts_cold_and_the_guest_learns_who_it_is() {
    let bench = bench(&[]).await;
    let row = bench.create(Tier::Xs).await.unwrap();
    assert_eq!((row.state(), row.boot_path), (State::Running, BootPath::Cold));
    assert_eq!(owner_of(&bench, &row), Some(Owner::Sandbox(row.id)));
    let inits = bench.guest.inits.lock().unwrap().clone();
    assert_eq!(inits.len(), 1);
    assert_eq!(inits[0].1.hostname, None, "nobody inside may change it");
    // What a slot of the pool has, so that nothing inside tells the two apart.
    assert_eq!(bring_up::spec(&row).hostname, "sandbox");
    assert_eq!(inits[0].1.env["A"], "b");
    assert_eq!(inits[0].1.workdir.as_deref(), Some("/workspace"));
    let (_, endpoint) = enter(&bench.control, bench.tenant, row.id).await.unwrap();
    assert_eq!(endpoint, inits[0].0);
    let url = previews::url(&bench.control, &row, 5173);
    assert_eq!(url, format!("https://5173-{}.sandbox.apps.localhost:8443", row.slug));
}

#[tokio::test]
async fn without_room_none_is_made_and_one_that_was_begun_ends_with_the_reason() {
    let bench = bench(&[]).await;
    let short = "the disk is full";
    bench.fake.set_short(Some(short));
    let refused = bench.create(Tier::Xs).await.unwrap_err();
    assert!(matches!(&refused, Error::NoRoom { reason } if reason == short), "{refused}");
    assert_eq!(bench.fake.calls(), []);
    bench.fake.set_short(None);
    // The room runs out between the question and the start.
    bench.fake.fail_next(Fault::Before);
    let wait = Duration::from_millis(50);
    let new = bench.new_sandbox(Tier::Xs);
    let row = create(&bench.control, bench.tenant, new, None, wait).await.unwrap();
    assert_eq!(row.state(), State::Creating);
    bench.fake.set_short(Some(short));
    bench.converge().await;
    let row = wait_ready(&bench.control, bench.tenant, row.id, START_DEADLINE).await.unwrap();
    assert_eq!(row.state(), State::Error);
    assert!(row.end_reason.unwrap().contains(short));
}

#[tokio::test]
async fn a_slot_is_handed_over_and_never_returns() {
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    bench.converge().await;
    let slots = bench.fake.observed();
    assert_eq!(slots.len(), 1);
    let row = bench.create(Tier::Xs).await.unwrap();
    assert_eq!((row.state(), row.boot_path), (State::Running, BootPath::Warm));
    assert_eq!(row.workload, slots[0].key.workload);
    assert_eq!(owner_of(&bench, &row), Some(Owner::Sandbox(row.id)));
    bench.converge().await;
    assert_eq!(bench.fake.observed().len(), 2, "the pool was filled again");
    let gone = destroy(&bench.control, bench.tenant, row.id).await.unwrap();
    assert_eq!(gone.state(), State::Destroyed);
    bench.converge().await;
    let left: Vec<_> = bench.fake.observed().iter().map(|one| one.key.workload).collect();
    assert!(left.len() == 1 && left[0] != row.workload, "{left:?}");
    assert!(bench.leaked().await.is_empty());
}

#[tokio::test]
async fn the_pool_keeps_its_targets_one_start_at_a_time() {
    let bench = bench(&[(Tier::Xs.size(), 2), (Tier::Small.size(), 1)]).await;
    bench.fake.set_auto(Auto::Pending);
    bench.round().await;
    bench.round().await;
    assert_eq!(bench.fake.observed().len(), 1, "the first is still starting");
    bench.fake.set_auto(Auto::Ready);
    bench.fake.ready(bench.fake.observed()[0].instance);
    bench.fake.running(bench.fake.observed()[0].instance);
    bench.fake.ready(bench.fake.observed()[0].instance);
    bench.converge().await;
    let mut sizes: Vec<_> = bench.fake.observed().iter().map(|one| one.size).collect();
    sizes.sort();
    assert_eq!(sizes, [Tier::Xs.size(), Tier::Xs.size(), Tier::Small.size()]);
}

#[tokio::test]
async fn a_larger_slot_is_set_down_and_a_smaller_one_never_handed_out() {
    let bench = bench(&[(Tier::Small.size(), 1)]).await;
    bench.converge().await;
    let large = bench.create(Tier::Medium).await.unwrap();
    assert_eq!(large.boot_path, BootPath::Cold);
    let small = bench.create(Tier::Xs).await.unwrap();
    assert_eq!(small.boot_path, BootPath::Warm);
    assert_eq!(bench.fake.of_workload(small.workload)[0].size, Tier::Xs.size());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creates_for_one_slot_exactly_one_gets_it() {
    let bench = Arc::new(bench(&[(Tier::Xs.size(), 1)]).await);
    bench.converge().await;
    let slot = bench.fake.observed()[0].key.workload;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.create(Tier::Xs).await.unwrap() })
        })
        .collect();
    let mut rows = Vec::new();
    for task in tasks {
        rows.push(task.await.unwrap());
    }
    assert!(rows.iter().all(|row| row.state() == State::Running));
    let winners: Vec<_> = rows.iter().filter(|row| row.workload == slot).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(winners[0].boot_path, BootPath::Warm);
    let workloads: BTreeSet<_> = rows.iter().map(|row| row.workload).collect();
    assert_eq!(workloads.len(), rows.len(), "no two share a workload");
}

#[tokio::test]
async fn a_hand_over_that_fails_costs_the_slot_and_not_the_sandbox() {
    for fault in [Fault::Before, Fault::After] {
        let bench = bench(&[(Tier::Xs.size(), 1)]).await;
        bench.converge().await;
        let slot = bench.fake.observed()[0].key.workload;
        bench.fake.fail_next(fault);
        let row = bench.create(Tier::Xs).await.unwrap();
        assert_eq!((row.state(), row.boot_path), (State::Running, BootPath::Cold), "{fault:?}");
        assert_ne!(row.workload, slot);
        bench.converge().await;
        assert!(bench.fake.of_workload(slot).is_empty(), "{fault:?}: the slot is gone");
        assert!(bench.leaked().await.is_empty());
    }
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    bench.converge().await;
    bench.guest.failures.store(1, Ordering::SeqCst);
    let row = bench.create(Tier::Xs).await.unwrap();
    assert_eq!((row.state(), row.boot_path), (State::Running, BootPath::Cold), "guest away");
    bench.converge().await;
    assert!(bench.leaked().await.is_empty());
}

/// The whole life of a sandbox, with a fault at each call in turn.
#[tokio::test]
async fn a_fault_at_any_call_converges_and_leaks_nothing() {
    for fault in [Fault::Before, Fault::After] {
        let mut number = 0;
        loop {
            let bench = bench(&[(Tier::Xs.size(), 1)]).await;
            bench.fake.fail_call(number, fault);
            bench.converge().await;
            // Not waited for long: after a fault only the rounds go on.
            let create = async |tier| {
                let new = bench.new_sandbox(tier);
                let wait = Duration::from_millis(100);
                create(&bench.control, bench.tenant, new, None, wait).await.unwrap()
            };
            let warm = create(Tier::Xs).await;
            let cold = create(Tier::Small).await;
            bench.converge().await;
            for id in [warm.id, cold.id] {
                let row = bench.get(id).await;
                assert_eq!(row.state(), State::Running, "call {number}, {fault:?}");
                assert_eq!(owner_of(&bench, &row), Some(Owner::Sandbox(id)));
            }
            for id in [warm.id, cold.id] {
                destroy(&bench.control, bench.tenant, id).await.unwrap();
            }
            bench.converge().await;
            // What nobody wants is removed after its grace.
            bench.clock.advance(Duration::from_secs(16));
            bench.converge().await;
            for id in [warm.id, cold.id] {
                assert_eq!(bench.get(id).await.state(), State::Destroyed, "call {number}");
            }
            assert!(bench.leaked().await.is_empty(), "call {number}, {fault:?}");
            let seen = bench.fake.observed();
            assert!(seen.len() == 1 && seen[0].owner == Owner::Pool, "call {number}: {seen:?}");
            number += 1;
            if number >= bench.fake.calls().len() {
                break;
            }
        }
        assert!(number >= 6, "every call had its fault");
    }
}

#[tokio::test]
async fn what_ends_by_itself_is_an_error_with_a_reason() {
    let bench = bench(&[]).await;
    let row = bench.create(Tier::Xs).await.unwrap();
    bench.fake.exit(bench.fake.of_workload(row.workload)[0].instance, 137);
    bench.settle().await;
    bench.converge().await;
    let row = bench.get(row.id).await;
    assert_eq!(row.state(), State::Error);
    assert!(row.end_reason.as_deref().unwrap().contains("137"), "{row:?}");
    assert!(bench.fake.of_workload(row.workload).is_empty(), "nothing of it is kept");
    let error = enter(&bench.control, bench.tenant, row.id).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { state: State::Error, .. }), "{error:?}");
    destroy(&bench.control, bench.tenant, row.id).await.unwrap();
    bench.converge().await;
    assert_eq!(bench.get(row.id).await.state(), State::Destroyed);
}

#[tokio::test]
async fn what_does_not_come_up_in_time_is_an_error() {
    let bench = bench(&[]).await;
    bench.fake.set_auto(Auto::Running);
    let new = bench.new_sandbox(Tier::Xs);
    let row =
        create(&bench.control, bench.tenant, new, None, Duration::from_millis(50)).await.unwrap();
    assert_eq!(row.state(), State::Creating);
    let error = enter(&bench.control, bench.tenant, row.id).await.unwrap_err();
    assert!(matches!(error, Error::Starting), "{error:?}");
    // As after a restart of control: no task has it in hand.
    bench.clock.advance(START_DEADLINE);
    let seen = crate::reconcile::sandboxes::Seen::There(
        bench.fake.of_workload(row.workload)[0].phase.clone(),
    );
    let action = crate::reconcile::sandboxes::plan(&row, &seen, bench.control.env.now());
    let Some(crate::reconcile::sandboxes::Action::End { reason }) = action else {
        panic!("{action:?}");
    };
    assert!(reason.contains("60 s"), "{reason}");
    crate::reconcile::sandboxes::Sandboxes(bench.control.clone()).step().await.unwrap();
    assert_eq!(bench.get(row.id).await.state(), State::Error);
}

#[tokio::test]
async fn time_runs_out_unless_it_is_extended_or_always_on() {
    let bench = bench(&[]).await;
    let short = bench.create(Tier::Xs).await.unwrap();
    let extended = bench.create(Tier::Xs).await.unwrap();
    let always = bench.create(Tier::Xs).await.unwrap();
    let change = Change { is_always_on: Some(true), ..Change::default() };
    update(&bench.control, bench.tenant, always.id, &change).await.unwrap();
    bench.clock.advance(Duration::from_secs(3599));
    let change = Change { timeout_s: Some(3600), ..Change::default() };
    update(&bench.control, bench.tenant, extended.id, &change).await.unwrap();
    bench.converge().await;
    assert_eq!(bench.get(short.id).await.state(), State::Running);
    bench.clock.advance(Duration::from_secs(1));
    bench.converge().await;
    let row = bench.get(short.id).await;
    assert_eq!(row.state(), State::Destroyed);
    assert!(row.end_reason.unwrap().contains("3600 s"));
    for id in [extended.id, always.id] {
        assert_eq!(bench.get(id).await.state(), State::Running);
    }
}

#[tokio::test]
async fn another_tenant_sees_and_changes_nothing() {
    let bench = bench(&[]).await;
    let row = bench.create(Tier::Xs).await.unwrap();
    let new = previews::New { port: 3000, ..previews::New::default() };
    let (_, preview) =
        previews::create(&bench.control, bench.tenant, row.id, new.clone()).await.unwrap();
    let (other, _) = tenant(&bench.control, "b").await;
    let control = &bench.control;
    let is_absent = |error: Error| assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    is_absent(get(control, other, row.id).await.unwrap_err());
    is_absent(enter(control, other, row.id).await.unwrap_err());
    is_absent(destroy(control, other, row.id).await.unwrap_err());
    is_absent(update(control, other, row.id, &Change::default()).await.unwrap_err());
    is_absent(wait_ready(control, other, row.id, Duration::ZERO).await.unwrap_err());
    is_absent(previews::create(control, other, row.id, new).await.unwrap_err());
    is_absent(previews::list(control, other, row.id).await.unwrap_err());
    is_absent(previews::get(control, other, row.id, preview.id).await.unwrap_err());
    assert!(!previews::delete(control, other, row.id, preview.id).await.unwrap());
    let theirs = rows::of_tenant(other, &Filter::default());
    assert_eq!(theirs.count(&mut control.store.conn().await.unwrap()).await.unwrap(), 0);
    assert_eq!(bench.get(row.id).await.state(), State::Running);
}

#[tokio::test]
async fn a_slug_that_another_has_is_taken_and_leaves_nothing_behind() {
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    bench.converge().await;
    let mut new = bench.new_sandbox(Tier::Small);
    new.slug = Some(Slug::parse("mine").unwrap());
    create(&bench.control, bench.tenant, new.clone(), None, bench::SOON).await.unwrap();
    new.size = Tier::Xs.size();
    let error = create(&bench.control, bench.tenant, new, None, bench::SOON).await.unwrap_err();
    let is_taken =
        matches!(&error, Error::Store(miosa_store::Error::Taken { name }) if name == "mine");
    assert!(is_taken, "{error:?}");
    assert_eq!(bench.control.in_hand.count(), 0);
    let row = bench.create(Tier::Xs).await.unwrap();
    assert_eq!(row.boot_path, BootPath::Warm, "the refused create took no slot");
}

#[tokio::test]
async fn an_unknown_template_makes_nothing_and_an_alias_is_known() {
    let bench = bench(&[]).await;
    let mut new = bench.new_sandbox(Tier::Xs);
    new.template = Some("nothing".into());
    let error = create(&bench.control, bench.tenant, new, None, bench::SOON).await.unwrap_err();
    assert!(matches!(error, Error::NoTemplate { .. }), "{error:?}");
    assert!(bench.fake.calls().is_empty());
    let mut new = bench.new_sandbox(Tier::Xs);
    new.template = Some("base".into());
    let row = create(&bench.control, bench.tenant, new, None, bench::SOON).await.unwrap();
    assert_eq!(row.template, "box");
}

#[tokio::test]
async fn while_nothing_is_known_nothing_is_concluded() {
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    let row = bench.create(Tier::Small).await.unwrap();
    bench.converge().await;
    let calls = bench.fake.calls().len();
    bench.control.observed.record(None);
    let control = &bench.control;
    for _ in 0..3 {
        bench.clock.advance(Duration::from_secs(30));
        crate::reconcile::sandboxes::Sandboxes(control.clone()).step().await.unwrap();
        crate::reconcile::pool::Pool::new(control.clone()).step().await.unwrap();
        bench.leftovers.step().await.unwrap();
    }
    assert_eq!(bench.fake.calls().len(), calls);
    assert_eq!(bench.get(row.id).await.state(), State::Running);
    let error = enter(control, bench.tenant, row.id).await.unwrap_err();
    assert!(matches!(error, Error::Starting), "not gone: {error:?}");
}

#[tokio::test]
async fn a_waiter_hears_of_readiness_and_of_failure() {
    let bench = bench(&[]).await;
    bench.fake.set_auto(Auto::Running);
    for outcome in [State::Running, State::Error] {
        let new = bench.new_sandbox(Tier::Xs);
        let row = create(&bench.control, bench.tenant, new, None, Duration::ZERO).await.unwrap();
        let (control, tenant, id) = (bench.control.clone(), bench.tenant, row.id);
        let waiter =
            tokio::spawn(async move { wait_ready(&control, tenant, id, bench::SOON).await });
        let is_there = |seen: &crate::Observations| {
            seen.of_workload(row.workload)?.first().map(|one| one.instance)
        };
        let instance = bench.control.observed.wait_for(bench::SOON, is_there).await.unwrap();
        if outcome == State::Running {
            bench.fake.ready(instance);
        } else {
            bench.fake.exit(instance, 1);
        }
        assert_eq!(waiter.await.unwrap().unwrap().state(), outcome);
    }
}

#[tokio::test]
async fn a_leftover_is_removed_only_after_its_grace() {
    let bench = bench(&[]).await;
    let row = bench.create(Tier::Xs).await.unwrap();
    let mut spec = bring_up::spec(&row);
    spec.key.workload = bench.control.env.id();
    spec.owner = Owner::Sandbox(bench.control.env.id());
    bench.fake.apply(&spec).await.unwrap();
    bench.settle().await;
    bench.round().await;
    bench.clock.advance(Duration::from_secs(14));
    bench.round().await;
    assert_eq!(bench.fake.of_workload(spec.key.workload).len(), 1, "within its grace");
    bench.clock.advance(Duration::from_secs(1));
    bench.round().await;
    assert!(bench.fake.of_workload(spec.key.workload).is_empty());
    let is_of = |call: &Call| matches!(call, Call::Delete(key) if key.workload == row.workload);
    assert!(!bench.fake.calls().iter().any(is_of), "what is wanted stays");
}

/// Sizes of the slots that nobody has.
fn slot_sizes(bench: &Bench) -> Vec<Size> {
    let observed = bench.fake.observed();
    let mut sizes: Vec<_> =
        observed.iter().filter(|one| one.owner == Owner::Pool).map(|one| one.size).collect();
    sizes.sort();
    sizes
}

#[tokio::test]
async fn what_the_operator_set_goes_before_the_file_and_is_kept() {
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), [Tier::Xs.size()]);
    let template = bench.control.config.pool[0].template.clone();
    let target = PoolTarget { template, size: Tier::Small.size(), count: 2 };
    pool::set_targets(&bench.control, Some(std::slice::from_ref(&target))).await.unwrap();
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), [Tier::Small.size(); 2], "the old target's slot is retired");
    let kept = pool::targets(&bench.control).await.unwrap();
    assert_eq!(kept, pool::Targets { all: vec![target], is_set: true });
    pool::set_targets(&bench.control, Some(&[])).await.unwrap();
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), [], "no target is not the same as none set");
    pool::set_targets(&bench.control, None).await.unwrap();
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), [Tier::Xs.size()]);
    assert!(bench.leaked().await.is_empty());
}

#[tokio::test]
async fn a_host_short_of_memory_shrinks_the_pool_before_anything_that_is_used() {
    let bench = bench(&[(Tier::Xs.size(), 2), (Tier::Small.size(), 1)]).await;
    bench.converge().await;
    let row = bench.create(Tier::Xs).await.unwrap();
    bench.converge().await;
    let host = |available_mib| Some(miosa_provider::Memory { total_mib: 100_000, available_mib });
    bench.fake.set_memory(host(9000));
    bench.converge().await;
    assert_eq!(slot_sizes(&bench).len(), 3, "tight: none goes");
    bench.fake.set_memory(host(4000));
    bench.round().await;
    assert_eq!(slot_sizes(&bench), [Tier::Xs.size(); 2], "the largest first");
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), []);
    assert_eq!(bench.get(row.id).await.state(), State::Running, "what is used stays");
    bench.fake.set_memory(host(9000));
    bench.converge().await;
    assert_eq!(slot_sizes(&bench), [], "tight: none comes");
    assert_eq!(bench.create(Tier::Xs).await.unwrap().boot_path, BootPath::Cold);
    bench.fake.set_memory(host(50_000));
    bench.converge().await;
    assert_eq!(slot_sizes(&bench).len(), 3);
}

#[tokio::test]
async fn a_size_above_the_host_is_refused_and_the_pool_counts_what_it_did() {
    let bench = bench(&[(Tier::Xs.size(), 1)]).await;
    bench.converge().await;
    bench.fake.set_memory(Some(miosa_provider::Memory { total_mib: 5000, available_mib: 4000 }));
    let refused = bench.create(Tier::Medium).await.unwrap_err();
    assert!(matches!(&refused, Error::TooLarge(error) if error.largest == Some(Tier::Small)));
    assert_eq!(bench.create(Tier::Xs).await.unwrap().boot_path, BootPath::Warm);
    assert_eq!(bench.create(Tier::Small).await.unwrap().boot_path, BootPath::Cold);
    let stats = &bench.control.pool;
    assert_eq!((stats.hits(), stats.misses(), stats.refill_failures()), (1, 1, 0));
    assert_eq!(stats.waits(BootPath::Warm).count, 1);
    assert_eq!(stats.waits(BootPath::Cold).count, 1);
    bench.fake.fail_next(Fault::Before);
    bench.converge().await;
    assert_eq!(stats.refill_failures(), 1);
}
