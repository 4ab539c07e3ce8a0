//! Opening a database and units of work.

use miosa_store::{Error, tenants};

use crate::support::{Bench, on_both};

on_both!(
    a_unit_of_work_is_undone_when_dropped,
    units_of_work_come_one_after_the_other,
    a_failed_statement_spoils_only_its_own_unit_of_work,
    opening_again_changes_nothing,
);

async fn a_unit_of_work_is_undone_when_dropped(bench: Bench) {
    let tenant = bench.new_tenant("a");
    let mut tx = bench.store.begin().await.unwrap();
    tenants::insert(&mut tx, &tenant).await.unwrap();
    assert!(tenants::find(&mut tx, tenant.id).await.unwrap().is_some());
    assert_eq!(tenants::find(&mut *bench.conn().await, tenant.id).await.unwrap(), None);
    drop(tx);
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tenants::find(&mut tx, tenant.id).await.unwrap(), None);
    tenants::insert(&mut tx, &tenant).await.unwrap();
    tx.commit().await.unwrap();
    assert!(tenants::find(&mut *bench.conn().await, tenant.id).await.unwrap().is_some());
}

/// Each reads how many there are and then writes: without the lock two would read the same.
async fn units_of_work_come_one_after_the_other(bench: Bench) {
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (store, mut tenant) = (bench.store.clone(), bench.new_tenant(&format!("t{n}")));
        tasks.push(tokio::spawn(async move {
            let mut tx = store.begin().await.unwrap();
            let before = tenants::list(&mut tx).await.unwrap().len();
            // Time for the others to read.
            tokio::task::yield_now().await;
            tenant.name = format!("number {before}");
            tenants::insert(&mut tx, &tenant).await.unwrap();
            tx.commit().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let all = tenants::list(&mut *bench.conn().await).await.unwrap();
    let mut names: Vec<_> = all.into_iter().map(|tenant| tenant.name).collect();
    names.sort_unstable();
    assert_eq!(names, (0..8).map(|n| format!("number {n}")).collect::<Vec<_>>());
}

async fn a_failed_statement_spoils_only_its_own_unit_of_work(bench: Bench) {
    let one = bench.new_tenant("a");
    let mut twin = bench.new_tenant("a");
    let mut tx = bench.store.begin().await.unwrap();
    tenants::insert(&mut tx, &one).await.unwrap();
    let error = tenants::insert(&mut tx, &twin).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { name } if name == "a"), "{error:?}");
    drop(tx);
    twin.name = "second".into();
    let mut tx = bench.store.begin().await.unwrap();
    tenants::insert(&mut tx, &twin).await.unwrap();
    tx.commit().await.unwrap();
    let found = tenants::list(&mut *bench.conn().await).await.unwrap();
    assert_eq!(found, [twin]);
}

async fn opening_again_changes_nothing(bench: Bench) {
    let home = bench.home("a").await;
    let again = miosa_store::Store::open(&bench.place.url).await.unwrap();
    let found = tenants::find(&mut again.conn().await.unwrap(), home.tenant.id).await.unwrap();
    assert_eq!(found, Some(home.tenant));
}
