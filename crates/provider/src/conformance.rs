//! The contract of [`Provider`] as tests, run unchanged against every implementation.
//!
//! An implementation gives a [`Subject`] and calls [`run`]. Each test takes workloads of its own
//! and removes them; a failed one panics with what was observed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use miosa_types::{Env, InstanceId, Size, VersionId, WorkloadId};
use tokio::time::timeout;

use crate::{Error, Event, Events, Key, Observed, Owner, Phase, Provider, When, WorkloadSpec};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);

/// An implementation under test.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The provider.
    fn provider(&self) -> Arc<dyn Provider>;

    /// Where ids come from.
    fn env(&self) -> Env;

    /// A workload of one replica, revision 1, that becomes ready and stays up; restarting.
    fn spec(&self) -> WorkloadSpec;

    /// Lets the process of a ready replica end by itself: it writes `the last words` and exits
    /// with that code.
    async fn end(&self, replica: &Observed, code: i32);

    /// Lets that time pass.
    async fn pass(&self, time: Duration);
}

/// Every test, one after the other.
pub async fn run(subject: &dyn Subject) {
    watch_begins_with_what_is_there(subject).await;
    calls_may_be_repeated(subject).await;
    an_older_revision_undoes_nothing(subject).await;
    a_newer_revision_takes_over(subject).await;
    what_exits_is_started_again(subject).await;
    restarts_pause(subject).await;
    what_must_not_restart_stays_ended(subject).await;
    the_count_is_kept(subject).await;
    a_replica_is_replaced_at_once(subject).await;
    a_replica_is_replaced_when_the_new_one_is_ready(subject).await;
    a_slot_is_claimed_once(subject).await;
    a_larger_slot_is_made_smaller(subject).await;
    deleting_nothing_is_fine(subject).await;
    nonsense_is_refused(subject).await;
}

/// What a watcher knows.
struct Watcher {
    events: Events,
    known: BTreeMap<InstanceId, Observed>,
    workload: WorkloadId,
}

impl Watcher {
    async fn new(subject: &dyn Subject, workload: WorkloadId) -> Self {
        let mut events = subject.provider().watch().await.expect("a watch");
        let first = timeout(DEADLINE, events.next()).await.expect("in time").expect("an event");
        let Event::Snapshot(all) = first else { panic!("a snapshot comes first, got {first:?}") };
        let known = all.into_iter().map(|one| (one.instance, one)).collect();
        Self { events, known, workload }
    }

    fn own(&self) -> Vec<&Observed> {
        self.known.values().filter(|one| one.key.workload == self.workload).collect()
    }

    async fn next(&mut self) {
        match self.events.next().await.expect("the watch goes on") {
            Event::Snapshot(_) => panic!("a snapshot comes once"),
            Event::Upsert(one) => {
                self.known.insert(one.instance, *one);
            }
            Event::Gone(instance) => {
                self.known.remove(&instance);
            }
        }
    }

    /// Follows until `look` finds something among the workload's replicas.
    async fn until<T>(&mut self, what: &str, look: impl Fn(&[&Observed]) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = look(&self.own()) {
                    return found;
                }
                self.next().await;
            }
        };
        let found = timeout(DEADLINE, search).await.ok();
        found.unwrap_or_else(|| panic!("waited in vain for {what}; seen: {:#?}", self.own()))
    }

    /// Follows until exactly `count` replicas are there, all ready.
    async fn ready(&mut self, count: usize) -> Vec<Observed> {
        self.until(&format!("{count} ready replicas"), |own| {
            let is_so = own.len() == count && own.iter().all(|one| one.phase.ready().is_some());
            is_so.then(|| own.iter().map(|one| (*one).clone()).collect())
        })
        .await
    }

    async fn gone(&mut self) {
        self.until("no replica", |own| own.is_empty().then_some(())).await;
    }
}

