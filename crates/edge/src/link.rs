//! The edge's end of the edge link.
//!
//! It dials control for ever, with a back-off of at most 250 ms, and applies what comes. An entry
//! that needs blobs goes live when they are on this disk; until then the old one serves, and no
//! other entry waits for it. `Applied{seq}` is sent when everything up to `seq` is live.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use miosa_types::{
    EdgeId, InstanceId,
    link::{Down, Entry, Hello, Key, LEASE_S, Position, Table, Up},
};
use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    balance::App,
    frames,
    load::{self, LoadError},
    probe,
    shared::Shared,
    snapshot,
    table::Loaded,
};

const MAX_BACK_OFF: Duration = Duration::from_millis(250);
/// Pause before a blob that could not be had is asked for again.
const RETRY: Duration = Duration::from_millis(500);
/// Changes within this time are written to disk together.
const SAVE_EVERY: Duration = Duration::from_millis(100);
/// How often blobs that no entry needs are removed.
const COLLECT_EVERY: Duration = Duration::from_mins(10);
/// Control beats every few seconds; silence for this long means that the link is dead.
const SILENCE: Duration = Duration::from_secs(LEASE_S);

/// What one load came to.
type LoadResult = (Key, u64, Result<Loaded, LoadError>);

/// State of the link over all its connections.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Up>,
    /// What control wants.
    wanted: Table,
    /// What is live: this is written to disk.
    live: Table,
    at: Option<Position>,
    /// Entries that are being loaded, and the position they came with.
    pending: HashMap<Key, u64>,
    loads: JoinSet<LoadResult>,
    /// Number of each load, so that a result that was overtaken is dropped.
    generation: u64,
    generations: HashMap<Key, u64>,
    sent_applied: Option<Position>,
    sent_counts: HashMap<InstanceId, u32>,
    dirty_since: Option<Instant>,
    to_send: Vec<Up>,
    /// Rung when what is live is what control wants, or control cannot be asked.
    settled: Option<oneshot::Sender<()>>,
    /// When blobs that nothing needs are removed next.
    collect_at: Instant,
}

impl Link {
    /// Together with a signal for the moment when the edge knows what it should serve.
    pub(crate) fn new(
        shared: Arc<Shared>,
        events: mpsc::Receiver<Up>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (settled, is_settled) = oneshot::channel();
        let link = Self {
            shared,
            events,
            wanted: Table::default(),
            live: Table::default(),
            at: None,
            pending: HashMap::new(),
            loads: JoinSet::new(),
            generation: 0,
            generations: HashMap::new(),
            sent_applied: None,
            sent_counts: HashMap::new(),
            dirty_since: None,
            to_send: Vec::new(),
            settled: Some(settled),
            collect_at: Instant::now() + COLLECT_EVERY,
        };
        (link, is_settled)
    }

    fn settle(&mut self) {
        if let Some(settled) = self.settled.take() {
            // Nobody listens any more if it took too long.
            let _ = settled.send(());
        }
    }

