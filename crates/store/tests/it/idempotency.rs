//! The table of idempotency keys.

use miosa_store::idempotency::{
    Answer, Claim, Stored, answer, begin, claim, delete_before, find, forget, unbegin,
};
use miosa_types::SandboxId;

use crate::support::{Bench, on_both};

on_both!(a_repeat_finds_what_was_made_and_answered, old_keys_are_forgotten);

fn new(key: &str) -> Claim {
    Claim { key: key.into(), fingerprint: "f".into(), made: None }
}

async fn a_repeat_finds_what_was_made_and_answered(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let (tenant, now) = (home.tenant.id, bench.tick());
    let mut db = bench.conn().await;
    let [made, again] = [(); 2].map(|()| SandboxId::uuid(bench.id()));
    let one = new("k");
    claim(&mut db, tenant, Some(&one), made, now).await.unwrap();
    let mut stored = Stored { fingerprint: "f".into(), made: Some(made), answer: None };
    assert_eq!(find(&mut db, tenant, "k", now).await.unwrap(), Some(stored.clone()));
    assert_eq!(find(&mut db, tenant, "K", now).await.unwrap(), None);
    assert_eq!(find(&mut db, other.tenant.id, "k", now).await.unwrap(), None);
    assert_eq!(find(&mut db, tenant, "k", bench.tick()).await.unwrap(), None, "it is too old");

    let body: Vec<u8> = (0..=255).collect();
    let given = Answer { status: 201, content_type: Some("text/plain".into()), body };
    answer(&mut db, tenant, &one, &given, now).await.unwrap();
    stored.answer = Some(given);
    assert_eq!(find(&mut db, tenant, "k", now).await.unwrap(), Some(stored));

    unbegin(&mut db, tenant, "k").await.unwrap();
    assert!(find(&mut db, tenant, "k", now).await.unwrap().is_some(), "it was answered");
    begin(&mut db, tenant, &new("run"), now).await.unwrap();
    let begun = Stored { fingerprint: "f".into(), made: None, answer: None };
    assert_eq!(find(&mut db, tenant, "run", now).await.unwrap(), Some(begun));
    unbegin(&mut db, other.tenant.id, "run").await.unwrap();
    assert!(find(&mut db, tenant, "run", now).await.unwrap().is_some());
    unbegin(&mut db, tenant, "run").await.unwrap();
    assert_eq!(find(&mut db, tenant, "run", now).await.unwrap(), None);

    claim(&mut db, tenant, Some(&one), again, now).await.unwrap();
    let stored = Stored { fingerprint: "f".into(), made: Some(again), answer: None };
    assert_eq!(find(&mut db, tenant, "k", now).await.unwrap(), Some(stored));
    forget(&mut db, other.tenant.id, "k").await.unwrap();
    assert!(find(&mut db, tenant, "k", now).await.unwrap().is_some());
    forget(&mut db, tenant, "k").await.unwrap();
    assert_eq!(find(&mut db, tenant, "k", now).await.unwrap(), None);
}

async fn old_keys_are_forgotten(bench: Bench) {
    let tenant = bench.home("a").await.tenant.id;
    let mut db = bench.conn().await;
    let empty = Answer { status: 204, content_type: None, body: Vec::new() };
    let old = bench.tick();
    answer(&mut db, tenant, &new("old"), &empty, old).await.unwrap();
    let now = bench.tick();
    answer(&mut db, tenant, &new("new"), &empty, now).await.unwrap();
    delete_before(&mut db, now).await.unwrap();
    assert_eq!(find(&mut db, tenant, "old", old).await.unwrap(), None);
    let stored = Stored { fingerprint: "f".into(), made: None, answer: Some(empty) };
    assert_eq!(find(&mut db, tenant, "new", old).await.unwrap(), Some(stored));
}
