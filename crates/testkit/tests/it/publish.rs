//! Publishing: what a tenant sees, and where visitors are sent.

use miosa_control::{
    deployments::Error,
    publishing::{Published, Request},
    sandboxes::Sandbox,
};
use miosa_testkit::{Platform, Tenant, eventually};
use miosa_types::{
    deployment::{VersionKind, VersionState},
    host,
    link::{Availability, Entry, Key, Target},
};

pub(crate) const SITE: &[(&str, &str)] = &[("index.html", "<h1>one</h1>")];

/// A program that the explicit command runs; nothing is to be installed.
pub(crate) const APP: &[(&str, &str)] = &[("server.js", "require('http')")];

pub(crate) fn app_request() -> Request {
    Request {
        run_command: Some("node server.js".into()),
        port: Some(3000),
        build_command: Some(String::new()),
        ..Request::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_published_and_outlives_its_sandbox() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let made = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    assert_eq!(made.version.state, VersionState::Building);
    let shown = platform.shown(tenant, made.deployment.id).await;
    assert_eq!(
        (shown.state, shown.url.as_str()),
        ("building", "https://shop.clinic.localhost:8443")
    );
    // The source is durable: nothing needs the sandbox any more.
    miosa_control::sandboxes::destroy(&platform.control(), tenant.id, sandbox.id).await.unwrap();

    let shown = platform.until_state(tenant, made.deployment.id, "running").await;
    let version = platform.version(tenant, made.deployment.id, made.version.id).await;
    assert_eq!(version.kind, Some(VersionKind::Static));
    let manifest = version.artifact.unwrap().digest;
    let expected = Some(Target::Static { version: version.id, manifest });
    assert_eq!(platform.edge.target("shop.clinic.localhost"), expected);
    assert_eq!(platform.edge.target("v1--shop.clinic.localhost"), expected);
    assert_eq!(shown.deployment.serving_version, Some(version.id));

    eventually("that nothing runs", async || platform.provider.observed().is_empty().then_some(()))
        .await;
    assert_eq!(platform.edge.target("shop.clinic.localhost"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_held_until_it_is_ready_and_then_served() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let made = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    let id = made.deployment.id;
    let shown = platform.until_state(tenant, id, "running").await;
    let [replica] = &platform.replicas(made.version.id)[..] else { panic!("one replica") };
    assert_eq!(platform.edge.ready(id), [replica.instance]);
    assert_eq!(shown.runtime, replica.phase.ready());
    assert_eq!(platform.edge.target("desk.clinic.localhost"), Some(Target::App { app: id }));
    // Visitors never saw anything but "starting" before.
    let states: Vec<_> = platform
        .edge
        .history()
        .iter()
        .filter_map(|table| match table.0.get(&Key::App(id)) {
            Some(Entry::App(app)) => Some(app.availability.clone()),
            _ => None,
        })
        .collect();
    let is_known =
        |state: &Availability| matches!(state, Availability::Starting { .. } | Availability::Ready);
    assert!(states.iter().all(is_known), "{states:?}");
    assert_eq!(states.last(), Some(&Availability::Ready));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_makes_a_new_version_and_an_upgrade_leaves_no_gap() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let first = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    let id = first.deployment.id;
    platform.until_state(tenant, id, "running").await;
    let seen = platform.edge.history().len();

    let second = platform.publish(tenant, &sandbox, "desk", Request::default()).await.unwrap();
    assert_eq!((second.deployment.id, second.version.number), (id, 2));
    assert_eq!(second.version.request["port"], 3000, "what was not said is taken from the last");
    eventually("that only the second version runs", async || {
        let is_gone = platform.replicas(first.version.id).is_empty();
        let replicas = platform.replicas(second.version.id);
        (is_gone && platform.edge.ready(id) == [replicas.first()?.instance]).then_some(())
    })
    .await;
    for table in &platform.edge.history()[seen..] {
        let Some(Entry::App(app)) = table.0.get(&Key::App(id)) else { panic!("no entry") };
        assert_eq!(app.availability, Availability::Ready, "{app:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_replica_stays_while_an_edge_waits_for_its_answers() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let first = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    platform.until_state(tenant, first.deployment.id, "running").await;
    platform.edge.set_busy(true);
    let second = platform.publish(tenant, &sandbox, "desk", Request::default()).await.unwrap();
    eventually("the second version as the serving one", async || {
        let shown = platform.shown(tenant, first.deployment.id).await;
        (shown.deployment.serving_version == Some(second.version.id)).then_some(())
    })
    .await;
    assert_eq!(platform.replicas(first.version.id).len(), 1, "an answer is still to come");
    platform.edge.set_busy(false);
    eventually("that the first is gone", async || {
        platform.replicas(first.version.id).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_one_deployment_of_a_domain() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    let other = platform.project(tenant.id, tenant.workspace, "second").await;
    let other = miosa_testkit::Tenant { project: other, ..tenant };
    let sandbox = platform.sandbox(other, SITE).await;
    let error = platform.publish(other, &sandbox, "shop", Request::default()).await.unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name } if name == "shop"), "{error:?}");
    let error = platform.publish(other, &sandbox, "admin", Request::default()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { field: "name", .. }), "{error:?}");
    // On another domain it is free.
    let stranger = platform.tenant("bakery").await;
    let sandbox = platform.sandbox(stranger, SITE).await;
    let made = platform.publish(stranger, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_state(stranger, made.deployment.id, "running").await;
    assert!(platform.edge.target("shop.bakery.localhost").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_of_one_new_name_at_once_are_versions_of_one_deployment() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let publish = || platform.publish(tenant, &sandbox, "shop", Request::default());
    let (a, b, c) = tokio::join!(publish(), publish(), publish());
    let all = [a.unwrap(), b.unwrap(), c.unwrap()];
    assert!(all.iter().all(|made| made.deployment.id == all[0].deployment.id));
    let mut numbers: Vec<_> = all.iter().map(|made| made.version.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_is_told_and_the_old_version_keeps_serving() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let first = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_state(tenant, first.deployment.id, "running").await;
    platform.guest.script("make site", 2, "no rule to make target\n");
    let request = Request { build_command: Some("make site".into()), ..Request::default() };
    let second = platform.publish(tenant, &sandbox, "shop", request).await.unwrap();
    platform.until_version(tenant, &second.version, VersionState::Failed).await;
    let shown = platform.until_state(tenant, first.deployment.id, "running").await;
    assert_eq!(shown.deployment.active_version, Some(first.version.id));
    let failure = shown.deployment.failure.unwrap();
    assert!(failure.contains("no rule to make target"), "{failure}");
    eventually("that no build sandbox is left", async || {
        (platform.provider.observed().len() == 1).then_some(())
    })
    .await;
}

/// Publishes a version of `shop` whose build has begun and never ends.
async fn build_endlessly(platform: &Platform, tenant: Tenant, sandbox: &Sandbox) -> Published {
    platform.guest.never_end("make site");
    let request = Request { build_command: Some("make site".into()), ..Request::default() };
    let made = platform.publish(tenant, sandbox, "shop", request).await.unwrap();
    eventually("that it builds", async || {
        let commands = platform.guest.commands();
        commands.iter().flatten().any(|word| word.contains("make site")).then_some(())
    })
    .await;
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_ends_at_once_and_the_old_version_keeps_serving() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let first = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_state(tenant, first.deployment.id, "running").await;
    let second = build_endlessly(&platform, tenant, &sandbox).await;
    let key = first.deployment.id.to_string();
    let other = platform.tenant("other").await;
    let control = platform.control();
    let key_of_shop = first.deployment.id.to_string();
    let theirs = (other.id, &*key_of_shop, second.version.id);
    let foreign = miosa_control::deployments::cancel(&control, theirs.0, theirs.1, theirs.2).await;
    assert!(matches!(foreign, Err(Error::NotFound { .. })), "{foreign:?}");
    let building = platform.version(tenant, first.deployment.id, second.version.id).await;
    assert_eq!(building.state, VersionState::Building);
    let cancel = |version| miosa_control::deployments::cancel(&control, tenant.id, &key, version);
    let (_, cancelled) = cancel(second.version.id).await.unwrap();
    assert_eq!(cancelled.state, VersionState::Failed);
    assert_eq!(cancelled.failure.as_deref(), Some("The build was cancelled."));
    // Its sandbox goes without waiting for anything: the clock of the platform stands.
    eventually("that no build sandbox is left", async || {
        (platform.provider.observed().len() == 1).then_some(())
    })
    .await;
    let shown = platform.shown(tenant, first.deployment.id).await;
    assert_eq!((shown.state, shown.deployment.active_version), ("running", Some(first.version.id)));
    for version in [second.version.id, first.version.id] {
        let again = cancel(version).await;
        assert!(matches!(again, Err(Error::NotCancellable { .. })), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_deployment_builds_no_longer() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let made = build_endlessly(&platform, tenant, &sandbox).await;
    let key = made.deployment.id.to_string();
    miosa_control::deployments::delete(&platform.control(), tenant.id, &key).await.unwrap();
    eventually("that only the sandbox is left", async || {
        (platform.provider.observed().len() == 1).then_some(())
    })
    .await;
    // Nor after a restart.
    platform.kill_control();
    platform.start_control().await;
    eventually("that control has looked", async || platform.control().observed.replicas()).await;
    assert_eq!(platform.provider.observed().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_sandbox_has_a_preview_route_and_a_stopped_app_none() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let host = host::sandbox(&sandbox.slug, &sandbox.preview_domain);
    eventually("the address of the sandbox", async || {
        match platform.edge.table().0.get(&Key::Sandbox(sandbox.id)) {
            Some(Entry::Sandbox(entry)) => entry.addr,
            _ => None,
        }
    })
    .await;
    assert_eq!(platform.edge.target(&host), Some(Target::Preview { sandbox: sandbox.id }));

    let made = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    let id = made.deployment.id;
    platform.until_state(tenant, id, "running").await;
    let key = id.to_string();
    miosa_control::deployments::stop(&platform.control(), tenant.id, &key).await.unwrap();
    eventually("that nothing of it runs", async || {
        platform.replicas(made.version.id).is_empty().then_some(())
    })
    .await;
    eventually("a stopped app", async || {
        let app = platform.edge.app(id)?;
        (app.availability == Availability::Stopped).then_some(())
    })
    .await;
    miosa_control::deployments::delete(&platform.control(), tenant.id, &key).await.unwrap();
    eventually("that its host is free", async || {
        platform.edge.target("desk.clinic.localhost").is_none().then_some(())
    })
    .await;
}
