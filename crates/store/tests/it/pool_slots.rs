//! The table of warm slots.

use miosa_store::pool_slots;
use miosa_types::{Digest, size::Tier};

use crate::support::{Bench, on_both};

on_both!(a_slot_is_taken_once);

async fn a_slot_is_taken_once(bench: Bench) {
    let mut db = bench.conn().await;
    let slot = pool_slots::Slot {
        workload: bench.env.id(),
        template: "t".into(),
        template_digest: Digest::of(b"t"),
        size: Tier::Xs.size(),
        sandbox: None,
        created_at: bench.env.now(),
    };
    pool_slots::insert(&mut db, &slot).await.unwrap();
    assert_eq!(pool_slots::free(&mut db, 10).await.unwrap(), std::slice::from_ref(&slot));
    let (one, two, now) = (bench.env.id(), bench.env.id(), bench.env.now());
    assert!(pool_slots::take(&mut db, slot.workload, one, now).await.unwrap());
    assert!(!pool_slots::take(&mut db, slot.workload, two, now).await.unwrap());
    assert!(!pool_slots::take(&mut db, slot.workload, one, now).await.unwrap());
    assert!(!pool_slots::retire(&mut db, slot.workload).await.unwrap());
    assert!(pool_slots::free(&mut db, 10).await.unwrap().is_empty());
    pool_slots::forget(&mut db, slot.workload).await.unwrap();
    pool_slots::insert(&mut db, &slot).await.unwrap();
    assert!(pool_slots::retire(&mut db, slot.workload).await.unwrap());
}
