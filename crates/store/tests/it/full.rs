//! A disk that is full for a while.

use miosa_store::{Error, tenants};
use serde_json::json;

use crate::support::{Bench, Place};

/// As many as the pool has, so that a setting reaches every connection.
const CONNECTIONS: usize = 4;

async fn limit(bench: &Bench, pages: &str) {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(bench.conn().await);
    }
    for connection in &mut all {
        let pragma = format!("pragma max_page_count = {pages}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(pragma)).execute(&mut **connection).await.unwrap();
    }
}

/// `max_page_count` is SQLite's own way to a full disk: the same error, the same undoing.
#[tokio::test]
async fn units_of_work_fail_while_the_disk_is_full_and_not_after() {
    let bench = Place::sqlite().bench().await;
    limit(&bench, "1").await;
    let mut full = 0;
    for n in 0..40 {
        let mut tenant = bench.new_tenant(&format!("t{n}"));
        tenant.settings.insert("much".to_owned(), json!("x".repeat(20_000)));
        let mut tx = match bench.store.begin().await {
            Ok(tx) => tx,
            Err(error) => panic!("a connection is spoilt: {error:?}"),
        };
        let written = tenants::insert(&mut tx, &tenant).await;
        let outcome = match written {
            Ok(()) => tx.commit().await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {}
            Err(Error::Full(_)) => full += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(full > 0, "the disk was never full, so this proves nothing");
    limit(&bench, "1000000").await;
    for n in 100..120 {
        let mut tx = bench.store.begin().await.expect("no connection stays spoilt");
        tenants::insert(&mut tx, &bench.new_tenant(&format!("t{n}"))).await.unwrap();
        tx.commit().await.unwrap();
    }
}
