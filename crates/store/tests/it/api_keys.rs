//! The table of API keys.

use std::time::Duration;

use miosa_store::{
    Error,
    api_keys::{ApiKey, find, find_by_hash, insert, list, revoke, revoke_other_operators, touch},
};
use miosa_types::TenantId;

use crate::support::{Bench, on_both};

on_both!(keys_belong_to_one_tenant, there_is_one_operator_key_at_a_time);

fn key(bench: &Bench, tenant: TenantId, hash: &str, is_operator: bool) -> ApiKey {
    let id = bench.id();
    let now = bench.env.now();
    ApiKey {
        id,
        tenant,
        name: "key".into(),
        hash: hash.into(),
        prefix: "msk_live_abc".into(),
        scopes: vec!["*".into()],
        is_operator,
        rate_limit_rpm: is_operator.then_some(std::num::NonZeroU32::MIN),
        created_at: now,
        last_used_at: None,
        expires_at: (!is_operator).then(|| now + Duration::from_mins(1)),
        revoked_at: None,
    }
}

async fn keys_belong_to_one_tenant(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let tenant = home.tenant.id;
    let mut db = bench.conn().await;
    let mut one = key(&bench, tenant, "h1", false);
    let two = key(&bench, tenant, "h2", false);
    let operator = key(&bench, tenant, "h3", true);
    for key in [&one, &two, &operator] {
        insert(&mut db, key).await.unwrap();
    }
    let twin = key(&bench, other.tenant.id, "h1", false);
    let error = insert(&mut db, &twin).await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error:?}");
    assert_eq!(find_by_hash(&mut db, "h1").await.unwrap(), Some(one.clone()));
    assert_eq!(find_by_hash(&mut db, "H1").await.unwrap(), None);
    assert_eq!(find(&mut db, tenant, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(find(&mut db, other.tenant.id, one.id).await.unwrap(), None);
    assert_eq!(list(&mut db, tenant).await.unwrap(), [two.clone(), one.clone()]);
    assert!(list(&mut db, other.tenant.id).await.unwrap().is_empty());

    let now = bench.tick();
    touch(&mut db, one.id, now).await.unwrap();
    assert!(!revoke(&mut db, other.tenant.id, one.id, now).await.unwrap());
    assert!(!revoke(&mut db, tenant, operator.id, now).await.unwrap());
    assert!(revoke(&mut db, tenant, one.id, now).await.unwrap());
    assert!(!revoke(&mut db, tenant, one.id, now).await.unwrap());
    (one.last_used_at, one.revoked_at) = (Some(now), Some(now));
    assert!(!one.is_usable(now));
    assert_eq!(list(&mut db, tenant).await.unwrap(), [two, one]);
}

async fn there_is_one_operator_key_at_a_time(bench: Bench) {
    let home = bench.home("a").await;
    let mut db = bench.conn().await;
    let tenants = key(&bench, home.tenant.id, "h0", false);
    let old = key(&bench, home.tenant.id, "h1", true);
    let new = key(&bench, home.tenant.id, "h2", true);
    for key in [&tenants, &old, &new] {
        insert(&mut db, key).await.unwrap();
    }
    let now = bench.tick();
    revoke_other_operators(&mut db, new.id, now).await.unwrap();
    for (key, revoked_at) in [(tenants, None), (old, Some(now)), (new, None)] {
        let found = find_by_hash(&mut db, &key.hash).await.unwrap();
        assert_eq!(found, Some(ApiKey { revoked_at, ..key }));
    }
}
