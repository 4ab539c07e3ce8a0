//! The one error type that crosses the HTTP boundary, and its rendering.

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use http::StatusCode;

/// An error that a caller of the API can act on.
///
/// Messages are written for the person using the API. Causes go to the log through `source()`,
/// never into the message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object for this caller.
    #[error("{kind} `{id}` does not exist")]
    NotFound {
        /// The word for the object.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A path id that is no UUID.
    #[error("{message}")]
    InvalidId {
        /// Why.
        message: String,
    },
    /// A field that cannot be accepted (422).
    #[error("{message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Why.
        message: String,
    },
    /// A field that cannot be accepted for a reason that has a code of its own (422).
    #[error("{message}")]
    Refused {
        /// Stable code, as `NOT_SUPPORTED`.
        code: &'static str,
        /// The field.
        field: &'static str,
        /// Why.
        message: String,
    },
    /// Several fields, or fields whose names are known only at run time (422).
    #[error("{}", first(errors))]
    InvalidFields {
        /// Field and what is wrong with it.
        errors: Vec<(String, String)>,
    },
    /// A path that exists, but not for this method (405).
    #[error("`{path}` does not take {method}")]
    MethodNotAllowed {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// A request that cannot be read (400).
    #[error("{message}")]
    BadRequest {
        /// Stable code.
        code: &'static str,
        /// Why.
        message: String,
    },
    /// No valid key.
    #[error("{message}")]
    Unauthenticated {
        /// Why.
        message: String,
    },
    /// The key may not do this.
    #[error("{message}")]
    Forbidden {
        /// Stable code, as `insufficient_scope`.
        code: &'static str,
        /// Why.
        message: String,
    },
    /// A name that another object has.
    #[error("`{name}` is already taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The object is not in a state that allows this (409).
    #[error("{message}")]
    Conflict {
        /// Stable code, as `SANDBOX_NOT_RUNNING`.
        code: &'static str,
        /// Why.
        message: String,
        /// Whether asking again later can help.
        retryable: bool,
    },
    /// The tenant has such an object already (409); `existing` is it.
    #[error("{message}")]
    Exists {
        /// Stable code, as `WORKSPACE_NAME_EXISTS`.
        code: &'static str,
        /// Why.
        message: String,
        /// The object that is there.
        existing: serde_json::Value,
    },
    /// What was asked for was deleted for good (410).
    #[error("{message}")]
    Gone {
        /// Why.
        message: String,
    },
    /// More than this endpoint takes (413).
    #[error("{message}")]
    TooLarge {
        /// Why.
        message: String,
    },
    /// No room or a part is away; asking again can help (503; 502 for files).
    #[error("{message}")]
    Busy {
        /// Stable code, as `no_ready_machine`.
        code: &'static str,
        /// Why.
        message: String,
        /// When to ask again.
        retry_after_ms: u64,
    },
    /// Asked more often than it may (429).
    #[error("this {what} may make {rpm} requests a minute; ask again in {} s", seconds(*wait))]
    TooMany {
        /// `key` or `organization`.
        what: &'static str,
        /// Requests per minute.
        rpm: u32,
        /// When to ask again.
        wait: Duration,
    },
    /// A fault of ours. The caller sees only that, and the request id.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// HTTP status and stable code; the message is prose and may change.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound { kind, .. } => (StatusCode::NOT_FOUND, not_found_code(kind)),
            Self::InvalidId { .. } => (StatusCode::BAD_REQUEST, "INVALID_ID"),
            Self::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR"),
            Self::Refused { code, .. } => (StatusCode::UNPROCESSABLE_ENTITY, code),
            Self::InvalidFields { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::BadRequest { code, .. } => (StatusCode::BAD_REQUEST, code),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::Forbidden { code, .. } => (StatusCode::FORBIDDEN, code),
            Self::NameTaken { .. } => (StatusCode::CONFLICT, "NAME_TAKEN"),
            Self::Conflict { code, .. } | Self::Exists { code, .. } => (StatusCode::CONFLICT, code),
            Self::Gone { .. } => (StatusCode::GONE, "GONE"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE"),
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
            Self::Busy { code: FILES_AWAY, .. } => (StatusCode::BAD_GATEWAY, FILES_AWAY),
            Self::Busy { code, .. } => (StatusCode::SERVICE_UNAVAILABLE, code),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        }
    }
}

/// Code of a sandbox whose files cannot be reached; 502, by which command-line tools know that
/// they may try another way.
pub(crate) const FILES_AWAY: &str = "SANDBOX_FILE_AGENT_UNAVAILABLE";

/// Whole seconds after which it is surely time.
pub(crate) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Some kinds have a code that SDKs know.
fn not_found_code(kind: &str) -> &'static str {
    match kind {
        "template" => "TEMPLATE_NOT_FOUND",
        "organization" => "ORG_NOT_FOUND",
        _ => "NOT_FOUND",
    }
}

fn first(errors: &[(String, String)]) -> String {
    errors.first().map_or_else(String::new, |(field, why)| format!("`{field}`: {why}"))
}

impl From<miosa_store::Error> for Error {
    fn from(error: miosa_store::Error) -> Self {
        match error {
            miosa_store::Error::Taken { name } => Self::NameTaken { name },
            miosa_store::Error::Stale { what } => Self::Conflict {
                code: "RESOURCE_STATE",
                message: format!("{what} was changed meanwhile; read it again"),
                retryable: true,
            },
            miosa_store::Error::Full(source) => {
                tracing::error!(%source, "the disk of the database is full");
                Self::Busy {
                    code: "NO_SPACE",
                    message: "the platform's disk is full; nothing was changed".to_owned(),
                    retry_after_ms: 30_000,
                }
            }
            miosa_store::Error::Away(source) => {
                tracing::warn!(%source, "the database does not answer");
                Self::Busy {
                    code: "SERVICE_UNAVAILABLE",
                    message: "the platform is busy; try again in a moment".to_owned(),
                    retry_after_ms: 1000,
                }
            }
            other => Self::Internal(Box::new(other)),
        }
    }
}

/// Leaves the error in the response for the outer layer, which knows the request id.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = self.status().0.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
