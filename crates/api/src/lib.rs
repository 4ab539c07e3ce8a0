//! The HTTP API: axum handlers, sign-in, tenants.
//!
//! Promises: handlers are thin (extract, call control, render); every handler that touches a
//! tenant's data takes a [`Caller`]; errors cross the boundary as [`Error`] only; everything
//! below `/api/v1` needs a key unless [`openapi`] says otherwise, whatever a handler does.

pub mod admin;
pub mod auth;
pub mod bodies;
pub mod branding;
pub mod caller;
pub mod custom_domains;
pub mod deployments;
mod domains;
pub mod error;
pub mod events;
pub mod exec;
pub mod extract;
pub mod files;
pub mod health;
pub mod idempotency;
pub mod keys;
pub mod limits;
pub mod metrics;
mod names;
pub mod openapi;
mod paging;
pub mod previews;
pub mod processes;
mod product;
pub mod projects;
pub mod request;
mod rest;
pub mod sandboxes;
pub mod scope;
pub mod serve;
pub mod settings;
pub mod state;
pub mod templates;
pub mod tenants;
mod unsupported;
pub mod workspaces;

use axum::{Router, extract::DefaultBodyLimit, middleware};

pub use caller::Caller;
pub use error::Error;
pub use extract::{Json, Path, Query};
pub use state::{AppState, Build};

/// Longest body of a call that sets no limit of its own (files and uploads do).
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// The whole API.
pub fn router(state: AppState) -> Router {
    let v1 = v1()
        .layer(middleware::from_fn_with_state(state.clone(), idempotency::layer))
        .layer(middleware::from_fn_with_state(state.clone(), bodies::layer))
        .merge(files::streamed())
        .layer(middleware::from_fn_with_state(state.clone(), auth::layer));
    Router::new()
        .merge(health::routes())
        .merge(openapi::page())
        .nest("/api/v1", v1)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(state.clone(), request::layer))
        .with_state(state)
}

/// Everything below `/api/v1`. Each area adds its own line.
fn v1() -> Router<AppState> {
    Router::new()
        .merge(health::routes())
        .merge(admin::routes())
        .merge(branding::routes())
        .merge(custom_domains::routes())
        .merge(deployments::routes())
        .merge(events::routes())
        .merge(keys::routes())
        .merge(openapi::routes())
        .merge(projects::routes())
        .merge(settings::routes())
        .merge(tenants::routes())
        .merge(workspaces::routes())
        .merge(sandboxes::routes())
        .merge(exec::routes())
        .merge(processes::routes())
        .merge(files::routes())
        .merge(previews::routes())
        .merge(templates::routes())
}

async fn unknown_route(uri: axum::extract::OriginalUri) -> Error {
    Error::NotFound { kind: "route", id: uri.path().to_owned() }
}

async fn wrong_method(method: http::Method, uri: axum::extract::OriginalUri) -> Error {
    Error::MethodNotAllowed { method: method.to_string(), path: uri.path().to_owned() }
}
