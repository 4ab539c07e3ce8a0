//! HTTP/1.1 to guests on kept-alive connections.
//!
//! Promises: at most [`MAX_IDLE`] idle connections to one guest and [`MAX_IDLE_ALL`] in all; no
//! thread or timer for an idle one; a connection goes back only when its answer was read to the
//! end, so two calls never share one. Connections are kept by address and token and not for long,
//! so none outlives its workload to meet the next one at the same address.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use miosa_types::guest::{ByteStream, Endpoint, Error};
use tokio::{net::TcpStream, time::Instant};

/// Idle connections to one guest.
const MAX_IDLE: usize = 4;
/// Idle connections in all.
const MAX_IDLE_ALL: usize = 512;
/// Longest use of an idle connection; the guest keeps it twice as long.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Until a connection whose answer was just read is ready for the next request.
const SETTLE: Duration = Duration::from_millis(20);
/// For one connect. A guest is one hop away.
const CONNECT: Duration = Duration::from_secs(2);

/// Body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Sender = SendRequest<Body>;

/// Bytes in memory as a body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A stream as a body.
pub(crate) fn stream(bytes: ByteStream) -> Body {
    StreamBody::new(bytes.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Address and token: one workload.
type Key = (SocketAddr, Arc<str>);

/// Idle connections by guest. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<HashMap<Key, Vec<Idle>>>>);

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Idle {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < MAX_AGE
    }
}

impl fmt::Debug for Pool {
    /// The keys hold tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// Sends a request and returns the head of its answer, within `deadline`.
    ///
    /// An idle connection that the guest closed meanwhile is found out by `try_send_request`,
    /// which gives the request back unsent: it then goes out on a fresh one.
    pub(crate) async fn send(
        &self,
        guest: &Endpoint,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Answer, Error> {
        let key = (guest.addr, Arc::from(guest.token.expose()));
        let sent = tokio::time::timeout(deadline, self.send_now(&key, request)).await;
        let (sender, response) = sent.map_err(unavailable)??;
        Ok(Answer { response, lease: Lease { pool: self.clone(), key, sender: Some(sender) } })
    }

    async fn send_now(
        &self,
        key: &Key,
        mut request: Request<Body>,
    ) -> Result<(Sender, Response<Incoming>), Error> {
        while let Some(mut sender) = self.take(key) {
            if !matches!(tokio::time::timeout(SETTLE, sender.ready()).await, Ok(Ok(()))) {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(unavailable(error.into_error())),
                },
            }
        }
        let mut sender = connect(key.0).await?;
        let response = sender.send_request(request).await.map_err(unavailable)?;
        Ok((sender, response))
    }

    fn take(&self, key: &Key) -> Option<Sender> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_guest = all.get_mut(key)?;
        of_guest.retain(Idle::is_usable);
        let newest = of_guest.pop();
        if of_guest.is_empty() {
            all.remove(key);
        }
        newest.map(|idle| idle.sender)
    }

    fn give_back(&self, key: &Key, sender: Sender) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count: usize = all.values().map(Vec::len).sum();
        if count >= MAX_IDLE_ALL {
            all.retain(|_, of_guest| {
                of_guest.retain(Idle::is_usable);
                !of_guest.is_empty()
            });
            count = all.values().map(Vec::len).sum();
        }
        let idle = Idle { sender, since: Instant::now() };
        if count >= MAX_IDLE_ALL || !idle.is_usable() {
            return;
        }
        let of_guest = all.entry(key.clone()).or_default();
        if of_guest.len() < MAX_IDLE {
            of_guest.push(idle);
        }
    }
}

async fn connect(addr: SocketAddr) -> Result<Sender, Error> {
    let connecting = TcpStream::connect(addr);
    let stream = tokio::time::timeout(CONNECT, connecting)
        .await
        .map_err(unavailable)?
        .map_err(unavailable)?;
    stream.set_nodelay(true).map_err(unavailable)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unavailable)?;
    // Ends when the peer closes or the sender is dropped.
    tokio::spawn(connection);
    Ok(sender)
}

/// An answer and the connection that it comes on.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    lease: Lease,
}

struct Lease {
    pool: Pool,
    key: Key,
    sender: Option<Sender>,
}

impl fmt::Debug for Lease {
    /// The key holds a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("addr", &self.key.0).finish_non_exhaustive()
    }
}

impl Lease {
    fn end(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.give_back(&self.key, sender);
        }
    }
}

impl Answer {
    /// The whole body, at most `limit` bytes, within `deadline`.
    pub(crate) async fn bytes(mut self, limit: usize, deadline: Duration) -> Result<Bytes, Error> {
        let read = Limited::new(self.response.into_body(), limit).collect();
        let body = tokio::time::timeout(deadline, read).await.map_err(unavailable)?;
        let bytes = body.map_err(unavailable)?.to_bytes();
        self.lease.end();
        Ok(bytes)
    }

    /// The body as it comes. `idle` is the longest wait for the next piece, `None`: no limit.
    pub(crate) fn stream(self, idle: Option<Duration>) -> BodyStream {
        BodyStream {
            body: self.response.into_body(),
            lease: self.lease,
            idle,
            timer: idle.map(|idle| Box::pin(tokio::time::sleep(idle))),
        }
    }
}

/// See [`Answer::stream`].
#[derive(Debug)]
pub(crate) struct BodyStream {
    body: Incoming,
    lease: Lease,
    idle: Option<Duration>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Stream for BodyStream {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let idle = self.idle;
                    if let (Some(timer), Some(idle)) = (&mut self.timer, idle) {
                        timer.set(tokio::time::sleep(idle));
                    }
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    // Not `Other`: whoever parses what comes must tell a cut from nonsense.
                    let aborted = std::io::ErrorKind::ConnectionAborted;
                    return Poll::Ready(Some(Err(std::io::Error::new(aborted, error))));
                }
                Poll::Ready(None) => {
                    self.lease.end();
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(std::io::ErrorKind::TimedOut.into())));
        }
        Poll::Pending
    }
}

/// The guest does not answer; what it did is unknown.
pub(crate) fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Unavailable { source: source.into() }
}
