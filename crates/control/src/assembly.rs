//! Puts control together: follows the provider, runs every reconciler and the monitor, serves
//! the edge link.
//!
//! Promises: when it returns, all of that has ended; workloads and edges go on without it.

use std::{io, sync::Arc};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Control, Reconciler,
    driver::{self, Steps},
    link, monitor, observe, reconcile,
};

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where edges dial in.
    pub link: link::Socket,
    /// Where the outcome of each step is noted, for `miosa status`.
    pub steps: Steps,
}

/// Runs control until `stop`. Fails only if the edge link cannot be bound.
pub async fn run(
    control: Arc<Control>,
    options: Options,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = link::bind(&options.link)?;
    let mut tasks = JoinSet::new();
    let served = link::Link { edges: control.edges.clone(), artifacts: control.artifacts.clone() };
    tasks.spawn(link::serve(listener, served, stop.clone()));
    tasks.spawn(observe::follow(
        control.provider.clone(),
        control.observed.clone(),
        control.wakes.clone(),
        stop.clone(),
    ));
    tasks.spawn(monitor::run(control.clone(), stop.clone()));
    tasks.spawn(relay(control.clone(), stop.clone()));
    for reconciler in reconcilers(&control) {
        let (env, steps) = (control.env.clone(), options.steps.clone());
        tasks.spawn(driver::run(reconciler, env, steps, stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a task of control ended");
        }
    }
    Ok(())
}

/// What edges report wakes the reconciler that waits for it.
async fn relay(control: Arc<Control>, stop: CancellationToken) {
    let mut reports = control.edges.reports();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = reports.changed() => if changed.is_err() { return },
        }
        control.wakes.deployments.notify_one();
    }
}

/// Every reconciler of the platform.
pub fn reconcilers(control: &Arc<Control>) -> Vec<Arc<dyn Reconciler>> {
    vec![
        Arc::new(reconcile::routes::Routes::new(control.clone())),
        Arc::new(reconcile::builds::Builds::new(control.clone())),
        Arc::new(reconcile::deployments::Deployments::new(control.clone())),
        Arc::new(reconcile::domains::Domains(control.clone())),
        Arc::new(reconcile::sandboxes::Sandboxes(control.clone())),
        Arc::new(reconcile::pool::Pool::new(control.clone())),
        Arc::new(reconcile::leftovers::Leftovers::new(control.clone())),
    ]
}
