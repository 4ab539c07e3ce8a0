//! What an owner is told while something does not work, and of what was ended on purpose.

use std::time::Duration;

use miosa_control::{deployments, publishing::Request, waiting};
use miosa_provider::{Observed, Owner, Phase, fake::Auto};
use miosa_store::versions::Version;
use miosa_testkit::{Platform, Tenant, eventually};
use miosa_types::{
    DeploymentId,
    deployment::{InstanceState, VersionState},
};

use crate::{
    publish::{APP, SITE, app_request},
    recovery::running_app,
};

/// Moves the clock until a deployment runs.
async fn until_running(platform: &Platform, tenant: Tenant, id: DeploymentId) {
    eventually("a deployment that runs", async || {
        platform.advance(Duration::from_secs(1));
        (platform.shown(tenant, id).await.state == "running").then_some(())
    })
    .await;
}

/// A version that is built and not yet wanted.
async fn built(platform: &Platform, tenant: Tenant) -> Version {
    let sandbox = platform.sandbox(tenant, APP).await;
    let mut order = platform.order(&sandbox, "desk", app_request());
    order.is_promoted_when_ready = false;
    let control = platform.control();
    let made = miosa_control::publishing::publish(&control, tenant.id, order).await.unwrap();
    platform.until_version(tenant, &made.version, VersionState::Ready).await;
    made.version
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_build_is_told_waits_and_begins_again() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    platform.guest.go_silent("make site", 1);
    let request = Request { build_command: Some("make site".into()), ..Request::default() };
    let made = platform.publish(tenant, &sandbox, "shop", request).await.unwrap();
    let id = made.deployment.id;
    let told = eventually("why it is still built", async || {
        platform.shown(tenant, id).await.deployment.failure
    })
    .await;
    assert!(told.contains("interrupted while it tried to run a build command"), "{told}");
    assert!(told.contains("Attempt 2 of 6"), "{told}");
    assert_eq!(platform.shown(tenant, id).await.state, "building");
    let version = platform.version(tenant, id, made.version.id).await;
    assert_eq!(version.failure, Some(told));
    until_running(&platform, tenant, id).await;
    assert_eq!(platform.shown(tenant, id).await.deployment.failure, None);
    assert_eq!(platform.version(tenant, id, made.version.id).await.failure, None);
    let log = deployments::build_log(&platform.control(), tenant.id, made.version.id).await;
    assert!(log.unwrap().contains("interrupted"), "the log keeps what happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_sandbox_that_never_starts_is_told_as_it_was_and_given_up() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    platform.provider.set_auto(Auto::Pending);
    let made = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    let is_build = |o: &&Observed| matches!(o.owner, Owner::Build(_));
    for attempt in 1..=6 {
        let instance = eventually(format!("build sandbox {attempt}"), async || {
            platform.advance(Duration::from_secs(1));
            let observed = platform.provider.observed();
            let fresh = |o: &&Observed| matches!(o.phase, Phase::Pending { .. });
            observed.iter().filter(is_build).find(fresh).map(|o| o.instance)
        })
        .await;
        platform.provider.exit_with(instance, None, "mount: No space left on device");
        eventually("that it is gone", async || {
            let observed = platform.provider.observed();
            observed.iter().all(|o| o.instance != instance).then_some(())
        })
        .await;
    }
    platform.until_version(tenant, &made.version, VersionState::Failed).await;
    let failure = platform.version(tenant, made.deployment.id, made.version.id).await.failure;
    let failure = failure.unwrap();
    assert!(failure.contains("could not be started: mount: No space left on device"), "{failure}");
    assert!(failure.contains("tried 6 times") && !failure.contains("-1"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_on_another_port_is_told_at_once() {
    let platform = Platform::start().await;
    let (tenant, id, _) = running_app(&platform).await;
    let version = built(&platform, tenant).await;
    platform.provider.set_auto(Auto::Running);
    platform.guest.listen(&[3001]);
    let control = platform.control();
    deployments::promote(&control, tenant.id, &id.to_string(), version.id).await.unwrap();
    let stuck =
        eventually("a start", async || platform.replicas(version.id).first().map(|o| o.instance))
            .await;
    platform.advance(Duration::from_secs(20));
    let told = "started 20 s ago; nothing listens on port 3000 yet; the app listens on 3001";
    eventually("what is waited for", async || {
        let shown = platform.shown(tenant, id).await;
        assert_eq!(shown.state, "building");
        shown.waiting.filter(|waiting| waiting.contains(told))
    })
    .await;
    let version = platform.version(tenant, id, version.id).await;
    let of_version = waiting::explain(&control, &version).await.unwrap().unwrap();
    assert!(of_version.contains(told), "{of_version}");
    eventually("the same of the instance", async || {
        let (_, rows) = deployments::list_instances(&control, tenant.id, "desk").await.unwrap();
        let row = rows.into_iter().find(|row| row.id == stuck)?;
        row.error.filter(|error| error.contains(told))
    })
    .await;

    platform.advance(Duration::from_secs(41));
    eventually("another start", async || {
        let replicas = platform.replicas(version.id);
        let goes = |o: &Observed| matches!(o.phase, Phase::Draining { .. });
        replicas.iter().all(|o| o.instance != stuck || goes(o)).then_some(())
    })
    .await;
    platform.provider.exit_with(stuck, Some(0), "");
    eventually("what became of the first start", async || {
        let waiting = platform.shown(tenant, id).await.waiting?;
        // A guest that is slow to tell its ports leaves it at "nothing answers".
        let told = "The start before: It was not ready within 60 s: nothing";
        waiting.contains(told).then_some(())
    })
    .await;
    assert_eq!(platform.shown(tenant, id).await.state, "building", "it is still tried");
}

async fn rows_of(
    platform: &Platform,
    tenant: Tenant,
    version: &Version,
) -> Vec<deployments::Instance> {
    let control = platform.control();
    let listed = deployments::list_instances(&control, tenant.id, "desk").await.unwrap();
    listed.1.into_iter().filter(|row| row.version == version.id).collect()
}

async fn until_ended(
    platform: &Platform,
    tenant: Tenant,
    version: &Version,
) -> Vec<deployments::Instance> {
    eventually("that every instance ended", async || {
        let rows = rows_of(platform, tenant, version).await;
        let has_ended = !rows.is_empty() && rows.iter().all(|row| row.ended_at.is_some());
        has_ended.then_some(rows)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ended_on_purpose_is_no_error() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let first = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    let id = first.deployment.id;
    platform.until_state(tenant, id, "running").await;
    let second = platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap();
    let rows = until_ended(&platform, tenant, &first.version).await;
    let ends: Vec<_> = rows.iter().map(|row| (row.state, row.error.clone())).collect();
    assert_eq!(ends, [(InstanceState::Destroyed, None)], "superseded");
    platform.until_state(tenant, id, "running").await;
    deployments::stop(&platform.control(), tenant.id, "desk").await.unwrap();
    let rows = until_ended(&platform, tenant, &second.version).await;
    let ends: Vec<_> = rows.iter().map(|row| (row.state, row.error.clone())).collect();
    assert_eq!(ends, [(InstanceState::Destroyed, None)], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_that_ends_with_the_crash_loop_budget_says_so() {
    let platform = Platform::start().await;
    let (tenant, id, _) = running_app(&platform).await;
    let version = built(&platform, tenant).await;
    platform.provider.set_auto(Auto::Running);
    let control = platform.control();
    deployments::promote(&control, tenant.id, &id.to_string(), version.id).await.unwrap();
    for _ in 0..5 {
        let instance = eventually("a running replica", async || {
            let replicas = platform.replicas(version.id);
            let found = replicas.iter().find(|o| matches!(o.phase, Phase::Running { .. }));
            if found.is_none() {
                platform.advance(Duration::from_secs(2));
            }
            found.map(|o| o.instance)
        })
        .await;
        platform.provider.exit_with(instance, Some(1), "cannot find module\n");
    }
    platform.until_version(tenant, &version, VersionState::Failed).await;
    // The rest of a crash loop is up to 30 s: the last one was waiting for it, or ran again.
    let ends = eventually("that every instance ended", async || {
        for replica in platform.replicas(version.id) {
            if matches!(replica.phase, Phase::Draining { .. }) {
                platform.provider.exit_with(replica.instance, Some(143), "");
            }
        }
        let rows = rows_of(&platform, tenant, &version).await;
        rows.iter().all(|row| row.ended_at.is_some()).then_some(rows)
    })
    .await;
    let last = &ends[0];
    assert_eq!(last.state, InstanceState::Destroyed, "{last:?}");
    let error = last.error.clone().unwrap_or_default();
    assert!(error.contains("its version did not come up"), "{ends:?}");
    assert!(error.contains("cannot find module"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_is_counted() {
    let platform = Platform::start().await;
    running_app(&platform).await;
    let suspects = platform.control().suspects.clone();
    for n in 1..=3 {
        platform.advance(Duration::from_secs(11));
        eventually("a probe more", async || (suspects.checks() >= n).then_some(())).await;
    }
}
