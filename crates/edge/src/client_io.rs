//! The socket of a visitor, with the time limits that hyper does not have.
//!
//! - A new connection must begin a request within 10 s, the TLS handshake included.
//! - A head must be complete within 10 s of its first byte. hyper's own limit also runs while
//!   the connection is idle, so it can only bound idleness.
//! - A client that takes no byte of an answer for too long is cut off.
//! - The bytes of the head are kept until the request is seen: hyper hides that a request had
//!   both `Content-Length` and `Transfer-Encoding`, and we refuse such a one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::{config::Limits, metrics::Traffic};

/// Bytes of a head that are kept; a longer head is refused by hyper.
const MAX_HEAD: usize = 40 * 1024;

/// What the socket and the requests on it know of each other.
#[derive(Debug)]
pub(crate) struct ConnState {
    accepted: Instant,
    /// When the last answer ended, in milliseconds after `accepted`.
    ended: AtomicU64,
    /// Requests whose answer has not ended.
    active: AtomicUsize,
    /// Requests seen.
    seen: AtomicU64,
    /// The connection speaks something else than HTTP by now.
    tunnel: AtomicBool,
    head: Mutex<Vec<u8>>,
    traffic: Traffic,
}

impl Default for ConnState {
    fn default() -> Self {
        Self::counted_in(&Traffic::default())
    }
}

impl ConnState {
    /// Of a new connection, whose bytes are counted in `traffic`.
    pub(crate) fn counted_in(traffic: &Traffic) -> Self {
        Self {
            accepted: Instant::now(),
            ended: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            tunnel: AtomicBool::new(false),
            head: Mutex::default(),
            traffic: traffic.clone(),
        }
    }

    /// A request was read; its answer has ended when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Relaxed);
        self.seen.fetch_add(1, Relaxed);
        Busy(self.clone())
    }

    /// The bytes that were read for the head of this request, and possibly more.
    pub(crate) fn take_head(&self) -> Vec<u8> {
        std::mem::take(&mut self.head.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn become_tunnel(&self) {
        self.tunnel.store(true, Relaxed);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.active.load(Relaxed) == 0
    }

    /// Since when nothing is under way; `None`: something is, or it is a tunnel.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.is_idle() && !self.tunnel.load(Relaxed);
        is_idle.then(|| self.accepted + Duration::from_millis(self.ended.load(Relaxed)))
    }

    /// Changes with every request.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    fn read(&self, bytes: &[u8]) {
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_HEAD.saturating_sub(head.len());
        head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// A request under way on a client connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<ConnState>);

impl Drop for Busy {
    fn drop(&mut self) {
        let after = self.0.accepted.elapsed().as_millis();
        self.0.ended.store(u64::try_from(after).unwrap_or(u64::MAX), Relaxed);
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ClientIo<S> {
    stream: S,
    state: Arc<ConnState>,
    is_h2: bool,
    header: Duration,
    write: Duration,
    /// No byte of a request has come yet.
    is_fresh: bool,
    /// Deadline of the head that is being read, or waited for on a new connection, and the requests seen when it began.
    head_deadline: Option<(Instant, u64)>,
    write_deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientIo<S> {
    pub(crate) fn new(stream: S, state: Arc<ConnState>, is_h2: bool, limits: &Limits) -> Self {
        Self {
            head_deadline: Some((state.accepted + limits.fresh, 0)),
            is_fresh: true,
            stream,
            state,
            is_h2,
            header: limits.header,
            write: limits.write,
            write_deadline: None,
            timer: None,
        }
    }

    /// Whether the head that is being read has a deadline, which may have moved.
    fn head_deadline(&self) -> Option<Instant> {
        let (deadline, seen) = self.head_deadline?;
        (self.state.is_idle() && seen == self.state.seen()).then_some(deadline)
    }

    fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn saw(&mut self, bytes: &[u8]) {
        if self.is_h2 || self.state.tunnel.load(Relaxed) || !self.state.is_idle() {
            return;
        }
        self.state.read(bytes);
        if std::mem::take(&mut self.is_fresh) {
            self.head_deadline = None;
        }
        if self.head_deadline().is_none() {
            self.head_deadline = Some((Instant::now() + self.header, self.state.seen()));
        }
    }

    fn sent(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = result {
            self.state.traffic.sent.inc_by(*bytes as u64);
        }
    }

    /// Turns a write that has waited for too long into an error.
    fn wrote<T>(
        &mut self,
        result: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_deadline = None;
            return result;
        }
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + self.write);
        self.poll_deadline(deadline, cx).map(Err)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before {
                    this.state.traffic.received.inc_by((buf.filled().len() - before) as u64);
                    this.saw(&buf.filled()[before..]);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => match this.head_deadline() {
                Some(deadline) => this.poll_deadline(deadline, cx).map(Err),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.sent(&result);
        this.wrote(result, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.sent(&result);
        this.wrote(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.wrote(result, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.wrote(result, cx)
    }
}
