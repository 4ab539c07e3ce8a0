//! The table of tenants.

use miosa_store::{
    Error, deployments, sandboxes,
    tenants::{find, find_by_slug, insert, list, update, usage},
};
use miosa_types::Branding;

use crate::support::{Bench, on_both};

on_both!(
    a_row_reads_back_and_a_stale_writer_loses,
    slug_and_domains_are_of_one_tenant,
    usage_counts_what_is_wanted,
);

async fn a_row_reads_back_and_a_stale_writer_loses(bench: Bench) {
    let mut tenant = bench.new_tenant("acme");
    let mut db = bench.conn().await;
    insert(&mut db, &tenant).await.unwrap();
    assert_eq!(find(&mut db, tenant.id).await.unwrap(), Some(tenant.clone()));
    assert_eq!(find_by_slug(&mut db, "acme").await.unwrap(), Some(tenant.clone()));
    assert_eq!(find_by_slug(&mut db, "ACME").await.unwrap(), None);
    assert_eq!(find(&mut db, bench.id()).await.unwrap(), None);

    tenant.branding = Some(Branding { name: Some("Äcme".into()), ..Branding::default() });
    tenant.preview_domain = Some("previews.example".into());
    tenant.console_domain = Some("console.example".into());
    let now = bench.tick();
    update(&mut db, &tenant, now).await.unwrap();
    let error = update(&mut db, &tenant, now).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    (tenant.generation, tenant.updated_at) = (2, now);
    assert_eq!(find(&mut db, tenant.id).await.unwrap(), Some(tenant.clone()));
    let younger = bench.new_tenant("b");
    insert(&mut db, &younger).await.unwrap();
    assert_eq!(list(&mut db).await.unwrap(), [tenant, younger]);
}

async fn slug_and_domains_are_of_one_tenant(bench: Bench) {
    let mut one = bench.new_tenant("a");
    one.console_domain = Some("console.example".into());
    let mut db = bench.conn().await;
    insert(&mut db, &one).await.unwrap();
    let mut twins = [bench.new_tenant("a"), bench.new_tenant("b"), bench.new_tenant("c")];
    twins[0].deployment_domain = "free.example".into();
    twins[1].deployment_domain.clone_from(&one.deployment_domain);
    twins[2].console_domain.clone_from(&one.console_domain);
    for twin in &twins {
        let error = insert(&mut db, twin).await.unwrap_err();
        assert!(matches!(error, Error::Taken { .. }), "{:?}: {error:?}", twin.slug);
    }
    let mut other = bench.new_tenant("d");
    insert(&mut db, &other).await.unwrap();
    other.deployment_domain.clone_from(&one.deployment_domain);
    let error = update(&mut db, &other, bench.tick()).await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error:?}");
}

async fn usage_counts_what_is_wanted(bench: Bench) {
    let home = bench.home("a").await;
    bench.home("b").await;
    let mut db = bench.conn().await;
    for _ in 0..2 {
        let mut sandbox = bench.new_sandbox(&home);
        sandboxes::insert(&mut db, &sandbox).await.unwrap();
        sandbox.desired = sandboxes::Desired::Destroyed;
        sandboxes::update(&mut db, &mut sandbox, bench.tick()).await.unwrap();
        sandboxes::insert(&mut db, &bench.new_sandbox(&home)).await.unwrap();
    }
    let mut deployment = bench.new_deployment(&home, "shop");
    deployments::insert(&mut db, &deployment).await.unwrap();
    assert_eq!(usage(&mut db, home.tenant.id).await.unwrap(), [2, 1, 1, 1]);
    deployment.deleted_at = Some(bench.tick());
    deployments::update(&mut db, &deployment, bench.tick()).await.unwrap();
    assert_eq!(usage(&mut db, home.tenant.id).await.unwrap(), [2, 0, 1, 1]);
}
