//! The table of preview tokens.

use std::{slice::from_ref, time::Duration};

use miosa_store::{
    preview_tokens::{PreviewToken, delete_before, insert, live, of_sandbox, revoke},
    previews::{self, Preview, Visibility},
    sandboxes::{self, Sandbox},
};
use miosa_types::{Digest, PreviewId};
use serde_json::Map;

use crate::support::{Bench, on_both};

on_both!(tokens_open_one_sandbox_until_they_end);

fn token(bench: &Bench, of: &Sandbox, preview: Option<PreviewId>, minutes: u64) -> PreviewToken {
    let id = bench.id();
    let now = bench.env.now();
    PreviewToken {
        id,
        tenant: of.tenant,
        sandbox: of.id,
        preview,
        port: preview.is_none().then_some(65_535),
        digest: Digest::of(id.to_string().as_bytes()),
        prefix: "prv_abc".into(),
        scope: "view".into(),
        created_at: now,
        expires_at: now + Duration::from_mins(minutes),
    }
}

async fn tokens_open_one_sandbox_until_they_end(bench: Bench) {
    let (home, other) = (bench.home("a").await, bench.home("b").await);
    let sandbox = bench.new_sandbox(&home);
    let (tenant, of) = (home.tenant.id, sandbox.id);
    let mut db = bench.conn().await;
    sandboxes::insert(&mut db, &sandbox).await.unwrap();
    let preview = Preview {
        id: bench.id(),
        tenant,
        sandbox: of,
        name: None,
        port: 3000,
        visibility: Visibility::Private,
        metadata: Map::new(),
        created_at: bench.env.now(),
        updated_at: bench.env.now(),
        deleted_at: None,
    };
    previews::insert(&mut db, &preview).await.unwrap();
    let short = token(&bench, &sandbox, Some(preview.id), 1);
    let long = token(&bench, &sandbox, None, 5);
    insert(&mut db, &short).await.unwrap();
    insert(&mut db, &long).await.unwrap();

    let now = bench.tick();
    let found = of_sandbox(&mut db, tenant, of, now).await.unwrap();
    assert_eq!(found, [long.clone(), short.clone()]);
    assert!(of_sandbox(&mut db, other.tenant.id, of, now).await.unwrap().is_empty());
    assert_eq!(live(&mut db, now).await.unwrap(), [short.clone(), long.clone()]);
    assert_eq!(live(&mut db, short.expires_at).await.unwrap(), from_ref(&long));

    let name = (tenant, of, preview.id);
    let foreign = (other.tenant.id, of, preview.id);
    assert_eq!(revoke(&mut db, foreign, now).await.unwrap(), 0);
    assert_eq!(revoke(&mut db, name, now).await.unwrap(), 1);
    assert_eq!(revoke(&mut db, name, now).await.unwrap(), 0);
    assert_eq!(of_sandbox(&mut db, tenant, of, now).await.unwrap(), from_ref(&long));
    delete_before(&mut db, long.expires_at).await.unwrap();
    assert_eq!(live(&mut db, now).await.unwrap(), from_ref(&long));
    delete_before(&mut db, long.expires_at + Duration::from_millis(1)).await.unwrap();
    assert!(live(&mut db, now).await.unwrap().is_empty());
}
