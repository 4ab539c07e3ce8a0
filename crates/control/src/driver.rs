//! Runs reconcilers: periodically, and at once when something woke them.
//!
//! A reconciler takes no input but current state, so a restart, a lost wake-up and a normal tick
//! are one path. A wake-up is a hint to run, never a message about what to do. Steps of one
//! reconciler never overlap. A failed step is run again after a back-off, or earlier if woken.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use miosa_types::Env;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::back_off::BackOff;

/// After steps that failed.
const REST: BackOff =
    BackOff { first: Duration::from_millis(100), longest: Duration::from_secs(10) };

/// An idempotent function from current state to actions.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Name in status, logs and metrics.
    fn name(&self) -> &'static str;

    /// Longest time between two steps.
    fn period(&self) -> Duration;

    /// Wakes it early.
    fn wake(&self) -> Arc<Notify>;

    /// Looks at everything and acts. Must be safe to repeat at any time.
    async fn step(&self) -> Result<Report, StepError>;
}

/// Why a step did not finish. The driver logs it and runs the step again.
pub type StepError = Box<dyn std::error::Error + Send + Sync>;

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Objects looked at.
    pub looked_at: usize,
    /// Actions taken.
    pub acted: usize,
    /// Objects whose handling failed; the step went on with the others.
    pub failed: usize,
}

/// The last step of one reconciler, for `miosa status`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LastStep {
    /// When it ended.
    pub at: Timestamp,
    /// What it did.
    pub report: Report,
    /// Why it did not finish.
    pub error: Option<String>,
}

/// Hints to run early. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// Sandboxes: apply what is missing, delete what nobody wants.
    pub sandboxes: Arc<Notify>,
    /// Warm pool: refill.
    pub pool: Arc<Notify>,
    /// Builds of versions.
    pub builds: Arc<Notify>,
    /// Deployments: start, switch, drain, stop.
    pub deployments: Arc<Notify>,
    /// Domains: checks that are due, routes that edges have.
    pub domains: Arc<Notify>,
    /// Routes: recompute what edges are told.
    pub routes: Arc<Notify>,
}

impl Wakes {
    /// Something was observed: whoever acts on observations looks again.
    pub fn observed(&self) {
        self.sandboxes.notify_one();
        self.pool.notify_one();
        self.builds.notify_one();
        self.deployments.notify_one();
        self.routes.notify_one();
    }
}

/// Last step of every reconciler, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Steps(Arc<Mutex<BTreeMap<&'static str, LastStep>>>);

impl Steps {
    /// A copy.
    pub fn all(&self) -> BTreeMap<&'static str, LastStep> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn record(&self, name: &'static str, step: LastStep) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, step);
    }
}

/// Runs one reconciler until `stop`.
pub async fn run(reconciler: Arc<dyn Reconciler>, env: Env, steps: Steps, stop: CancellationToken) {
    let wake = reconciler.wake();
    let mut failures = 0_u32;
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = reconciler.step() => outcome,
        };
        let (report, error) = match outcome {
            Ok(report) => {
                failures = if report.failed > 0 { failures.saturating_add(1) } else { 0 };
                (report, None)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(reconciler = reconciler.name(), %error, "step failed");
                (Report::default(), Some(error.to_string()))
            }
        };
        if report.acted > 0 {
            tracing::info!(reconciler = reconciler.name(), ?report, "acted");
        }
        steps.record(reconciler.name(), LastStep { at: env.now(), report, error });
        let pause = if failures == 0 { reconciler.period() } else { REST.pause(failures) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(pause.min(reconciler.period())) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Counting(AtomicU32, Arc<Notify>);

    #[async_trait]
    impl Reconciler for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }
        fn period(&self) -> Duration {
            Duration::from_mins(1)
        }
        fn wake(&self) -> Arc<Notify> {
            self.1.clone()
        }
        async fn step(&self) -> Result<Report, StepError> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                1 => Err("once".into()),
                _ => Ok(Report::default()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_start_when_woken_after_a_failure_and_periodically() {
        let counting = Arc::new(Counting(AtomicU32::new(0), Arc::default()));
        let (steps, stop) = (Steps::default(), CancellationToken::new());
        let task = tokio::spawn(run(counting.clone(), Env::system(), steps.clone(), stop.clone()));
        let count = || counting.0.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(count(), 1, "at start");
        counting.1.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(count(), 2, "woken; this step fails");
        assert_eq!(steps.all()["counting"].error.as_deref(), Some("once"));
        tokio::time::sleep(Duration::from_millis(101)).await;
        assert_eq!(count(), 3, "again after the back-off");
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(count(), 4, "periodically");
        stop.cancel();
        task.await.unwrap();
    }
}
