//! What wraps every answer (contract: `miosa-api` 1.4).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A successful answer: `{"data": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data<T> {
    /// The object or list.
    pub data: T,
}

impl<T> Data<T> {
    /// Wraps `data`.
    pub const fn new(data: T) -> Self {
        Self { data }
    }
}

/// A part of a list: `{"data": […], "next_cursor": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// The rows.
    pub data: Vec<T>,
    /// `cursor` of the next part; null on the last.
    pub next_cursor: Option<String>,
    /// Which page it is, if asked for so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<PageOf>,
}

/// Which page of how many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Page)]
pub struct PageOf {
    /// Its number, from 1.
    pub page: u32,
    /// Most rows that it has.
    pub page_size: u32,
    /// Rows of all pages.
    pub total: u64,
}

/// A failed answer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    /// What went wrong.
    pub error: ErrorBody,
    /// Wrong fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
    /// Again here, because SDKs read it only at top level or in the header.
    pub request_id: String,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable code.
    pub code: String,
    /// Prose for the person who called.
    pub message: String,
    /// Names this request in the platform's log.
    #[serde(default)]
    pub request_id: String,
    /// What else is known, as `field`.
    #[serde(default)]
    pub details: Map<String, Value>,
    /// Whether asking again later can help.
    #[serde(default)]
    pub retryable: bool,
    /// When to ask again, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The same in seconds, for who asked too often.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The object that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<Value>,
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Always `invalid`.
    pub code: &'static str,
    /// Its name, as `inner.port`.
    pub field: String,
    /// What is wrong.
    pub message: String,
}
