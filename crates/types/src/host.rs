//! The host grammar (design §6): which host names exist and what they mean.
//!
//! | host | what |
//! |---|---|
//! | `<slug>.<deployment domain>` | an app |
//! | `v<N>--<slug>.<deployment domain>` | one version of an app |
//! | `<port>-<sandbox slug>.sandbox.<preview domain>` | a port of a sandbox |
//! | `<tenant>.console.<base>` or the tenant's console domain | console and API |
//! | `<base>`, `localhost`, the listener's addresses | API |
//!
//! The edge looks up whole names in a table; the only thing it takes apart is the first label.

use std::{fmt, net::IpAddr};

use crate::name::Slug;

/// Domains of one installation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Domains {
    /// API and console; default `miosa.localhost`.
    pub base: String,
    /// Apps, previews and E2B hosts; another site than `base`. Default `apps.localhost`.
    pub apps: String,
    /// Port that visitors reach by HTTPS; written into URLs unless it is 443.
    pub https_port: u16,
}

impl Domains {
    /// The deployment domain of a tenant that has set none: `<tenant>.<apps>`.
    pub fn default_deployment_domain(&self, tenant: &str) -> String {
        format!("{tenant}.{}", self.apps)
    }

    /// `https://host[:port]`; the port is left out if it is 443.
    pub fn url(&self, host: &str) -> String {
        if self.https_port == 443 {
            format!("https://{host}")
        } else {
            format!("https://{host}:{}", self.https_port)
        }
    }
}

/// Host of an app.
pub fn app(slug: &Slug, deployment_domain: &str) -> String {
    format!("{slug}.{deployment_domain}")
}

/// Host of one version of an app. `number` counts from 1.
pub fn version(number: u32, slug: &Slug, deployment_domain: &str) -> String {
    format!("v{number}--{slug}.{deployment_domain}")
}

/// What stands behind the port label of a preview host: the key of a sandbox in the route table.
pub fn sandbox(slug: &Slug, preview_domain: &str) -> String {
    format!("{slug}.sandbox.{preview_domain}")
}

/// Host of a port of a sandbox.
pub fn preview(port: u16, slug: &Slug, preview_domain: &str) -> String {
    format!("{port}-{slug}.sandbox.{preview_domain}")
}

/// Whether a name is `high` or lies below it.
pub fn is_at_or_below(name: &str, high: &str) -> bool {
    name == high || name.strip_suffix(high).is_some_and(|rest| rest.ends_with('.'))
}

/// Splits `<port>-<rest>` into its parts; `None` if the host does not begin with a port.
///
/// The port has no leading zero and is not 0, so each port has one spelling.
pub fn split_preview(host: &str) -> Option<(u16, &str)> {
    let (digits, rest) = host.split_once('-')?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// The host of a request: lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address, brackets removed.
    Ip(IpAddr),
}

impl Host {
    /// Reads the `Host` field or `:authority` (RFC 9110 §7.2). `None` for anything that is not
    /// a plain name or address with an optional port.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            is_port_suffix(port).then_some(())?;
            return address.parse().ok().map(|ip: std::net::Ipv6Addr| Self::Ip(ip.into()));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return None;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.len() > 253 {
            return None;
        }
        if let Ok(ip) = name.parse::<std::net::Ipv4Addr>() {
            return Some(Self::Ip(ip.into()));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        name.split('.').all(is_label).then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

fn is_port_suffix(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_written_as_the_design_has_them() {
        let slug = Slug::parse("shop").unwrap();
        assert_eq!(app(&slug, "cliniciq.localhost"), "shop.cliniciq.localhost");
        assert_eq!(version(3, &slug, "cliniciq.localhost"), "v3--shop.cliniciq.localhost");
        assert_eq!(preview(5173, &slug, "apps.localhost"), "5173-shop.sandbox.apps.localhost");
        let domains = Domains { base: "b".into(), apps: "a.b".into(), https_port: 8443 };
        assert_eq!(domains.url("x.y"), "https://x.y:8443");
        assert_eq!(Domains { https_port: 443, ..domains }.url("x.y"), "https://x.y");
    }

    #[test]
    fn hostile_hosts_are_no_hosts() {
        let name = |text: &str| Some(Host::Name(text.to_owned()));
        assert_eq!(Host::parse("Shop.Example.COM:8443"), name("shop.example.com"));
        assert_eq!(Host::parse("a.b."), name("a.b"));
        assert_eq!(Host::parse("127.0.0.1:80"), Some(Host::Ip([127, 0, 0, 1].into())));
        assert_eq!(Host::parse("[::1]:80"), Some(Host::Ip("::1".parse().unwrap())));
        for bad in ["", ".", "a..b", "a b", "a/b", "a@b", "a:99999", "a:x", "[::1", "ä.b", "a\0b"]
        {
            assert_eq!(Host::parse(bad), None, "`{bad}` passed");
        }
    }

    proptest! {
        #[test]
        fn a_preview_host_is_read_back(port in 1..=u16::MAX, slug in "[a-z0-9]{12}") {
            let slug = Slug::parse(&slug).unwrap();
            let host = preview(port, &slug, "apps.localhost");
            let key = sandbox(&slug, "apps.localhost");
            prop_assert_eq!(split_preview(&host), Some((port, key.as_str())));
        }

        #[test]
        fn no_text_breaks_the_parsers(text in "\\PC*") {
            let _ = (Host::parse(&text), split_preview(&text));
        }
    }
}
