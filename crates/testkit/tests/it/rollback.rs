//! Going back to an earlier version.

use miosa_control::{deployments, publishing::Request};
use miosa_testkit::{Platform, eventually};
use miosa_types::{deployment::VersionState, link::Target};

use crate::{
    publish::{APP, SITE, app_request},
    recovery::running_app,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_site_goes_back_at_once() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let first = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    let id = first.deployment.id;
    platform.until_state(tenant, id, "running").await;
    let second = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_version(tenant, &second.version, VersionState::Ready).await;
    platform.until_state(tenant, id, "running").await;
    let control = platform.control();
    deployments::roll_back(&control, tenant.id, "shop", None, None).await.unwrap();
    eventually("the first version at the edge", async || {
        match platform.edge.target("shop.clinic.localhost")? {
            Target::Static { version, .. } => (version == first.version.id).then_some(()),
            _ => None,
        }
    })
    .await;
    let error = deployments::roll_back(&control, tenant.id, "shop", None, None).await.unwrap_err();
    assert!(matches!(error, deployments::Error::NotReady { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_goes_back_and_forth_without_a_gap() {
    let platform = Platform::start().await;
    let (tenant, id, first) = running_app(&platform).await;
    let sandbox = platform.sandbox(tenant, APP).await;
    let second =
        platform.publish(tenant, &sandbox, "desk", app_request()).await.unwrap().version.id;
    let control = platform.control();
    for wanted in [second, first, second] {
        deployments_promote(&platform, tenant, wanted).await;
        eventually("that only the wanted version runs", async || {
            let running: Vec<_> = [first, second]
                .into_iter()
                .filter(|version| !platform.replicas(*version).is_empty())
                .collect();
            (running == [wanted] && platform.edge.ready(id).len() == 1).then_some(())
        })
        .await;
    }
    drop(control);
}

async fn deployments_promote(
    platform: &Platform,
    tenant: miosa_testkit::Tenant,
    version: miosa_types::VersionId,
) {
    eventually("a version that can be promoted", async || {
        let control = platform.control();
        deployments::promote(&control, tenant.id, "desk", version).await.ok()
    })
    .await;
}
