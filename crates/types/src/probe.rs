//! Asking an app whether it answers.
//!
//! `net` implements [`Probe`]; the monitor decides what an answer means. A probe is one HTTP/1.1
//! `GET` on a connection of its own, never retried.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;

/// What to ask, and how long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address of the app.
    pub addr: SocketAddr,
    /// `Host` header.
    pub host: String,
    /// Path with query, beginning with `/`.
    pub path: String,
    /// For the whole: connect, send, first byte of the answer.
    pub timeout: Duration,
}

/// What came back. Kinds are kept apart, because a refused connection, silence and a wrong answer
/// have different causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status code, whatever it is.
    Answered(u16),
    /// Nobody listens there.
    Refused,
    /// Neither an answer nor a refusal within the time.
    TimedOut,
    /// The address cannot be reached, or what came back is not HTTP.
    Broken,
}

/// Sends probes.
#[async_trait]
pub trait Probe: std::fmt::Debug + Send + Sync {
    /// Asks once. Never takes longer than `target.timeout`.
    async fn probe(&self, target: &Target) -> Outcome;
}
