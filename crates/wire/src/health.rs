//! Whether the platform answers (contract: `miosa-api` 2.1).

use serde::Serialize;
use utoipa::ToSchema;

/// `GET /health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: &'static str,
    /// Name of this API.
    pub service: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// Commit that it was built from.
    pub commit: &'static str,
}

/// `GET /health/ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ready {
    /// Always `ready`.
    pub status: &'static str,
    /// Whether the database answers.
    pub database: bool,
    /// Whether what runs sandboxes and apps answers.
    pub provider: bool,
}
