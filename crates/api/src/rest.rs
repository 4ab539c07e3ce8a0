//! What nobody read of a request's body.
//!
//! Promises: a caller that is answered before it sent everything sees the answer: what it still
//! sends is taken and thrown away, up to a bound. Without that the connection would be reset,
//! and the answer with it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, header};
use http_body::{Body as _, Frame, SizeHint};

/// Most bytes that are thrown away.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Longest that it may take.
const MAX_TIME: Duration = Duration::from_secs(10);

/// The body once its reader is gone, if there is more of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest(Arc<Mutex<Option<Body>>>);

impl Rest {
    /// Puts the body of a request under watch.
    pub(crate) fn watch(request: Request<Body>) -> (Request<Body>, Self) {
        let rest = Self::default();
        // Such a caller sends nothing before it is asked, and reading would be asking.
        let is_asked = !request.headers().contains_key(header::EXPECT);
        let watch = |body| Body::new(Watched { body, is_asked, rest: rest.clone() });
        (request.map(watch), rest)
    }

    /// Throws away what is left.
    pub(crate) async fn discard(self) {
        let Some(body) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let discard = async {
            let mut pieces = body.into_data_stream();
            let mut length = 0;
            while length < MAX_BYTES
                && let Some(Ok(piece)) = pieces.next().await
            {
                length += piece.len();
            }
        };
        if tokio::time::timeout(MAX_TIME, discard).await.is_err() {
            tracing::debug!("the rest of a body did not come in time");
        }
    }
}

/// A body that leaves itself behind.
#[derive(Debug)]
struct Watched {
    body: Body,
    is_asked: bool,
    rest: Rest,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.is_asked = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.is_asked && !self.body.is_end_stream() {
            let body = std::mem::take(&mut self.body);
            *self.rest.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}
