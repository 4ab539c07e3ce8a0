//! `/admin/status`: what `miosa status` shows. Operator only.
//!
//! Promises: everything here was observed; while nothing is known of the provider, what depends
//! on it is null, not zero.

mod apps;
mod pool;

use std::collections::BTreeMap;

use axum::{Router, extract::State, routing::get};
use jiff::Timestamp;
use miosa_control::{Control, driver::LastStep, edges::EdgeStatus};
use miosa_provider::{Observed, Owner};
use miosa_store::certificates;
use miosa_wire::{Data, pool::Fill};
use serde::Serialize;

use crate::{AppState, Caller, Error, Json, metrics};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/status", get(status))
        .route("/admin/reconcilers", get(reconcilers))
        .merge(pool::routes())
}

#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    commit: &'static str,
    /// By the kernel, or only measured.
    disk_limits: &'static str,
    /// Runtime instances by state.
    instances: Option<BTreeMap<&'static str, usize>>,
    /// Sandboxes by state of their replica.
    sandboxes: Option<BTreeMap<&'static str, usize>>,
    /// Published apps of all tenants.
    apps: Vec<apps::App>,
    pool: Option<Vec<Fill>>,
    restarts: Option<u64>,
    monitor: Monitor,
    /// Failures and recoveries of runtime instances since control started.
    healing: Healed,
    /// Objects that the last step of a reconciler could not handle.
    tracking_failures: usize,
    reconcilers: BTreeMap<&'static str, LastStep>,
    edges: Vec<EdgeStatus>,
    certificates: Vec<Certificate>,
}

#[derive(Debug, Serialize)]
struct Healed {
    /// Replicas that failed after they had answered.
    failures: u64,
    /// Failures that are over.
    recoveries: u64,
    /// How long those took together, in milliseconds.
    recovery_ms: u64,
}

#[derive(Debug, Serialize)]
struct Monitor {
    /// Probes since control started.
    checks: u64,
    /// Replicas under watch.
    watched: usize,
    /// Replicas that do not answer now.
    suspects: usize,
    /// Replicas that ended or cannot be seen.
    marked_error: usize,
}

#[derive(Debug, Serialize)]
struct Certificate {
    names: Vec<String>,
    not_after: Timestamp,
}

async fn status(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<Status>>, Error> {
    caller.operator_only()?;
    let control = &state.control;
    let stored = certificates::all(&mut *control.store.conn().await?).await?;
    let certificates = stored
        .into_iter()
        .map(|one| Certificate { names: one.names, not_after: one.not_after })
        .collect();
    let targets = miosa_control::pool::targets(control).await?;
    let replicas = control.observed.replicas();
    let seen = replicas.as_deref();
    let reconcilers = state.steps.all();
    Ok(Json(Data::new(Status {
        version: state.build.version,
        commit: state.build.commit,
        disk_limits: if control.provider.caps().hard_disk_limit { "hard" } else { "soft" },
        instances: seen.map(|all| counts(all, "version")),
        sandboxes: seen.map(|all| counts(all, "sandbox")),
        apps: apps::all(control, seen).await?,
        pool: seen.map(|all| pool::fill(&state, &targets, Some(all))),
        restarts: seen.map(|all| all.iter().map(|one| u64::from(one.restarts)).sum()),
        monitor: monitor(&state, seen.unwrap_or_default()),
        healing: healed(control),
        tracking_failures: reconcilers.values().map(|step| step.report.failed).sum(),
        reconcilers,
        edges: control.edges.status(),
        certificates,
    })))
}

async fn reconcilers(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<BTreeMap<&'static str, LastStep>>>, Error> {
    caller.operator_only()?;
    Ok(Json(Data::new(state.steps.all())))
}

fn counts(replicas: &[Observed], owner: &str) -> BTreeMap<&'static str, usize> {
    let of_owner = metrics::by_phase(replicas).into_iter().filter(|((who, _), _)| *who == owner);
    of_owner.map(|((_, phase), count)| (phase, count)).collect()
}

fn healed(control: &Control) -> Healed {
    let recoveries = control.healing.recoveries();
    Healed {
        failures: control.healing.failures(),
        recoveries: recoveries.count,
        recovery_ms: u64::try_from(recoveries.sum.as_millis()).unwrap_or(u64::MAX),
    }
}

fn monitor(state: &AppState, replicas: &[Observed]) -> Monitor {
    let watched = replicas.iter().filter(|one| matches!(one.owner, Owner::Version(_)));
    let error = |one: &&Observed| metrics::phase_word(&one.phase) == "error";
    Monitor {
        checks: state.control.suspects.checks(),
        watched: watched.clone().count(),
        suspects: state.control.suspects.all().len(),
        marked_error: watched.filter(error).count(),
    }
}
