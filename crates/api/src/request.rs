//! The outermost layer: request ids, and errors as the API's envelope.
//!
//! Promises: every answer carries `x-request-id`; every error of this crate is rendered here and
//! only here; the cause of an internal error goes to the log, never to the caller.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use miosa_wire::envelope::{ErrorBody, ErrorEnvelope, FieldError};
use tracing::Instrument as _;

use crate::{AppState, Error, error::seconds, rest::Rest};

/// Name of the header that carries the request id.
pub const REQUEST_ID: &str = "x-request-id";

/// Makes the request id, runs the request, renders its error if it has one.
pub async fn layer(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let id = format!("req_{}", state.control.env.uuid().simple());
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(),
        path = %request.uri().path());
    request.extensions_mut().insert(RequestId(id.clone()));
    let (request, rest) = Rest::watch(request);
    let response = next.run(request).instrument(span.clone()).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        rest.discard().await;
    }
    let _entered = span.enter();
    let mut response = render(response, &id);
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The id of this request, in its extensions.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Replaces an [`Error`] that a handler left by its envelope.
pub fn render(mut response: Response, request_id: &str) -> Response {
    let Some(error) = response.extensions_mut().remove::<Arc<Error>>() else { return response };
    let (status, code) = error.status();
    if let Error::Internal(source) = &*error {
        let error: &dyn std::error::Error = &**source;
        tracing::error!(error, request_id, "request failed");
    }
    let body = envelope(&error, code, request_id);
    let wait_ms = body.error.retry_after_ms;
    let mut response = (status, axum::Json(body)).into_response();
    if let Some(ms) = wait_ms {
        response.headers_mut().insert(header::RETRY_AFTER, ms.div_ceil(1000).into());
    }
    if status == http::StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn envelope(error: &Error, code: &'static str, request_id: &str) -> ErrorEnvelope {
    let mut details = serde_json::Map::new();
    let mut errors = Vec::new();
    let mut field = |field: &str, message: &str| {
        details.insert("field".to_owned(), field.into());
        errors.push(FieldError {
            code: "invalid",
            field: field.to_owned(),
            message: message.to_owned(),
        });
    };
    match error {
        Error::Invalid { field: name, message } | Error::Refused { field: name, message, .. } => {
            field(name, message);
        }
        Error::InvalidFields { errors } => errors.iter().for_each(|(name, why)| field(name, why)),
        _ => {}
    }
    if let Error::TooMany { what, rpm, .. } = error {
        details.insert("limited".to_owned(), (*what).into());
        details.insert("rate_limit_rpm".to_owned(), (*rpm).into());
    }
    let retry_after_ms = match error {
        Error::Busy { retry_after_ms, .. } => Some(*retry_after_ms),
        Error::TooMany { wait, .. } => Some(seconds(*wait) * 1000),
        _ => None,
    };
    let retryable = match error {
        Error::Conflict { retryable, .. } => *retryable,
        _ => retry_after_ms.is_some(),
    };
    ErrorEnvelope {
        error: ErrorBody {
            code: code.to_owned(),
            message: error.to_string(),
            request_id: request_id.to_owned(),
            details,
            retryable,
            retry_after_ms,
            retry_after: match error {
                Error::TooMany { wait, .. } => Some(seconds(*wait)),
                _ => None,
            },
            existing: match error {
                Error::Exists { existing, .. } => Some(existing.clone()),
                _ => None,
            },
        },
        errors: (!errors.is_empty()).then_some(errors),
        request_id: request_id.to_owned(),
    }
}
