//! One attempt to get an answer from one address.
//!
//! It never decides whether to try again; it tells the caller exactly how far it came. A small
//! answer to GET or HEAD is kept back until it is complete (`keep`), so that a death in its middle
//! can still be made good; anything else streams.

use std::{net::SocketAddr, time::Duration};

use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    headers,
    keep::{self, Keep},
    pool::{Lease, PoolKey, YOUNG},
    upstream::{ConnectError, Link, SendError},
    visit::Visit,
};

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
    let limits = &visit.shared().config.limits;
    let keep = keep::plan(&visit.parts.method, response.headers());
    let (mut parts, incoming) = response.into_parts();
    headers::incoming(&mut parts.headers);
    // An app that speaks HTTP/1.0 must not lower the visitor's connection.
    parts.version = http::Version::HTTP_11;
    let body = match keep {
        Keep::Nothing => Body::incoming(incoming).with_guard(lease),
        Keep::Beginning if incoming.is_end_stream() => Body::empty(),
        Keep::Beginning => {
            let kept = keep::beginning(incoming, Instant::now() + limits.keep_back).await;
            let kept = kept.map_err(|_| Failure::Written)?;
            // One that is here whole needs the connection no longer.
            if kept.size_hint().exact().is_some() { kept } else { kept.with_guard(lease) }
        }
        Keep::Whole => {
            let whole = Limited::new(incoming, keep::MOST).collect();
            match tokio::time::timeout(limits.first_byte, whole).await {
                Ok(Ok(collected)) => Body::full(collected.to_bytes()),
                Ok(Err(_)) => return Err(Failure::Written),
                Err(_) => return Err(Failure::TooSlow),
            }
        }
    };
    Ok(Response::from_parts(parts, body))
}
