//! A fault at every call to the provider, one at a time: nothing is lost, nothing leaks.

use miosa_provider::{Owner, fake::Fault};
use miosa_testkit::{Platform, eventually};

use crate::publish::{APP, app_request};

/// Publishes twice and destroys the sandbox; `fail` tells which call of the provider fails.
/// Returns how many calls were made.
async fn scenario(fail: Option<(usize, Fault)>) -> usize {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let before = platform.provider.calls().len();
    if let Some((number, fault)) = fail {
        platform.provider.fail_call(before + number, fault);
    }
    let first =
        platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("it is done");
    let id = first.deployment.id;
    platform.until_state(tenant, id, "running").await;
    let second =
        platform.publish(tenant, &sandbox, "desk", app_request()).await.expect("it is done");
    let what = format!("the second version alone, after {fail:?}");
    eventually(what, async || {
        let observed = platform.provider.observed();
        let is_left = |o: &miosa_provider::Observed| match o.owner {
            Owner::Version(version) => version == second.version.id,
            Owner::Sandbox(id) => id == sandbox.id,
            Owner::Build(_) | Owner::Pool => false,
        };
        let replica = observed.iter().find(|o| o.owner == Owner::Version(second.version.id))?;
        let is_served = platform.edge.ready(id) == [replica.instance];
        (observed.len() == 2 && observed.iter().all(is_left) && is_served).then_some(())
    })
    .await;
    platform.until_state(tenant, id, "running").await;
    platform.provider.calls().len() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_survives_a_fault_at_every_provider_call() {
    let calls = scenario(None).await;
    assert!(calls >= 6, "the scenario shrank: only {calls} calls");
    for number in 0..calls {
        for fault in [Fault::Before, Fault::After] {
            scenario(Some((number, fault))).await;
        }
    }
}
