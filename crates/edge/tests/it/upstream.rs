//! An app: a real TCP listener that does exactly what a test says, and can be killed.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// One request as the app got it.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// Counts from 1 over the life of the app, restarts included.
    pub(crate) number: usize,
    /// Counts connections from 1 between two starts of the app.
    pub(crate) connection: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What the app does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// 200 with this body and a length.
    Answers(String),
    /// These bytes, then the connection stays.
    Sends(Vec<u8>),
    /// These bytes, then the connection ends.
    SendsAndDies(Vec<u8>),
    /// Accepts a WebSocket and sends back every byte.
    Echoes,
    /// Takes the request and never answers.
    Hangs,
}

type Behaviour = dyn Fn(&Got) -> Does + Send + Sync;

/// See the module.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    behaviour: Arc<Behaviour>,
    count: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(behaviour: impl Fn(&Got) -> Does + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
    }

    pub(crate) async fn start_at(
        addr: SocketAddr,
        behaviour: impl Fn(&Got) -> Does + Send + Sync + 'static,
    ) -> Self {
        let mut upstream = Self {
            addr,
            behaviour: Arc::new(behaviour),
            count: Arc::default(),
            tasks: JoinSet::new(),
        };
        upstream.revive().await;
        upstream
    }

    /// A free port on which nobody listens.
    pub(crate) async fn dead(behaviour: impl Fn(&Got) -> Does + Send + Sync + 'static) -> Self {
        let mut upstream = Self::start(behaviour).await;
        upstream.kill().await;
        upstream
    }

    /// Requests that it got whole.
    pub(crate) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// The listener and every connection are gone, as after kill -9.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Listens again on the same address.
    pub(crate) async fn revive(&mut self) {
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.addr = listener.local_addr().unwrap();
        let (behaviour, count) = (self.behaviour.clone(), self.count.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, connection, behaviour.clone(), count.clone()));
            }
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    behaviour: Arc<Behaviour>,
    count: Arc<AtomicUsize>,
) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut buffer).await {
        let number = count.fetch_add(1, SeqCst) + 1;
        let answer = match behaviour(&Got { number, connection, head, body }) {
            Does::Answers(body) => {
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
            }
            Does::Sends(bytes) => bytes,
            Does::SendsAndDies(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Does::Echoes => {
                let accept = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                              Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
                let _ = stream.write_all(accept.as_bytes()).await;
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                return;
            }
            Does::Hangs => std::future::pending().await,
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let done = |buffer: &[u8]| match length {
        Some(length) => buffer.len() >= length,
        None => !is_chunked || buffer.ends_with(b"0\r\n\r\n"),
    };
    while !done(buffer) {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = if is_chunked {
        std::mem::take(buffer)
    } else {
        buffer.drain(..length.unwrap_or(0)).collect()
    };
    Some((head, body))
}
