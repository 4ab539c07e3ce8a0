use miosa_types::{DeploymentId, TenantId, VersionId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const STATES: [InstanceState; 7] = [
    InstanceState::Provisioning,
    InstanceState::Starting,
    InstanceState::Healthy,
    InstanceState::Unhealthy,
    InstanceState::Stopped,
    InstanceState::Destroyed,
    InstanceState::Error,
];

fn instance(id: u128, state: InstanceState) -> Instance {
    Instance {
        id: InstanceId::from_uuid(Uuid::from_u128(id)),
        tenant: TenantId::from_uuid(Uuid::from_u128(1)),
        deployment: DeploymentId::from_uuid(Uuid::from_u128(2)),
        version: VersionId::from_uuid(Uuid::from_u128(3)),
        state,
        ip: None,
        port: None,
        restarts: 0,
        error: None,
        started_at: Timestamp::UNIX_EPOCH,
        ready_at: None,
        last_seen_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
    }
}

fn event(kind: &str, second: i64, data: Value) -> Event {
    Event {
        id: miosa_types::EventId::from_uuid(Uuid::from_u128(second.unsigned_abs().into())),
        tenant: TenantId::from_uuid(Uuid::from_u128(1)),
        kind: kind.to_owned(),
        subject: "d".to_owned(),
        data,
        at: Timestamp::from_second(second).unwrap(),
    }
}

fn unhealthy(instance: u128, second: i64, had_answered: bool) -> Event {
    let id = InstanceId::from_uuid(Uuid::from_u128(instance));
    event(UNHEALTHY, second, json!({"instance_id": id, "had_answered": had_answered}))
}

#[test]
fn what_is_told_of_a_change() {
    use InstanceState::{Destroyed, Error, Healthy, Provisioning, Starting, Stopped, Unhealthy};
    for (old, new, expected) in [
        (None, Provisioning, None),
        (None, Healthy, Some(Change::Ready)),
        (Some(Starting), Healthy, Some(Change::Ready)),
        (Some(Healthy), Unhealthy, Some(Change::Failed)),
        (Some(Unhealthy), Healthy, Some(Change::Recovered)),
        (Some(Unhealthy), Error, None),
        (Some(Error), Error, None),
        (Some(Starting), Error, Some(Change::Failed)),
        (Some(Healthy), Stopped, None),
        (Some(Stopped), Destroyed, None),
    ] {
        let old = old.map(|state| instance(1, state));
        assert_eq!(change(old.as_ref(), &instance(1, new)), expected, "{old:?} {new:?}");
    }
}

#[test]
fn a_failure_is_open_until_it_is_made_good() {
    let id = |n| InstanceId::from_uuid(Uuid::from_u128(n));
    let mut events = vec![unhealthy(7, 10, true), unhealthy(8, 20, false), unhealthy(9, 30, true)];
    let newest_first = |events: &[Event]| events.iter().rev().cloned().collect::<Vec<_>>();
    let found = open(&newest_first(&events));
    assert_eq!(found.iter().map(|o| o.instance).collect::<Vec<_>>(), [id(7), id(9)]);
    let ended = ended_by(Change::Ready, &instance(10, InstanceState::Healthy), &found).unwrap();
    assert_eq!((ended.instance, ended.since.as_second()), (id(7), 10));
    events.push(event(REPLACED, 40, json!({"instance_id": id(10), "replaced_instance_id": id(7)})));
    let found = open(&newest_first(&events));
    assert_eq!(found.iter().map(|o| o.instance).collect::<Vec<_>>(), [id(9)]);
    assert_eq!(
        ended_by(Change::Recovered, &instance(9, InstanceState::Healthy), &found),
        Some(&found[0])
    );
    events.push(event(STOPPED, 50, json!({})));
    assert_eq!(open(&newest_first(&events)), []);
}

#[test]
fn long_output_keeps_its_end() {
    let text = format!("{}ü-the reason", "x".repeat(MAX_REASON));
    assert!(short(&text).ends_with("the reason"));
    assert!(short(&text).len() <= MAX_REASON);
    assert_eq!(short("short"), "short");
}

#[test]
fn counters_are_cumulative_and_count_all() {
    let healing = Healing::default();
    let told = |ms| Noted { recovery: Some(Duration::from_millis(ms)) };
    healing.count(&[Noted { recovery: None }, told(100), told(101), told(900_000)]);
    let recoveries = healing.recoveries();
    let sum_ms = recoveries.sum.as_millis();
    assert_eq!((healing.failures(), recoveries.count, sum_ms), (1, 3, 900_201));
    let at_most: Vec<_> = recoveries.at_most().map(|(_, count)| count).collect();
    assert_eq!(at_most, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2]);
}

proptest! {
    /// A replica that goes through any states is told to fail at most once more often than it is
    /// told to be well.
    #[test]
    fn failures_and_recoveries_take_turns(states in prop::collection::vec(0..STATES.len(), 1..40)) {
        let mut old: Option<Instance> = None;
        let mut has_failed = false;
        for state in states {
            let new = instance(1, STATES[state]);
            match change(old.as_ref(), &new) {
                Some(Change::Failed) => {
                    has_failed = true;
                }
                Some(Change::Recovered) => {
                    prop_assert!(has_failed, "well again without a failure");
                    has_failed = false;
                }
                Some(Change::Ready) | None => {}
            }
            old = Some(new);
        }
    }
}
