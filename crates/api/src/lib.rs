//! The HTTP API: axum handlers, sign-in, tenants.
//!
//! Promises: handlers are thin (extract, call control, render); every handler that touches a
//! tenant's data takes a [`Caller`]; errors cross the boundary as [`Error`] only.

pub mod caller;
pub mod error;

pub use caller::Caller;
pub use error::Error;
