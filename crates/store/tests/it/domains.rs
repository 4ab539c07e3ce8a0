//! The table of domains that tenants bring.

use std::slice::from_ref;

use miosa_store::{
    Error,
    deployments::{self, Deployment, External},
    domains::{
        Domain, Progress, RedirectPolicy, Status, due, find, held, holder, insert, is_held_below,
        list, orphans, token, unserved, update,
    },
};

use crate::support::{Bench, on_both};

on_both!(
    a_row_is_read_as_it_was_written,
    two_may_claim_a_name_and_one_can_hold_it,
    what_reconcilers_look_at,
    a_domain_of_a_deleted_deployment_is_an_orphan,
    nothing_of_another_tenant_is_found,
);

/// A deployment of a tenant of its own.
async fn owner(bench: &Bench, slug: &str) -> Deployment {
    let deployment = bench.new_deployment(&bench.home(slug).await, slug);
    deployments::insert(&mut *bench.conn().await, &deployment).await.unwrap();
    deployment
}

fn new_domain(bench: &Bench, of: &Deployment, name: &str) -> Domain {
    let now = bench.tick();
    Domain {
        id: bench.env.id(),
        tenant: of.tenant,
        deployment: of.id,
        domain: name.into(),
        token: format!("token of {}", of.tenant),
        is_trusted: true,
        redirect: RedirectPolicy::ApexToWww,
        external: External { user: Some("u1".into()), ..External::default() },
        progress: Progress {
            status: Status::Pending,
            failure: None,
            checks: 0,
            waiting_since: now,
            doubt_since: None,
            next_check_at: Some(now),
            verified_at: None,
        },
        tls_issued_at: None,
        generation: 1,
        created_at: now,
        updated_at: now,
    }
}

async fn add(bench: &Bench, of: &Deployment, name: &str) -> Domain {
    let domain = new_domain(bench, of, name);
    insert(&mut *bench.conn().await, &domain).await.unwrap();
    domain
}

/// Writes a status and returns the row as it is then.
async fn set(bench: &Bench, domain: &Domain, status: Status) -> Result<Domain, Error> {
    let mut new = domain.clone();
    new.progress.status = status;
    update(&mut *bench.conn().await, &new, bench.env.now()).await?;
    new.generation += 1;
    Ok(new)
}

async fn a_row_is_read_as_it_was_written(bench: Bench) {
    let (of, to) = (owner(&bench, "a").await, owner(&bench, "b").await);
    let mut domain = add(&bench, &of, "www.a.test").await;
    let mut db = bench.conn().await;
    for key in [domain.id.to_string(), "www.a.test".to_owned()] {
        assert_eq!(find(&mut db, of.tenant, &key).await.unwrap(), Some(domain.clone()));
    }
    let now = bench.tick();
    domain.progress = Progress {
        status: Status::Active,
        failure: Some("why".into()),
        checks: 3,
        waiting_since: now,
        doubt_since: Some(now),
        next_check_at: None,
        verified_at: Some(now),
    };
    domain.tls_issued_at = Some(now);
    domain.redirect = RedirectPolicy::WwwToApex;
    domain.deployment = to.id;
    update(&mut db, &domain, now).await.unwrap();
    let again = update(&mut db, &domain, now).await;
    assert!(matches!(again, Err(Error::Stale { .. })), "{again:?}");
    domain.generation += 1;
    domain.updated_at = now;
    assert_eq!(list(&mut db, of.tenant, None).await.unwrap(), from_ref(&domain));
    assert_eq!(list(&mut db, of.tenant, Some(of.id)).await.unwrap(), []);
    assert_eq!(held(&mut db).await.unwrap(), [domain]);
}

async fn two_may_claim_a_name_and_one_can_hold_it(bench: Bench) {
    let (a, b) = (owner(&bench, "a").await, owner(&bench, "b").await);
    let (of_a, of_b) = (add(&bench, &a, "shop.test").await, add(&bench, &b, "shop.test").await);
    let mut db = bench.conn().await;
    let twice = insert(&mut db, &new_domain(&bench, &a, "shop.test")).await;
    assert!(matches!(twice, Err(Error::Taken { .. })), "a tenant has a name once: {twice:?}");
    assert_eq!(holder(&mut db, "shop.test").await.unwrap(), None);

    let kept = set(&bench, &of_b, Status::Verified).await.unwrap();
    assert_eq!(holder(&mut db, "shop.test").await.unwrap().unwrap().tenant, b.tenant);
    let second = set(&bench, &of_a, Status::Verified).await;
    assert!(matches!(second, Err(Error::Taken { .. })), "{second:?}");
    set(&bench, &of_a, Status::Failed).await.unwrap();

    set(&bench, &kept, Status::Removed).await.unwrap();
    assert_eq!(holder(&mut db, "shop.test").await.unwrap(), None);
    assert_eq!(find(&mut db, b.tenant, "shop.test").await.unwrap(), None);
    let token = token(&mut db, b.tenant, "shop.test").await.unwrap();
    assert_eq!(token, Some(of_b.token), "the record in the DNS stays good");
    add(&bench, &b, "shop.test").await;
}

async fn what_reconcilers_look_at(bench: Bench) {
    let (a, b) = (owner(&bench, "a").await, owner(&bench, "b").await);
    let first = add(&bench, &a, "one.test").await;
    let second = add(&bench, &a, "two.test").await;
    let mut db = bench.conn().await;
    assert_eq!(due(&mut db, first.created_at).await.unwrap(), from_ref(&first));
    assert_eq!(due(&mut db, second.created_at).await.unwrap().len(), 2);
    let first = set(&bench, &first, Status::Verified).await.unwrap();
    assert_eq!(unserved(&mut db).await.unwrap()[0].id, first.id);

    for (tenant, domain, is_held) in [
        (b.tenant, "one.test", true),
        (b.tenant, "test", true),
        (b.tenant, "e.test", false),
        (b.tenant, "two.test", false),
        (a.tenant, "one.test", false),
    ] {
        assert_eq!(is_held_below(&mut db, tenant, domain).await.unwrap(), is_held, "{domain}");
    }
}

async fn a_domain_of_a_deleted_deployment_is_an_orphan(bench: Bench) {
    let (mut a, b) = (owner(&bench, "a").await, owner(&bench, "b").await);
    let of_a = add(&bench, &a, "one.test").await;
    add(&bench, &b, "two.test").await;
    let mut db = bench.conn().await;
    assert_eq!(orphans(&mut db).await.unwrap(), []);
    a.deleted_at = Some(bench.tick());
    deployments::update(&mut db, &a, bench.env.now()).await.unwrap();
    assert_eq!(orphans(&mut db).await.unwrap(), from_ref(&of_a));
    set(&bench, &of_a, Status::Removed).await.unwrap();
    assert_eq!(orphans(&mut db).await.unwrap(), []);
}

async fn nothing_of_another_tenant_is_found(bench: Bench) {
    let (a, b) = (owner(&bench, "a").await, owner(&bench, "b").await);
    let domain = add(&bench, &a, "one.test").await;
    let mut db = bench.conn().await;
    assert_eq!(find(&mut db, b.tenant, &domain.id.to_string()).await.unwrap(), None);
    assert_eq!(find(&mut db, b.tenant, "one.test").await.unwrap(), None);
    assert_eq!(list(&mut db, b.tenant, Some(a.id)).await.unwrap(), []);
    assert_eq!(token(&mut db, b.tenant, "one.test").await.unwrap(), None);
}
