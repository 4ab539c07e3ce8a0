//! The body of every answer that the edge gives, and of every request that it sends on.
//!
//! One concrete type, so that the common cases (nothing, bytes in memory, bytes that pass
//! through, a file) cost no allocation and no virtual call. It promises an exact length where
//! one is known, and that a [guard](Body::with_guard) lives exactly as long as the body: that is
//! how requests under way are counted and upstream connections find back to their pool.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::JoinHandle;

/// What can go wrong while a body is read.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Any other body.
pub type BoxedBody = Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>;

/// How much of a file is read at once, in bytes.
const CHUNK: usize = 128 * 1024;

/// See the module.
pub struct Body {
    inner: Inner,
    guard: Option<Box<dyn Any + Send>>,
}

enum Inner {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    File(FileBody),
    Boxed(BoxedBody),
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self { inner: Inner::Empty, guard: None }
    }

    /// Bytes in memory.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Self::from(Inner::Full(bytes)) }
    }

    /// Bytes that pass through.
    pub fn incoming(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::empty() } else { Self::from(Inner::Incoming(incoming)) }
    }

    /// `length` bytes of a file from `offset` on. A file that turns out to be shorter is an
    /// error, so that the client sees a broken answer and not a short one.
    pub fn file(file: Arc<std::fs::File>, offset: u64, length: u64) -> Self {
        if length == 0 {
            return Self::empty();
        }
        Self::from(Inner::File(FileBody { file, offset, left: length, reading: None }))
    }

    /// Anything else.
    pub fn boxed<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self::from(Inner::Boxed(Box::pin(http_body_util::BodyExt::map_err(body, Into::into))))
    }

    /// Keeps `guard` until the body has ended or is dropped.
    #[must_use]
    pub fn with_guard(self, guard: impl Any + Send) -> Self {
        let guard: Box<dyn Any + Send> = match self.guard {
            None => Box::new(guard),
            Some(older) => Box::new((guard, older)),
        };
        Self { inner: self.inner, guard: Some(guard) }
    }

    /// Breaks off when `end` comes. What is in memory already is sent whole.
    #[must_use]
    pub fn until(self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        if matches!(self.inner, Inner::Empty | Inner::Full(_)) {
            return self;
        }
        Self::boxed(Until { body: self, end: Box::pin(end) })
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.inner {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.inner = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Inner::File(body) => body.poll_chunk(cx).map_ok(Frame::data).map_err(Into::into),
            Inner::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }
}

impl From<Inner> for Body {
    fn from(inner: Inner) -> Self {
        Self { inner, guard: None }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.inner {
            Inner::Empty => "empty",
            Inner::Full(_) => "full",
            Inner::Incoming(_) => "incoming",
            Inner::File(_) => "file",
            Inner::Boxed(_) => "boxed",
        };
        f.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.poll_inner(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.inner = Inner::Empty;
            self.guard = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Full(_) => false,
            Inner::Incoming(body) => body.is_end_stream(),
            Inner::File(body) => body.left == 0,
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Incoming(body) => body.size_hint(),
            Inner::File(body) => SizeHint::with_exact(body.left),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

/// A body with an end from outside.
struct Until {
    body: Body,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err("the right to see this has ended".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of a file. What lies in the page cache is read at once; a cold page is waited for in
/// the blocking pool, so that one slow disk read never stalls a core.
struct FileBody {
    file: Arc<std::fs::File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let result = if let Some(reading) = &mut self.reading {
            let joined = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            joined.unwrap_or_else(|error| Err(io::Error::other(error)))
        } else {
            let want = usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK);
            if let Some(bytes) = read_cached(&self.file, self.offset, want) {
                Ok(bytes)
            } else {
                let (file, offset) = (self.file.clone(), self.offset);
                self.reading =
                    Some(tokio::task::spawn_blocking(move || read_at(&file, offset, want)));
                return self.poll_chunk(cx);
            }
        };
        if let Ok(bytes) = &result {
            self.offset += bytes.len() as u64;
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(Some(result))
    }
}

/// Reads what the page cache holds; `None` if that is nothing or the file system cannot tell.
fn read_cached(file: &std::fs::File, offset: u64, want: usize) -> Option<Bytes> {
    let mut buffer = vec![0; want];
    let read = {
        let mut slices = [io::IoSliceMut::new(&mut buffer)];
        rustix::io::preadv2(file, &mut slices, offset, rustix::io::ReadWriteFlags::NOWAIT).ok()?
    };
    if read == 0 {
        return None;
    }
    buffer.truncate(read);
    Some(buffer.into())
}

fn read_at(file: &std::fs::File, offset: u64, want: usize) -> io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; want];
    let read = file.read_at(&mut buffer, offset)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(read);
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_part_of_a_file_is_read_exactly_and_a_short_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        let body = Body::file(file.clone(), 5, 700_000);
        assert_eq!(body.size_hint().exact(), Some(700_000));
        assert_eq!(body.collect().await.unwrap().to_bytes(), content[5..700_005]);
        let short = Body::file(file, 1_199_999, 5).collect().await;
        assert!(short.is_err());
    }

    #[tokio::test]
    async fn the_guard_lives_until_the_body_ends() {
        let guard = Arc::new(());
        let mut body = Body::full("abc").with_guard(guard.clone()).with_guard(1);
        assert_eq!(Arc::strong_count(&guard), 2);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.is_none());
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
