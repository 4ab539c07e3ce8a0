//! What control knows of its edges: the table that they shall have, how far each has come, and
//! which replicas they still send requests to.
//!
//! Promises: a position acknowledged here was acknowledged by every edge that holds a lease; an
//! edge that vanished counts until its lease ends; right after a start, while edges may still be
//! on their way, nothing counts as acknowledged. No I/O: `link` carries the bytes.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use miosa_types::{
    Digest, EdgeId, InstanceId,
    link::{Down, Entry, Key, LEASE_S, Position, ReplicaState, Table, Up},
};
use tokio::{sync::watch, time::Instant};

/// Longest time that an unrouted replica waits for its last requests.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Deltas kept for edges that are behind; who is further behind gets a snapshot.
const HISTORY: usize = 256;
/// Bytes of deltas kept.
const HISTORY_BYTES: usize = 16 * 1024 * 1024;
const LEASE: Duration = Duration::from_secs(LEASE_S);

/// The edges of this installation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Edges {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Raised when the table moves.
    position: watch::Sender<Position>,
    /// Raised when an edge reports something or comes or goes.
    reports: watch::Sender<u64>,
    /// Replicas that an edge found wanting.
    suspects: watch::Sender<BTreeSet<InstanceId>>,
}

#[derive(Debug)]
struct State {
    started: Instant,
    has_met_an_edge: bool,
    /// `None` until the first table is known: an empty one would unroute everything.
    table: Option<Table>,
    /// Replicas that the table sends requests to.
    ready: BTreeSet<InstanceId>,
    history: VecDeque<(u64, Bytes)>,
    history_bytes: usize,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    left: BTreeMap<InstanceId, Left>,
    /// Sequence number with which each entry last changed or went.
    changed: BTreeMap<Key, u64>,
    material: BTreeMap<Digest, Bytes>,
}

/// One connection of an edge.
#[derive(Debug)]
struct Link {
    edge: EdgeId,
    is_open: bool,
    last_frame: Instant,
    applied: u64,
    in_flight: BTreeMap<InstanceId, u32>,
    refused: BTreeMap<Key, String>,
}

/// A replica that takes no new requests any more.
#[derive(Debug)]
struct Left {
    seq: u64,
    since: Instant,
}

/// What an edge must be sent next.
#[derive(Debug)]
pub enum Next {
    /// These frames, in order; the edge is at the position afterwards.
    Frames(Vec<Bytes>, Position),
    /// Nothing: it is up to date, or no table is known yet.
    Nothing,
}

/// Not every leased edge has the newest state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not every edge is there yet")]
pub struct NotYet;

/// One edge, for `miosa status`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EdgeStatus {
    /// Its id.
    pub edge: EdgeId,
    /// Whether its lease runs.
    pub is_leased: bool,
    /// Last sequence number that it acknowledged.
    pub applied_seq: u64,
    /// Entries that it could not take, and why.
    pub refused: BTreeMap<String, String>,
}

