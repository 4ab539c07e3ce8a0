//! Domains that tenants bring: who gets one, when it is routed, when it is gone.

use std::time::Duration;

use miosa_control::{
    deployments,
    domains::{self, Error, New, RedirectPolicy, Shown, Status},
    publishing::Request,
};
use miosa_store::certificates;
use miosa_testkit::{ADDRESS, Platform, Tenant, eventually};
use miosa_types::{
    DeploymentId,
    link::{Entry, Target},
};

use crate::publish::SITE;

const NAME: &str = "www.smile.test";
const HOUR: Duration = Duration::from_hours(1);

/// A tenant with a published site.
async fn site(platform: &Platform, name: &str) -> (Tenant, DeploymentId) {
    let tenant = platform.tenant(name).await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let made = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_state(tenant, made.deployment.id, "running").await;
    (tenant, made.deployment.id)
}

async fn add(
    platform: &Platform,
    (tenant, id): (Tenant, DeploymentId),
    domain: &str,
) -> Result<Shown, Error> {
    add_as(platform, (tenant, id), domain, false).await
}

async fn add_as(
    platform: &Platform,
    (tenant, id): (Tenant, DeploymentId),
    domain: &str,
    is_trusted: bool,
) -> Result<Shown, Error> {
    let external = deployments::External::default();
    let redirect = RedirectPolicy::None;
    let new = New { domain: domain.into(), is_trusted, redirect, external };
    domains::add(&platform.control(), tenant.id, &id.to_string(), new, None).await
}

async fn get(platform: &Platform, tenant: Tenant, domain: &str) -> Result<Shown, Error> {
    domains::get(&platform.control(), tenant.id, None, domain).await
}

async fn verify(platform: &Platform, tenant: Tenant, domain: &str) -> Shown {
    domains::verify(&platform.control(), tenant.id, None, domain).await.unwrap()
}

async fn until(platform: &Platform, tenant: Tenant, domain: &str, status: Status) -> Shown {
    eventually(format!("{domain} that is {}", status.as_str()), async || {
        let shown = get(platform, tenant, domain).await.ok()?;
        (shown.domain.progress.status == status).then_some(shown)
    })
    .await
}

/// Names of the certificates that the edge has.
fn certified(platform: &Platform) -> Vec<String> {
    let names = |entry: &Entry| match entry {
        Entry::Certificate(certificate) => certificate.names.clone(),
        _ => vec![],
    };
    platform.edge.table().0.values().flat_map(names).collect()
}

