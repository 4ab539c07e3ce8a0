//! One attempt to get an answer from one address.
//!
//! It never decides whether to try again; it tells the caller exactly how far it came. A small
//! answer to GET or HEAD is held until it is complete, so that a death in its middle can still be
//! made good; anything else streams.

use std::{net::SocketAddr, time::Duration};

use http::{Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    headers,
    pool::{Lease, PoolKey, YOUNG},
    upstream::{ConnectError, Link, SendError},
    visit::Visit,
};

/// Answers up to this length are held until they are complete.
const HOLD_BYTES: usize = 64 * 1024;

/// How far an attempt came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection: eject the address, any method may go elsewhere.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// The peer got nothing. `fresh`: over a new connection, so the peer itself is at fault.
    #[error("nothing was sent")]
    Unsent {
        /// Whether the connection was new.
        fresh: bool,
    },
    /// The peer may have executed it.
    #[error("no answer")]
    Written,
    /// Nothing came within the limit; the peer still works on it.
    #[error("too slow")]
    TooSlow,
    /// It switched to a protocol that nobody asked for.
    #[error("an upgrade that nobody asked for")]
    Unasked,
    /// The visitor's own body broke off.
    #[error("the request body broke off")]
    Client,
}

/// Where an attempt goes.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) key: PoolKey,
    /// Cancelled when the address leaves the table.
    pub(crate) removed: &'a CancellationToken,
    /// Use no connection of the pool.
    pub(crate) fresh: bool,
}

/// Sends the request and gives back an answer that is ready for the visitor. `slow` is called
/// once if the first byte is late.
pub(crate) async fn attempt(
    visit: &Visit,
    peer: Peer<'_>,
    slow: impl FnOnce(),
) -> Result<Response<Body>, Failure> {
    let (link, is_fresh) = open(visit, &peer).await?;
    let mut lease = Lease {
        pool: visit.worker.pool.clone(),
        key: peer.key,
        removed: peer.removed.clone(),
        link: Some(link),
    };
    // Just filled.
    let Some(link) = lease.link.as_mut() else { return Err(Failure::Written) };
    let response =
        first_byte(visit, link, peer.removed, slow).await.map_err(|failure| match failure {
            _ if visit.replay.as_ref().is_some_and(crate::replay::Replay::has_failed) => {
                Failure::Client
            }
            Failure::Unsent { .. } => Failure::Unsent { fresh: is_fresh },
            other => other,
        })?;
    finish(visit, response, lease).await
}

async fn open(visit: &Visit, peer: &Peer<'_>) -> Result<(Link, bool), Failure> {
    let limits = &visit.shared().config.limits;
    if !peer.fresh {
        // What must not be sent twice goes only over a connection whose peer is surely awake.
        let oldest = if visit.is_safe() { limits.upstream_idle } else { YOUNG };
        if let Some(link) = visit.worker.pool.take(&peer.key, oldest) {
            return Ok((link, false));
        }
    }
    let link = connect(peer.key.addr, limits.connect).await.map_err(Failure::Connect)?;
    Ok((link, true))
}

/// A SYN that a full accept queue dropped is sent again after 1 s: a time-out is tried again
/// once before it counts.
pub(crate) async fn connect(addr: SocketAddr, timeout: Duration) -> Result<Link, ConnectError> {
    match Link::tcp(addr, timeout).await {
        Err(ConnectError::TimedOut) => Link::tcp(addr, timeout).await,
        other => other,
    }
}

async fn first_byte(
    visit: &Visit,
    link: &mut Link,
    removed: &CancellationToken,
    slow: impl FnOnce(),
) -> Result<Response<Incoming>, Failure> {
    let limits = &visit.shared().config.limits;
    let began = Instant::now();
    let mut sending = std::pin::pin!(link.send(visit.request()));
    let mut slow = Some(slow);
    let mut deadline = began + limits.suspect;
    loop {
        tokio::select! {
            biased;
            result = &mut sending => return result.map_err(|error| match error {
                SendError::Unsent(_) => Failure::Unsent { fresh: false },
                SendError::Written(_) => Failure::Written,
            }),
            // It was taken out of service while it kept us waiting: do not wait for its end.
            () = removed.cancelled(), if visit.is_safe() => return Err(Failure::Written),
            () = tokio::time::sleep_until(deadline) => {
                let Some(slow) = slow.take() else { return Err(Failure::TooSlow) };
                slow();
                deadline = began + limits.first_byte;
            }
        }
    }
}

async fn finish(
    visit: &Visit,
    response: Response<Incoming>,
    lease: Lease,
) -> Result<Response<Body>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::Unasked);
    }
    let is_small = is_small(visit, &response);
    let (mut parts, incoming) = response.into_parts();
    headers::incoming(&mut parts.headers);
    // An app that speaks HTTP/1.0 must not lower the visitor's connection.
    parts.version = http::Version::HTTP_11;
    if !is_small {
        return Ok(Response::from_parts(parts, Body::incoming(incoming).with_guard(lease)));
    }
    let limit = visit.shared().config.limits.first_byte;
    let collected = tokio::time::timeout(limit, Limited::new(incoming, HOLD_BYTES).collect());
    let bytes = match collected.await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(_)) => return Err(Failure::Written),
        Err(_) => return Err(Failure::TooSlow),
    };
    drop(lease);
    Ok(Response::from_parts(parts, Body::full(bytes)))
}

fn is_small(visit: &Visit, response: &Response<Incoming>) -> bool {
    let fields = response.headers();
    let length = fields.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|text| text.parse::<usize>().ok());
    let is_stream = fields
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    matches!(visit.parts.method, Method::GET | Method::HEAD)
        && !is_stream
        && length.is_some_and(|length| length <= HOLD_BYTES)
}
