//! Links, addresses and routes by rtnetlink, each call idempotent.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_core::ErrorMessage,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute},
        route::{RouteAddress, RouteAttribute, RouteScope, RouteType},
    },
};

use super::{Net, Subnet};

/// Maps to the plain error number where the kernel gave one.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => {
            io::Error::from_raw_os_error(code.get().abs())
        }
        other => io::Error::other(other),
    }
}

/// `Ok` if it failed only because it is there already.
fn or_exists(result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match result.map_err(plain) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// `Ok` if it failed only because there is no such thing.
fn or_absent(result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match result.map_err(plain) {
        Err(error) if is_absent(&error) => Ok(()),
        result => result,
    }
}

fn is_absent(error: &io::Error) -> bool {
    [libc::ENODEV, libc::ESRCH, libc::ENOENT, libc::EADDRNOTAVAIL]
        .contains(&error.raw_os_error().unwrap_or(0))
}

/// The index of a link, if there is one of that name.
pub(crate) async fn index(netlink: &Handle, name: &str) -> io::Result<Option<u32>> {
    let found = netlink.link().get().match_name(name.to_owned()).execute().try_next().await;
    match found.map_err(plain) {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Index and name of every link.
pub(crate) async fn all(netlink: &Handle) -> io::Result<Vec<(u32, String)>> {
    let links: Vec<_> = netlink.link().get().execute().try_collect().await.map_err(plain)?;
    let name = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    };
    Ok(links
        .iter()
        .filter_map(|link| Some((link.header.index, link.attributes.iter().find_map(name)?)))
        .collect())
}

/// Removes a link; `Ok` if it is gone.
pub(crate) async fn remove(netlink: &Handle, index: u32) -> io::Result<()> {
    or_absent(netlink.link().del(index).execute().await)
}

/// Makes a bridge that holds the gateway's addresses and is up. Returns its index.
pub(crate) async fn bridge(netlink: &Handle, name: &str, subnet: Subnet) -> io::Result<u32> {
    or_exists(netlink.link().add(LinkBridge::new(name).build()).execute().await)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the bridge is not there");
    let index = index(netlink, name).await?.ok_or_else(missing)?;
    // Its own from the start: a bridge without one takes the lowest of its ports' and changes it
    // as they come and go, and whoever knew the old one sends into the void for up to a minute.
    let message = LinkUnspec::new_with_index(index).address(subnet.gateway_mac().into()).up();
    netlink.link().set(message.build()).execute().await.map_err(plain)?;
    // /32: no connected route, so an address without a workload is not looked for on the bridge.
    let gateway = IpAddr::V4(subnet.gateway());
    or_exists(netlink.address().add(index, gateway, 32).execute().await)?;
    Ok(index)
}

/// Sets a link up.
pub(crate) async fn up(netlink: &Handle, index: u32) -> io::Result<()> {
    let message = LinkUnspec::new_with_index(index).up().build();
    netlink.link().set(message).execute().await.map_err(plain)
}

/// The whole subnet is unreachable unless a workload has a route of its own.
pub(crate) async fn unreachable(netlink: &Handle, subnet: Subnet) -> io::Result<()> {
    or_exists(netlink.route().add(unreachable_route(subnet)).execute().await)
}

/// Undoes [`unreachable()`].
pub(crate) async fn no_unreachable(netlink: &Handle, subnet: Subnet) -> io::Result<()> {
    or_absent(netlink.route().del(unreachable_route(subnet)).execute().await)
}

fn unreachable_route(subnet: Subnet) -> rtnetlink::packet_route::route::RouteMessage {
    let Net { addr, prefix } = subnet.net();
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(addr, prefix)
        .kind(RouteType::Unreachable)
        .build()
}

fn host_route(
    bridge: u32,
    subnet: Subnet,
    address: Ipv4Addr,
) -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(bridge)
        .pref_source(subnet.gateway())
        .scope(RouteScope::Link)
        .build()
}

/// Makes one workload's address reachable.
pub(crate) async fn route(
    netlink: &Handle,
    bridge: u32,
    subnet: Subnet,
    address: Ipv4Addr,
) -> io::Result<()> {
    or_exists(netlink.route().add(host_route(bridge, subnet, address)).execute().await)
}

/// Makes it unreachable again.
pub(crate) async fn no_route(
    netlink: &Handle,
    bridge: u32,
    subnet: Subnet,
    address: Ipv4Addr,
) -> io::Result<()> {
    or_absent(netlink.route().del(host_route(bridge, subnet, address)).execute().await)
}

/// Every range that the machine has an address in or a route to, the default route left out,
/// with the index of its link (0 if none).
pub(crate) async fn known(netlink: &Handle) -> io::Result<Vec<(u32, Net)>> {
    let mut known = Vec::new();
    let mut addresses = netlink.address().get().execute();
    while let Some(message) = addresses.try_next().await.map_err(plain)? {
        for attribute in message.attributes {
            if let AddressAttribute::Address(IpAddr::V4(addr)) = attribute {
                known.push((message.header.index, Net { addr, prefix: message.header.prefix_len }));
            }
        }
    }
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut routes = netlink.route().get(all).execute();
    while let Some(message) = routes.try_next().await.map_err(plain)? {
        let prefix = message.header.destination_prefix_length;
        let index = message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        for attribute in message.attributes {
            if let RouteAttribute::Destination(RouteAddress::Inet(addr)) = attribute
                && prefix > 0
            {
                known.push((index.unwrap_or(0), Net { addr, prefix }));
            }
        }
    }
    Ok(known)
}

/// Makes a pair of links, one end `eth0` in the network namespace `inside`, the other `name` on
/// the bridge, isolated from the bridge's other ports. Returns the index of the outer end.
pub(crate) async fn pair(
    netlink: &Handle,
    name: &str,
    bridge: u32,
    inside: BorrowedFd<'_>,
) -> io::Result<u32> {
    let peer = LinkUnspec::new_with_name("eth0").setns_by_fd(inside.as_raw_fd()).build();
    let pair = LinkVeth::new(name, "eth0")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .controller(bridge)
        .up()
        .build();
    netlink.link().add(pair).execute().await.map_err(plain)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the link is not there");
    let index = index(netlink, name).await?.ok_or_else(missing)?;
    let port = LinkBridgePort::new(index).isolated(true).build();
    netlink.link().set_port(port).execute().await.map_err(plain)?;
    Ok(index)
}

/// Sets up a workload's own side: loopback, address, default route. `netlink` speaks to its
/// network namespace.
pub(crate) async fn inner_side(
    netlink: &Handle,
    subnet: Subnet,
    address: Ipv4Addr,
) -> io::Result<()> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "eth0 is not there");
    let ethernet = index(netlink, "eth0").await?.ok_or_else(missing)?;
    up(netlink, 1).await?;
    netlink.address().add(ethernet, IpAddr::V4(address), 32).execute().await.map_err(plain)?;
    up(netlink, ethernet).await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(subnet.gateway())
        .output_interface(ethernet)
        .onlink()
        .build();
    netlink.route().add(default).execute().await.map_err(plain)
}
