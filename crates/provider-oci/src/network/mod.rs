//! Addresses and network namespaces of workloads.
//!
//! Promises: a workload's network namespace is made by the host and owned by the initial user
//! namespace, so root inside cannot change it; it reaches what [`rules`] let it reach; its
//! address has a route only while its namespace lives, and every other address of the subnet is
//! unreachable at once; a namespace is held by descriptors alone, so nothing is left of it when
//! its last process and this process are gone.

pub(crate) mod link;
pub(crate) mod rules;
mod subnet;

use std::{
    collections::VecDeque,
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use miosa_types::{Env, guest};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

pub(crate) use subnet::{Net, Subnet};

use crate::{
    files,
    names::{Names, RUN},
    program, sweep,
    sys::ns,
};
use rules::Bound;
use subnet::Addresses;

/// Namespaces that wait for use.
const READY: usize = 16;
/// Addresses whose use is recorded ahead, so that a restart does not give out one that rests.
const RECORD_AHEAD: u32 = 256;
/// Longest run of the `nft` program.
const NFT_DEADLINE: Duration = Duration::from_secs(10);

/// A network namespace that is ready for a workload.
#[derive(Debug)]
pub(crate) struct Netns {
    /// Holds it.
    pub(crate) fd: OwnedFd,
    /// The workload's address.
    pub(crate) address: Ipv4Addr,
}

/// The network of one installation.
#[derive(Debug)]
pub(crate) struct Network {
    names: Names,
    subnet: Subnet,
    bridge: u32,
    netlink: rtnetlink::Handle,
    env: Env,
    record: PathBuf,
    state: Mutex<State>,
    wake: Notify,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    addresses: Addresses,
    recorded_next: u32,
    ready: VecDeque<Netns>,
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    subnet: Option<Subnet>,
    next: u32,
}

impl Network {
    /// Makes bridge, routes and packet filter where they are missing, and begins to fill the
    /// pool. `in_use` are the addresses of workloads that still run from before; everything else
    /// of this installation is removed.
    pub(crate) async fn open(
        names: Names,
        folder: &Path,
        env: Env,
        in_use: &[Ipv4Addr],
    ) -> io::Result<Arc<Self>> {
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let record = folder.join("network.json");
        let lock = host_lock()?;
        let (subnet, next) = settle(&names, &netlink, &record, in_use).await?;
        let bridge = link::bridge(&netlink, &names.bridge(), subnet).await?;
        link::unreachable(&netlink, subnet).await?;
        drop(lock);
        set_sysctls(&names.bridge())?;
        make_table(&names, subnet).await?;
        let mut addresses = Addresses::new(subnet, next);
        for address in in_use {
            addresses.adopt(*address);
        }
        let state = State { addresses, recorded_next: next, ready: VecDeque::new() };
        let network = Arc::new(Self {
            names,
            subnet,
            bridge,
            netlink,
            env,
            record,
            state: Mutex::new(state),
            wake: Notify::new(),
            tasks: Mutex::new(vec![connection]),
        });
        network.remove_unknown(in_use).await?;
        let filling = tokio::spawn(fill(Arc::downgrade(&network)));
        network.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(filling);
        network.wake.notify_one();
        Ok(network)
    }

    /// Its addresses.
    pub(crate) const fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Namespaces that wait.
    pub(crate) fn ready(&self) -> usize {
        self.state().ready.len()
    }

    /// Takes a waiting namespace, or makes one (10 ms).
    pub(crate) async fn take(&self) -> io::Result<Netns> {
        let waiting = self.state().ready.pop_front();
        self.wake.notify_one();
        match waiting {
            Some(netns) => Ok(netns),
            None => self.make().await,
        }
    }

    /// Gives a namespace back when nothing runs in it any more: its address is unreachable when
    /// this returns, and rests.
    pub(crate) async fn release(
        &self,
        address: Ipv4Addr,
        netns: Option<OwnedFd>,
    ) -> io::Result<()> {
        // The route first: while the namespace lives its kernel refuses connections at once.
        let done = link::no_route(&self.netlink, self.bridge, self.subnet, address).await;
        drop(netns);
        let now = self.env.now();
        self.state().addresses.release(address, now);
        done
    }

    /// Removes bridge, routes and packet filter. Workloads must be gone.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(1..) {
            task.abort();
        }
        self.state().ready.clear();
        self.remove_unknown(&[]).await?;
        link::remove(&self.netlink, self.bridge).await?;
        link::no_unreachable(&self.netlink, self.subnet).await?;
        remove_table(&self.names).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make(&self) -> io::Result<Netns> {
        let address = self.take_address()?;
        match self.prepare(address).await {
            Ok(fd) => Ok(Netns { fd, address }),
            Err(error) => {
                self.release(address, None).await.ok();
                Err(error)
            }
        }
    }

    fn take_address(&self) -> io::Result<Ipv4Addr> {
        let now = self.env.now();
        let mut state = self.state();
        let none = || io::Error::new(io::ErrorKind::QuotaExceeded, "no free address is left");
        let address = state.addresses.take(now).ok_or_else(none)?;
        let next = state.addresses.next();
        // Records ahead, also when the search went round.
        if next >= state.recorded_next || next + RECORD_AHEAD < state.recorded_next {
            state.recorded_next = next + RECORD_AHEAD;
            let record = Record { subnet: Some(self.subnet), next: state.recorded_next };
            drop(state);
            files::write_json(&self.record, &record)?;
        }
        Ok(address)
    }

    async fn prepare(&self, address: Ipv4Addr) -> io::Result<OwnedFd> {
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let netns = ns::new_netns()?;
            let connection = ns::in_netns(&netns, || {
                set_inner_sysctls()?;
                let rules = rules::guest_table(guest::PORT);
                program::feed_blocking("nft", &["-f", "-"], &rules, NFT_DEADLINE)?;
                let _context = runtime.enter();
                rtnetlink::new_connection()
            })?;
            Ok::<_, io::Error>((netns, connection))
        };
        let (netns, (connection, inside, _)) =
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        let connection = tokio::spawn(connection);
        let name = self.names.link(self.subnet.index(address).unwrap_or(0));
        let made = async {
            link::pair(&self.netlink, &name, self.bridge, netns.as_fd()).await?;
            link::inner_side(&inside, self.subnet, address).await?;
            link::route(&self.netlink, self.bridge, self.subnet, address).await
        };
        let made = made.await;
        connection.abort();
        made.map(|()| netns)
    }

    /// Removes links and routes of addresses that are not in use.
    async fn remove_unknown(&self, in_use: &[Ipv4Addr]) -> io::Result<()> {
        let index = |address: &Ipv4Addr| self.subnet.index(*address);
        let used: Vec<String> =
            in_use.iter().filter_map(index).map(|index| self.names.link(index)).collect();
        let prefix = self.names.link_prefix();
        for (index, name) in link::all(&self.netlink).await? {
            if name.starts_with(&prefix) && !used.contains(&name) {
                link::remove(&self.netlink, index).await?;
            }
        }
        for (index, net) in link::known(&self.netlink).await? {
            let is_route = index == self.bridge && net.prefix == 32;
            if is_route && net.addr != self.subnet.gateway() && !in_use.contains(&net.addr) {
                link::no_route(&self.netlink, self.bridge, self.subnet, net.addr).await?;
            }
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

/// Keeps the pool full, one namespace at a time: a burst of starts must not compete with several
/// refills for the cores.
async fn fill(network: std::sync::Weak<Network>) {
    loop {
        let Some(network) = network.upgrade() else { return };
        if network.ready() < READY {
            match network.make().await {
                Ok(netns) => {
                    network.state().ready.push_back(netns);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "the pool of network namespaces could not be filled");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            }
        }
        network.wake.notified().await;
    }
}

/// The installation's subnet: the recorded one while workloads use it or nothing else does.
async fn settle(
    names: &Names,
    netlink: &rtnetlink::Handle,
    record: &Path,
    in_use: &[Ipv4Addr],
) -> io::Result<(Subnet, u32)> {
    let recorded: Record = files::read_json(record)?.unwrap_or_default();
    if let Some(subnet) = recorded.subnet
        && !in_use.is_empty()
    {
        return Ok((subnet, recorded.next));
    }
    let ours = link::index(netlink, &names.bridge()).await?;
    if let (Some(subnet), Some(_)) = (recorded.subnet, ours) {
        return Ok((subnet, recorded.next));
    }
    let mut taken: Vec<Net> = link::known(netlink).await?.into_iter().map(|(_, net)| net).collect();
    taken.extend(crate::dns::host_resolvers().into_iter().filter_map(
        |address| match address.ip() {
            std::net::IpAddr::V4(address) => Some(Net::host(address)),
            std::net::IpAddr::V6(_) => None,
        },
    ));
    taken.extend(sweep::subnets_of_others(names)?.into_iter().map(Subnet::net));
    let own_unreachable = recorded.subnet.map(Subnet::net);
    taken.retain(|net| Some(*net) != own_unreachable);
    let seed = names
        .installation()
        .bytes()
        .rev()
        .fold(0, |sum: u32, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let none = || io::Error::new(io::ErrorKind::AddrInUse, "every subnet of 10.192.0.0/10 is used");
    let subnet = subnet::choose(recorded.subnet, seed, &taken).ok_or_else(none)?;
    let next = if recorded.subnet == Some(subnet) { recorded.next } else { 0 };
    files::write_json(record, &Record { subnet: Some(subnet), next })?;
    Ok((subnet, next))
}

/// Makes the packet filter, with a bound on connections where the kernel has it.
async fn make_table(names: &Names, subnet: Subnet) -> io::Result<()> {
    let rules = |bound| rules::host_table(&names.table(), &names.bridge(), subnet, bound);
    let bounded = program::feed("nft", &["-f", "-"], rules(Bound::Flows), NFT_DEADLINE).await;
    if let Err(error) = bounded {
        program::feed("nft", &["-f", "-"], rules(Bound::Nothing), NFT_DEADLINE).await?;
        tracing::warn!(%error, "the connections of a workload cannot be bounded here");
    }
    Ok(())
}

/// Whether this kernel can bound the connections of a workload. Changes nothing. Blocks.
pub(crate) fn can_bound_flows() -> bool {
    program::feed_blocking("nft", &["-c", "-f", "-"], &rules::counting_table(), NFT_DEADLINE)
        .is_ok()
}

/// Removes the packet filter of an installation.
pub(crate) async fn remove_table(names: &Names) -> io::Result<()> {
    let rules = rules::no_host_table(&names.table());
    program::feed("nft", &["-f", "-"], rules, NFT_DEADLINE).await
}

/// Held while a subnet is chosen and claimed.
fn host_lock() -> io::Result<OwnedFd> {
    fs_err::create_dir_all(RUN)?;
    let file = fs_err::File::create(Path::new(RUN).join("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file.into_parts().0.into())
}

/// Limits of the kernel that many workloads run into first; raised, never lowered. All of them
/// are charged to the user who made the user namespaces, so one workload could starve the others.
const RAISED: [(&str, u64); 3] = [
    ("fs/inotify/max_user_instances", 16_384),
    ("fs/inotify/max_user_watches", 1 << 20),
    ("kernel/pid_max", 1 << 22),
];

fn raise_limits() {
    for (name, least) in RAISED {
        let file = format!("/proc/sys/{name}");
        let now = fs_err::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        if now.is_some_and(|now: u64| now < least)
            && let Err(error) = fs_err::write(&file, least.to_string())
        {
            // Preflight tells the operator what to set.
            tracing::warn!(%error, "a limit of the kernel could not be raised");
        }
    }
}

fn set_sysctls(bridge: &str) -> io::Result<()> {
    raise_limits();
    let forward = "/proc/sys/net/ipv4/ip_forward";
    if fs_err::read_to_string(forward)?.trim() != "1" {
        fs_err::write(forward, "1")?;
    }
    // A machine without IPv6 has no such file, and nothing to switch off.
    let v6 = format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6");
    if Path::new(&v6).exists() { fs_err::write(v6, "1") } else { Ok(()) }
}

/// Run inside a new network namespace, before its `eth0` is there.
fn set_inner_sysctls() -> io::Result<()> {
    for (name, value) in [
        // Port 80 and ping need no capability.
        ("ipv4/ip_unprivileged_port_start", "0"),
        ("ipv4/ping_group_range", "0 2147483647"),
        // Lets the rule of `rules::guest_table` lead to the loopback address.
        ("ipv4/conf/all/route_localnet", "1"),
    ] {
        fs_err::write(format!("/proc/sys/net/{name}"), value)?;
    }
    for name in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        if Path::new(&file).exists() {
            fs_err::write(file, "1")?;
        }
    }
    Ok(())
}
