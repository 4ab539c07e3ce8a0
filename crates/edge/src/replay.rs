//! A request body that can be sent again.
//!
//! The client's body is read once, by the attempt that runs; at most 64 KiB are kept, so that a
//! second attempt can begin from the start. A body of which more was read cannot be replayed. A
//! body that stands still for too long fails, and it is told apart from a failure of the
//! upstream: the client gets 400 or 408, never 502.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::body::{Body, BodyError};

/// Bytes that are kept for a second attempt.
const KEEP: usize = 64 * 1024;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Replay(Arc<Mutex<Source>>);

#[derive(Debug)]
struct Source {
    incoming: Incoming,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More was read than is kept.
    overflow: bool,
    ended: bool,
    failed: bool,
    /// Number of the attempt that may read; an older one that still runs gets an error.
    attempt: u64,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Exact length at the start, if the client said so.
    length: Option<u64>,
}

impl Replay {
    /// `None` if there is no body. `idle` is how long it may stand still.
    pub(crate) fn new(incoming: Incoming, idle: Duration) -> Option<Self> {
        if incoming.is_end_stream() {
            return None;
        }
        let length = incoming.size_hint().exact();
        Some(Self(Arc::new(Mutex::new(Source {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            overflow: false,
            ended: false,
            failed: false,
            attempt: 0,
            idle,
            timer: None,
            length,
        }))))
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn can_repeat(&self) -> bool {
        let source = self.lock();
        !source.overflow && !source.failed
    }

    /// Whether the client's side broke.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// The body of the next attempt.
    pub(crate) fn attempt(&self) -> Body {
        let mut source = self.lock();
        source.attempt += 1;
        let attempt = source.attempt;
        let length = source.length;
        drop(source);
        Body::boxed(Attempt { source: self.0.clone(), number: attempt, next: 0, length })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Source> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            self.timer = None;
            match &frame {
                None => self.ended = true,
                Some(Err(_)) => self.failed = true,
                Some(Ok(frame)) => self.keep(frame),
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(cx));
        self.failed = true;
        Poll::Ready(Some(Err("the request body stood still for too long".into())))
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(data) = frame.data_ref() else {
            // Trailers are not kept: what has them is sent once.
            self.overflow = true;
            return;
        };
        if self.overflow || self.kept_bytes + data.len() > KEEP {
            self.overflow = true;
            self.kept = Vec::new();
            return;
        }
        self.kept_bytes += data.len();
        self.kept.push(data.clone());
    }
}

struct Attempt {
    source: Arc<Mutex<Source>>,
    number: u64,
    next: usize,
    length: Option<u64>,
}

impl HttpBody for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut source = this.source.lock().unwrap_or_else(PoisonError::into_inner);
        if source.attempt != this.number {
            return Poll::Ready(Some(Err("a later attempt took over".into())));
        }
        if let Some(bytes) = source.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(source.poll_next(cx));
        // The frame was kept at the position that this attempt has reached.
        this.next = source.kept.len();
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
