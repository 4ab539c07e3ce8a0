//! What the API says of itself: its description as OpenAPI 3.1 and a page for people.
//!
//! Promises: who may call what is read from the same tables ([`access`]), so the description
//! cannot say anything else than what is checked; a route that no table names is the operator's.

mod document;
mod operation;
mod page;
mod table;

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    Router,
    response::{Html, IntoResponse},
    routing::get,
};
use http::{Method, header};
use serde_json::Value;

pub use self::operation::{Access, Operation};
use crate::AppState;

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(table::all);
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| document::build(&OPERATIONS));
static TEXT: LazyLock<String> = LazyLock::new(text);
static PAGE: LazyLock<page::Page> = LazyLock::new(|| page::render(&DOCUMENT));

/// Every operation below `/api/v1`.
pub fn operations() -> &'static [Operation] {
    &OPERATIONS
}

/// The description, as it is committed in `docs/openapi.json`.
pub fn text() -> String {
    format!("{:#}\n", *DOCUMENT)
}

/// Who may call a method of a route below `/api/v1`, named as the router names it.
pub fn access(method: &Method, route: &str) -> Access {
    static TABLE: LazyLock<HashMap<(&Method, &str), Access>> = LazyLock::new(|| {
        OPERATIONS.iter().map(|one| ((&one.method, one.path), one.access)).collect()
    });
    // The router answers HEAD where it answers GET.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    TABLE.get(&(method, route)).copied().unwrap_or(Access::Operator)
}

/// `/openapi.json`, below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new().route("/openapi.json", get(description))
}

/// `/docs`, at the root.
pub fn page() -> Router<AppState> {
    Router::new().route("/docs", get(reference))
}

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

async fn reference() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(PAGE.html.as_str()))
}
