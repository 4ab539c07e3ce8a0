//! `Idempotency-Key` on POST: the same request again gets the same answer.
//!
//! Promises: one key runs at most one request at a time; the answer is kept 24 h; another payload
//! under the same key is 409; a keyed request runs to its end even if its caller hangs up, so
//! that the repeated one finds the answer. Answers that a repeat should try again (429, 5xx,
//! 409 retryable, streams) are not kept.
//!
//! A crash in the middle makes nothing twice: handlers that make sandboxes, deployments or
//! versions, or go back to one, write the key in the transaction of what they make ([`Keyed`]),
//! and a repeat goes on with that. Those that run something in a sandbox cannot find out
//! whether it ran: their key is written before, and a repeat is told so (409 `OUTCOME_UNKNOWN`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use jiff::Timestamp;
use miosa_store::idempotency::{self, Answer, Claim};
use miosa_types::TenantId;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{AppState, Caller, Error, request, state::IDEMPOTENCY_KEPT};

/// Longest body of a request with a key.
pub const MAX_KEYED_BODY: usize = 16 * 1024 * 1024;

/// Longest answer that is kept; a longer one is sent but runs again when asked again.
const MAX_KEPT_ANSWER: usize = 1024 * 1024;

/// How long a repeated request waits for the first.
const WAIT: Duration = Duration::from_secs(30);

/// Expired answers are deleted at most this often.
const PURGE_EVERY: Duration = Duration::from_hours(1);

/// Tells that an answer was found, not made.
const REPLAYED: &str = "idempotency-replayed";

/// Keys under way; each with a channel that closes when its request ends. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Running {
    keys: Arc<Mutex<HashMap<(TenantId, String), Entry>>>,
    purged_at: Arc<Mutex<Option<Timestamp>>>,
}

#[derive(Clone, Debug)]
struct Entry {
    fingerprint: String,
    end: watch::Receiver<()>,
}

/// The right to run a key; given back when dropped.
#[derive(Debug)]
struct Turn {
    running: Running,
    key: (TenantId, String),
    _end: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
    }
}

impl Running {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, String), Entry>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to delete expired answers; says so once each time.
    fn is_purge_due(&self, now: Timestamp) -> bool {
        let mut at = self.purged_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = at.is_none_or(|at| at + PURGE_EVERY <= now);
        if is_due {
            *at = Some(now);
        }
        is_due
    }

    /// The right to run, or whom to wait for.
    fn enter(&self, key: &(TenantId, String), fingerprint: &str) -> Result<Turn, Entry> {
        let mut running = self.lock();
        if let Some(entry) = running.get(key) {
            return Err(entry.clone());
        }
        let (end, receiver) = watch::channel(());
        let entry = Entry { fingerprint: fingerprint.to_owned(), end: receiver };
        running.insert(key.clone(), entry);
        drop(running);
        Ok(Turn { running: self.clone(), key: key.clone(), _end: end })
    }
}

/// The key that a request runs under, if it has one: an argument of handlers that make objects.
#[derive(Clone, Debug)]
pub struct Keyed(pub Option<Claim>);

impl<S: Sync> FromRequestParts<S> for Keyed {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self(parts.extensions.get::<Claim>().cloned()))
    }
}

/// Layer of `/api/v1`, inside of authentication.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let key = match key_of(&request) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(error) => return error.into_response(),
    };
    match keyed(state, key, request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

fn key_of(request: &Request) -> Result<Option<(TenantId, String)>, Error> {
    if request.method() != Method::POST {
        return Ok(None);
    }
    let Some(caller) = request.extensions().get::<Caller>() else { return Ok(None) };
    let Some(value) = request.headers().get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some((caller.tenant, key.to_owned()))),
        _ => Err(Error::BadRequest {
            code: "INVALID_IDEMPOTENCY_KEY",
            message: "an Idempotency-Key has 1 to 255 printable characters".to_owned(),
        }),
    }
}

async fn keyed(
    state: AppState,
    key: (TenantId, String),
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_KEYED_BODY).await.map_err(|_| Error::TooLarge {
        message: format!("a request with an Idempotency-Key takes at most {MAX_KEYED_BODY} bytes"),
    })?;
    let fingerprint = fingerprint(&parts, &body);
    let runs = parts.extensions.get::<MatchedPath>().is_some_and(|path| runs(path.as_str()));
    let (turn, claim) = match turn(&state, &key, (&fingerprint, runs)).await? {
        Turned::Run(turn, claim) => (turn, claim),
        Turned::Answered(answer) => return Ok(replay(answer)),
    };
    let request_id =
        parts.extensions.get::<request::RequestId>().map_or(String::new(), |id| id.0.clone());
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(claim.clone());
    let span = tracing::Span::current();
    let work = async move {
        let response = request::render(next.run(request).await, &request_id);
        let begun = runs.then_some(&*claim.key);
        let response = keep(&state, (key.0, &claim, begun), response).await;
        drop(turn);
        response
    };
    let task = tokio::spawn(tracing::Instrument::instrument(work, span));
    task.await.map_err(|error| Error::Internal(Box::new(error)))?
}

