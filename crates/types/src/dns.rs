//! Asking the DNS about names that tenants bring.
//!
//! `net` implements [`Dns`]; control decides what an answer means. "There is no such record" is
//! an answer; silence and a server's failure are not, and are kept apart from it, because a
//! domain must not be lost to a resolver that is down.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;

/// The DNS could not say: no resolver answered in time, or one said that it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Failed {
    /// For the owner of the domain.
    pub why: String,
}

/// Looks names up. Names are absolute, in lower case, without a trailing dot, both ways.
#[async_trait]
pub trait Dns: std::fmt::Debug + Send + Sync {
    /// The texts at a name; none if it has none. Never takes longer than `timeout`.
    async fn texts(&self, name: &str, timeout: Duration) -> Result<Vec<String>, Failed>;

    /// The name that this one is an alias of (one step, RFC 1034 §3.6.2).
    async fn alias(&self, name: &str, timeout: Duration) -> Result<Option<String>, Failed>;

    /// The addresses of a name, aliases followed.
    async fn addresses(&self, name: &str, timeout: Duration) -> Result<Vec<IpAddr>, Failed>;
}
