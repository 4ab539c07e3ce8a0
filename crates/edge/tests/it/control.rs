//! A control that speaks the real link over a real Unix socket, and holds what it is told.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use miosa_types::{
    Digest,
    link::{BlobHead, Down, Entry, Hello, Key, Position, Table, Up},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

const EPOCH: u64 = 7;

#[derive(Debug)]
struct State {
    path: PathBuf,
    table: watch::Sender<(u64, Table)>,
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    heard: watch::Sender<Vec<Up>>,
}

/// Cheap to clone; `stop` ends every clone.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    state: Arc<State>,
    serving: Arc<Mutex<JoinSet<()>>>,
}

impl Control {
    /// Holds `entries`, but does not listen yet.
    pub(crate) fn new(dir: &Path, entries: Vec<Entry>) -> Self {
        let state = State {
            path: dir.join("link.sock"),
            table: watch::Sender::new((1, Table::from_entries(entries))),
            blobs: Mutex::default(),
            heard: watch::Sender::new(Vec::new()),
        };
        Self { state: Arc::new(state), serving: Arc::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.state.path
    }

    pub(crate) fn listen(&self) {
        let _ = std::fs::remove_file(&self.state.path);
        let listener = UnixListener::bind(&self.state.path).unwrap();
        let state = self.state.clone();
        self.serving.lock().unwrap().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(state.clone(), stream));
            }
        });
    }

    /// Dies: the listener and every connection are gone.
    pub(crate) async fn stop(&self) {
        let mut serving = std::mem::take(&mut *self.serving.lock().unwrap());
        serving.shutdown().await;
    }

    pub(crate) fn blob(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.state.blobs.lock().unwrap().insert(digest, bytes);
        digest
    }

    /// Changes the table without waiting.
    pub(crate) fn change(&self, upserts: Vec<Entry>, removes: &[Key]) -> u64 {
        let mut position = 0;
        self.state.table.send_modify(|(seq, table)| {
            table.apply(upserts, removes);
            *seq += 1;
            position = *seq;
        });
        position
    }

    /// Changes the table and waits until the edge serves it.
    pub(crate) async fn apply(&self, upserts: Vec<Entry>) {
        let seq = self.change(upserts, &[]);
        self.applied(seq).await;
    }

    pub(crate) async fn applied(&self, wanted: u64) {
        self.hears(|up| matches!(up, Up::Applied { seq } if *seq >= wanted)).await;
    }

    /// Waits until the edge has said something.
    pub(crate) async fn hears(&self, is_it: impl Fn(&Up) -> bool) -> Up {
        let mut heard = self.state.heard.subscribe();
        let said = heard.wait_for(|all| all.iter().any(&is_it)).await.unwrap();
        said.iter().find(|up| is_it(up)).unwrap().clone()
    }

    pub(crate) fn heard(&self) -> Vec<Up> {
        self.state.heard.borrow().clone()
    }
}

async fn serve(state: Arc<State>, mut stream: UnixStream) {
    match read::<Hello>(&mut stream).await {
        Some(Hello::Link { at, .. }) => link(state, stream, at).await,
        Some(Hello::Blob { digest }) => {
            let blob = state.blobs.lock().unwrap().get(&digest).cloned();
            let head = blob
                .as_ref()
                .map_or(BlobHead::Missing, |bytes| BlobHead::Found { size: bytes.len() as u64 });
            write(&mut stream, &head).await;
            let _ = stream.write_all(&blob.unwrap_or_default()).await;
            // The edge closes.
            let _ = stream.read_u8().await;
        }
        None => {}
    }
}

async fn link(state: Arc<State>, stream: UnixStream, at: Option<Position>) {
    let (mut from, mut to) = stream.into_split();
    let mut table = state.table.subscribe();
    let (seq, mut sent) = table.borrow_and_update().clone();
    // An edge that is up to date gets deltas alone.
    if at != Some(Position { epoch: EPOCH, seq }) {
        let entries = sent.0.values().cloned().collect();
        write(&mut to, &Down::Snapshot { at: Position { epoch: EPOCH, seq }, entries }).await;
    }
    let listening = async {
        while let Some(up) = read::<Up>(&mut from).await {
            state.heard.send_modify(|heard| heard.push(up));
        }
    };
    let mut sent_seq = seq;
    let telling = async {
        while table.changed().await.is_ok() {
            let (seq, next) = table.borrow_and_update().clone();
            let (upserts, removes) = sent.delta_to(&next);
            // Changes that came together travel as one delta and empty ones before it.
            while sent_seq + 1 < seq {
                sent_seq += 1;
                let empty = Down::Delta { seq: sent_seq, upserts: vec![], removes: vec![] };
                write(&mut to, &empty).await;
            }
            write(&mut to, &Down::Delta { seq, upserts, removes }).await;
            (sent, sent_seq) = (next, seq);
        }
    };
    tokio::select! { () = listening => {}, () = telling => {} }
}

async fn read<T: DeserializeOwned>(from: &mut (impl AsyncReadExt + Unpin)) -> Option<T> {
    let length = from.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut body).await.ok()?;
    Some(serde_json::from_slice(&body).unwrap())
}

async fn write<T: Serialize>(to: &mut (impl AsyncWriteExt + Unpin), frame: &T) {
    let body = serde_json::to_vec(frame).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let _ = to.write_all(&[&length[..], &body].concat()).await;
}
