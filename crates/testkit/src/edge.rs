//! An edge without a network: dials the link, applies what it is told, acknowledges it, and has
//! no request under way unless a test says so.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use miosa_types::{
    DeploymentId, EdgeId, InstanceId,
    link::{App, Down, Entry, Hello, Key, Position, Replica, ReplicaState, Table, Target, Up},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// See the module.
#[derive(Debug)]
pub struct FakeEdge {
    table: watch::Receiver<Table>,
    /// Every table that was applied, in order: what visitors could see.
    history: Arc<Mutex<Vec<Table>>>,
    is_busy: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl FakeEdge {
    /// Dials `socket`, again and again while it lives.
    pub fn dial(socket: PathBuf, id: EdgeId) -> Self {
        let (sender, table) = watch::channel(Table::default());
        let (history, is_busy) = (Arc::<Mutex<Vec<Table>>>::default(), Arc::default());
        let edge =
            Connection { id, sender, history: history.clone(), is_busy: Arc::clone(&is_busy) };
        let task = tokio::spawn(async move {
            loop {
                let _ = edge.serve(&socket).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { table, history, is_busy, task }
    }

    /// What it serves now.
    pub fn table(&self) -> Table {
        self.table.borrow().clone()
    }

    /// Every table that it served, oldest first.
    pub fn history(&self) -> Vec<Table> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it says that draining replicas have requests under way.
    pub fn set_busy(&self, is_busy: bool) {
        self.is_busy.store(is_busy, Ordering::SeqCst);
    }

    /// What answers a host.
    pub fn target(&self, host: &str) -> Option<Target> {
        match self.table().0.get(&Key::Route(host.to_owned())) {
            Some(Entry::Route(route)) => Some(route.target.clone()),
            _ => None,
        }
    }

    /// An app's entry.
    pub fn app(&self, app: DeploymentId) -> Option<App> {
        app_in(&self.table(), app)
    }

    /// Replicas of an app that take requests.
    pub fn ready(&self, app: DeploymentId) -> Vec<InstanceId> {
        ready_in(&self.table(), app)
    }

    /// Stops dialing.
    pub fn close(&self) {
        self.task.abort();
    }
}

impl Drop for FakeEdge {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An app's entry in a table.
fn app_in(table: &Table, app: DeploymentId) -> Option<App> {
    match table.0.get(&Key::App(app)) {
        Some(Entry::App(app)) => Some(app.clone()),
        _ => None,
    }
}

/// Replicas of an app that take requests.
fn ready_in(table: &Table, app: DeploymentId) -> Vec<InstanceId> {
    let is_ready = |replica: &&Replica| replica.state == ReplicaState::Ready;
    let of = |app: App| app.replicas.iter().filter(is_ready).map(|r| r.instance).collect();
    app_in(table, app).map(of).unwrap_or_default()
}

struct Connection {
    id: EdgeId,
    sender: watch::Sender<Table>,
    history: Arc<Mutex<Vec<Table>>>,
    is_busy: Arc<AtomicBool>,
}

impl Connection {
    async fn serve(&self, socket: &PathBuf) -> io::Result<()> {
        let (mut from, mut to) = UnixStream::connect(socket).await?.into_split();
        write(&mut to, &Hello::Link { edge: self.id, at: None }).await?;
        let mut at = Position { epoch: 0, seq: 0 };
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(5), read::<Down>(&mut from)).await;
            let mut table = self.sender.borrow().clone();
            match frame {
                Ok(frame) => match frame? {
                    Down::Snapshot { at: position, entries } => {
                        at = position;
                        table = Table::from_entries(entries);
                    }
                    Down::Delta { seq, upserts, removes } => {
                        if seq != at.seq + 1 {
                            return Err(io::Error::other("a gap"));
                        }
                        at.seq = seq;
                        table.apply(upserts, &removes);
                    }
                    Down::Beat => {}
                },
                // A read that was cut off loses bytes; dial again.
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            self.report(&mut to, &table).await?;
            if self.sender.borrow().clone() != table {
                self.history.lock().unwrap_or_else(PoisonError::into_inner).push(table.clone());
                self.sender.send_replace(table);
            }
            write(&mut to, &Up::Applied { seq: at.seq }).await?;
        }
    }

    async fn report(&self, to: &mut OwnedWriteHalf, table: &Table) -> io::Result<()> {
        let count = u32::from(self.is_busy.load(Ordering::SeqCst));
        for entry in table.0.values() {
            let Entry::App(app) = entry else { continue };
            for replica in &app.replicas {
                if replica.state == ReplicaState::Draining {
                    write(to, &Up::InFlight { instance: replica.instance, count }).await?;
                }
            }
        }
        Ok(())
    }
}

async fn write(to: &mut OwnedWriteHalf, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(&body).await
}

async fn read<T: DeserializeOwned>(from: &mut OwnedReadHalf) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