async fn start(subject: &dyn Subject, spec: &WorkloadSpec) -> (Watcher, Vec<Observed>) {
    let mut watcher = Watcher::new(subject, spec.key.workload).await;
    subject.provider().apply(spec).await.expect("applied");
    let ready = watcher.ready(usize::try_from(spec.replicas).expect("few")).await;
    (watcher, ready)
}

async fn remove(subject: &dyn Subject, mut watcher: Watcher, key: Key) {
    subject.provider().delete(key, 0).await.expect("deleted");
    watcher.gone().await;
}

fn is_conflict(result: &Result<(), Error>) -> bool {
    matches!(result, Err(Error::Conflict { .. }))
}

async fn watch_begins_with_what_is_there(subject: &dyn Subject) {
    let spec = subject.spec();
    let (early, ready) = start(subject, &spec).await;
    let late = Watcher::new(subject, spec.key.workload).await;
    assert_eq!(late.own(), [&ready[0]], "a late watcher sees the same");
    let one = &ready[0];
    assert_eq!((one.key, one.owner, one.size), (spec.key, spec.owner, spec.size));
    assert!(one.guest.is_some() && one.ready_at.is_some_and(|at| at >= one.started_at));
    assert_eq!((one.restarts, one.exits_in_a_row, &one.last_exit), (0, 0, &None));
    remove(subject, early, spec.key).await;
}

async fn calls_may_be_repeated(subject: &dyn Subject) {
    let (provider, spec) = (subject.provider(), subject.spec());
    let (mut watcher, before) = start(subject, &spec).await;
    provider.apply(&spec).await.expect("again");
    provider.scale(spec.key, spec.replicas).await.expect("the same count");
    let gone = subject.env().id();
    provider.replace(spec.key, gone, When::Now).await.expect("a replica that is gone already");
    assert_eq!(watcher.ready(1).await, before, "nothing changed");
    provider.delete(spec.key, 0).await.expect("deleted");
    provider.delete(spec.key, 0).await.expect("deleted again");
    watcher.gone().await;
    provider.delete(spec.key, 0).await.expect("deleted after it is gone");
}

async fn an_older_revision_undoes_nothing(subject: &dyn Subject) {
    let provider = subject.provider();
    let mut spec = subject.spec();
    spec.key.revision = 2;
    let (mut watcher, before) = start(subject, &spec).await;
    let old = Key { revision: 1, ..spec.key };
    let older = WorkloadSpec { key: old, replicas: 3, ..spec.clone() };
    assert!(is_conflict(&provider.apply(&older).await));
    assert!(is_conflict(&provider.scale(old, 3).await));
    assert!(is_conflict(&provider.delete(old, 0).await));
    assert!(is_conflict(&provider.claim(old, Owner::Sandbox(subject.env().id()), spec.size).await));
    assert_eq!(watcher.ready(1).await, before);
    remove(subject, watcher, spec.key).await;
}

async fn a_newer_revision_takes_over(subject: &dyn Subject) {
    let spec = subject.spec();
    let (mut watcher, before) = start(subject, &spec).await;
    let key = Key { revision: 2, ..spec.key };
    subject.provider().apply(&WorkloadSpec { key, ..spec }).await.expect("applied");
    let new = watcher
        .until("a ready replica of the new revision alone", |own| match own {
            [one] if one.key == key && one.phase.ready().is_some() => Some(one.instance),
            _ => None,
        })
        .await;
    assert_ne!(new, before[0].instance);
    remove(subject, watcher, key).await;
}

async fn what_exits_is_started_again(subject: &dyn Subject) {
    let spec = subject.spec();
    let (mut watcher, before) = start(subject, &spec).await;
    subject.end(&before[0], 7).await;
    watcher
        .until("the exit and its code", |own| {
            own.iter().any(|one| one.phase == Phase::Exited { code: 7 }).then_some(())
        })
        .await;
    let after = watcher.ready(1).await.remove(0);
    assert_ne!(after.instance, before[0].instance, "each attempt is a new instance");
    assert_eq!((after.restarts, after.exits_in_a_row), (1, 1));
    let exit = after.last_exit.expect("the last exit is told");
    assert_eq!(exit.code, Some(7));
    assert!(exit.log_tail.contains("the last words"), "{}", exit.log_tail);
    remove(subject, watcher, spec.key).await;
}

