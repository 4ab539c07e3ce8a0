//! Bodies of requests and answers.
//!
//! Promises: an answer's stream holds at most [`DEPTH`] pieces; whoever makes them waits until
//! the reader took some, and gives up on a reader that takes nothing for [`STALL`].

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{sync::mpsc, time::timeout};

use crate::error::{Code, Error};

/// Pieces that wait for a slow reader.
pub(crate) const DEPTH: usize = 4;
/// A peer that neither takes nor sends a byte for that long is gone.
pub(crate) const STALL: Duration = Duration::from_mins(1);

/// For what still comes after the answer was decided.
const DISCARD: Duration = Duration::from_secs(10);

/// What an answer consists of.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All at once.
    Full(Option<Bytes>),
    /// Piece by piece; an error cuts the connection, so that the reader sees it was not all.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(rx) => rx.poll_recv(cx).map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// The sending end of a streamed answer.
pub(crate) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A streamed answer and its sending end.
pub(crate) fn stream() -> (Sender, Answer) {
    let (tx, rx) = mpsc::channel(DEPTH);
    (tx, Answer::Stream(rx))
}

/// Hands over one piece. False: the reader is gone or stalls, nothing more is wanted.
pub(crate) async fn send(tx: &Sender, piece: Bytes) -> bool {
    matches!(timeout(STALL, tx.send(Ok(piece))).await, Ok(Ok(())))
}

/// The next piece of a request; `None` at its end.
pub(crate) async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = match timeout(STALL, body.frame()).await {
            Err(_) => return Err(Error::new(Code::DeadlineExceeded, "the request stalled")),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(Error::invalid("the request broke off")),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
}

/// Reads on and throws away, so that a sender whose upload was refused gets to read the answer
/// instead of a reset connection. Ends by itself after [`DISCARD`].
pub(crate) fn discard(mut body: Incoming) {
    tokio::spawn(timeout(DISCARD, async move { while let Ok(Some(_)) = next(&mut body).await {} }));
}

/// A whole request of at most `limit` bytes.
pub(crate) async fn read_all(body: &mut Incoming, limit: usize) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(piece) = next(body).await? {
        if all.len() + piece.len() > limit {
            return Err(Error::new(Code::ResourceExhausted, "the request is too large"));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// Reads a request body from a blocking thread.
#[derive(Debug)]
pub(crate) struct BlockingReader {
    rx: mpsc::Receiver<Result<Bytes, Error>>,
    piece: Bytes,
}

impl BlockingReader {
    /// Moves the body there piece by piece while the thread reads.
    pub(crate) fn spawn(mut body: Incoming) -> Self {
        let (tx, rx) = mpsc::channel(DEPTH);
        tokio::spawn(async move {
            while let Some(piece) = next(&mut body).await.transpose() {
                let failed = piece.is_err();
                if failed {
                    // The reader may have given up by itself.
                    let _ = tx.send(piece).await;
                    return;
                }
                if tx.send(piece).await.is_err() {
                    return discard(body);
                }
            }
        });
        Self { rx, piece: Bytes::new() }
    }
}

impl io::Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.rx.blocking_recv() {
                None => return Ok(0),
                Some(Err(error)) => return Err(io::Error::other(error.message)),
                Some(Ok(piece)) => self.piece = piece,
            }
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// Writes a streamed answer from a blocking thread.
#[derive(Debug)]
pub(crate) struct BlockingWriter {
    /// The answer's sending end.
    pub tx: Sender,
    /// The runtime whose clock ends the wait for a stalled reader.
    pub runtime: tokio::runtime::Handle,
}

impl io::Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.runtime.block_on(send(&self.tx, Bytes::copy_from_slice(bytes))) {
            Ok(bytes.len())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
