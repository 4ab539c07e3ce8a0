//! One HTTP/1.1 connection to something behind the edge, and what a failure on it means.
//!
//! It promises to tell a request that was never sent from one that may have been executed: the
//! only thing that decides whether sending again is safe. hyper gives a message back only if its
//! head was never encoded; a first write that fails gives nothing. So the connection counts the
//! bytes that its socket accepted: none since the request began means never sent.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    time::Instant,
};

use crate::body::{Body, BodyError};

/// Header fields that an answer may have, and the bytes they may take.
const MAX_HEADERS: usize = 256;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens, or the address is gone: eject it.
    #[error("the connection was refused")]
    Refused(#[source] io::Error),
    /// No answer. A full accept queue looks like this too: try once more before ejecting.
    #[error("the connection timed out")]
    TimedOut,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The peer got nothing: any method may be sent again.
    #[error("the request was not sent")]
    Unsent(#[source] BodyError),
    /// The peer may have executed it.
    #[error("the connection ended without an answer")]
    Written(#[source] BodyError),
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Link {
    sender: http1::SendRequest<Body>,
    written: Arc<AtomicU64>,
    /// When it was opened or last given back.
    pub(crate) idle_since: Instant,
    /// What the peer announced by `Keep-Alive: timeout=`.
    pub(crate) keep_alive: Option<Duration>,
}

impl Link {
    /// Connects over TCP.
    pub(crate) async fn tcp(addr: SocketAddr, timeout: Duration) -> Result<Self, ConnectError> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(addr))
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Refused)?;
        // Small writes must not wait for the peer's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        Self::open(stream).await
    }

    /// Connects to a Unix socket.
    pub(crate) async fn unix(path: &Path) -> Result<Self, ConnectError> {
        Self::open(UnixStream::connect(path).await.map_err(ConnectError::Refused)?).await
    }

    async fn open<S>(stream: S) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let written = Arc::new(AtomicU64::new(0));
        let io = TokioIo::new(Counted { stream, written: written.clone() });
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(8 * MAX_HEADER_BYTES)
            .max_header_size(MAX_HEADER_BYTES)
            .handshake(io)
            .await
            .map_err(|error| ConnectError::Refused(io::Error::other(error)))?;
        // Polled while idle as well, so that the peer's FIN is seen.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(Self { sender, written, idle_since: Instant::now(), keep_alive: None })
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        let before = self.written.load(Relaxed);
        match self.sender.try_send_request(request).await {
            Ok(response) => {
                self.keep_alive = keep_alive(&response);
                Ok(response)
            }
            Err(mut error) => {
                let is_unsent =
                    error.take_message().is_some() || self.written.load(Relaxed) == before;
                let cause = error.into_error().into();
                Err(if is_unsent { SendError::Unsent(cause) } else { SendError::Written(cause) })
            }
        }
    }

    /// Whether the next request can be sent at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it can never be used again.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the answer under way has been read; false if the connection ended.
    pub(crate) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

/// `Keep-Alive: timeout=5` (RFC 2068 §19.7.1).
fn keep_alive<B>(response: &Response<B>) -> Option<Duration> {
    let text = response.headers().get("keep-alive")?.to_str().ok()?;
    let seconds = text.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Counts the bytes that the socket accepted.
struct Counted<S> {
    stream: S,
    written: Arc<AtomicU64>,
}

impl<S> Counted<S> {
    fn count(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = result {
            self.written.fetch_add(*count as u64, Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
