//! The table of versions.

use std::slice::from_ref;

use miosa_store::{
    Error, deployments,
    versions::{self, Artifact, Built, Version, find, insert, list},
};
use miosa_types::{
    Digest,
    deployment::{VersionKind, VersionState},
};
use serde_json::json;

use crate::support::{Bench, on_both};

on_both!(
    a_version_is_built_once,
    numbers_are_given_once_and_lists_are_of_one_tenant,
    what_was_observed_is_kept,
);

async fn inserted(bench: &Bench, home: &crate::support::Home, slug: &str) -> Version {
    let mut db = bench.conn().await;
    let deployment = bench.new_deployment(home, slug);
    deployments::insert(&mut db, &deployment).await.unwrap();
    let version = bench.new_version(&deployment, 1);
    insert(&mut db, &version).await.unwrap();
    version
}

async fn a_version_is_built_once(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let mut one = inserted(&bench, &home, "shop").await;
    let (tenant, id) = (one.tenant, one.id);
    let mut db = bench.conn().await;
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one.clone()));
    assert_eq!(find(&mut db, other.tenant.id, id).await.unwrap(), None);
    assert_eq!(versions::building(&mut db, tenant).await.unwrap(), [one.deployment]);
    versions::note_interruption(&mut db, id, "restarted", bench.tick()).await.unwrap();
    let found = find(&mut db, tenant, id).await.unwrap().unwrap();
    assert_eq!(found.failure.as_deref(), Some("restarted"));

    let built = Built {
        kind: VersionKind::Dynamic,
        artifact: Artifact { digest: Digest::of(b"layer"), bytes: u64::MAX, files: 0 },
        run: Some(json!({"command": "npm start"})),
    };
    let now = bench.tick();
    versions::set_ready(&mut db, id, &built, now).await.unwrap();
    let error = versions::set_ready(&mut db, id, &built, now).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    versions::note_interruption(&mut db, id, "too late", now).await.unwrap();
    (one.kind, one.state, one.run) = (Some(built.kind), VersionState::Ready, built.run.clone());
    let bytes = i64::MAX.cast_unsigned();
    one.artifact = Some(Artifact { bytes, ..built.artifact });
    (one.ready_at, one.updated_at) = (Some(now), now);
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one.clone()));
    assert!(versions::building(&mut db, tenant).await.unwrap().is_empty());

    versions::set_failed(&mut db, id, "never\0 served", now).await.unwrap();
    (one.state, one.failure) = (VersionState::Failed, Some("never\u{fffd} served".into()));
    assert_eq!(find(&mut db, tenant, id).await.unwrap(), Some(one));
    let error = versions::set_failed(&mut db, id, "again", now).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
}

async fn numbers_are_given_once_and_lists_are_of_one_tenant(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let one = inserted(&bench, &home, "shop").await;
    let foreign = inserted(&bench, &other, "shop").await;
    let mut db = bench.conn().await;
    let deployment = deployments::find(&mut db, one.tenant, one.deployment).await.unwrap().unwrap();
    let twin = bench.new_version(&deployment, 1);
    let error = insert(&mut db, &twin).await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error:?}");
    let next = versions::next_number(&mut db, deployment.id).await.unwrap();
    assert_eq!(next, 2);
    assert_eq!(versions::next_number(&mut db, bench.id()).await.unwrap(), 1);
    let two = bench.new_version(&deployment, next);
    insert(&mut db, &two).await.unwrap();

    let (tenant, id) = (one.tenant, deployment.id);
    let found = list(&mut db, tenant, id, None, 10).await.unwrap();
    assert_eq!(found, [two.clone(), one.clone()]);
    assert_eq!(list(&mut db, tenant, id, Some(2), 10).await.unwrap(), from_ref(&one));
    assert_eq!(list(&mut db, tenant, id, None, 1).await.unwrap(), from_ref(&two));
    assert!(list(&mut db, other.tenant.id, id, None, 10).await.unwrap().is_empty());
    let building = VersionState::Building;
    let mut all = vec![one.clone(), foreign, two.clone()];
    all.sort_by_key(|version| version.id);
    assert_eq!(versions::all(&mut db, building).await.unwrap(), all);
    assert_eq!(versions::page(&mut db, building, Some(all[1].id)).await.unwrap(), all[2..]);
    assert!(versions::page(&mut db, VersionState::Ready, None).await.unwrap().is_empty());
}

async fn what_was_observed_is_kept(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let one = inserted(&bench, &home, "shop").await;
    let (tenant, id) = (one.tenant, one.id);
    let mut db = bench.conn().await;
    let built = Built {
        kind: VersionKind::Static,
        artifact: Artifact { digest: Digest::of(b"site"), bytes: 10, files: 2 },
        run: None,
    };
    let times: Vec<_> = (0..4).map(|_| bench.tick()).collect();
    let older = (tenant, one.deployment, 2);
    let previous = versions::previous_ready(&mut db, older.0, older.1, older.2).await.unwrap();
    assert_eq!(previous, None, "it is not ready");
    versions::set_ready(&mut db, id, &built, times[0]).await.unwrap();
    versions::set_promoted(&mut db, id, times[1]).await.unwrap();
    versions::set_served(&mut db, id, times[2]).await.unwrap();
    versions::set_served(&mut db, id, times[3]).await.unwrap();
    versions::raise_revision(&mut db, id, 4).await.unwrap();
    versions::raise_revision(&mut db, id, 2).await.unwrap();
    let found = find(&mut db, tenant, id).await.unwrap().unwrap();
    assert_eq!((found.promoted_at, found.served_at), (Some(times[1]), Some(times[2])));
    assert_eq!(found.revision, 5);
    let previous = versions::previous_ready(&mut db, older.0, older.1, older.2).await.unwrap();
    assert_eq!(previous, Some(found));
    assert_eq!(versions::previous_ready(&mut db, tenant, one.deployment, 1).await.unwrap(), None);

    assert_eq!(versions::build_log(&mut db, tenant, id).await.unwrap(), None);
    versions::set_build_log(&mut db, id, "a\0b\nü").await.unwrap();
    let log = versions::build_log(&mut db, tenant, id).await.unwrap();
    assert_eq!(log.as_deref(), Some("a\u{fffd}b\nü"));
    assert_eq!(versions::build_log(&mut db, other.tenant.id, id).await.unwrap(), None);
}
