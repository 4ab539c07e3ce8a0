//! Who a visitor is, where proxies of the operator's own may stand between.
//!
//! Promises: a forwarded address counts only if every hop after it is trusted; whoever is not
//! trusted is known by the address that it connects from, whatever it says.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderValue};

/// Addresses that begin alike: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an address nor a network like 10.0.0.0/8")]
pub struct NetworkError;

impl Network {
    /// Whether an address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                prefix(self.addr, self.bits) == prefix(ip.to_canonical(), self.bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (addr, bits) = match text.split_once('/') {
            Some((addr, bits)) => (addr, Some(bits)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| NetworkError)?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NetworkError)?;
        if bits > most { Err(NetworkError) } else { Ok(Self { addr, bits }) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

/// The first `bits` of an address.
fn prefix(ip: IpAddr, bits: u8) -> u128 {
    let (number, width) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    number.checked_shr(width - u32::from(bits)).unwrap_or(0)
}

/// What one client is counted by: its address, or of IPv6 the /64 that one customer has.
pub(crate) fn household(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & (u128::MAX << 64)).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// Whether a peer may say for whom it asks.
pub(crate) fn is_trusted(trusted: &[Network], ip: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(ip))
}

/// The visitor: the right-most address that is not a trusted proxy's. What stands left of it,
/// or of something that is no address, is hearsay.
pub(crate) fn visitor(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut visitor = peer.to_canonical();
    let fields = headers.get_all("x-forwarded-for").iter().rev();
    let texts = fields.map(|field| field.to_str().unwrap_or_default());
    for hop in texts.flat_map(|text| text.rsplit(',')) {
        if !is_trusted(trusted, visitor) {
            break;
        }
        let Some(ip) = address(hop.trim()) else { break };
        visitor = ip.to_canonical();
    }
    visitor
}

/// Whether a trusted proxy says that it was asked over TLS.
pub(crate) fn says_https(headers: &HeaderMap) -> bool {
    let last = headers.get_all("x-forwarded-proto").iter().next_back();
    let text = last.map(HeaderValue::to_str).and_then(Result::ok).unwrap_or_default();
    text.rsplit(',').next().is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
}

/// An address as proxies write it, some with the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(ip, _)| ip);
    bare.unwrap_or(text)
        .parse()
        .ok()
        .or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_contain_what_begins_alike() {
        let cases = [
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.9.8.7", true),
            ("10.0.0.0/8", "a00::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("fd00::/8", "fdab::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::/0", "2001:db8::1", true),
        ];
        for (network, ip, is_in) in cases {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(ip.parse().unwrap()), is_in, "{network} {ip}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "::/129", "10.0.0/8", "host", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }

    #[test]
    fn the_visitor_is_the_right_most_address_that_is_not_trusted() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::1".parse().unwrap()];
        let cases: [(&str, &[&str], &str); 11] = [
            ("8.8.8.8", &["6.6.6.6"], "8.8.8.8"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6"], "6.6.6.6"),
            ("::ffff:10.0.0.1", &["6.6.6.6"], "6.6.6.6"),
            ("10.0.0.1", &["1.1.1.1, 6.6.6.6"], "6.6.6.6"),
            ("10.0.0.1", &["1.1.1.1, 6.6.6.6, 10.0.0.2,fd00::1"], "6.6.6.6"),
            ("10.0.0.1", &["1.1.1.1", "6.6.6.6"], "6.6.6.6"),
            ("10.0.0.1", &["6.6.6.6, junk"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, junk, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["6.6.6.6:5000"], "6.6.6.6"),
            ("10.0.0.1", &["[2001:db8::1]:80"], "2001:db8::1"),
        ];
        for (peer, fields, wanted) in cases {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-forwarded-for", field.parse().unwrap());
            }
            let got = visitor(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(got, wanted.parse::<IpAddr>().unwrap(), "{peer} {fields:?}");
        }
    }

    #[test]
    fn a_household_of_ipv6_is_one_client() {
        let of = |text: &str| household(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
    }
}