/// Whether a route runs something in a sandbox.
fn runs(path: &str) -> bool {
    let path = path.rsplit("/sandboxes/{id}").next().unwrap_or_default();
    ["/exec", "/exec/stream", "/commands", "/processes", "/template/start"].contains(&path)
}

/// What a request finds under its key.
enum Turned {
    /// It may run.
    Run(Turn, Claim),
    /// Another run of it left this.
    Answered(Answer),
}

/// Waits for the turn of this request.
async fn turn(
    state: &AppState,
    key: &(TenantId, String),
    (fingerprint, runs): (&str, bool),
) -> Result<Turned, Error> {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        match state.running.enter(key, fingerprint) {
            Ok(turn) => {
                // Looked up with the turn in hand: nobody can write the answer meanwhile.
                let oldest = state.control.env.now() - IDEMPOTENCY_KEPT;
                let mut db = state.control.store.conn().await?;
                let stored = idempotency::find(&mut db, key.0, &key.1, oldest).await?;
                let made = stored.as_ref().and_then(|stored| stored.made);
                let claim = Claim { key: key.1.clone(), fingerprint: fingerprint.to_owned(), made };
                return match stored {
                    Some(stored) if stored.fingerprint != fingerprint => Err(mismatch()),
                    Some(idempotency::Stored { answer: Some(answer), .. }) => {
                        Ok(Turned::Answered(answer))
                    }
                    Some(_) if runs => Err(Error::Conflict {
                        code: "OUTCOME_UNKNOWN",
                        message: "the first request with this Idempotency-Key broke off, so it is \
                                  not known whether its command ran; look, then use a new key"
                            .to_owned(),
                        retryable: false,
                    }),
                    _ => {
                        if runs {
                            let now = state.control.env.now();
                            idempotency::begin(&mut db, key.0, &claim, now).await?;
                        }
                        Ok(Turned::Run(turn, claim))
                    }
                };
            }
            Err(entry) if entry.fingerprint != fingerprint => return Err(mismatch()),
            Err(mut entry) => {
                // Ends with an error when the turn is given back, which is what is awaited.
                let ended = tokio::time::timeout_at(deadline, entry.end.changed()).await;
                if ended.is_err() {
                    return Err(Error::Conflict {
                        code: "IDEMPOTENCY_IN_PROGRESS",
                        message: "the first request with this Idempotency-Key is still running"
                            .to_owned(),
                        retryable: true,
                    });
                }
            }
        }
    }
}

/// Keeps the answer if a repeat should get it. If a repeat should run instead, `begun`, a key that
/// was written before this run, is taken back.
async fn keep(
    state: &AppState,
    (tenant, claim, begun): (TenantId, &Claim, Option<&str>),
    response: Response,
) -> Result<Response, Error> {
    let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
    let is_stream = content_type.as_ref().is_some_and(|value| value == "text/event-stream");
    let is_small = response.body().size_hint().upper().is_some_and(|n| n <= MAX_KEPT_ANSWER as u64);
    let status = response.status();
    let is_final = !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS;
    if is_stream || !is_small || !is_final {
        if !is_final {
            take_back(state, tenant, begun).await?;
        }
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body: Bytes =
        to_bytes(body, MAX_KEPT_ANSWER).await.map_err(|error| Error::Internal(Box::new(error)))?;
    if status != StatusCode::CONFLICT || !is_retryable(&body) {
        let answer = Answer {
            status: status.as_u16(),
            content_type: content_type.and_then(|v| v.to_str().ok().map(str::to_owned)),
            body: body.to_vec(),
        };
        let mut db = state.control.store.conn().await?;
        let now = state.control.env.now();
        idempotency::answer(&mut db, tenant, claim, &answer, now).await?;
        if state.running.is_purge_due(now) {
            idempotency::delete_before(&mut db, now - IDEMPOTENCY_KEPT).await?;
        }
    } else {
        take_back(state, tenant, begun).await?;
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

async fn take_back(state: &AppState, tenant: TenantId, begun: Option<&str>) -> Result<(), Error> {
    if let Some(key) = begun {
        idempotency::unbegin(&mut *state.control.store.conn().await?, tenant, key).await?;
    }
    Ok(())
}

fn is_retryable(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|value| value["error"]["retryable"] == true)
}

fn replay(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    if let Some(value) = answer.content_type.and_then(|text| HeaderValue::try_from(text).ok()) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn fingerprint(parts: &http::request::Parts, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    for part in [parts.method.as_str(), &parts.uri.to_string()] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(body);
    hex::encode(hash.finalize())
}

fn mismatch() -> Error {
    Error::Conflict {
        code: "IDEMPOTENCY_PAYLOAD_MISMATCH",
        message: "this Idempotency-Key was used for another request".to_owned(),
        retryable: false,
    }
}
