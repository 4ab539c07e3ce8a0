//! Answers that are kept back for a moment, so that a death in their middle can be made good.
//!
//! Promises: a short answer of known length is kept until it is complete; of one whose length is
//! not known the beginning is kept, for a short time and up to a bound, and if it ends within both
//! it is as good as a short one. A stream is late by that time at most, and one that says that it
//! is a stream is not late at all.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, BodyError};

/// Answers up to this length, in bytes, are kept until they are complete.
pub(crate) const MOST: usize = 64 * 1024;

/// What of an answer is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it.
    Whole,
    /// What comes within a short time.
    Beginning,
    /// Nothing: it could not be asked for again, or somebody waits for its first byte.
    Nothing,
}

/// Decides by the head of an answer.
pub(crate) fn plan(method: &Method, fields: &HeaderMap) -> Keep {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    let is = |name: &str, wanted: &str| {
        let begins = text(name).and_then(|text| text.get(..wanted.len()));
        begins.is_some_and(|begin| begin.eq_ignore_ascii_case(wanted))
    };
    let is_stream = is("content-type", "text/event-stream") || is("x-accel-buffering", "no");
    if !matches!(*method, Method::GET | Method::HEAD) || is_stream {
        return Keep::Nothing;
    }
    match fields.get(header::CONTENT_LENGTH) {
        Some(_) => {
            let length = text("content-length").and_then(|text| text.parse::<usize>().ok());
            if length.is_some_and(|length| length <= MOST) { Keep::Whole } else { Keep::Nothing }
        }
        None if *method == Method::GET => Keep::Beginning,
        None => Keep::Nothing,
    }
}

/// Reads what comes until `until`, at most [`MOST`] bytes or the chunk that goes beyond. An error
/// is one of the part that nobody has seen yet.
pub(crate) async fn beginning<B>(mut body: B, until: Instant) -> Result<Body, B::Error>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BodyError>,
{
    let mut kept = BytesMut::new();
    let mut trailers = None;
    while kept.len() <= MOST {
        // A frame that has not come is not lost when the wait for it ends.
        let Ok(frame) = timeout_at(until, body.frame()).await else { break };
        match frame.transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => kept.extend_from_slice(&data),
            Some(Err(other)) => trailers = other.into_trailers().ok(),
            None if trailers.is_none() => return Ok(Body::full(kept.freeze())),
            None => break,
        }
    }
    Ok(Body::boxed(Begun { kept: kept.freeze(), trailers, rest: body }))
}

/// A body whose beginning was read.
struct Begun<B> {
    kept: Bytes,
    /// They were read too, so nothing follows.
    trailers: Option<HeaderMap>,
    rest: B,
}

impl<B> HttpBody for Begun<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if !self.kept.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.kept)))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.kept.is_empty() && self.trailers.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn what_is_kept() {
        type Fields = &'static [(&'static str, &'static str)];
        let cases: [(Method, Fields, Keep); 9] = [
            (Method::GET, &[("content-length", "65536")], Keep::Whole),
            (Method::HEAD, &[("content-length", "10")], Keep::Whole),
            (Method::GET, &[("content-length", "65537")], Keep::Nothing),
            (Method::GET, &[], Keep::Beginning),
            (Method::GET, &[("content-type", "text/html")], Keep::Beginning),
            (Method::POST, &[], Keep::Nothing),
            (Method::HEAD, &[], Keep::Nothing),
            (Method::GET, &[("content-type", "Text/Event-Stream; charset=utf-8")], Keep::Nothing),
            (Method::GET, &[("x-accel-buffering", "no")], Keep::Nothing),
        ];
        for (method, fields, keep) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            assert_eq!(plan(&method, &headers), keep, "{method} {fields:?}");
        }
    }

    /// Chunks, each after its time in milliseconds; `None` is a break.
    fn body(
        chunks: Vec<(u64, Option<Vec<u8>>)>,
    ) -> impl HttpBody<Data = Bytes, Error = std::io::Error> + Unpin + Send + 'static {
        let chunks = stream::iter(chunks).then(|(after, chunk)| async move {
            tokio::time::sleep(Duration::from_millis(after)).await;
            let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            chunk.map(|chunk| Frame::data(Bytes::from(chunk))).ok_or_else(broken)
        });
        StreamBody::new(Box::pin(chunks))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_ends_soon_is_whole_and_its_break_is_seen() {
        let chunks = vec![(5, Some(b"ab".to_vec())), (5, Some(b"c".to_vec()))];
        let whole = beginning(body(chunks.clone()), Instant::now() + SHORT).await.unwrap();
        assert_eq!(whole.size_hint().exact(), Some(3), "its length is known now");
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abc");
        let broken = [chunks, vec![(1, None)]].concat();
        assert!(beginning(body(broken), Instant::now() + SHORT).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_stream_is_late_by_the_bound_and_no_more_and_loses_nothing() {
        let chunks = vec![(1, Some(b"a".to_vec())), (10_000, Some(b"b".to_vec())), (1, None)];
        let began = Instant::now();
        let mut stream = beginning(body(chunks), began + SHORT).await.unwrap();
        assert_eq!(began.elapsed(), SHORT);
        let mut next = async || stream.frame().await.unwrap().map(Frame::into_data);
        assert_eq!(next().await.unwrap().unwrap(), "a");
        assert_eq!(began.elapsed(), SHORT, "what was kept comes at once");
        assert_eq!(next().await.unwrap().unwrap(), "b");
        assert!(next().await.is_err(), "a break is still a break");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_is_not_kept_for_its_time() {
        let chunks = vec![(0, Some(vec![1; MOST])), (0, Some(vec![2])), (10_000, Some(vec![3]))];
        let began = Instant::now();
        let stream = beginning(body(chunks), began + SHORT).await.unwrap();
        assert!(began.elapsed() < SHORT);
        assert_eq!(stream.collect().await.unwrap().to_bytes().len(), MOST + 2);
    }
}
