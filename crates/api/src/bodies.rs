//! How much of the bodies of requests is held in memory at a time.
//!
//! Promises: what a tenant sends that is held until it is whole is bounded, for the tenant and for
//! all; what is small is never refused for it; a body that stops coming is given up. A body that
//! is passed on as it comes (`…/fs/upload`) is not counted, so its route stands outside.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use miosa_types::TenantId;
use tokio::time::{Instant, Sleep};

use crate::{AppState, Caller, Error};

const MIB: usize = 1 << 20;
/// Of one tenant. The longest body (`files::MAX_BODY`) fits once.
const EACH: usize = 128 * MIB;
/// Of all tenants.
const ALL: usize = 384 * MIB;
/// Of each body this much is not counted.
const FREE: usize = MIB / 4;
/// Longest pause within a body.
const IDLE: Duration = Duration::from_secs(30);

/// What is held now. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bodies(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    all: usize,
    each: HashMap<TenantId, usize>,
}

/// Bytes of one request.
#[derive(Debug)]
struct Share {
    bodies: Bodies,
    tenant: TenantId,
    /// Those that came, the free ones included.
    came: usize,
    /// Whether there was no room for more.
    is_refused: bool,
}

impl Bodies {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all tenants.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.lock().all
    }
}

impl Share {
    const fn new(bodies: Bodies, tenant: TenantId) -> Self {
        Self { bodies, tenant, came: 0, is_refused: false }
    }

    fn counted(&self) -> usize {
        self.came.saturating_sub(FREE)
    }

    /// Takes in `more` bytes, if there is room.
    fn grow(&mut self, more: usize) -> bool {
        let before = self.counted();
        let counted = (self.came + more).saturating_sub(FREE) - before;
        let mut held = self.bodies.lock();
        let own = held.each.get(&self.tenant).copied().unwrap_or(0);
        if counted > 0 && (own + counted > EACH || held.all + counted > ALL) {
            self.is_refused = true;
            return false;
        }
        if counted > 0 {
            held.all += counted;
            held.each.insert(self.tenant, own + counted);
        }
        drop(held);
        self.came += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let counted = self.counted();
        if counted == 0 {
            return;
        }
        let mut held = self.bodies.lock();
        held.all -= counted;
        if let Some(own) = held.each.get_mut(&self.tenant) {
            *own -= counted;
            if *own == 0 {
                held.each.remove(&self.tenant);
            }
        }
    }
}

/// A body that counts what it gives.
struct Counted {
    inner: Body,
    share: Arc<Mutex<Share>>,
    idle: Pin<Box<Sleep>>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(cx) else {
            ready!(self.idle.as_mut().poll(cx));
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))));
        };
        self.idle.as_mut().reset(Instant::now() + IDLE);
        let length = match &next {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        if !self.share.lock().unwrap_or_else(PoisonError::into_inner).grow(length) {
            let full = std::io::Error::from(std::io::ErrorKind::OutOfMemory);
            return Poll::Ready(Some(Err(axum::Error::new(full))));
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Layer of `/api/v1`, inside of authentication and outside of whatever reads a body.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let Some(tenant) = request.extensions().get::<Caller>().map(|caller| caller.tenant) else {
        return next.run(request).await;
    };
    // Held until the answer is there: until then the handler has the bytes, in one form or another.
    let share = Arc::new(Mutex::new(Share::new(state.bodies.clone(), tenant)));
    let request = request.map(|inner| {
        Body::new(Counted { inner, share: share.clone(), idle: Box::pin(tokio::time::sleep(IDLE)) })
    });
    let response = next.run(request).await;
    if share.lock().unwrap_or_else(PoisonError::into_inner).is_refused {
        let message = "too many large bodies are being sent at this moment; send fewer at a time, \
                       or files by `/fs/upload`";
        let busy = Error::Busy { code: "BUSY", message: message.to_owned(), retry_after_ms: 1000 };
        return busy.into_response();
    }
    response
}

#[cfg(test)]
mod tests {
    use miosa_types::Env;

    use super::*;

    #[test]
    fn each_tenant_and_all_together_are_bounded_and_what_is_small_is_free() {
        let (bodies, env) = (Bodies::default(), Env::system());
        let share = |tenant| Share::new(bodies.clone(), tenant);
        let tenants: [TenantId; 4] = std::array::from_fn(|_| env.id());
        let mut held = Vec::new();
        for (n, tenant) in tenants.into_iter().enumerate() {
            let mut large = share(tenant);
            // What all may hold is three tenants' share.
            assert_eq!(large.grow(FREE + EACH), n < 3, "{n}");
            let mut more = share(tenant);
            assert!(!more.grow(FREE + EACH / 2), "{n}: its share or everybody's is used up");
            assert!(more.grow(FREE), "{n}: small ones are let through");
            held.extend([large, more]);
        }
        assert_eq!(bodies.held(), ALL);
        drop(held);
        assert_eq!(bodies.held(), 0);
        assert!(bodies.lock().each.is_empty());
        let mut again = share(tenants[3]);
        assert!((0..EACH / MIB).all(|_| again.grow(MIB)) && !again.grow(MIB));
    }
}
