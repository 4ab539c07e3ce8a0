//! `/health`: whether the process answers, and `/health/ready`: whether its dependencies do.

use axum::{Router, extract::State, routing::get};
use miosa_wire::health::{Health, Ready};

use crate::{AppState, Error, extract::Json, product};

/// Routes at the root and, the same, below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new().route("/health", get(health)).route("/health/ready", get(ready))
}

async fn health(State(state): State<AppState>) -> Json<Health> {
    Json(Health {
        status: "ok",
        service: product::SERVICE,
        version: state.build.version,
        commit: state.build.commit,
    })
}

async fn ready(State(state): State<AppState>) -> Result<Json<Ready>, Error> {
    let database = match state.control.store.conn().await {
        Ok(mut db) => miosa_store::installations::find(&mut db).await.is_ok(),
        Err(_) => false,
    };
    // Nothing is known of the provider while no watch is open.
    let provider = state.control.observed.replicas().is_some();
    if !(database && provider) {
        let away = if database { "the provider" } else { "the database" };
        return Err(Error::Busy {
            code: "NOT_READY",
            message: format!("{away} does not answer"),
            retry_after_ms: 1000,
        });
    }
    Ok(Json(Ready { status: "ready", database, provider }))
}
