//! What dies, hangs or never starts, and what comes of it.

use std::time::Duration;

use miosa_control::deployments;
use miosa_provider::{Observed, fake::Auto};
use miosa_testkit::{Platform, Tenant, eventually};
use miosa_types::{
    DeploymentId, InstanceId, VersionId,
    deployment::{InstanceState, VersionState},
    link::Availability,
    probe::Outcome,
};

use crate::publish::{APP, app_request};

pub(crate) async fn running_app(platform: &Platform) -> (Tenant, DeploymentId, VersionId) {
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let made = platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("it is done");
    platform.until_state(tenant, made.deployment.id, "running").await;
    (tenant, made.deployment.id, made.version.id)
}

fn only(replicas: &[Observed]) -> InstanceId {
    assert_eq!(replicas.len(), 1, "{replicas:?}");
    replicas[0].instance
}

async fn instance_state(
    platform: &Platform,
    tenant: Tenant,
    id: DeploymentId,
    of: InstanceId,
) -> InstanceState {
    let control = platform.control();
    let listed = deployments::list_instances(&control, tenant.id, &id.to_string())
        .await
        .expect("it is done");
    listed.1.into_iter().find(|row| row.id == of).expect("it was observed").state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_is_unrouted_at_once_and_replaced() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let dead = only(&platform.replicas(version));
    platform.provider.exit_with(dead, Some(137), "out of memory\n");
    eventually("another replica", async || {
        let ready = platform.edge.ready(id);
        (ready.len() == 1 && ready[0] != dead).then_some(())
    })
    .await;
    // First its phase is seen, then how it ended.
    let control = platform.control();
    eventually("the dead one's row", async || {
        let id = id.to_string();
        let (_, rows) = deployments::list_instances(&control, tenant.id, &id).await.ok()?;
        let row = rows.into_iter().find(|row| row.id == dead)?;
        let error = row.error.unwrap_or_default();
        let is_told = error.contains("signal 9") && error.contains("out of memory");
        (row.state == InstanceState::Error && is_told).then_some(())
    })
    .await;
    assert_eq!(platform.shown(tenant, id).await.state, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_refuses_is_replaced() {
    let platform = Platform::start().await;
    let (_, id, version) = running_app(&platform).await;
    let [silent] = &platform.replicas(version)[..] else { panic!("one replica") };
    platform.probe.set(silent.phase.ready().unwrap(), Outcome::Refused);
    platform.advance(Duration::from_secs(11));
    eventually("another replica", async || {
        let ready = platform.edge.ready(id);
        (ready.len() == 1 && ready[0] != silent.instance).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_is_replaced_before_it_ends() {
    let platform = Platform::start().await;
    let (_, id, version) = running_app(&platform).await;
    let [frozen] = &platform.replicas(version)[..] else { panic!("one replica") };
    platform.probe.set(frozen.phase.ready().unwrap(), Outcome::TimedOut);
    platform.provider.set_busy(frozen.instance, false);
    let seen = platform.edge.history().len();
    platform.advance(Duration::from_secs(11));
    eventually("another replica", async || {
        let ready = platform.edge.ready(id);
        (ready.len() == 1 && ready[0] != frozen.instance).then_some(())
    })
    .await;
    for table in &platform.edge.history()[seen..] {
        assert!(!ready(table, id).is_empty(), "the route was never empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_replica_is_suspect_first_and_replaced_when_it_stays_so() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let [silent] = &platform.replicas(version)[..] else { panic!("one replica") };
    platform.probe.set(silent.phase.ready().unwrap(), Outcome::TimedOut);
    platform.advance(Duration::from_secs(11));
    eventually("a suspect", async || {
        let state = instance_state(&platform, tenant, id, silent.instance).await;
        (state == InstanceState::Unhealthy).then_some(())
    })
    .await;
    assert_eq!(platform.edge.ready(id), [silent.instance], "there is no other");
    platform.advance(Duration::from_secs(16));
    eventually("another replica", async || {
        let ready = platform.edge.ready(id);
        (ready.len() == 1 && ready[0] != silent.instance).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_never_listens_fails_and_the_old_one_keeps_serving() {
    let platform = Platform::start().await;
    let (tenant, id, old) = running_app(&platform).await;
    let serving = only(&platform.replicas(old));
    let sandbox = platform.sandbox(tenant, APP).await;
    let mut order = platform.order(&sandbox, "desk", app_request());
    order.is_promoted_when_ready = false;
    let control = platform.control();
    let made =
        miosa_control::publishing::publish(&control, tenant.id, order).await.expect("it is done");
    platform.until_version(tenant, &made.version, VersionState::Ready).await;
    platform.provider.set_auto(Auto::Running);
    let new = made.version.id;
    deployments::promote(&control, tenant.id, &id.to_string(), new).await.expect("it is done");

    let mut stuck = None;
    for _ in 0..2 {
        let next = eventually("a start", async || {
            let replicas = platform.replicas(new);
            replicas.first().map(|o| o.instance).filter(|instance| Some(*instance) != stuck)
        })
        .await;
        eventually("its row", async || {
            let listed = deployments::list_instances(&control, tenant.id, "desk").await.unwrap().1;
            listed.iter().any(|row| row.id == next).then_some(())
        })
        .await;
        stuck = Some(next);
        platform.advance(Duration::from_secs(61));
        // Told to end: the fake's processes do that only on request.
        eventually("that it was told to end", async || {
            let replicas = platform.replicas(new);
            let is_told = replicas.iter().all(|o| {
                o.instance != next || matches!(o.phase, miosa_provider::Phase::Draining { .. })
            });
            is_told.then_some(())
        })
        .await;
        platform.provider.exit_with(next, Some(0), "");
    }
    platform.until_version(tenant, &made.version, VersionState::Failed).await;
    let shown = platform.until_state(tenant, id, "running").await;
    assert_eq!(shown.deployment.active_version, Some(old));
    let failure = shown.deployment.failure.unwrap();
    assert!(failure.contains("port 3000") && failure.contains("it printed this"), "{failure}");
    assert_eq!(platform.edge.ready(id), [serving], "the old one never stopped");
    let tables = platform.edge.history();
    let since = tables.iter().position(|t| !ready(t, id).is_empty()).unwrap();
    assert!(tables[since..].iter().all(|t| ready(t, id) == [serving]));
}

fn ready(table: &miosa_types::link::Table, id: DeploymentId) -> Vec<InstanceId> {
    match table.0.get(&miosa_types::link::Key::App(id)) {
        Some(miosa_types::link::Entry::App(app)) => app
            .replicas
            .iter()
            .filter(|r| r.state == miosa_types::link::ReplicaState::Ready)
            .map(|r| r.instance)
            .collect(),
        _ => vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_of_the_only_version_is_failed_and_recovers_by_itself() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    platform.provider.set_auto(Auto::Running);
    let crash = async || {
        let instance = eventually("a running replica", async || {
            let replicas = platform.replicas(version);
            let is_up = |o: &&Observed| !matches!(o.phase, miosa_provider::Phase::Pending { .. });
            let found = replicas.iter().find(is_up).map(|o| o.instance);
            if found.is_none() {
                platform.advance(Duration::from_secs(20));
            }
            found
        })
        .await;
        platform.provider.exit_with(instance, Some(1), "cannot find module\n");
    };
    for _ in 0..5 {
        crash().await;
    }
    let shown = platform.until_state(tenant, id, "failed").await;
    assert!(shown.deployment.failure.unwrap().contains("cannot find module"));
    let availability = platform.edge.app(id).expect("it is routed").availability;
    assert!(
        matches!(availability, Availability::Starting { .. }),
        "{availability:?}: worth a wait"
    );
    for _ in 0..3 {
        crash().await;
    }
    eventually("the failed page", async || {
        (platform.edge.app(id)?.availability == Availability::Failed).then_some(())
    })
    .await;
    platform.provider.set_auto(Auto::Ready);
    eventually("recovery", async || {
        platform.advance(Duration::from_secs(20));
        (platform.edge.ready(id).len() == 1).then_some(())
    })
    .await;
    let shown = platform.until_state(tenant, id, "running").await;
    assert_eq!(shown.deployment.failure, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_control_adopts_what_runs() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let replica = only(&platform.replicas(version));
    let calls = platform.provider.calls().len();
    let tables = platform.edge.history().len();
    platform.kill_control();
    platform.start_control().await;
    platform.until_state(tenant, id, "running").await;
    eventually("the link", async || {
        let control = platform.control();
        control.edges.status().iter().any(|edge| edge.applied_seq > 0).then_some(())
    })
    .await;
    assert_eq!(platform.edge.ready(id), [replica]);
    assert_eq!(only(&platform.replicas(version)), replica);
    for table in &platform.edge.history()[tables..] {
        assert_eq!(ready(table, id), [replica], "visitors saw nothing of it");
    }
    assert_eq!(platform.provider.calls()[calls..], [], "nothing was asked of the provider");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_control_did_not_survive_begins_again_and_leaves_nothing() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    platform.provider.set_auto(Auto::Pending);
    let made = platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("saved");
    let builds = || {
        let is_build = |o: &Observed| o.owner == miosa_provider::Owner::Build(made.version.id);
        platform.provider.observed().into_iter().filter(is_build).collect::<Vec<_>>()
    };
    let first = eventually("a build sandbox", async || Some(builds().first()?.key)).await;
    platform.kill_control();
    platform.provider.set_auto(Auto::Ready);
    platform.start_control().await;
    platform.until_state(tenant, made.deployment.id, "running").await;
    eventually("that no build sandbox is left", async || builds().is_empty().then_some(())).await;
    let calls = platform.provider.calls();
    assert!(calls.contains(&miosa_provider::fake::Call::Delete(first)), "{calls:?}");
}
