//! What the edge knows about the replicas of an app, and which one gets a request.
//!
//! A replica is ejected on its first connect error and comes back when a connect succeeds: what
//! control says about it is never trusted alone. The handle of a replica outlives table changes,
//! so counts and health are not lost when an unrelated part of its app changes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use miosa_types::{
    DeploymentId, InstanceId,
    link::{self, Availability, Branded, ReplicaState},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::hold::Queue;

/// One address that serves an app.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) instance: InstanceId,
    pub(crate) addr: SocketAddr,
    /// Cancelled when it leaves the table.
    pub(crate) removed: CancellationToken,
    draining: AtomicBool,
    down: AtomicBool,
    in_flight: AtomicU32,
    suspected: AtomicBool,
    /// When the last check that found it alive began. Held while a check runs, so that all whose
    /// connection broke at once share one.
    pub(crate) checked: tokio::sync::Mutex<Option<Instant>>,
}

impl Replica {
    pub(crate) fn new(of: &link::Replica) -> Self {
        Self {
            instance: of.instance,
            addr: of.addr,
            removed: CancellationToken::new(),
            draining: AtomicBool::new(of.state == ReplicaState::Draining),
            down: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            suspected: AtomicBool::new(false),
            checked: tokio::sync::Mutex::default(),
        }
    }

    /// Whether it is known that nobody answers there: it was ejected or left the table.
    pub(crate) fn is_gone(&self) -> bool {
        self.down.load(Relaxed) || self.removed.is_cancelled()
    }

    /// Whether it takes new requests.
    pub(crate) fn is_usable(&self) -> bool {
        !self.draining.load(Relaxed) && !self.is_gone()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// A connect failed. True for the caller that must start the connecting loop: one until it is
    /// restored, and none once it left the table, however many requests still find it dead.
    pub(crate) fn eject(&self) -> bool {
        !self.removed.is_cancelled() && !self.down.swap(true, Relaxed)
    }

    /// A connect succeeded.
    pub(crate) fn restore(&self) {
        self.down.store(false, Relaxed);
    }

    /// True once until the replica answers again: it is reported once, not once a request.
    pub(crate) fn suspect(&self) -> bool {
        !self.suspected.swap(true, Relaxed)
    }

    /// It answered.
    pub(crate) fn answered(&self) {
        if self.suspected.load(Relaxed) {
            self.suspected.store(false, Relaxed);
        }
    }

    /// Counts a request as under way until the guard is dropped.
    pub(crate) fn enter(self: &Arc<Self>, changed: &Arc<Notify>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { replica: self.clone(), changed: changed.clone() }
    }
}

/// A request under way on a replica.
#[derive(Debug)]
pub(crate) struct InFlight {
    replica: Arc<Replica>,
    changed: Arc<Notify>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Relaxed);
        if self.replica.is_draining() {
            self.changed.notify_one();
        }
    }
}

/// What the table says about an app, with the handles of its replicas.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) owner: Branded,
    pub(crate) availability: Availability,
    pub(crate) hold: Duration,
    pub(crate) replicas: Vec<Arc<Replica>>,
}

/// What to do with a request at this moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it to a replica if one is usable, else hold it.
    Serve,
    /// Ask control to wake the app, and hold.
    Wake,
    /// The page, at once.
    Refuse,
}

impl Spec {
    /// Pure decision from what control says; `left` is what remains of the hold limit.
    pub(crate) fn verdict(&self, now: Timestamp, left: Duration) -> Verdict {
        match &self.availability {
            Availability::Ready | Availability::Starting { .. } => Verdict::Serve,
            _ if self.has_usable() => Verdict::Serve,
            Availability::Asleep => Verdict::Wake,
            Availability::Stopped | Availability::Failed => Verdict::Refuse,
            Availability::Backoff { until } => {
                let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                if wait <= left { Verdict::Serve } else { Verdict::Refuse }
            }
        }
    }