impl Edges {
    /// No edge and no table yet. `epoch` must differ between starts of control.
    pub fn new(epoch: u64) -> Self {
        let state = State {
            started: Instant::now(),
            has_met_an_edge: false,
            table: None,
            ready: BTreeSet::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            links: BTreeMap::new(),
            next_link: 0,
            left: BTreeMap::new(),
            changed: BTreeMap::new(),
            material: BTreeMap::new(),
        };
        let inner = Inner {
            state: Mutex::new(state),
            position: watch::Sender::new(Position { epoch, seq: 0 }),
            reports: watch::Sender::new(0),
            suspects: watch::Sender::new(BTreeSet::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes `next` the table that every edge shall have. Returns its position, which is the old
    /// one if nothing changed.
    pub fn publish(&self, next: Table) -> Position {
        let mut state = self.lock();
        let mut at = *self.inner.position.borrow();
        let empty = Table::default();
        let is_first = state.table.is_none();
        let (upserts, removes) = state.table.as_ref().unwrap_or(&empty).delta_to(&next);
        if upserts.is_empty() && removes.is_empty() && !is_first {
            return at;
        }
        at.seq += 1;
        state.note_leavers(&next, at.seq);
        state.note_changes(&upserts, &removes, at.seq);
        if !is_first {
            let frame = encode(&Down::Delta { seq: at.seq, upserts, removes });
            state.remember(at.seq, frame);
        }
        state.table = Some(next);
        drop(state);
        self.inner.position.send_replace(at);
        at
    }

    /// The table last published.
    pub fn table(&self) -> Option<Table> {
        self.lock().table.clone()
    }

    /// Changes with each published table.
    pub fn positions(&self) -> watch::Receiver<Position> {
        self.inner.position.subscribe()
    }

    /// Changes with each report of an edge.
    pub fn reports(&self) -> watch::Receiver<u64> {
        self.inner.reports.subscribe()
    }

    /// Replicas that edges found wanting since [`Edges::take_suspects`].
    pub fn suspects(&self) -> watch::Receiver<BTreeSet<InstanceId>> {
        self.inner.suspects.subscribe()
    }

    /// Empties the list of suspects and returns it.
    pub fn take_suspects(&self) -> BTreeSet<InstanceId> {
        let mut taken = BTreeSet::new();
        self.inner.suspects.send_if_modified(|suspects| {
            taken = std::mem::take(suspects);
            false
        });
        taken
    }

    /// Whether every leased edge acknowledged `at`.
    pub fn is_applied(&self, at: Position) -> bool {
        let now = *self.inner.position.borrow();
        at.epoch != now.epoch || self.lock().is_applied(at.seq)
    }

    /// Waits until every leased edge acknowledged `at`, at most `deadline`; whether they did.
    pub async fn wait_applied(&self, at: Position, deadline: Duration) -> bool {
        let mut reports = self.reports();
        let wait = async {
            loop {
                reports.borrow_and_update();
                if self.is_applied(at) {
                    return;
                }
                // A lease that ends raises no report, so look again now and then.
                let _ = tokio::time::timeout(Duration::from_secs(1), reports.changed()).await;
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// The entry of that name as every leased edge has it; `Err` while that is not certain.
    pub fn live(&self, key: &Key) -> Result<Option<Entry>, NotYet> {
        let state = self.lock();
        let table = state.table.as_ref().ok_or(NotYet)?;
        let seq = state.changed.get(key).copied().unwrap_or(0);
        if !state.is_applied(seq) || state.leased().any(|link| link.refused.contains_key(key)) {
            return Err(NotYet);
        }
        Ok(table.0.get(key).cloned())
    }

    /// Waits until every leased edge has an entry of that name, at most `deadline`; whether it is
    /// so. For answers that hand out an address which shall work at once.
    pub async fn wait_live(&self, key: &Key, deadline: Duration) -> bool {
        self.wait_entry(key, deadline, |_| true).await
    }

    /// As [`wait_live`](Self::wait_live), until the entry is as `wanted` says.
    pub async fn wait_entry(
        &self,
        key: &Key,
        deadline: Duration,
        wanted: impl Fn(&Entry) -> bool,
    ) -> bool {
        self.wait(key, deadline, |entry| entry.is_some_and(&wanted)).await
    }

    /// Waits until no leased edge has an entry of that name, at most `deadline`; whether it is so.
    pub async fn wait_gone(&self, key: &Key, deadline: Duration) -> bool {
        self.wait(key, deadline, |entry| entry.is_none()).await
    }

    async fn wait(
        &self,
        key: &Key,
        deadline: Duration,
        is_there: impl Fn(Option<&Entry>) -> bool,
    ) -> bool {
        let (mut reports, mut positions) = (self.reports(), self.positions());
        let wait = async {
            loop {
                reports.borrow_and_update();
                positions.borrow_and_update();
                if self.live(key).is_ok_and(|entry| is_there(entry.as_ref())) {
                    return;
                }
                tokio::select! {
                    _ = reports.changed() => {}
                    _ = positions.changed() => {}
                }
            }
        };
        tokio::time::timeout(deadline, wait).await.is_ok()
    }

    /// Whether an edge may still send requests to this replica, or waits for answers of it.
    pub fn holds(&self, instance: InstanceId) -> bool {
        self.lock().holds(instance)
    }

    /// Offers certificate chains and keys as blobs, in place of those offered before.
    pub fn offer(&self, material: BTreeMap<Digest, Bytes>) {
        self.lock().material = material;
    }

    /// A blob of [`Edges::offer`].
    pub fn material(&self, digest: Digest) -> Option<Bytes> {
        self.lock().material.get(&digest).cloned()
    }

    /// All edges that hold a lease or are linked.
    pub fn status(&self) -> Vec<EdgeStatus> {
        let state = self.lock();
        let status = |link: &Link| EdgeStatus {
            edge: link.edge,
            is_leased: link.is_leased(),
            applied_seq: link.applied,
            refused: link.refused.iter().map(|(k, why)| (format!("{k:?}"), why.clone())).collect(),
        };
        state.links.values().map(status).collect()
    }

    /// A connection of `edge` opened; names it in the calls below.
    pub fn opened(&self, edge: EdgeId) -> u64 {
        let mut state = self.lock();
        // Whatever that edge was before: it is this one now, unless it is still linked (an old
        // generation that serves its last requests).
        state.links.retain(|_, link| link.is_open || link.edge != edge);
        let id = state.next_link;
        state.next_link += 1;
        state.has_met_an_edge = true;
        let link = Link {
            edge,
            is_open: true,
            last_frame: Instant::now(),
            applied: 0,
            in_flight: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        state.links.insert(id, link);
        drop(state);
        self.reported();
        id
    }

    /// A connection closed. Its lease runs on unless the same edge is linked again.
    pub fn closed(&self, link: u64) {
        let mut state = self.lock();
        let Some(edge) = state.links.get(&link).map(|link| link.edge) else { return };
        let has_other = state
            .links
            .iter()
            .any(|(id, other)| *id != link && other.edge == edge && other.is_open);
        if has_other {
            state.links.remove(&link);
        } else if let Some(closed) = state.links.get_mut(&link) {
            closed.is_open = false;
        }
        drop(state);
        self.reported();
    }

    /// An edge said something.
    pub fn heard(&self, link: u64, frame: Up) {
        let mut suspect = None;
        let mut state = self.lock();
        let Some(link) = state.links.get_mut(&link) else { return };
        link.last_frame = Instant::now();
        match frame {
            Up::Beat | Up::Wake { .. } => return,
            Up::Applied { seq } => link.applied = seq,
            Up::NotApplied { key, why } => {
                tracing::warn!(?key, why, edge = %link.edge, "an edge could not take an entry");
                // Bounded: a table has few entries that fail at once.
                if link.refused.len() < 1000 {
                    link.refused.insert(key, why);
                }
            }
            Up::InFlight { instance, count } => {
                link.in_flight.insert(instance, count);
            }
            Up::Suspect { instance } => suspect = Some(instance),
        }
        drop(state);
        if let Some(instance) = suspect {
            self.inner.suspects.send_modify(|suspects| {
                suspects.insert(instance);
            });
        }
        self.reported();
    }

    /// What an edge at `sent` needs to be up to date.
    pub fn next(&self, sent: Option<Position>) -> Next {
        let state = self.lock();
        let at = *self.inner.position.borrow();
        let Some(table) = &state.table else { return Next::Nothing };
        if sent == Some(at) {
            return Next::Nothing;
        }
        if let Some(sent) = sent.filter(|sent| sent.epoch == at.epoch) {
            let frames: Vec<_> = state
                .history
                .iter()
                .filter(|(seq, _)| *seq > sent.seq && *seq <= at.seq)
                .map(|(_, frame)| frame.clone())
                .collect();
            if u64::try_from(frames.len()) == Ok(at.seq - sent.seq.min(at.seq)) {
                return Next::Frames(frames, at);
            }
        }
        let entries = table.0.values().cloned().collect();
        Next::Frames(vec![encode(&Down::Snapshot { at, entries })], at)
    }

    fn reported(&self) {
        self.inner.reports.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn is_leased(&self) -> bool {
        self.last_frame.elapsed() <= LEASE
    }
}

impl State {
    fn leased(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter(|link| link.is_leased())
    }

    /// While edges may still be on their way, their silence proves nothing.
    fn may_conclude(&self) -> bool {
        self.has_met_an_edge || self.started.elapsed() > LEASE
    }

    fn is_applied(&self, seq: u64) -> bool {
        self.may_conclude() && self.leased().all(|link| link.applied >= seq)
    }

    fn holds(&self, instance: InstanceId) -> bool {
        // Before the first table, edges have what an earlier control told them.
        if self.table.is_none() || self.ready.contains(&instance) {
            return true;
        }
        let Some(left) = self.left.get(&instance) else { return false };
        if left.since.elapsed() >= DRAIN_DEADLINE {
            return false;
        }
        let is_idle = |link: &Link| link.in_flight.get(&instance) == Some(&0);
        !self.is_applied(left.seq) || !self.leased().all(is_idle)
    }

    /// Notes replicas that the next table sends nothing to.
    fn note_leavers(&mut self, next: &Table, seq: u64) {
        let ready = with_state(next, ReplicaState::Ready);
        let mut leavers = std::mem::replace(&mut self.ready, ready.clone());
        let draining = with_state(next, ReplicaState::Draining);
        leavers.extend(draining.iter().copied());
        let known = |id: &InstanceId| draining.contains(id) || leavers.contains(id);
        self.left.retain(|id, _| !ready.contains(id) && known(id));
        for instance in leavers {
            if !ready.contains(&instance) && !self.left.contains_key(&instance) {
                // What was said of it before it began to drain says nothing now.
                for link in self.links.values_mut() {
                    link.in_flight.remove(&instance);
                }
                self.left.insert(instance, Left { seq, since: Instant::now() });
            }
        }
    }

    fn note_changes(&mut self, upserts: &[Entry], removes: &[Key], seq: u64) {
        let reached = self.leased().map(|link| link.applied).min().unwrap_or(0);
        let table = self.table.as_ref();
        let is_there = |key: &Key| table.is_some_and(|table| table.0.contains_key(key));
        self.changed.retain(|key, changed| *changed > reached || is_there(key));
        for key in upserts.iter().map(Entry::key).chain(removes.iter().cloned()) {
            for link in self.links.values_mut() {
                link.refused.remove(&key);
            }
            self.changed.insert(key, seq);
        }
    }

    fn remember(&mut self, seq: u64, frame: Bytes) {
        self.history_bytes += frame.len();
        self.history.push_back((seq, frame));
        while self.history.len() > HISTORY || self.history_bytes > HISTORY_BYTES {
            let Some((_, old)) = self.history.pop_front() else { break };
            self.history_bytes -= old.len();
        }
    }
}

fn with_state(table: &Table, state: ReplicaState) -> BTreeSet<InstanceId> {
    let mut found = BTreeSet::new();
    for entry in table.0.values() {
        let Entry::App(app) = entry else { continue };
        found.extend(app.replicas.iter().filter(|r| r.state == state).map(|r| r.instance));
    }
    found
}

/// A frame with its length in front.
pub(crate) fn encode<T: serde::Serialize>(frame: &T) -> Bytes {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame).expect("frames of the link are plain data");
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests;
