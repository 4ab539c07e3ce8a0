//! The table of previews.

use std::slice::from_ref;

use miosa_store::{
    previews::{self, Preview},
    sandboxes::insert,
};
use serde_json::Map;

use crate::support::{Bench, on_both};

on_both!(previews_belong_to_one_sandbox_of_one_tenant);

async fn previews_belong_to_one_sandbox_of_one_tenant(bench: Bench) {
    let one = bench.new_sandbox(&bench.home("a").await);
    let other = bench.new_sandbox(&bench.home("b").await);
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    let now = bench.env.now();
    let preview = Preview {
        id: bench.env.id(),
        tenant: one.tenant,
        sandbox: one.id,
        name: Some("web".into()),
        port: 65_535,
        visibility: previews::Visibility::Private,
        metadata: Map::new(),
        created_at: now,
        updated_at: now,
        deleted_at: None,
    };
    previews::insert(&mut db, &preview).await.unwrap();
    let found = previews::get(&mut db, one.tenant, one.id, preview.id).await.unwrap();
    assert_eq!(found, Some(preview.clone()));
    assert_eq!(previews::get(&mut db, other.tenant, one.id, preview.id).await.unwrap(), None);
    assert!(previews::list(&mut db, other.tenant, one.id).await.unwrap().is_empty());
    assert_eq!(previews::live(&mut db).await.unwrap(), from_ref(&preview));
    assert!(!previews::delete(&mut db, (other.tenant, one.id, preview.id), now).await.unwrap());
    assert!(previews::delete(&mut db, (one.tenant, one.id, preview.id), now).await.unwrap());
    assert!(previews::list(&mut db, one.tenant, one.id).await.unwrap().is_empty());
    // It was private, so its port stays closed.
    let removed = Preview { deleted_at: Some(now), ..preview.clone() };
    assert_eq!(previews::live(&mut db).await.unwrap(), from_ref(&removed));
    let public =
        Preview { id: bench.id(), visibility: previews::Visibility::Public, ..preview.clone() };
    previews::insert(&mut db, &public).await.unwrap();
    assert_eq!(previews::live(&mut db).await.unwrap(), [removed.clone(), public.clone()]);
    assert!(previews::delete(&mut db, (one.tenant, one.id, public.id), now).await.unwrap());
    assert_eq!(previews::live(&mut db).await.unwrap(), [removed]);
}
