//! What every handler can reach.

use std::{sync::Arc, time::Duration};

use miosa_control::{Control, driver::Steps};

use crate::{
    bodies::Bodies,
    idempotency::Running,
    limits::{Limits, Rates},
};

/// Shared by all handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppState {
    /// The platform.
    pub control: Arc<Control>,
    /// Last step of each reconciler.
    pub steps: Steps,
    /// Which program this is.
    pub build: Build,
    /// Requests with an `Idempotency-Key` that are under way.
    pub running: Running,
    /// How much of their bodies is held.
    pub bodies: Bodies,
    /// How often keys and tenants may ask.
    pub limits: Limits,
}

/// Which program this is.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Version of the release.
    pub version: &'static str,
    /// Commit that it was built from, or `unknown`.
    pub commit: &'static str,
}

impl AppState {
    /// The state of a server over `control`.
    pub fn new(control: Arc<Control>, steps: Steps, build: Build) -> Self {
        Self {
            control,
            steps,
            build,
            running: Running::default(),
            bodies: Bodies::default(),
            limits: Limits::default(),
        }
    }

    /// The same with other rates.
    #[must_use]
    pub fn with_rates(self, rates: Rates) -> Self {
        Self { limits: Limits::new(rates), ..self }
    }
}

/// How long an idempotency key is kept.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_hours(24);
