//! `/metrics` in the text format of Prometheus, read at the moment it is asked for.
//!
//! Promises: a gauge shows what was observed; while nothing is known of the provider
//! `platform_provider_known` is 0 and the gauges of replicas and slots are left out.

use std::{collections::BTreeMap, fmt::Write as _};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use miosa_provider::{Observed, Owner, Phase};

use crate::{AppState, health};

/// The admin listener's routes.
pub fn router(state: AppState) -> Router {
    Router::new().route("/metrics", get(metrics)).merge(health::routes()).with_state(state)
}

async fn metrics(State(state): State<AppState>) -> impl IntoResponse {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, TEXT)], text(&state))
}

fn text(state: &AppState) -> String {
    let mut out = Text::default();
    let build = [("version", state.build.version), ("commit", state.build.commit)];
    out.family("platform_build_info", "gauge", "which program this is");
    out.sample("platform_build_info", &build, 1);
    process(&mut out);
    reconcilers(&mut out, state);
    out.family("platform_edges", "gauge", "edges whose lease runs");
    let leased = state.control.edges.status().iter().filter(|edge| edge.is_leased).count();
    out.sample("platform_edges", &[], leased);
    let replicas = state.control.observed.replicas();
    out.family("platform_provider_known", "gauge", "1 while the provider is watched");
    out.sample("platform_provider_known", &[], u8::from(replicas.is_some()));
    if let Some(replicas) = replicas {
        observed(&mut out, &replicas);
    }
    out.0
}

fn reconcilers(out: &mut Text, state: &AppState) {
    let steps = state.steps.all();
    let now = state.control.env.now();
    out.family("platform_reconciler_age_seconds", "gauge", "time since the last step");
    for (name, step) in &steps {
        let age = now.duration_since(step.at).as_secs();
        out.sample("platform_reconciler_age_seconds", &[("reconciler", name)], age);
    }
    out.family("platform_reconciler_failed", "gauge", "1 if the last step did not finish");
    for (name, step) in &steps {
        let failed = u8::from(step.error.is_some());
        out.sample("platform_reconciler_failed", &[("reconciler", name)], failed);
    }
    out.family("platform_reconciler_failed_objects", "gauge", "objects that the last step failed");
    for (name, step) in &steps {
        let failed = step.report.failed;
        out.sample("platform_reconciler_failed_objects", &[("reconciler", name)], failed);
    }
}

fn observed(out: &mut Text, replicas: &[Observed]) {
    out.family("platform_replicas", "gauge", "replicas by owner and phase");
    for ((owner, phase), count) in by_phase(replicas) {
        out.sample("platform_replicas", &[("owner", owner), ("phase", phase)], count);
    }
    out.family("platform_restarts", "gauge", "restarts of the workloads that are there now");
    let restarts: u64 = replicas.iter().map(|replica| u64::from(replica.restarts)).sum();
    out.sample("platform_restarts", &[], restarts);
}

/// How many replicas of each owner's kind are in each phase.
pub(crate) fn by_phase(replicas: &[Observed]) -> BTreeMap<(&'static str, &'static str), usize> {
    let mut counts = BTreeMap::new();
    for replica in replicas {
        let key = (owner_word(replica.owner), phase_word(&replica.phase));
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// The word for an owner's kind.
pub(crate) const fn owner_word(owner: Owner) -> &'static str {
    match owner {
        Owner::Pool => "pool",
        Owner::Sandbox(_) => "sandbox",
        Owner::Build(_) => "build",
        Owner::Version(_) => "version",
    }
}

/// The API's word for a phase (design §5).
pub(crate) const fn phase_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending { .. } => "provisioning",
        Phase::Running { .. } => "starting",
        Phase::Ready { .. } => "healthy",
        Phase::Draining { .. } => "stopped",
        Phase::Lost | Phase::Exited { .. } => "error",
    }
}

/// Memory, threads and descriptors of this process, from `/proc/self`.
fn process(out: &mut Text) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line[name.len()..].split_whitespace().next()?.parse().ok()
    };
    out.family("process_resident_memory_bytes", "gauge", "memory in use");
    if let Some(kib) = field("VmRSS:") {
        out.sample("process_resident_memory_bytes", &[], kib * 1024);
    }
    out.family("process_threads", "gauge", "threads");
    if let Some(threads) = field("Threads:") {
        out.sample("process_threads", &[], threads);
    }
    out.family("process_open_fds", "gauge", "open descriptors");
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        out.sample("process_open_fds", &[], entries.count());
    }
}

#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("{name}{labels} {value}\n"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String does not fail");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = Text::default();
        out.sample("a", &[("b", "c\"d\\\n")], 1);
        assert_eq!(out.0, "a{b=\"c\\\"d\\\\\\n\"} 1\n");
    }
}
