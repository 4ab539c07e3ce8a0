//! The table of events.

use miosa_store::events::{Event, insert, list_after};
use miosa_types::{SandboxId, TenantId};
use serde_json::json;

use crate::support::{Bench, on_both};

on_both!(events_are_read_in_order_by_their_tenant);

fn event(bench: &Bench, tenant: TenantId, kind: &str) -> Event {
    let id: SandboxId = bench.id();
    Event {
        id: id.to_string(),
        tenant,
        kind: kind.into(),
        subject: "s".into(),
        data: json!({"text": "a\0b", "n": [1.5, null]}),
        at: bench.env.now(),
    }
}

async fn events_are_read_in_order_by_their_tenant(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let tenant = home.tenant.id;
    let mut db = bench.conn().await;
    let all: Vec<_> = ["one", "two", "three"].map(|kind| event(&bench, tenant, kind)).into();
    let foreign = event(&bench, other.tenant.id, "foreign");
    for event in all.iter().rev().chain([&foreign]) {
        insert(&mut db, event).await.unwrap();
    }
    assert_eq!(list_after(&mut db, tenant, "", 10).await.unwrap(), all);
    assert_eq!(list_after(&mut db, tenant, "", 2).await.unwrap(), all[..2]);
    assert_eq!(list_after(&mut db, tenant, &all[0].id, 10).await.unwrap(), all[1..]);
    assert!(list_after(&mut db, tenant, &all[2].id, 10).await.unwrap().is_empty());
    assert_eq!(list_after(&mut db, other.tenant.id, "", 10).await.unwrap(), [foreign]);
}