fn has_certificate(platform: &Platform, name: &str) -> bool {
    certified(platform).iter().any(|one| one == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_makes_a_domain_active_and_removing_it_takes_all_away() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    let shown = add(&platform, (tenant, id), " WWW.Smile.test. ").await.unwrap();
    assert_eq!(shown.domain.domain, NAME);
    assert_eq!(shown.target(), "shop.clinic.localhost");
    let waiting = eventually("a first check", async || {
        let shown = get(&platform, tenant, NAME).await.ok()?;
        (shown.domain.progress.checks > 0).then_some(shown.domain.progress)
    })
    .await;
    assert_eq!(waiting.status, Status::Pending);
    assert!(waiting.failure.unwrap().contains("no CNAME to your host"));
    assert_eq!(platform.edge.target(NAME), None);
    assert!(!has_certificate(&platform, NAME));

    platform.dns.set_alias(NAME, "other.host.test");
    platform.dns.set_alias("other.host.test", "shop.clinic.localhost");
    platform.advance(HOUR);
    let active = until(&platform, tenant, NAME, Status::Active).await.domain;
    assert!(active.tls_issued_at.is_some() && active.progress.verified_at.is_some());
    let own = platform.edge.target("shop.clinic.localhost");
    assert!(matches!(own, Some(Target::Static { .. })));
    assert_eq!(platform.edge.target(NAME), own, "as the app's own host");
    assert!(has_certificate(&platform, NAME));

    domains::remove(&platform.control(), tenant.id, None, NAME).await.unwrap();
    assert_eq!(platform.edge.target(NAME), None, "gone when the call returns");
    assert!(!has_certificate(&platform, NAME));
    let mut db = platform.control().store.conn().await.unwrap();
    let names = [NAME.to_owned()];
    assert_eq!(certificates::find(&mut db, &names).await.unwrap(), None, "its key is not kept");
    assert!(matches!(get(&platform, tenant, NAME).await, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_record_proves_and_an_address_leads_here() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    let domain = add(&platform, (tenant, id), "smile.test").await.unwrap().domain;
    platform.dns.set_text("_domain-proof.smile.test", "someone else's");
    platform.dns.set_address("smile.test", ADDRESS);
    let shown = verify(&platform, tenant, "smile.test").await;
    assert_eq!(shown.domain.progress.status, Status::Pending, "an address proves nothing");

    platform.dns.clear();
    platform.dns.set_text("_domain-proof.smile.test", &domain.token);
    let failure = verify(&platform, tenant, "smile.test").await.domain.progress.failure;
    assert!(failure.unwrap().contains("does not point here"));

    platform.dns.set_address("smile.test", ADDRESS);
    verify(&platform, tenant, "smile.test").await;
    until(&platform, tenant, "smile.test", Status::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_keeps_nobody_out_and_proof_does() {
    let platform = Platform::start().await;
    let (squatter, owner) = (site(&platform, "rival").await, site(&platform, "clinic").await);
    add(&platform, squatter, NAME).await.unwrap();
    add(&platform, owner, NAME).await.unwrap();
    platform.dns.set_alias(NAME, "shop.clinic.localhost");
    verify(&platform, owner.0, NAME).await;
    until(&platform, owner.0, NAME, Status::Active).await;
    let lost = verify(&platform, squatter.0, NAME).await.domain.progress;
    assert_eq!(lost.status, Status::Pending, "{lost:?}");

    // Even with proof of their own: one holds it.
    platform.dns.set_alias(NAME, "shop.rival.localhost");
    let lost = verify(&platform, squatter.0, NAME).await.domain.progress;
    assert_eq!(lost.status, Status::Pending);
    assert!(lost.failure.unwrap().contains("already used by another deployment"));
    let third = site(&platform, "third").await;
    let refused = add(&platform, third, NAME).await;
    assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}");
    let of = platform.edge.table().0.into_values().find_map(|entry| match entry {
        Entry::Route(route) if route.host == NAME => Some(route.owner.tenant),
        _ => None,
    });
    assert_eq!(of, Some(owner.0.id));

    // Once it is free, the other's claim is good.
    domains::remove(&platform.control(), owner.0.id, None, NAME).await.unwrap();
    verify(&platform, squatter.0, NAME).await;
    until(&platform, squatter.0, NAME, Status::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_is_down_takes_no_domain_away() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    add(&platform, (tenant, id), NAME).await.unwrap();
    platform.dns.set_alias(NAME, "shop.clinic.localhost");
    verify(&platform, tenant, NAME).await;
    until(&platform, tenant, NAME, Status::Active).await;
    platform.dns.set_down(true);
    for _ in 0..10 {
        platform.advance(24 * HOUR);
        let shown = verify(&platform, tenant, NAME).await;
        assert_eq!(shown.domain.progress.status, Status::Active);
    }
    // A name that is found to be someone else's for days is given up.
    platform.dns.clear();
    platform.dns.set_down(false);
    let mut checks = 0;
    for hours in (0..).step_by(6) {
        platform.advance(6 * HOUR);
        let seen = eventually(format!("another check after {hours} h and {checks}"), async || {
            let progress = get(&platform, tenant, NAME).await.ok()?.domain.progress;
            (progress.checks > checks).then_some(progress)
        })
        .await;
        checks = seen.checks;
        if seen.status == Status::Failed {
            // A check of the days before may still have been under way.
            assert!([66, 72].contains(&hours), "{hours} h: {seen:?}");
            break;
        }
    }
    eventually("no route", async || platform.edge.target(NAME).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_proves_nothing_and_a_deleted_deployment_frees_its_names() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    platform.dns.set_down(true);
    add_as(&platform, (tenant, id), NAME, true).await.unwrap();
    until(&platform, tenant, NAME, Status::Active).await;
    platform.advance(100 * 24 * HOUR);
    let shown = verify(&platform, tenant, NAME).await;
    assert_eq!(shown.domain.progress.status, Status::Active);

    let control = platform.control();
    let (other, other_id) = site(&platform, "rival").await;
    let refused = add_as(&platform, (other, other_id), NAME, true).await;
    assert!(matches!(refused, Err(Error::Taken { .. })), "{refused:?}");
    deployments::delete(&control, tenant.id, &id.to_string()).await.unwrap();
    eventually("no route", async || platform.edge.target(NAME).is_none().then_some(())).await;
    eventually("a free name", async || add_as(&platform, (other, other_id), NAME, true).await.ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_what_waits() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    add(&platform, (tenant, id), NAME).await.unwrap();
    platform.kill_control();
    platform.dns.set_alias(NAME, "shop.clinic.localhost");
    platform.start_control().await;
    platform.advance(HOUR);
    until(&platform, tenant, NAME, Status::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_to_the_other_of_its_pair_while_both_are_held() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    let own = platform.edge.target("shop.clinic.localhost");
    let set = async |domain: &str, policy| {
        domains::set_redirect(&platform.control(), tenant.id, None, domain, policy).await.unwrap()
    };
    let until_target = async |host: &str, target: Option<Target>| {
        eventually(format!("{host} that leads to {target:?}"), async || {
            (platform.edge.target(host) == target).then_some(())
        })
        .await;
    };
    let to = |host: &str| Some(Target::Redirect { to: host.to_owned() });
    add_as(&platform, (tenant, id), "smile.test", true).await.unwrap();
    set("smile.test", RedirectPolicy::ApexToWww).await;
    until(&platform, tenant, "smile.test", Status::Active).await;
    assert_eq!(platform.edge.target("smile.test"), own, "the other is not there");

    add(&platform, (tenant, id), NAME).await.unwrap();
    verify(&platform, tenant, NAME).await;
    assert_eq!(platform.edge.target("smile.test"), own, "the other is not proved");
    platform.dns.set_alias(NAME, "shop.clinic.localhost");
    verify(&platform, tenant, NAME).await;
    until(&platform, tenant, NAME, Status::Active).await;
    until_target("smile.test", to(NAME)).await;
    assert_eq!(platform.edge.target(NAME), own);
    assert!(has_certificate(&platform, "smile.test"), "it needs one to lead on");

    set("smile.test", RedirectPolicy::WwwToApex).await;
    until_target(NAME, to("smile.test")).await;
    until_target("smile.test", own.clone()).await;
    domains::remove(&platform.control(), tenant.id, None, "smile.test").await.unwrap();
    until_target(NAME, own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deployment_answers_after_a_move() {
    let platform = Platform::start().await;
    let (tenant, id) = site(&platform, "clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let made = platform.publish(tenant, &sandbox, "blog", Request::default()).await.unwrap();
    platform.until_state(tenant, made.deployment.id, "running").await;
    add_as(&platform, (tenant, id), NAME, true).await.unwrap();
    until(&platform, tenant, NAME, Status::Active).await;
    let (shop, blog) = (
        platform.edge.target("shop.clinic.localhost"),
        platform.edge.target("blog.clinic.localhost"),
    );
    assert!(shop != blog && platform.edge.target(NAME) == shop);
    let to = made.deployment.id.to_string();
    domains::assign(&platform.control(), tenant.id, NAME, &to).await.unwrap();
    eventually("a moved name", async || (platform.edge.target(NAME) == blog).then_some(())).await;
}
