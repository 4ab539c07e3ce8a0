//! The table of runtime instances.

use std::{slice::from_ref, time::Duration};

use miosa_store::instances::{self, Instance, alive, list, observe};
use miosa_types::{DeploymentId, TenantId, VersionId, deployment::InstanceState};

use crate::support::{Bench, on_both};

on_both!(
    the_newest_observation_stands_and_what_is_known_is_kept,
    failures_are_told_of_the_right_version,
    only_the_newest_ended_instances_are_kept,
);

fn instance(bench: &Bench, of: (TenantId, DeploymentId, VersionId)) -> Instance {
    let now = bench.tick();
    Instance {
        id: bench.env.id(),
        tenant: of.0,
        deployment: of.1,
        version: of.2,
        state: InstanceState::Starting,
        ip: Some("10.0.0.2".into()),
        port: Some(65_535),
        restarts: 0,
        error: None,
        started_at: now,
        ready_at: None,
        last_seen_at: now,
        ended_at: None,
    }
}

async fn the_newest_observation_stands_and_what_is_known_is_kept(bench: Bench) {
    let of = (bench.id(), bench.id(), bench.id());
    let (mut one, two) = (instance(&bench, of), instance(&bench, of));
    let mut db = bench.conn().await;
    observe(&mut db, &one).await.unwrap();
    observe(&mut db, &two).await.unwrap();
    let known = (Some(bench.tick()), Some("said\u{fffd}".to_owned()));
    (one.ready_at, one.error) = (known.0, Some("said\0".into()));
    observe(&mut db, &one).await.unwrap();
    (one.ready_at, one.error) = (None, None);
    (one.state, one.last_seen_at, one.ip) = (InstanceState::Unhealthy, bench.tick(), None);
    observe(&mut db, &one).await.unwrap();
    (one.ready_at, one.error) = known;
    assert_eq!(list(&mut db, of.0, of.1, 10).await.unwrap(), [two.clone(), one.clone()]);
    assert_eq!(list(&mut db, of.0, of.1, 1).await.unwrap(), from_ref(&two));
    assert!(list(&mut db, bench.id(), of.1, 10).await.unwrap().is_empty());
    one.ended_at = Some(bench.tick());
    observe(&mut db, &one).await.unwrap();
    assert_eq!(alive(&mut db).await.unwrap(), from_ref(&two));
    instances::set_stopping(&mut db, of.2).await.unwrap();
    let found = list(&mut db, of.0, of.1, 10).await.unwrap();
    assert_eq!(found, [Instance { state: InstanceState::Stopped, ..two }, one]);
}

async fn failures_are_told_of_the_right_version(bench: Bench) {
    let of = (bench.id(), bench.id(), bench.id());
    let mut db = bench.conn().await;
    let began = bench.tick();
    let mut late = instance(&bench, of);
    late.ended_at = Some(late.started_at + Duration::from_secs(5));
    let mut good = instance(&bench, of);
    good.ready_at = Some(bench.tick());
    let foreign = instance(&bench, (of.0, of.1, bench.id()));
    for one in [&late, &good, &foreign] {
        observe(&mut db, one).await.unwrap();
    }
    assert_eq!(instances::last_error(&mut db, of.2).await.unwrap(), None);
    instances::set_error(&mut db, late.id, "late").await.unwrap();
    instances::add_error(&mut db, late.id, "not this").await.unwrap();
    instances::add_error(&mut db, good.id, "lost").await.unwrap();
    instances::add_error(&mut db, foreign.id, "foreign").await.unwrap();
    let last = instances::last_error(&mut db, of.2).await.unwrap();
    assert_eq!(last.as_deref(), Some("lost"));
    let last = instances::last_late(&mut db, of.2, began).await.unwrap();
    assert_eq!(last.as_deref(), Some("late"));
    assert_eq!(instances::last_late(&mut db, of.2, bench.tick()).await.unwrap(), None);
    for (since, given_ms, expected) in [(began, 5000, 1), (began, 5001, 0), (bench.tick(), 0, 0)] {
        let count = instances::late_starts(&mut db, of.2, since, given_ms).await.unwrap();
        assert_eq!(count, expected, "since {since}, given {given_ms}");
    }
}

async fn only_the_newest_ended_instances_are_kept(bench: Bench) {
    let of = (bench.id(), bench.id(), bench.id());
    let mut db = bench.conn().await;
    let mut all: Vec<_> = (0..4).map(|_| instance(&bench, of)).collect();
    for one in &mut all[..3] {
        one.ended_at = Some(bench.tick());
    }
    all.push(Instance {
        ended_at: Some(bench.tick()),
        ..instance(&bench, (of.0, bench.id(), of.2))
    });
    for one in &all {
        observe(&mut db, one).await.unwrap();
    }
    instances::prune(&mut db, of.1, 2).await.unwrap();
    let left = list(&mut db, of.0, of.1, 10).await.unwrap();
    assert_eq!(left, [all[3].clone(), all[2].clone(), all[1].clone()]);
    assert_eq!(list(&mut db, of.0, all[4].deployment, 10).await.unwrap(), [all[4].clone()]);
}
