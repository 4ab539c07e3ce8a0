//! What counts as acknowledged, who is still needed, and who gets what next.

use miosa_types::{
    DeploymentId, TenantId,
    link::{App, Availability, Replica, Route, Target},
};
use uuid::Uuid;

use super::*;

fn app() -> DeploymentId {
    DeploymentId::from_uuid(Uuid::from_u128(1))
}

fn instance(n: u128) -> InstanceId {
    InstanceId::from_uuid(Uuid::from_u128(n))
}

fn edge(n: u128) -> EdgeId {
    EdgeId::from_uuid(Uuid::from_u128(n))
}

/// A table with one app; `r1 d2`: replica 1 is ready, 2 drains.
fn table(replicas: &str) -> Table {
    let tenant = TenantId::from_uuid(Uuid::from_u128(9));
    let replica = |word: &str| Replica {
        instance: instance(word[1..].parse().unwrap()),
        addr: ([10, 0, 0, 1], 80).into(),
        state: match &word[..1] {
            "r" => ReplicaState::Ready,
            _ => ReplicaState::Draining,
        },
    };
    Table::from_entries(vec![
        Entry::App(App {
            app: app(),
            owner: tenant.into(),
            availability: Availability::Ready,
            hold_s: 30,
            replicas: replicas.split_whitespace().map(replica).collect(),
        }),
        Entry::Route(Route {
            host: "a.b".into(),
            owner: tenant.into(),
            target: Target::App { app: app() },
        }),
    ])
}

fn frames(next: Next) -> usize {
    match next {
        Next::Frames(frames, _) => frames.len(),
        Next::Nothing => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn right_after_a_start_silence_proves_nothing() {
    let edges = Edges::new(1);
    let at = edges.publish(table("r1"));
    assert!(!edges.is_applied(at));
    assert!(!edges.wait_applied(at, Duration::from_secs(5)).await);
    assert!(edges.wait_applied(at, Duration::from_secs(20)).await, "nobody came for a lease");
}

#[tokio::test(start_paused = true)]
async fn every_leased_edge_must_acknowledge_and_a_vanished_one_counts_until_its_lease_ends() {
    let edges = Edges::new(1);
    let (a, b) = (edges.opened(edge(1)), edges.opened(edge(2)));
    let at = edges.publish(table("r1"));
    edges.heard(a, Up::Applied { seq: at.seq });
    assert!(!edges.is_applied(at));
    edges.closed(b);
    assert!(!edges.is_applied(at), "it may still serve");
    tokio::time::advance(Duration::from_secs(LEASE_S / 2)).await;
    edges.heard(a, Up::Beat);
    tokio::time::advance(Duration::from_secs(LEASE_S / 2 + 1)).await;
    assert!(edges.is_applied(at));
    // The same edge again is one edge, not two.
    let again = edges.opened(edge(2));
    assert!(!edges.is_applied(at));
    edges.heard(again, Up::Applied { seq: at.seq });
    assert!(edges.is_applied(at));
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_held_until_every_edge_let_go_of_it() {
    let edges = Edges::new(1);
    let link = edges.opened(edge(1));
    assert!(edges.holds(instance(1)), "an earlier control may have routed to it");
    edges.publish(table("r1"));
    assert!(edges.holds(instance(1)));
    assert!(!edges.holds(instance(2)), "nobody ever sent anything to it");
    let at = edges.publish(table("d1 r2"));
    assert!(edges.holds(instance(1)), "not acknowledged");
    edges.heard(link, Up::InFlight { instance: instance(1), count: 2 });
    edges.heard(link, Up::Applied { seq: at.seq });
    assert!(edges.holds(instance(1)), "two answers are to come");
    edges.heard(link, Up::InFlight { instance: instance(1), count: 0 });
    assert!(!edges.holds(instance(1)));
    assert!(edges.holds(instance(2)));
    // It comes back and goes again: what was said before says nothing now.
    edges.publish(table("r1 r2"));
    let at = edges.publish(table("d1 r2"));
    edges.heard(link, Up::Applied { seq: at.seq });
    assert!(edges.holds(instance(1)), "not yet said to be idle");
    for _ in 0..7 {
        tokio::time::advance(Duration::from_secs(5)).await;
        edges.heard(link, Up::Beat);
    }
    assert!(!edges.holds(instance(1)), "the drain deadline has passed");
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_live_when_its_last_change_is_acknowledged() {
    let edges = Edges::new(1);
    let link = edges.opened(edge(1));
    let key = Key::App(app());
    assert_eq!(edges.live(&key), Err(NotYet));
    let at = edges.publish(table("r1"));
    edges.heard(link, Up::Applied { seq: at.seq });
    assert!(edges.live(&key).unwrap().is_some());
    let at = edges.publish(Table::default());
    assert_eq!(edges.live(&key), Err(NotYet), "an edge may still serve it");
    edges.heard(link, Up::Applied { seq: at.seq });
    assert_eq!(edges.live(&key), Ok(None));
    edges.publish(table("r1"));
    edges.heard(link, Up::NotApplied { key: key.clone(), why: "a blob is missing".into() });
    edges.heard(link, Up::Applied { seq: at.seq + 1 });
    assert_eq!(edges.live(&key), Err(NotYet), "it was refused");
}

#[tokio::test(start_paused = true)]
async fn who_is_behind_gets_deltas_and_who_is_far_behind_a_snapshot() {
    let edges = Edges::new(5);
    assert_eq!(frames(edges.next(None)), 0, "no table is known: an empty one would unroute all");
    let first = edges.publish(table("r1"));
    assert_eq!(edges.publish(table("r1")), first, "no change, no delta");
    assert_eq!(frames(edges.next(Some(first))), 0);
    edges.publish(table("r2"));
    let last = edges.publish(table("r3"));
    assert_eq!(frames(edges.next(Some(first))), 2, "two deltas");
    assert_eq!(frames(edges.next(None)), 1, "a snapshot");
    let elsewhere = Position { epoch: 4, ..last };
    assert_eq!(frames(edges.next(Some(elsewhere))), 1, "another epoch: a snapshot");
    for n in 0..=HISTORY {
        edges.publish(table(if n % 2 == 0 { "r4" } else { "r5" }));
    }
    assert_eq!(frames(edges.next(Some(last))), 1, "too far behind: a snapshot");
}

#[tokio::test(start_paused = true)]
async fn suspects_are_handed_over_once() {
    let edges = Edges::new(1);
    let link = edges.opened(edge(1));
    let mut suspects = edges.suspects();
    edges.heard(link, Up::Suspect { instance: instance(1) });
    assert!(suspects.has_changed().unwrap());
    suspects.borrow_and_update();
    assert_eq!(edges.take_suspects(), BTreeSet::from([instance(1)]));
    assert_eq!(edges.take_suspects(), BTreeSet::new());
    assert!(!suspects.has_changed().unwrap());
}
