//! `/metrics` in the text format of Prometheus, read at the moment it is asked for.
//!
//! Promises: a gauge shows what was observed; while nothing is known of the provider
//! `platform_provider_known` is 0 and the gauges of replicas and slots are left out. The counters
//! of this machine's edge are asked of the edge itself: while it is away `miosa_edge_up` is 0 and
//! the rest is there all the same.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use miosa_control::{healing::Healing, histogram::Histogram, pool::BootPath};
use miosa_provider::{Observed, Owner, Phase};
use tokio::{io::AsyncReadExt as _, net::UnixStream};

use crate::{AppState, health};

/// How long the edge may take to tell its counters.
const EDGE_DEADLINE: Duration = Duration::from_millis(500);

/// Most bytes that are read of them.
const MAX_EDGE: u64 = 1024 * 1024;

/// The admin listener's routes. `edge` is the socket on which this machine's edge tells its
/// counters.
pub fn router(state: AppState, edge: PathBuf) -> Router {
    let metrics = move |State(state): State<AppState>| metrics(state, edge.clone());
    Router::new().route("/metrics", get(metrics)).merge(health::routes()).with_state(state)
}

async fn metrics(state: AppState, edge: PathBuf) -> impl IntoResponse {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let told = tokio::time::timeout(EDGE_DEADLINE, ask_edge(&edge)).await;
    let told = told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if let Err(error) = &told {
        tracing::debug!(%error, "the edge does not tell its metrics");
    }
    ([(header::CONTENT_TYPE, TEXT)], text(&state) + &of_edge(told.ok().as_deref()))
}

/// Everything that the edge tells before it closes.
async fn ask_edge(socket: &Path) -> io::Result<String> {
    let mut text = String::new();
    UnixStream::connect(socket).await?.take(MAX_EDGE).read_to_string(&mut text).await?;
    Ok(text)
}

/// What the edge told, as part of the page. It faces the internet, so it is not trusted to speak
/// for anyone else: only lines about its own metrics are passed on.
fn of_edge(told: Option<&str>) -> String {
    let mut out = Text::default();
    out.family("miosa_edge_up", "gauge", "1 if the edge of this machine told its metrics");
    out.sample("miosa_edge_up", &[], u8::from(told.is_some()));
    let is_own = |line: &&str| {
        let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        rest.unwrap_or(line).starts_with("edge_")
    };
    for line in told.unwrap_or_default().lines().filter(is_own) {
        out.line(format_args!("{line}\n"));
    }
    out.0
}

fn text(state: &AppState) -> String {
    let mut out = Text::default();
    let build = [("version", state.build.version), ("commit", state.build.commit)];
    out.family("platform_build_info", "gauge", "which program this is");
    out.sample("platform_build_info", &build, 1);
    process(&mut out);
    pool(&mut out, state);
    reconcilers(&mut out, state);
    out.family("platform_rate_limited_total", "counter", "requests refused for their number");
    out.sample("platform_rate_limited_total", &[], state.limits.refused());
    out.family("platform_edges", "gauge", "edges whose lease runs");
    let leased = state.control.edges.status().iter().filter(|edge| edge.is_leased).count();
    out.sample("platform_edges", &[], leased);
    let replicas = state.control.observed.replicas();
    out.family("platform_provider_known", "gauge", "1 while the provider is watched");
    out.sample("platform_provider_known", &[], u8::from(replicas.is_some()));
    if let Some(replicas) = replicas {
        observed(&mut out, &replicas);
    }
    healing(&mut out, &state.control.healing);
    out.0
}

fn healing(out: &mut Text, healing: &Healing) {
    const FAILURES: &str = "platform_runtime_failures_total";
    const RECOVERY: &str = "platform_runtime_recovery_seconds";
    out.family(FAILURES, "counter", "replicas that failed after answering");
    out.sample(FAILURES, &[], healing.failures());
    out.family(RECOVERY, "histogram", "from a failure seen to its replacement answering");
    out.histogram(RECOVERY, &[], &healing.recoveries());
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

fn pool(out: &mut Text, state: &AppState) {
    let stats = &state.control.pool;
    for (name, help, value) in [
        ("platform_pool_hits_total", "sandboxes that got a warm slot", stats.hits()),
        ("platform_pool_misses_total", "sandboxes for which there was none", stats.misses()),
        ("platform_pool_refill_failures_total", "warm slots that failed", stats.refill_failures()),
    ] {
        out.family(name, "counter", help);
        out.sample(name, &[], value);
    }
    let name = "platform_sandbox_start_seconds";
    out.family(name, "histogram", "from create until it takes commands");
    for (word, boot_path) in [("warm", BootPath::Warm), ("cold", BootPath::Cold)] {
        out.histogram(name, &[("boot", word)], &stats.waits(boot_path));
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

    /// The samples of one histogram, in seconds.
    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        shown: &Histogram<N>,
    ) {
        let bounds = shown.at_most().map(|(at, below)| (at.as_secs_f64().to_string(), below));
        for (bound, below) in bounds.chain([("+Inf".to_owned(), shown.count)]) {
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&format!("{name}_bucket"), &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, shown.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, shown.count);
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
    #[test]
    fn an_edge_speaks_for_itself_only() {
        let told = "# HELP edge_held_total Held.\n# TYPE edge_held_total counter\n\
                    edge_held_total 3\nplatform_edges 99\n# TYPE up gauge\n# EOF\n";
        let text = of_edge(Some(told));
        assert!(text.contains("\nmiosa_edge_up 1\n"), "{text}");
        let own = "# HELP edge_held_total Held.\n# TYPE edge_held_total counter\n\
                   edge_held_total 3\n";
        assert!(text.ends_with(own), "{text}");
        assert!(!text.contains("platform_edges") && !text.contains("EOF"), "{text}");
        assert!(of_edge(None).ends_with("\nmiosa_edge_up 0\n"));
    }

    #[tokio::test]
    async fn an_edge_that_is_away_is_an_error_and_one_that_is_there_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        assert!(ask_edge(&path).await.is_err());
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let told = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"edge_a 1\n").await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask_edge(&path), told);
        assert_eq!(asked.unwrap(), "edge_a 1\n");
    }
}
