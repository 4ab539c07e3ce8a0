//! What an edge is told at start: where its folder and its sockets are, and its limits.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use miosa_types::{EdgeId, Env};

pub use crate::peers::{Network, NetworkError};
use crate::privileges;

/// Configuration of one edge.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Its own folder: the last table and the blobs. Made if it is missing.
    pub dir: PathBuf,
    /// Unix socket on which control serves the edge link.
    pub link_socket: PathBuf,
    /// Unix socket on which control serves the API (HTTP/1.1).
    pub api_socket: PathBuf,
    /// Name of this edge towards control; stable over restarts.
    pub edge: EdgeId,
    /// Time and randomness.
    pub env: Env,
    /// Proxies of the operator's own that stand in front: they may say for whom they ask.
    pub trusted_proxies: Vec<Network>,
    /// Bounds.
    pub limits: Limits,
}

/// Listening sockets, one per runtime in each list. The supervisor binds them with
/// `SO_REUSEPORT` and keeps them open, so no accept queue is ever lost.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Plain HTTP.
    pub http: Vec<TcpListener>,
    /// HTTPS.
    pub https: Vec<TcpListener>,
}

/// Bounds of one edge; the defaults are what production uses, tests shorten them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// From accept to the first byte of the first request, the TLS handshake included; on HTTP/2
    /// to the first request.
    pub fresh: Duration,
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// How long a connection may stay between two requests.
    pub idle: Duration,
    /// How long a client may not take a byte that we have for it.
    pub write: Duration,
    /// How long a request body may stand still.
    pub body_idle: Duration,
    /// Until the first byte of an answer, after which the visitor gets 504.
    pub first_byte: Duration,
    /// How long the beginning of an answer of unknown length is kept back, so that a short one can
    /// be asked for again if it breaks off: a stream is late by this much at most.
    pub keep_back: Duration,
    /// Until a replica that has not begun to answer is reported as suspect.
    pub suspect: Duration,
    /// For one connect to a replica.
    pub connect: Duration,
    /// How long an idle upstream connection is kept.
    pub upstream_idle: Duration,
    /// How long a document navigation is held before it gets the page that reloads itself.
    pub navigation_hold: Duration,
    /// How long an API call is held while control is away.
    pub api_hold: Duration,
    /// Until the API begins to answer a question about its health, after which the caller gets 503.
    pub api_health: Duration,
    /// The same for other questions that change nothing.
    pub api_question: Duration,
    /// How long a request for a port that is not up is held (documents get the page at once).
    pub preview_hold: Duration,
    /// From one scrub of all blobs to the next, about.
    pub scrub_every: Duration,
    /// Bytes a second that a scrub reads.
    pub scrub_rate: u64,
    /// How long a shutdown may last.
    pub drain: Duration,
    /// How long an idle connection is still served after the shutdown began.
    pub lame_duck: Duration,
    /// Client connections of the whole edge, tunnels included; a quarter of them for one address.
    /// By default half of the files that may be open: each may need a connection to an app.
    pub connections: usize,
    /// Held requests of one app. Once half of them are taken, no client address gets more than
    /// half.
    pub held_per_app: usize,
    /// Bytes of held requests (header fields) of one app.
    pub held_bytes_per_app: usize,
    /// Held requests of the whole edge.
    pub held: usize,
    /// Bytes of held requests of the whole edge.
    pub held_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            fresh: Duration::from_secs(10),
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write: Duration::from_mins(1),
            body_idle: Duration::from_secs(30),
            first_byte: Duration::from_mins(5),
            keep_back: Duration::from_millis(50),
            suspect: Duration::from_secs(1),
            connect: Duration::from_millis(500),
            upstream_idle: Duration::from_secs(4),
            navigation_hold: Duration::from_secs(5),
            api_hold: Duration::from_secs(5),
            api_health: Duration::from_secs(5),
            api_question: Duration::from_secs(30),
            preview_hold: Duration::from_secs(5),
            scrub_every: Duration::from_hours(24),
            scrub_rate: 8 << 20,
            drain: Duration::from_secs(10),
            lame_duck: Duration::from_secs(3),
            connections: connections(privileges::open_files()),
            held_per_app: 1_000,
            held_bytes_per_app: 16 << 20,
            held: 20_000,
            held_bytes: 256 << 20,
        }
    }
}

/// Client connections by the number of files that may be open; `None`: any number.
fn connections(open_files: Option<u64>) -> usize {
    // What an edge has memory for.
    const MOST: usize = 32 * 1024;
    let files = open_files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    (files / 2).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_what_they_need() {
        for (files, wanted) in
            [(Some(20_000), 10_000), (Some(1_024), 512), (Some(0), 1), (None, 32_768)]
        {
            assert_eq!(connections(files), wanted, "{files:?}");
        }
    }
}
