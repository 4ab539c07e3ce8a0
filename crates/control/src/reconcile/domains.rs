//! Checks domains that are due, sees when edges serve them, and frees those of deployments that
//! were deleted.
//!
//! Promises: one step checks a bounded number of domains, a few at a time; one that cannot be
//! checked keeps no other waiting for longer than its own deadline.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use miosa_store::{deployments, domains as rows};
use tokio::sync::Notify;

use crate::{
    Control,
    domains::{self, Domain, plan::Event},
    driver::{Reconciler, Report, StepError},
};

/// Domains that are checked at the same time.
const AT_ONCE: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Domains(pub Arc<Control>);

impl Domains {
    async fn check(&self, row: Domain) -> Result<Domain, domains::Error> {
        let control = &self.0;
        let mut db = control.store.conn().await?;
        let deployment = deployments::find(&mut db, row.tenant, row.deployment).await?;
        drop(db);
        match deployment {
            Some(deployment) => domains::check(control, row, &deployment).await,
            None => domains::settle(control, row, Event::Removed).await,
        }
    }
}

#[async_trait]
impl Reconciler for Domains {
    fn name(&self) -> &'static str {
        "domains"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn wake(&self) -> Arc<Notify> {
        self.0.wakes.domains.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        let control = &self.0;
        let mut db = control.store.conn().await?;
        let orphans = rows::orphans(&mut db).await?;
        drop(db);
        let mut report = Report::default();
        for row in orphans {
            report.note(domains::settle(control, row, Event::Removed).await.map(|_| true));
        }

        let due = rows::due(&mut *control.store.conn().await?, control.env.now()).await?;
        let mut checks = stream::iter(due)
            .map(|row| async {
                let before = row.progress.status;
                self.check(row).await.map(|row| row.progress.status != before)
            })
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = checks.next().await {
            report.note(outcome);
        }
        drop(checks);

        let unserved = rows::unserved(&mut *control.store.conn().await?).await?;
        let mut served = stream::iter(unserved)
            .map(|row| async {
                let row = domains::serve(control, row).await?;
                Ok(row.progress.status != domains::Status::Verified)
            })
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = served.next().await {
            report.note(outcome);
        }
        Ok(report)
    }
}

impl Report {
    fn note(&mut self, outcome: Result<bool, domains::Error>) {
        self.looked_at += 1;
        match outcome {
            Ok(has_acted) => self.acted += usize::from(has_acted),
            // The owner took it away meanwhile.
            Err(domains::Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, "a domain could not be looked at");
                self.failed += 1;
            }
        }
    }
}
