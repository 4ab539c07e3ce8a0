//! The table with the installation.

use miosa_store::installations::{find, find_or_insert};

use crate::support::{Bench, on_both};

on_both!(a_database_belongs_to_the_first_installation);

async fn a_database_belongs_to_the_first_installation(bench: Bench) {
    let mut db = bench.conn().await;
    assert_eq!(find(&mut db).await.unwrap(), None);
    let (one, two, now) = (bench.id(), bench.id(), bench.tick());
    assert_eq!(find_or_insert(&mut db, one, now).await.unwrap(), one);
    assert_eq!(find_or_insert(&mut db, two, now).await.unwrap(), one);
    assert_eq!(find(&mut db).await.unwrap(), Some(one));
}
