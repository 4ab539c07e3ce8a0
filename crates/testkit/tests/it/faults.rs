//! A fault at every call to the provider, one at a time: nothing is lost, nothing leaks.

use std::{collections::BTreeSet, time::Duration};

use miosa_control::{deployments, sandboxes};
use miosa_provider::{
    Observed, Owner,
    fake::{Call, Fault},
};
use miosa_testkit::{Platform, eventually};
use miosa_types::{DeploymentId, VersionId, probe::Outcome};

use futures_util::StreamExt as _;

use crate::publish::{APP, app_request};

/// Scenarios at once; each waits most of the time.
const AT_ONCE: usize = 8;
/// Time that passes with each look: pauses after a fault end, and nothing is late.
const STEP: Duration = Duration::from_millis(250);

/// Waits for that many replicas of a version, all served, while time passes.
async fn until_served(platform: &Platform, id: DeploymentId, version: VersionId, count: usize) {
    eventually(format!("{count} replicas that serve"), async || {
        platform.advance(STEP);
        let replicas: BTreeSet<_> = platform.replicas(version).iter().map(|o| o.instance).collect();
        let served: BTreeSet<_> = platform.edge.ready(id).into_iter().collect();
        (replicas.len() == count && replicas == served).then_some(())
    })
    .await;
}

/// Nothing in the API does that yet.
async fn set_replicas(platform: &Platform, id: DeploymentId, replicas: u32) {
    let control = platform.control();
    let mut db = control.store.conn().await.expect("a connection");
    sqlx::query("update deployments set replicas = $2 where id = $1")
        .bind(id.to_string())
        .bind(i64::from(replicas))
        .execute(&mut *db)
        .await
        .expect("it is done");
    control.wakes.deployments.notify_one();
}

/// One replica refuses every connection; another takes its place.
async fn lose_one(platform: &Platform, id: DeploymentId, version: VersionId) {
    let silent = platform.replicas(version).remove(0);
    platform.probe.set(silent.phase.ready().expect("it is ready"), Outcome::Refused);
    platform.advance(Duration::from_secs(11));
    eventually("another replica", async || {
        platform.advance(STEP);
        let is_there = platform.replicas(version).iter().any(|o| o.instance == silent.instance);
        (!is_there).then_some(())
    })
    .await;
    until_served(platform, id, version, 2).await;
}

/// Takes a warm slot, publishes twice, scales, loses a replica and removes everything; `fail`
/// tells which call of the provider fails. Returns the calls that were made.
async fn scenario(fail: Option<(usize, Fault)>) -> Vec<Call> {
    let platform = Platform::start_with_pool(1).await;
    if let Some((number, fault)) = fail {
        platform.provider.fail_call(number, fault);
    }
    let only_slot = || {
        let observed = platform.provider.observed();
        let is_slot = |o: &Observed| o.owner == Owner::Pool && o.phase.ready().is_some();
        observed.len() == 1 && is_slot(&observed[0])
    };
    let full = async || {
        platform.advance(STEP);
        only_slot().then_some(())
    };
    eventually(format!("a full pool, after {fail:?}"), full).await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let first =
        platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("it is done");
    let id = first.deployment.id;
    until_served(&platform, id, first.version.id, 1).await;
    let second =
        platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("it is done");
    until_served(&platform, id, second.version.id, 1).await;
    set_replicas(&platform, id, 2).await;
    until_served(&platform, id, second.version.id, 2).await;
    lose_one(&platform, id, second.version.id).await;

    let control = platform.control();
    deployments::delete(&control, tenant.id, &id.to_string()).await.expect("it is done");
    sandboxes::destroy(&control, tenant.id, sandbox.id).await.expect("it is done");
    eventually(format!("that nothing but the warm slot is left, after {fail:?}"), full).await;
    platform.provider.calls()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_a_fault_at_every_provider_call() {
    let calls = scenario(None).await;
    let kinds: BTreeSet<_> = calls
        .iter()
        .map(|call| match call {
            Call::Apply(_) => "apply",
            Call::Scale(..) => "scale",
            Call::Replace(..) => "replace",
            Call::Delete(_) => "delete",
            Call::Claim(..) => "claim",
        })
        .collect();
    assert_eq!(kinds, ["apply", "claim", "delete", "replace", "scale"].into(), "{calls:?}");
    let numbers = 0..calls.len();
    let cases = numbers.flat_map(|n| [Fault::Before, Fault::After].map(|fault| Some((n, fault))));
    futures_util::stream::iter(cases)
        .for_each_concurrent(AT_ONCE, async |case| drop(scenario(case).await))
        .await;
}
