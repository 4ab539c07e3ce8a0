//! The listening sockets: one for each core and address, bound once.
//!
//! All are `SO_REUSEPORT` sockets of the same port, so that each runtime of the edge accepts from
//! its own queue. They stay open for the life of the supervisor and are handed to every edge.

use std::{
    net::{SocketAddr, TcpListener},
    thread::available_parallelism,
};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use crate::settings::Settings;

/// Connections that may wait to be accepted, for each socket. The kernel caps it
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) http: Vec<TcpListener>,
    pub(crate) https: Vec<TcpListener>,
    pub(crate) admin: TcpListener,
}

impl Sockets {
    pub(super) fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let count = available_parallelism().map_or(1, Into::into);
        Ok(Self {
            http: listen(settings.http, count, "--http")?,
            https: listen(settings.https, count, "--https")?,
            admin: listen(settings.admin, 1, "--admin")?.remove(0),
        })
    }

    pub(crate) fn http_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.http[0].local_addr()?)
    }

    pub(crate) fn https_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.https[0].local_addr()?)
    }

    pub(crate) fn admin_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.admin.local_addr()?)
    }
}

fn listen(mut address: SocketAddr, count: usize, flag: &str) -> anyhow::Result<Vec<TcpListener>> {
    // Taken without SO_REUSEPORT first: another program of ours on the same port must be an
    // error, not a silent share of the visitors.
    let is_fixed = address.port() != 0;
    if is_fixed {
        drop(
            socket(address, false)
                .and_then(|s| bind(s, address))
                .with_context(|| in_use(address, flag))?,
        );
    }
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = socket(address, true)
            .and_then(|s| bind(s, address))
            .with_context(|| in_use(address, flag))?;
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

fn in_use(address: SocketAddr, flag: &str) -> String {
    format!("cannot listen on {address}; choose another address with {flag}")
}

fn socket(address: SocketAddr, is_shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

fn bind(socket: Socket, address: SocketAddr) -> std::io::Result<TcpListener> {
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_port_and_a_taken_port_is_an_error() {
        let sockets = listen(([127, 0, 0, 1], 0).into(), 3, "--http").unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|s| s.local_addr().unwrap() == address));
        let error = format!("{:#}", listen(address, 1, "--http").unwrap_err());
        assert!(error.contains("--http") && error.contains("in use"), "{error}");
    }
}