async fn restarts_pause(subject: &dyn Subject) {
    let spec = subject.spec();
    let (mut watcher, mut ready) = start(subject, &spec).await;
    for count in 1..=3_u32 {
        subject.end(&ready[0], 1).await;
        let last = ready[0].instance;
        watcher
            .until("another attempt", |own| {
                own.iter().any(|one| one.instance != last).then_some(())
            })
            .await;
        subject.pass(Duration::from_millis(100 << count)).await;
        ready = watcher.ready(1).await;
        assert_eq!(ready[0].exits_in_a_row, count);
        let exit = ready[0].last_exit.as_ref().expect("the last exit is told");
        let pause = ready[0].started_at.duration_since(exit.at).unsigned_abs();
        let least = if count == 1 { 0 } else { 100 << (count - 2) };
        assert!(pause >= Duration::from_millis(least), "exit {count}: {pause:?}");
    }
    remove(subject, watcher, spec.key).await;
}

async fn what_must_not_restart_stays_ended(subject: &dyn Subject) {
    let spec = WorkloadSpec { restart: false, ..subject.spec() };
    let (mut watcher, before) = start(subject, &spec).await;
    subject.end(&before[0], 3).await;
    let ended = watcher
        .until("the exit", |own| match own {
            [one] if one.phase == (Phase::Exited { code: 3 }) => Some((*one).clone()),
            _ => None,
        })
        .await;
    assert_eq!(ended.instance, before[0].instance);
    assert_eq!(ended.restarts, 0);
    let exit = ended.last_exit.expect("how it ended is told");
    assert!(exit.code == Some(3) && exit.log_tail.contains("the last words"));
    subject.pass(Duration::from_secs(1)).await;
    subject.provider().apply(&spec).await.expect("again");
    let late = Watcher::new(subject, spec.key.workload).await;
    assert!(matches!(late.own()[..], [one] if one.phase == Phase::Exited { code: 3 }));
    remove(subject, watcher, spec.key).await;
}

async fn the_count_is_kept(subject: &dyn Subject) {
    let (provider, spec) = (subject.provider(), subject.spec());
    let (mut watcher, first) = start(subject, &spec).await;
    provider.scale(spec.key, 3).await.expect("scaled");
    let three = watcher.ready(3).await;
    assert!(three.iter().any(|one| one.instance == first[0].instance), "what ran goes on");
    let mut addresses: Vec<_> = three.iter().filter_map(|one| one.phase.ready()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 3, "each has an address of its own");
    provider.scale(spec.key, 1).await.expect("scaled");
    watcher.ready(1).await;
    provider.scale(spec.key, 0).await.expect("scaled");
    watcher.gone().await;
    provider.scale(spec.key, 1).await.expect("scaled");
    watcher.ready(1).await;
    remove(subject, watcher, spec.key).await;
    let nothing = provider.scale(spec.key, 1).await;
    assert!(is_conflict(&nothing), "what is gone cannot be scaled: {nothing:?}");
}

async fn a_replica_is_replaced_at_once(subject: &dyn Subject) {
    let spec = subject.spec();
    let (mut watcher, before) = start(subject, &spec).await;
    let old = before[0].instance;
    subject.provider().replace(spec.key, old, When::Now).await.expect("replaced");
    let after = watcher
        .until("the old one to go first", |own| match own {
            [one] if one.instance != old && one.phase.ready().is_some() => Some((*one).clone()),
            _ => {
                let is_old_up = own.iter().any(|o| o.instance == old && o.phase.ready().is_some());
                let is_new_up = own.iter().any(|o| o.instance != old && o.phase.ready().is_some());
                assert!(!(is_old_up && is_new_up), "both ready: {own:#?}");
                None
            }
        })
        .await;
    assert_eq!((after.restarts, after.exits_in_a_row), (0, 0), "it was asked for: no exit");
    remove(subject, watcher, spec.key).await;
}

