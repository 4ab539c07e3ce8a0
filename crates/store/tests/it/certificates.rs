//! The table of certificates.

use miosa_store::certificates::{Certificate, all, put, remove};

use crate::support::{Bench, on_both};

on_both!(there_is_one_certificate_for_the_same_names);

async fn there_is_one_certificate_for_the_same_names(bench: Bench) {
    let mut db = bench.conn().await;
    let certificate = |names: &[&str], chain: &str| Certificate {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        chain_pem: chain.into(),
        key_pem: "key".into(),
        not_after: bench.tick(),
        created_at: bench.tick(),
    };
    let one = certificate(&["*.a.example", "a.example"], "old");
    put(&mut db, &one).await.unwrap();
    let other = certificate(&["b.example"], "other");
    put(&mut db, &other).await.unwrap();
    let renewed = certificate(&["*.a.example", "a.example"], "new");
    put(&mut db, &renewed).await.unwrap();
    assert_eq!(all(&mut db).await.unwrap(), [renewed.clone(), other.clone()]);
    remove(&mut db, &["a.example".into()]).await.unwrap();
    assert_eq!(all(&mut db).await.unwrap().len(), 2, "no certificate is for only this name");
    remove(&mut db, &renewed.names).await.unwrap();
    assert_eq!(all(&mut db).await.unwrap(), [other]);
}