    /// Whether waiting may be over: whoever waits must look again.
    pub(crate) fn is_over(&self) -> bool {
        matches!(
            self.availability,
            Availability::Stopped | Availability::Failed | Availability::Backoff { .. }
        )
    }

    pub(crate) fn has_usable(&self) -> bool {
        self.replicas.iter().any(|replica| replica.is_usable())
    }
}

/// An app: what the table says now, and what must survive changes of the table.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) id: DeploymentId,
    pub(crate) spec: ArcSwap<Spec>,
    pub(crate) queue: Queue,
    pub(crate) budget: Budget,
    /// Set when it left the table.
    closed: AtomicBool,
    next: AtomicUsize,
}

impl App {
    pub(crate) fn new(of: &link::App) -> Self {
        let app = Self {
            id: of.app,
            spec: ArcSwap::from_pointee(Spec {
                owner: of.owner,
                availability: of.availability.clone(),
                hold: Duration::ZERO,
                replicas: Vec::new(),
            }),
            queue: Queue::default(),
            budget: Budget::default(),
            closed: AtomicBool::new(false),
            next: AtomicUsize::new(0),
        };
        app.update(of);
        app
    }

    /// Takes over what the table says; handles of replicas that stay are kept.
    pub(crate) fn update(&self, of: &link::App) {
        let old = self.spec.load();
        let keep = |new: &link::Replica| {
            let is_same =
                |old: &&Arc<Replica>| old.instance == new.instance && old.addr == new.addr;
            let Some(known) = old.replicas.iter().find(is_same) else {
                return Arc::new(Replica::new(new));
            };
            known.draining.store(new.state == ReplicaState::Draining, Relaxed);
            known.clone()
        };
        let spec = Spec {
            owner: of.owner,
            availability: of.availability.clone(),
            hold: Duration::from_secs(u64::from(of.hold_s.min(120))),
            replicas: of.replicas.iter().map(keep).collect(),
        };
        let is_gone = |old: &&Arc<Replica>| !spec.replicas.iter().any(|new| Arc::ptr_eq(old, new));
        let gone: Vec<_> = old.replicas.iter().filter(is_gone).cloned().collect();
        self.spec.store(Arc::new(spec));
        for replica in gone {
            replica.removed.cancel();
        }
    }

    /// Whether it left the table: whoever waits for it must look again who has the host.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// The app left the table.
    pub(crate) fn close(&self) {
        let old = self.spec.load();
        self.spec.store(Arc::new(Spec {
            owner: old.owner,
            availability: Availability::Stopped,
            hold: Duration::ZERO,
            replicas: Vec::new(),
        }));
        for replica in &old.replicas {
            replica.removed.cancel();
        }
        self.closed.store(true, Relaxed);
        self.queue.release_all();
    }

    /// The usable replica with the fewest requests under way, one that is not in `avoid` if
    /// there is any.
    pub(crate) fn pick(&self, avoid: &[InstanceId]) -> Option<Arc<Replica>> {
        let spec = self.spec.load();
        let count = spec.replicas.len();
        let start = self.next.fetch_add(1, Relaxed);
        let in_turn = (0..count).map(|n| &spec.replicas[(start.wrapping_add(n)) % count]);
        in_turn
            .filter(|replica| replica.is_usable())
            .min_by_key(|replica| (avoid.contains(&replica.instance), replica.in_flight()))
            .cloned()
    }
}

/// Keeps retries from multiplying the load of an app that is in trouble: a fifth of its requests
/// may be sent again, and a burst of [`Budget::BURST`]. What a dead replica left behind is not
/// charged: it waits for another one, and each request does so once per death.
#[derive(Debug)]
pub(crate) struct Budget(Mutex<(f64, Instant)>);

impl Default for Budget {
    fn default() -> Self {
        Self(Mutex::new((Self::BURST, Instant::now())))
    }
}

impl Budget {
    const BURST: f64 = 256.0;
    /// A quiet app gets its burst back in about half a minute.
    const PER_SECOND: f64 = 10.0;

