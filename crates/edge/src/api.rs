//! Requests to the platform's API: forwarded to control over its Unix socket.
//!
//! While control restarts they are held, at most 5 s. Nothing is read from a request's body
//! before a connection stands, so a waiting POST is not lost. One that was written to a control
//! that then died is sent again only if that is safe: its method says so, or it carries an
//! `Idempotency-Key`, by which control knows it again.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    body::Body,
    headers,
    upstream::{Link, SendError},
    visit::Visit,
};

/// Pause between two connects while control is away.
const EVERY: Duration = Duration::from_millis(20);
/// Answers up to this length are held until they are complete.
const HOLD_BYTES: usize = 64 * 1024;
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

enum Outcome {
    Done(Response<Body>),
    /// Control died before it answered; whether sending again is safe.
    Died {
        unsent: bool,
    },
}

/// Answers a request.
pub(crate) async fn serve(visit: &mut Visit) -> Response<Body> {
    let deadline = visit.arrived + visit.shared().config.limits.api_hold;
    loop {
        let Some(link) = connect(visit, deadline).await else {
            return away(visit);
        };
        match exchange(visit, link).await {
            Outcome::Done(response) => return response,
            Outcome::Died { unsent } => {
                if visit.replay.as_ref().is_some_and(crate::replay::Replay::has_failed) {
                    return visit.text(StatusCode::BAD_REQUEST, "The request body broke off");
                }
                let may_repeat = unsent || is_repeatable(visit);
                if !may_repeat || !visit.can_repeat_body() {
                    return unknown_outcome(visit);
                }
                if Instant::now() + EVERY > deadline {
                    return away(visit);
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }
}

fn is_repeatable(visit: &Visit) -> bool {
    visit.is_safe() || visit.parts.headers.contains_key(IDEMPOTENCY_KEY)
}

/// Until the API must begin to answer. What changes something may take long by contract, and so may
/// the first event of a stream.
fn patience(visit: &Visit) -> Option<Duration> {
    let limits = &visit.shared().config.limits;
    if matches!(visit.parts.uri.path(), "/health" | "/health/ready") {
        return Some(limits.api_health);
    }
    let accepts = visit.parts.headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|accept| accept.to_str().ok());
    let is_stream =
        visit.is_websocket() || accepts.any(|accept| accept.contains("text/event-stream"));
    let is_question = visit.is_safe() && !is_stream && visit.replay.is_none();
    is_question.then_some(limits.api_question)
}

async fn connect(visit: &Visit, deadline: Instant) -> Option<Link> {
    let path = &visit.shared().config.api_socket;
    loop {
        match timeout_at(deadline, Link::unix(path)).await {
            Ok(Ok(link)) => return Some(link),
            Ok(Err(error)) => tracing::debug!(%error, "control does not accept"),
            Err(_) => return None,
        }
        if Instant::now() + EVERY > deadline {
            return None;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn exchange(visit: &mut Visit, mut link: Link) -> Outcome {
    let sending = link.send(visit.request());
    let sent = match patience(visit) {
        Some(most) => timeout(most, sending).await,
        None => Ok(sending.await),
    };
    let response = match sent {
        Ok(Ok(response)) => response,
        Ok(Err(SendError::Unsent(_))) => return Outcome::Died { unsent: true },
        Ok(Err(SendError::Written(_))) => return Outcome::Died { unsent: false },
        Err(_) => return Outcome::Done(away(visit)),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Outcome::Done(crate::tunnel::switch(visit, response, std::future::pending(), ()));
    }
    let is_small = is_small(visit, &response);
    let (mut parts, incoming) = response.into_parts();
    headers::incoming(&mut parts.headers);
    if !is_small {
        let body = Body::incoming(incoming).with_guard(link);
        return Outcome::Done(Response::from_parts(parts, body));
    }
    match Limited::new(incoming, HOLD_BYTES).collect().await {
        Ok(collected) => {
            Outcome::Done(Response::from_parts(parts, Body::full(collected.to_bytes())))
        }
        Err(_) => Outcome::Died { unsent: false },
    }
}

fn is_small(visit: &Visit, response: &Response<Incoming>) -> bool {
    let length = response.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let may_repeat = visit.parts.method == Method::GET || is_repeatable(visit);
    may_repeat && length.is_some_and(|length| length <= HOLD_BYTES)
}

/// Nothing was done, or it may safely be asked again.
fn away(visit: &Visit) -> Response<Body> {
    let why = "the API is restarting; try again in a moment";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = error(visit, status, "SERVICE_UNAVAILABLE", why, true);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// It may or may not have been done: only the caller can find out which.
fn unknown_outcome(visit: &Visit) -> Response<Body> {
    let why = "the API restarted while it worked on this request, which may or may not have been \
               done; look before you repeat it, or send an Idempotency-Key, under which nothing is done twice";
    error(visit, StatusCode::BAD_GATEWAY, "OUTCOME_UNKNOWN", why, false)
}

/// The API's error envelope.
fn error(
    visit: &Visit,
    status: StatusCode,
    code: &str,
    why: &'static str,
    retryable: bool,
) -> Response<Body> {
    let mut response = visit.text(status, why);
    let id = format!("req_{}", visit.shared().config.env.uuid().simple());
    tracing::warn!(id, code, path = visit.parts.uri.path(), "the API did not answer");
    let json = format!(
        r#"{{"error":{{"code":"{code}","message":"{why}","request_id":"{id}","details":{{}},"retryable":{retryable}}},"request_id":"{id}"}}"#
    );
    *response.body_mut() = Body::full(json);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    response
}
