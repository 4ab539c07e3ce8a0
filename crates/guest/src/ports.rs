//! `GET /ports`: who listens on which TCP port.
//!
//! Source: `proc_pid_net(5)` for `/proc/net/tcp`; state 0A is listening.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::{Value, json};

use crate::{error::Error, state::State};

/// Sockets that are told at most.
const MAX_PORTS: usize = 1024;

#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Listening sockets, `own_port` left out, with the process that holds each if it can be told.
pub(crate) async fn list(state: &State, own_port: u16) -> Result<Value, Error> {
    let mut listeners = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // One of them is missing where that protocol is off.
        let table = fs::read_to_string(file).unwrap_or_default();
        listeners.extend(table.lines().filter_map(parse_line));
    }
    listeners.retain(|listener| listener.port != own_port);
    listeners.truncate(MAX_PORTS);
    // Whose descriptors we may see depends on whose rights we have, the superuser's included.
    let mut owners = tokio::task::spawn_blocking(owners).await.unwrap_or_default();
    let user = state.user(None)?;
    owners.extend(state.on_files(&user, || Ok(self::owners())).await.unwrap_or_default());
    let ports: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let owner = owners.get(&listener.inode);
            json!({
                "address": listener.address.to_string(),
                "port": listener.port,
                "pid": owner.map(|(pid, _)| pid),
                "process": owner.map(|(_, name)| name),
            })
        })
        .collect();
    Ok(Value::Array(ports))
}

/// A line of the table if it is of a listening socket.
fn parse_line(line: &str) -> Option<Listener> {
    let fields: Vec<_> = line.split_whitespace().collect();
    if *fields.get(3)? != "0A" {
        return None;
    }
    let (address, port) = fields[1].split_once(':')?;
    Some(Listener {
        address: parse_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// Words of 32 bits in hexadecimal, each in the machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..hex.len() / 8)
        .map(|i| u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    match words[..] {
        [word] => Some(Ipv4Addr::from(word).into()),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [a, b, c, d].concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Process by socket inode, as far as this thread may look.
fn owners() -> HashMap<u64, (u32, String)> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                owners.insert(inode, (pid, name.trim_end().to_owned()));
            }
        }
    }
    owners
}

#[cfg(test)]
#[test]
fn reads_the_kernel_s_table() {
    let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0";
    let expected = Listener { address: [127, 0, 0, 1].into(), port: 8080, inode: 4242 };
    assert_eq!(parse_line(line), Some(expected));
    assert_eq!(parse_line(&line.replace(" 0A ", " 01 ")), None);
    assert_eq!(parse_line("  sl  local_address rem_address   st"), None);
    let any = parse_address("00000000000000000000000000000000");
    assert_eq!(any, Some(IpAddr::from([0_u8; 16])));
    let loopback = parse_address("00000000000000000000000001000000");
    assert_eq!(loopback, Some("::1".parse().unwrap()));
}