async fn a_replica_is_replaced_when_the_new_one_is_ready(subject: &dyn Subject) {
    let spec = subject.spec();
    let (mut watcher, before) = start(subject, &spec).await;
    let old = before[0].instance;
    subject.provider().replace(spec.key, old, When::WhenNewIsReady).await.expect("replaced");
    let search = async {
        loop {
            let own = watcher.own();
            let ready = own.iter().filter(|one| one.phase.ready().is_some()).count();
            assert!(ready >= 1, "there is always one ready: {own:#?}");
            if own.len() == 1 && own[0].instance != old {
                return;
            }
            watcher.next().await;
        }
    };
    timeout(DEADLINE, search).await.expect("in time");
    remove(subject, watcher, spec.key).await;
}

fn slot(subject: &dyn Subject) -> WorkloadSpec {
    WorkloadSpec { owner: Owner::Pool, restart: false, ..subject.spec() }
}

async fn a_slot_is_claimed_once(subject: &dyn Subject) {
    let (provider, spec) = (subject.provider(), slot(subject));
    let (mut watcher, before) = start(subject, &spec).await;
    let owners = [(); 8].map(|()| Owner::Sandbox(subject.env().id()));
    let claims = owners.map(|owner| provider.claim(spec.key, owner, spec.size));
    let answers = futures_util::future::join_all(claims).await;
    let won: Vec<_> =
        owners.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(o, _)| *o).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| is_conflict(answer)).count(), 7, "{answers:?}");
    let claimed = watcher
        .until("the new owner", |own| match own {
            [one] if one.owner == won[0] => Some(one.instance),
            _ => None,
        })
        .await;
    assert_eq!(claimed, before[0].instance, "it is the very replica");
    provider.claim(spec.key, won[0], spec.size).await.expect("its owner has it already");
    remove(subject, watcher, spec.key).await;
    let gone = provider.claim(spec.key, won[0], spec.size).await;
    assert!(is_conflict(&gone), "the slot is gone: {gone:?}");
}

async fn a_larger_slot_is_made_smaller(subject: &dyn Subject) {
    let (provider, mut spec) = (subject.provider(), slot(subject));
    let need = spec.size;
    spec.size = Size {
        memory_mib: need.memory_mib * 2,
        cpu_millis: need.cpu_millis * 2,
        disk_mib: need.disk_mib * 2,
    };
    let (mut watcher, _) = start(subject, &spec).await;
    let owner = Owner::Sandbox(subject.env().id());
    let too_large = Size { memory_mib: spec.size.memory_mib + 1, ..need };
    let refused = provider.claim(spec.key, owner, too_large).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    provider.claim(spec.key, owner, need).await.expect("claimed");
    watcher
        .until("the smaller size", |own| match own {
            [one] if one.owner == owner && one.size == need => Some(()),
            _ => None,
        })
        .await;
    remove(subject, watcher, spec.key).await;
}

async fn deleting_nothing_is_fine(subject: &dyn Subject) {
    let key = Key { workload: subject.env().id(), revision: 1 };
    subject.provider().delete(key, 5).await.expect("nothing to remove");
    let instance: InstanceId = subject.env().id();
    subject.provider().replace(key, instance, When::Now).await.expect("gone already");
    let owner: VersionId = subject.env().id();
    let claimed = subject.provider().claim(key, Owner::Version(owner), subject.spec().size).await;
    assert!(is_conflict(&claimed), "there is no such slot: {claimed:?}");
}

async fn nonsense_is_refused(subject: &dyn Subject) {
    let mut spec = subject.spec();
    spec.size.memory_mib = 1;
    let refused = subject.provider().apply(&spec).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let mut spec = subject.spec();
    spec.root.template = "no-such-template".into();
    let refused = subject.provider().apply(&spec).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let watcher = Watcher::new(subject, spec.key.workload).await;
    assert!(watcher.own().is_empty());
}