    /// A request came.
    pub(crate) fn earn(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = (state.0 + 0.2).min(Self::BURST);
    }

    /// Whether one may be sent again.
    pub(crate) fn spend(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let idle = now.duration_since(state.1).as_secs_f64();
        state.1 = now;
        state.0 = (state.0 + idle * Self::PER_SECOND).min(Self::BURST);
        if state.0 < 1.0 {
            return false;
        }
        state.0 -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn replica(n: u16) -> link::Replica {
        link::Replica {
            instance: InstanceId::from_uuid(Uuid::from_u128(u128::from(n))),
            addr: SocketAddr::from(([127, 0, 0, 1], n)),
            state: ReplicaState::Ready,
        }
    }

    fn app(replicas: Vec<link::Replica>, availability: Availability) -> link::App {
        link::App {
            app: DeploymentId::from_uuid(Uuid::from_u128(1)),
            owner: miosa_types::TenantId::from_uuid(Uuid::from_u128(1)).into(),
            availability,
            hold_s: 30,
            replicas,
        }
    }

    #[test]
    fn the_least_busy_usable_replica_is_picked() {
        let changed = Arc::new(Notify::new());
        let app = App::new(&app(vec![replica(1), replica(2)], Availability::Ready));
        let first = app.pick(&[]).unwrap();
        let _busy = first.enter(&changed);
        let second = app.pick(&[]).unwrap();
        assert_ne!(first.instance, second.instance);
        assert_eq!(app.pick(&[second.instance]).unwrap().instance, first.instance);
        assert!(second.eject(), "the first to eject starts the loop");
        assert!(!second.eject());
        assert_eq!(app.pick(&[first.instance]).unwrap().instance, first.instance);
        first.eject();
        assert!(app.pick(&[]).is_none());
    }

    #[test]
    fn a_death_is_told_once_also_by_requests_that_outlive_the_replica() {
        let app = App::new(&app(vec![replica(1)], Availability::Ready));
        let replica = app.pick(&[]).unwrap();
        assert!(replica.eject() && !replica.eject());
        replica.restore();
        assert!(replica.eject() && !replica.eject(), "it died again");
        replica.restore();
        app.close();
        assert!(!replica.eject() && replica.is_gone());
    }

    #[test]
    fn handles_outlive_table_changes_and_removal_is_told() {
        let handle = App::new(&app(vec![replica(1), replica(2)], Availability::Ready));
        let before = handle.spec.load().replicas.clone();
        let mut draining = replica(1);
        draining.state = ReplicaState::Draining;
        handle.update(&app(vec![draining, replica(3)], Availability::Ready));
        let after = handle.spec.load().replicas.clone();
        assert!(Arc::ptr_eq(&before[0], &after[0]));
        assert!(!after[0].is_usable() && !before[0].removed.is_cancelled());
        assert!(before[1].removed.is_cancelled());
    }

    #[test]
    fn availability_decides() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let left = Duration::from_secs(30);
        let until = |s: i64| now + jiff::SignedDuration::from_secs(s);
        let cases = [
            (Availability::Ready, Verdict::Serve),
            (Availability::Starting { since: now }, Verdict::Serve),
            (Availability::Asleep, Verdict::Wake),
            (Availability::Stopped, Verdict::Refuse),
            (Availability::Failed, Verdict::Refuse),
            (Availability::Backoff { until: until(10) }, Verdict::Serve),
            (Availability::Backoff { until: until(-1) }, Verdict::Serve),
            (Availability::Backoff { until: until(31) }, Verdict::Refuse),
        ];
        for (availability, verdict) in cases {
            let app = App::new(&app(vec![], availability.clone()));
            assert_eq!(app.spec.load().verdict(now, left), verdict, "{availability:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_ends_and_comes_back() {
        let budget = Budget::default();
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), 256);
        for _ in 0..5 {
            budget.earn();
        }
        assert!(budget.spend());
        assert!(!budget.spend());
        tokio::time::advance(Duration::from_millis(150)).await;
        assert!(budget.spend());
    }
}