    /// Brings back what was kept on disk. What cannot be loaded is skipped and reported.
    pub(crate) async fn restore(&mut self) {
        let dir = self.shared.config.dir.clone();
        let kept = tokio::task::spawn_blocking(move || snapshot::load(&dir)).await;
        let kept = match kept.map_err(io::Error::other).and_then(|kept| kept) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::error!(%error, "the kept table cannot be read");
                return;
            }
        };
        if kept.bad > 0 {
            tracing::error!(bad = kept.bad, "entries of the kept table are damaged, skipped");
        }
        for entry in kept.entries {
            let key = entry.key();
            match load::from_disk(&self.shared, entry.clone()).await {
                Ok(loaded) => self.go_live(key, entry, loaded),
                Err(error) => tracing::error!(?key, %error, "a kept entry cannot be served"),
            }
        }
        // The file is what was just read; entries that failed stay in it for a later try.
        self.dirty_since = None;
        // Differences to what control wants are found by its first snapshot.
        self.wanted = self.live.clone();
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(mut self, edge: EdgeId) {
        let mut back_off = Duration::from_millis(10);
        loop {
            match self.connect(edge).await {
                Ok(()) => back_off = Duration::from_millis(10),
                Err(error) => tracing::debug!(%error, "the link to control is down"),
            }
            self.settle();
            let pause = Instant::now() + back_off;
            // Loads and saves go on without control.
            while let Some(left) = pause.checked_duration_since(Instant::now()) {
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = self.work() => {}
                }
            }
            back_off = (back_off * 2).min(MAX_BACK_OFF);
        }
    }

    /// One connection, until it ends. `Ok` if anything was received over it.
    async fn connect(&mut self, edge: EdgeId) -> io::Result<()> {
        let stream = UnixStream::connect(&self.shared.config.link_socket).await?;
        let (mut from, mut to) = stream.into_split();
        frames::write(&mut to, &Hello::Link { edge, at: self.at }).await?;
        // Reading is not safe to cancel, so a task of its own does it.
        let (sender, mut frames_in) = mpsc::channel(16);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            loop {
                let frame = frames::read::<_, Down>(&mut from).await;
                let ended = frame.is_err();
                if sender.send(frame).await.is_err() || ended {
                    return;
                }
            }
        });
        self.sent_applied = None;
        self.sent_counts.clear();
        let outcome = self.exchange(&mut frames_in, &mut to).await;
        tracing::debug!(?outcome, "link ended");
        if self.at.is_some() { Ok(()) } else { outcome }
    }

    async fn exchange(
        &mut self,
        frames_in: &mut mpsc::Receiver<io::Result<Down>>,
        to: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut beat = interval(Duration::from_secs(LEASE_S) / 3);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let in_flight = self.shared.reports.in_flight.clone();
        loop {
            let mut must_beat = false;
            tokio::select! {
                frame = frames_in.recv() => {
                    heard = Instant::now();
                    self.received(frame.ok_or(io::ErrorKind::UnexpectedEof)??)?;
                }
                Some(event) = self.events.recv() => self.to_send.push(event),
                () = in_flight.notified() => {}
                _ = beat.tick() => must_beat = true,
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Some(result) = self.loads.join_next() => self.loaded(result),
                () = save_time(self.dirty_since) => self.save().await,
                () = tokio::time::sleep_until(self.collect_at) => self.collect().await,
            }
            self.report(to, must_beat).await?;
        }
    }

    /// What goes on without a connection.
    async fn work(&mut self) {
        tokio::select! {
            Some(result) = self.loads.join_next() => self.loaded(result),
            () = save_time(self.dirty_since) => self.save().await,
        }
    }

    fn received(&mut self, frame: Down) -> io::Result<()> {
        match frame {
            Down::Beat => {}
            Down::Snapshot { at, entries } => {
                let next = Table::from_entries(entries);
                let (mut upserts, removes) = self.wanted.delta_to(&next);
                // What is not live yet is tried again, whatever was wanted before.
                let is_live = |entry: &Entry| self.live.0.get(&entry.key()) == Some(entry);
                let missing =
                    next.0.values().filter(|entry| !is_live(entry) && !upserts.contains(entry));
                upserts.extend(missing.cloned().collect::<Vec<_>>());
                let stale = self.live.0.keys().filter(|key| !next.0.contains_key(*key));
                let removes: Vec<Key> = removes.iter().chain(stale).cloned().collect();
                self.wanted = next;
                self.at = Some(at);
                self.apply(at.seq, upserts, &removes);
                self.settle();
            }
            Down::Delta { seq, upserts, removes } => {
                let Some(at) = self.at.filter(|at| at.seq + 1 == seq) else {
                    self.at = None;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a gap in the table"));
                };
                self.wanted.apply(upserts.clone(), &removes);
                self.at = Some(Position { seq, ..at });
                self.apply(seq, upserts, &removes);
            }
        }
        Ok(())
    }

    /// What needs no loading goes live before anything is taken away, apps before the routes
    /// that name them: no request falls between an old entry and a new one.
    fn apply(&mut self, seq: u64, upserts: Vec<Entry>, removes: &[Key]) {
        let (mut plain, to_load): (Vec<_>, Vec<_>) =
            upserts.into_iter().partition(|entry| !load::needs_blobs(entry));
        plain.sort_by_key(|entry| matches!(entry, Entry::Route(_)));
        for entry in plain {
            let key = entry.key();
            self.pending.remove(&key);
            self.generations.remove(&key);
            self.go_live(key, entry.clone(), Loaded::Plain(entry));
        }
        for key in removes {
            self.pending.remove(key);
            self.generations.remove(key);
            self.shared.live.remove(key);
            self.live.0.remove(key);
            self.dirty();
        }
        for entry in to_load {
            let key = entry.key();
            self.pending.insert(key, seq);
            self.load(entry, Duration::ZERO);
        }
    }

    fn load(&mut self, entry: Entry, after: Duration) {
        self.generation += 1;
        let (generation, key, shared) = (self.generation, entry.key(), self.shared.clone());
        self.generations.insert(key.clone(), generation);
        self.loads.spawn(async move {
            tokio::time::sleep(after).await;
            (key, generation, load::from_control(&shared, entry).await)
        });
    }

    fn loaded(&mut self, result: Result<LoadResult, tokio::task::JoinError>) {
        let Ok((key, generation, result)) = result else { return };
        if self.generations.get(&key) != Some(&generation) {
            return;
        }
        let Some(entry) = self.wanted.0.get(&key).cloned() else { return };
        match result {
            Ok(loaded) => {
                self.pending.remove(&key);
                self.generations.remove(&key);
                self.go_live(key, entry, loaded);
            }
            Err(error) => {
                tracing::warn!(?key, %error, "an entry cannot go live");
                self.to_send.push(Up::NotApplied { key, why: error.to_string() });
                self.load(entry, RETRY);
            }
        }
    }

    fn go_live(&mut self, key: Key, entry: Entry, loaded: Loaded) {
        let app = self.shared.live.insert(loaded);
        self.live.0.insert(key, entry);
        self.dirty();
        if let Some(app) = app {
            let_go(&self.shared, &app);
        }
    }

    fn dirty(&mut self) {
        self.dirty_since.get_or_insert_with(Instant::now);
    }

    async fn save(&mut self) {
        self.dirty_since = None;
        let (dir, entries) = (self.shared.config.dir.clone(), self.live.0.clone());
        let saved =
            tokio::task::spawn_blocking(move || snapshot::save(&dir, entries.values())).await;
        if let Err(error) = saved.map_err(io::Error::other).and_then(|saved| saved) {
            // Serving goes on; the next change tries again.
            tracing::error!(%error, "the table cannot be kept on disk");
        }
    }

    /// Removes blobs that no entry needs. Not while something is being loaded, whose blobs no
    /// entry names yet.
    async fn collect(&mut self) {
        self.collect_at = Instant::now() + COLLECT_EVERY;
        if !self.pending.is_empty() {
            return;
        }
        let Some(needed) = load::needed(&self.shared, self.live.0.values()).await else { return };
        let shared = self.shared.clone();
        let removed = tokio::task::spawn_blocking(move || shared.blobs.retain(&needed)).await;
        match removed.map_err(io::Error::other).and_then(|removed| removed) {
            Ok(removed) => tracing::debug!(removed, "blobs that nothing needs are gone"),
            Err(error) => tracing::warn!(%error, "blobs cannot be removed"),
        }
    }

    async fn report(&mut self, to: &mut OwnedWriteHalf, must_beat: bool) -> io::Result<()> {
        for up in std::mem::take(&mut self.to_send) {
            frames::write(to, &up).await?;
        }
        let mut counts = BTreeMap::new();
        for replica in self.shared.live.draining() {
            *counts.entry(replica.instance).or_insert(0) += replica.in_flight();
        }
        self.sent_counts.retain(|instance, _| counts.contains_key(instance));
        for (instance, count) in counts {
            if self.sent_counts.insert(instance, count) != Some(count) {
                frames::write(to, &Up::InFlight { instance, count }).await?;
            }
        }
        if let Some(at) = self.at {
            let first_missing = self.pending.values().min();
            let seq = first_missing.map_or(at.seq, |seq| seq.saturating_sub(1)).min(at.seq);
            let applied = Position { seq, ..at };
            if self.sent_applied != Some(applied) {
                frames::write(to, &Up::Applied { seq }).await?;
                self.sent_applied = Some(applied);
            }
        }
        if must_beat {
            frames::write(to, &Up::Beat).await?;
        }
        Ok(())
    }
}

/// An app changed: those who wait for it go on, or learn that waiting is over.
fn let_go(shared: &Arc<Shared>, app: &Arc<App>) {
    if app.spec.load().has_usable() {
        probe::release(shared, app);
    } else if app.spec.load().is_over() {
        app.queue.release_all();
    }
}

async fn save_time(dirty_since: Option<Instant>) {
    match dirty_since {
        Some(since) => tokio::time::sleep_until(since + SAVE_EVERY).await,
        None => std::future::pending().await,
    }
}
