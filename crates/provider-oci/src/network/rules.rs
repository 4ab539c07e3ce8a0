//! Packet filter rules as text for the `nft` program. Pure.
//!
//! Promises: default deny. What a workload sends reaches the DNS forwarder on the gateway and
//! the public Internet; not the host, not a neighbour (not by way of the gateway either), no
//! private range, no metadata address, nothing by IPv6. Documentation ranges are not denied.
//! A frame to anyone but the bridge is dropped before the kernel remembers its connection: by
//! `br_netfilter` it would do so without passing the bound of [`FLOWS`].

use super::Subnet;

/// Connections that one workload may have at a time, those the kernel still remembers included.
/// The kernel's table is everyone's on the machine and holds 262,144 by default.
const FLOWS: u32 = 4096;

/// Whether the kernel can bound the connections of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It can.
    Flows,
    /// It lacks `ct count` (`CONFIG_NFT_CONNLIMIT`).
    Nothing,
}

/// Makes and replaces the table of one installation.
pub(crate) fn host_table(table: &str, bridge: &str, subnet: Subnet, bound: Bound) -> String {
    let gateway = subnet.gateway();
    let mac = subnet.gateway_mac().map(|byte| format!("{byte:02x}")).join(":");
    let count = match bound {
        Bound::Flows => format!(
            r#"iifname "{bridge}" ct state new add @flows {{ ip saddr ct count over {FLOWS} }} drop"#
        ),
        Bound::Nothing => String::new(),
    };
    format!(
        r#"table inet {table}
delete table inet {table}
table inet {table} {{
  set private4 {{
    type ipv4_addr
    flags interval
    elements = {{ 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3 }}
  }}
  set flows {{
    type ipv4_addr
    size 65536
    flags dynamic
  }}
  chain arriving {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{bridge}" ether daddr != {mac} drop
  }}
  chain forwarded {{
    type filter hook forward priority 0; policy accept;
    iifname "{bridge}" meta nfproto ipv6 drop
    iifname "{bridge}" ip saddr != {subnet} drop
    iifname "{bridge}" ip daddr @private4 drop
    iifname "{bridge}" oifname "{bridge}" drop
    {count}
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop
  }}
  chain received {{
    type filter hook input priority 0; policy accept;
    iifname "{bridge}" ct state established,related accept
    {count}
    iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} udp dport 53 accept
    iifname "{bridge}" ip saddr {subnet} ip daddr {gateway} tcp dport 53 accept
    iifname "{bridge}" drop
  }}
  chain translated {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"#
    )
}

/// Removes it; no error if it is not there.
pub(crate) fn no_host_table(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// A table that is never made, to ask the kernel with `nft -c` whether it can count.
pub(crate) fn counting_table() -> String {
    host_table("wl_probe", "none", Subnet::FIRST, Bound::Flows)
}

/// Inside a workload's network namespace: whatever comes from outside is sent to the loopback
/// address, so that an app that listens on `localhost` only is reached, and one that is dead
/// refuses at once. The guest listens on the real address and is left alone.
pub(crate) fn guest_table(guest_port: u16) -> String {
    format!(
        r#"table ip loopback {{
  chain arriving {{
    type nat hook prerouting priority -100; policy accept;
    iifname "eth0" tcp dport != {guest_port} dnat to 127.0.0.1
  }}
}}
"#
    )
}
