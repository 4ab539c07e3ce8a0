//! What is told of apps that fail and come back.

use std::time::Duration;

use miosa_control::{deployments, healing};
use miosa_store::events::{self, Event};
use miosa_testkit::{Platform, Tenant, eventually};
use miosa_types::{DeploymentId, InstanceId, probe::Outcome};

use crate::recovery::running_app;

async fn events_of(platform: &Platform, tenant: Tenant, id: DeploymentId) -> Vec<Event> {
    let control = platform.control();
    let mut db = control.store.conn().await.unwrap();
    let mut all = events::of_subject(&mut db, tenant.id, &id.to_string(), 100).await.unwrap();
    all.reverse();
    all
}

async fn until(platform: &Platform, tenant: Tenant, id: DeploymentId, kind: &str) -> Event {
    eventually(kind, async || {
        let all = events_of(platform, tenant, id).await;
        all.into_iter().rev().find(|event| event.kind == kind)
    })
    .await
}

fn named(event: &Event, field: &str) -> InstanceId {
    event.data[field].as_str().unwrap().parse().unwrap()
}

async fn kinds(platform: &Platform, tenant: Tenant, id: DeploymentId) -> Vec<String> {
    events_of(platform, tenant, id).await.into_iter().map(|event| event.kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_and_its_replacement_are_told_once() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let live = until(&platform, tenant, id, healing::LIVE).await;
    assert_eq!(live.data["version_id"], version.to_string());
    assert_eq!(live.data["name"], "desk");
    let dead = platform.replicas(version)[0].instance;
    platform.provider.exit_with(dead, Some(137), "out of memory");

    let replaced = until(&platform, tenant, id, healing::REPLACED).await;
    let unhealthy = until(&platform, tenant, id, healing::UNHEALTHY).await;
    assert!(unhealthy.id < replaced.id, "in the order in which it happened");
    assert_eq!(named(&unhealthy, "instance_id"), dead);
    assert_eq!(unhealthy.data["had_answered"], true);
    assert_eq!(named(&replaced, "replaced_instance_id"), dead);
    assert_eq!(named(&replaced, "instance_id"), platform.edge.ready(id)[0]);
    let healing = &platform.control().healing;
    assert_eq!((healing.failures(), healing.recoveries().count), (1, 1));

    let before = kinds(&platform, tenant, id).await;
    assert_eq!(before, [healing::LIVE, healing::UNHEALTHY, healing::REPLACED]);
    platform.kill_control();
    platform.start_control().await;
    platform.until_state(tenant, id, "running").await;
    assert_eq!(kinds(&platform, tenant, id).await, before, "a restart repeats nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_until_another_answers_is_told() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    platform.provider.set_auto(miosa_provider::fake::Auto::Running);
    let dead = platform.replicas(version)[0].instance;
    platform.provider.exit_with(dead, Some(1), "");
    until(&platform, tenant, id, healing::UNHEALTHY).await;
    let next = eventually("another start", async || {
        platform.provider.tick();
        platform.replicas(version).iter().map(|o| o.instance).find(|next| *next != dead)
    })
    .await;
    platform.advance(Duration::from_millis(2_500));
    platform.provider.ready(next);
    let replaced = until(&platform, tenant, id, healing::REPLACED).await;
    assert_eq!(named(&replaced, "instance_id"), next);
    let ms = replaced.data["recovery_ms"].as_u64().unwrap();
    assert!((2_500..3_500).contains(&ms), "{ms}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_again_has_recovered_and_nobody_replaced_it() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let silent = &platform.replicas(version)[0];
    let addr = silent.phase.ready().unwrap();
    platform.probe.set(addr, Outcome::TimedOut);
    platform.advance(Duration::from_secs(11));
    let unhealthy = until(&platform, tenant, id, healing::UNHEALTHY).await;
    assert_eq!(unhealthy.data["reason"], "It does not answer.");
    platform.probe.set(addr, Outcome::Answered(200));
    platform.advance(Duration::from_secs(2));
    let recovered = until(&platform, tenant, id, healing::RECOVERED).await;
    assert_eq!(named(&recovered, "instance_id"), silent.instance);
    assert!(recovered.data["recovery_ms"].as_u64().unwrap() >= 2_000);
    let all = kinds(&platform, tenant, id).await;
    assert!(!all.iter().any(|kind| kind == healing::REPLACED), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_on_purpose_is_no_failure() {
    let platform = Platform::start().await;
    let (tenant, id, version) = running_app(&platform).await;
    let control = platform.control();
    let key = id.to_string();
    deployments::stop(&control, tenant.id, &key).await.unwrap();
    platform.until_state(tenant, id, "stopped").await;
    eventually("that it is told to go", async || {
        let replicas = platform.replicas(version);
        let is_told = |o: &miosa_provider::Observed| {
            matches!(o.phase, miosa_provider::Phase::Draining { .. })
        };
        replicas.iter().all(is_told).then_some(())
    })
    .await;
    for replica in platform.replicas(version) {
        platform.provider.exit(replica.instance, 0);
    }
    deployments::promote(&control, tenant.id, &key, version).await.unwrap();
    platform.until_state(tenant, id, "running").await;
    let all = kinds(&platform, tenant, id).await;
    assert!(all.iter().any(|kind| kind == healing::STOPPED), "{all:?}");
    assert!(!all.iter().any(|kind| kind.starts_with("runtime.")), "{all:?}");
}
