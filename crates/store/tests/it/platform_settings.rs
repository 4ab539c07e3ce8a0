//! The table of what the operator set.

use miosa_store::platform_settings::{find, put, remove};

use crate::support::{Bench, on_both};

on_both!(a_setting_is_kept_replaced_and_forgotten);

async fn a_setting_is_kept_replaced_and_forgotten(bench: Bench) {
    let mut db = bench.conn().await;
    assert_eq!(find::<Vec<u32>>(&mut db, "a").await.unwrap(), None);
    put(&mut db, "a", &vec![1], bench.env.now()).await.unwrap();
    put(&mut db, "b", &vec![3], bench.env.now()).await.unwrap();
    put(&mut db, "a", &vec![2, 3], bench.tick()).await.unwrap();
    assert_eq!(find::<Vec<u32>>(&mut db, "a").await.unwrap(), Some(vec![2, 3]));
    remove(&mut db, "a").await.unwrap();
    remove(&mut db, "a").await.unwrap();
    assert_eq!(find::<Vec<u32>>(&mut db, "a").await.unwrap(), None);
    assert_eq!(find::<Vec<u32>>(&mut db, "b").await.unwrap(), Some(vec![3]));
}
