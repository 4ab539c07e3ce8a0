//! The name server that workloads use: a forwarder on the gateway's address to the host's
//! resolvers, by UDP and TCP (RFC 1035 §4.2, RFC 7766).
//!
//! Promises: a bounded number of queries is under way, for all workloads and for each, and the
//! same holds for connections, which are counted apart: many workloads that take all they may keep
//! no other from its first few. What finds no room is dropped, as UDP allows, and the client asks
//! again; every step has a deadline; an answer is given only if it carries the query's id.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

/// Queries under way.
const QUERIES: Bounds = Bounds { all: 1024, each: 32, first: 4 };
/// TCP connections, idle ones included.
const CONNECTIONS: Bounds = Bounds { all: 512, each: 8, first: 2 };
/// How long one resolver has to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How long an idle TCP connection stays.
const IDLE: Duration = Duration::from_secs(10);

/// The host's resolvers, from resolv.conf(5).
pub(crate) fn host_resolvers() -> Vec<SocketAddr> {
    resolvers_of(&fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn resolvers_of(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| -> Option<SocketAddr> {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    };
    text.lines().filter_map(address).take(3).collect()
}

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    _tasks: JoinSet<()>,
}

/// How many at a time.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of all workloads together, beyond the first of each.
    all: usize,
    /// Of one workload.
    each: usize,
    /// The first of each workload, which nobody else can take.
    first: usize,
}

#[derive(Debug)]
struct Limits {
    bounds: Bounds,
    shared: Arc<Semaphore>,
    each: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// Of the workload, and of what is shared if it is not one of its first.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Limits {
    fn new(bounds: Bounds) -> Arc<Self> {
        let shared = Arc::new(Semaphore::new(bounds.all));
        Arc::new(Self { bounds, shared, each: Mutex::default() })
    }

    /// Room for one more of `client`, or `None`.
    fn try_acquire(&self, client: IpAddr) -> Option<Permits> {
        let Bounds { all, each: most, first } = self.bounds;
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        if each.len() > 4 * all {
            each.retain(|_, limit| Arc::strong_count(limit) > 1);
        }
        let limit = each.entry(client).or_insert_with(|| Arc::new(Semaphore::new(most)));
        let is_first = most - limit.available_permits() < first;
        let own = Arc::clone(limit).try_acquire_owned().ok()?;
        match Arc::clone(&self.shared).try_acquire_owned() {
            Ok(shared) => Some((own, Some(shared))),
            Err(_) if is_first => Some((own, None)),
            Err(_) => None,
        }
    }
}

impl Forwarder {
    /// Listens on `gateway`, port 53.
    pub(crate) async fn start(gateway: Ipv4Addr) -> io::Result<Self> {
        Self::start_at(SocketAddr::from((gateway, 53)), host_resolvers).await
    }

    async fn start_at(addr: SocketAddr, resolvers: fn() -> Vec<SocketAddr>) -> io::Result<Self> {
        let udp = Arc::new(UdpSocket::bind(addr).await?);
        let tcp = TcpListener::bind(udp.local_addr()?).await?;
        let queries = Limits::new(QUERIES);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&queries), resolvers));
        tasks.spawn(serve_tcp(tcp, queries, resolvers));
        Ok(Self { _tasks: tasks })
    }
}

async fn serve_udp(
    socket: Arc<UdpSocket>,
    limits: Arc<Limits>,
    resolvers: fn() -> Vec<SocketAddr>,
) {
    let mut buffer = [0; 4096];
    let mut queries = JoinSet::new();
    loop {
        while queries.try_join_next().is_some() {}
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(permits) = limits.try_acquire(client.ip()) else { continue };
        let Some(query) = buffer.get(..length).filter(|query| query.len() >= 12) else { continue };
        let (query, socket) = (query.to_vec(), Arc::clone(&socket));
        queries.spawn(async move {
            for resolver in resolvers() {
                if let Ok(Ok(answer)) = timeout(ANSWER, ask_udp(&query, resolver)).await {
                    socket.send_to(&answer, client).await.ok();
                    break;
                }
            }
            drop(permits);
        });
    }
}

/// Each query has a socket, so a port, of its own: an answer cannot be forged by guessing the id
/// alone (RFC 5452 §9).
async fn ask_udp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr =
        if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer.get(..2) == query.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn serve_tcp(
    listener: TcpListener,
    queries: Arc<Limits>,
    resolvers: fn() -> Vec<SocketAddr>,
) {
    let limits = Limits::new(CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.accept().await else {
            // Out of descriptors: a pause, or this would spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(permits) = limits.try_acquire(client.ip()) else { continue };
        let queries = Arc::clone(&queries);
        connections.spawn(async move {
            // However it ends, the client sees its connection closed.
            relay_tcp(stream, (client.ip(), &queries), resolvers).await.ok();
            drop(permits);
        });
    }
}

async fn relay_tcp(
    mut client: TcpStream,
    (ip, queries): (IpAddr, &Limits),
    resolvers: fn() -> Vec<SocketAddr>,
) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, read_message(&mut client)).await??;
        let permits = queries.try_acquire(ip).ok_or(io::ErrorKind::WouldBlock)?;
        let answer = ask_any(&query, &resolvers()).await;
        drop(permits);
        let answer = answer.ok_or(io::ErrorKind::TimedOut)?;
        timeout(IDLE, write_message(&mut client, &answer)).await??;
    }
}

/// By TCP; where no resolver speaks that, by UDP, whose answer may be cut.
async fn ask_any(query: &[u8], resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    for resolver in resolvers {
        if let Ok(Ok(answer)) = timeout(ANSWER, ask_tcp(query, *resolver)).await {
            return Some(answer);
        }
    }
    for resolver in resolvers {
        if let Ok(Ok(answer)) = timeout(ANSWER, ask_udp(query, *resolver)).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_tcp(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(resolver).await?;
    write_message(&mut upstream, query).await?;
    let answer = read_message(&mut upstream).await?;
    // Not every listener on that port is a name server.
    if answer.len() >= 12 && answer.get(..2) == query.get(..2) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(message);
    stream.write_all(&bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read() {
        let text = "# x\nsearch a\nnameserver 192.0.2.53\nnameserver bad\nnameserver ::1\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.53:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(resolvers_of(text), expected);
    }

    #[test]
    fn one_client_cannot_take_all_the_room() {
        let limits = Limits::new(QUERIES);
        let greedy = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<_> = std::iter::from_fn(|| limits.try_acquire(greedy)).collect();
        assert_eq!(held.len(), QUERIES.each);
        drop(held);
        assert!(limits.try_acquire(greedy).is_some());
    }

    #[test]
    fn a_crowd_that_takes_all_the_room_leaves_each_other_its_first() {
        for bounds in [QUERIES, CONNECTIONS] {
            let limits = Limits::new(bounds);
            let crowd = (0..200).map(|n| IpAddr::from([10, 0, 1, n]));
            let held: Vec<_> = crowd
                .flat_map(|one| std::iter::from_fn(|| limits.try_acquire(one)).collect::<Vec<_>>())
                .collect();
            assert!(held.len() >= bounds.all && held.len() <= bounds.all + 200 * bounds.first);
            let other = IpAddr::from([10, 0, 0, 2]);
            let own: Vec<_> = std::iter::from_fn(|| limits.try_acquire(other)).collect();
            assert_eq!(own.len(), bounds.first, "{bounds:?}");
        }
    }
}
