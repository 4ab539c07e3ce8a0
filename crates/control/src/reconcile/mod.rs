//! Reconcilers: idempotent functions from current state to actions.

pub mod builds;
pub mod deployments;
pub mod domains;
pub mod leftovers;
pub mod pool;
pub mod routes;
pub mod sandboxes;
