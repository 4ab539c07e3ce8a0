//! One edge with real sockets, its control, and clients that write raw bytes.

use std::{net::SocketAddr, path::Path, time::Duration};

use miosa_edge::{EdgeConfig, Limits, Listeners, Network};
use miosa_types::{
    DeploymentId, EdgeId, Env, InstanceId, SandboxId, TenantId,
    host::Domains,
    link::{self, Availability, Entry, ReplicaState, Settings, Target},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use uuid::Uuid;

use crate::control::Control;

/// Nothing that a test waits for may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn tenant() -> TenantId {
    TenantId::from_uuid(Uuid::from_u128(1))
}

pub(crate) fn app_id() -> DeploymentId {
    DeploymentId::from_uuid(Uuid::from_u128(2))
}

pub(crate) fn sandbox_id() -> SandboxId {
    SandboxId::from_uuid(Uuid::from_u128(3))
}

pub(crate) fn settings() -> Entry {
    Entry::Settings(Settings {
        domains: Domains {
            base: "base.localhost".into(),
            apps: "apps.localhost".into(),
            https_port: 8443,
        },
        console_hosts: vec!["console.clinic.test".into()],
        plain_http: true,
    })
}

pub(crate) fn route(host: &str, target: Target) -> Entry {
    Entry::Route(link::Route { host: host.into(), owner: tenant().into(), target })
}

pub(crate) fn replica(number: u128, addr: SocketAddr) -> link::Replica {
    let instance = InstanceId::from_uuid(Uuid::from_u128(100 + number));
    link::Replica { instance, addr, state: ReplicaState::Ready }
}

pub(crate) fn app(availability: Availability, replicas: Vec<link::Replica>) -> Entry {
    Entry::App(link::App {
        app: app_id(),
        owner: tenant().into(),
        availability,
        hold_s: 10,
        replicas,
    })
}

/// An app at `app.test` with one ready replica per address.
pub(crate) fn served_by(addrs: &[SocketAddr]) -> Vec<Entry> {
    let replicas = addrs.iter().zip(0..).map(|(addr, n)| replica(n, *addr)).collect();
    vec![
        settings(),
        route("app.test", Target::App { app: app_id() }),
        app(Availability::Ready, replicas),
    ]
}

fn listeners() -> Listeners {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Listeners { http: vec![bind()], https: vec![bind()] }
}

/// A running edge.
pub(crate) struct Edge {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) handle: miosa_edge::Handle,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), miosa_edge::Error>>,
}

impl Edge {
    pub(crate) async fn start(dir: &Path, link_socket: &Path, limits: Limits) -> Self {
        Self::start_on(dir, link_socket, (limits, vec![]), listeners()).await
    }

    pub(crate) async fn start_on(
        dir: &Path,
        link_socket: &Path,
        (limits, trusted_proxies): (Limits, Vec<Network>),
        listeners: Listeners,
    ) -> Self {
        let http = listeners.http[0].local_addr().unwrap();
        let https = listeners.https[0].local_addr().unwrap();
        let config = EdgeConfig {
            dir: dir.join("edge"),
            link_socket: link_socket.to_owned(),
            api_socket: dir.join("api.sock"),
            edge: EdgeId::from_uuid(Uuid::from_u128(9)),
            env: Env::system(),
            trusted_proxies,
            limits,
        };
        let (is_ready, ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(miosa_edge::run(
            config,
            listeners,
            move |handle| drop(is_ready.send(handle)),
            async move { drop(stopped.await) },
        ));
        let handle = ready.await.expect("the edge starts");
        Self { http, https, handle, stop, running }
    }

    /// A counter or a gauge without labels.
    pub(crate) fn metric(&self, name: &str) -> usize {
        let text = self.handle.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// Begins the shutdown; the handle ends when it is over.
    pub(crate) fn shut_down(self) -> JoinHandle<Result<(), miosa_edge::Error>> {
        let _ = self.stop.send(());
        self.running
    }
}

/// An edge and its control, linked.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) control: Control,
    pub(crate) edge: Edge,
}

impl World {
    pub(crate) async fn new(entries: Vec<Entry>) -> Self {
        Self::with(entries, Limits::default()).await
    }

    pub(crate) async fn with(entries: Vec<Entry>, limits: Limits) -> Self {
        Self::trusting(vec![], entries, limits).await
    }

    /// An edge with a proxy on this machine in front that it trusts.
    pub(crate) async fn behind_a_proxy(entries: Vec<Entry>, limits: Limits) -> Self {
        Self::trusting(vec!["127.0.0.0/8".parse().unwrap()], entries, limits).await
    }

    async fn trusting(trusted: Vec<Network>, entries: Vec<Entry>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::new(dir.path(), entries);
        control.listen();
        let settings = (limits, trusted);
        let edge = Edge::start_on(dir.path(), control.path(), settings, listeners()).await;
        control.applied(1).await;
        Self { dir, control, edge }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        ask(
            self.edge.http,
            &format!("GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Reply {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        ask(self.edge.http, &(head + body)).await
    }
}

/// Waits for a state that nothing tells of.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.expect(what);
}

/// An answer, read to the end.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// The body was as long as the head said.
    pub(crate) is_whole: bool,
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends raw bytes over a new connection and reads one answer.
pub(crate) async fn ask(addr: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    exchange(&mut stream, request).await.expect("an answer")
}

/// Sends raw bytes and reads one answer; `None` if the connection ended before one.
pub(crate) async fn exchange<S>(stream: &mut S, request: &str) -> Option<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request.as_bytes()).await.ok()?;
    let is_head = request.starts_with("HEAD");
    tokio::time::timeout(PATIENCE, reply(stream, is_head)).await.expect("an answer in time")
}

pub(crate) async fn reply<S: AsyncRead + Unpin>(stream: &mut S, is_head: bool) -> Option<Reply> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes.drain(..end).collect()).unwrap();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut reply = Reply { status, head, body: String::new(), is_whole: true };
    if is_head || status == 101 || status == 304 {
        return Some(reply);
    }
    let is_chunked = reply.field("transfer-encoding").is_some();
    let length = reply.field("content-length").map(|text| text.parse::<usize>().unwrap());
    let done = |bytes: &[u8]| match length {
        Some(length) => bytes.len() >= length,
        None => is_chunked && bytes.ends_with(b"0\r\n\r\n"),
    };
    while !done(&bytes) {
        if !matches!(stream.read_buf(&mut bytes).await, Ok(read) if read > 0) {
            reply.is_whole = length.is_none() && !is_chunked;
            break;
        }
    }
    reply.body = String::from_utf8_lossy(&bytes).into_owned();
    Some(reply)
}
