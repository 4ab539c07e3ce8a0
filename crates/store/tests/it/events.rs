//! The table of events.

use miosa_store::events::{Event, insert, list_after, newest, of_subject, prune};
use miosa_types::TenantId;
use serde_json::json;

use crate::support::{Bench, on_both};

on_both!(events_are_read_in_the_order_they_came_by_their_tenant, old_events_of_an_object_go);

fn event(bench: &Bench, tenant: TenantId, subject: &str) -> Event {
    Event {
        id: bench.id(),
        tenant,
        kind: "runtime.replaced".into(),
        subject: subject.into(),
        data: json!({"text": "a\0b", "n": [1.5, null]}),
        at: bench.env.now(),
    }
}

async fn events_are_read_in_the_order_they_came_by_their_tenant(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let tenant = home.tenant.id;
    let mut db = bench.conn().await;
    assert_eq!(newest(&mut db, tenant).await.unwrap(), None);
    // Of one millisecond, the highest id first: each is raised above what is there.
    let mut all: Vec<_> = (0..3).map(|_| event(&bench, tenant, "s")).collect();
    all.sort_by_key(|event| std::cmp::Reverse(event.id));
    for event in &mut all {
        event.id = insert(&mut db, event).await.unwrap();
    }
    assert!(all.is_sorted_by_key(|event| event.id));
    let foreign = event(&bench, other.tenant.id, "s");
    insert(&mut db, &foreign).await.unwrap();
    assert_eq!(list_after(&mut db, tenant, None, 10).await.unwrap(), all);
    assert_eq!(list_after(&mut db, tenant, None, 2).await.unwrap(), all[..2]);
    assert_eq!(list_after(&mut db, tenant, Some(all[0].id), 10).await.unwrap(), all[1..]);
    assert!(list_after(&mut db, tenant, Some(all[2].id), 10).await.unwrap().is_empty());
    assert_eq!(newest(&mut db, tenant).await.unwrap(), Some(all[2].id));
    assert_eq!(list_after(&mut db, other.tenant.id, None, 10).await.unwrap(), [foreign]);
}

async fn old_events_of_an_object_go(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let tenant = home.tenant.id;
    let mut db = bench.conn().await;
    for subject in ["s", "s", "t", "s"] {
        insert(&mut db, &event(&bench, tenant, subject)).await.unwrap();
    }
    insert(&mut db, &event(&bench, other.tenant.id, "s")).await.unwrap();
    let all = of_subject(&mut db, tenant, "s", 10).await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by_key(|event| std::cmp::Reverse(event.id)));
    assert_eq!(of_subject(&mut db, tenant, "s", 1).await.unwrap(), all[..1]);
    prune(&mut db, tenant, "s", 3).await.unwrap();
    assert_eq!(of_subject(&mut db, tenant, "s", 10).await.unwrap(), all);
    prune(&mut db, tenant, "s", 2).await.unwrap();
    assert_eq!(of_subject(&mut db, tenant, "s", 10).await.unwrap(), all[..2]);
    assert_eq!(of_subject(&mut db, tenant, "t", 10).await.unwrap().len(), 1);
    assert_eq!(of_subject(&mut db, other.tenant.id, "s", 10).await.unwrap().len(), 1);
}
