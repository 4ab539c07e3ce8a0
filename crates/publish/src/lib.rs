//! From a working folder in a sandbox to something that can be served.
//!
//! [`snapshot()`] saves the source; [`build()`] turns a saved source into an artifact, inside a
//! build sandbox that its caller provides. Promises: nothing is ever taken from the edit sandbox
//! but its files; what a build's environment held is not in the artifact; each wait has a
//! deadline; whose fault a failure is, is told by its type.

pub mod build;
pub mod detect;
mod fetch;
mod log;
mod request;
mod run;
mod snapshot;
mod steps;

pub use build::{Artifact, BuildContext, BuildError, Built, Deadlines, build};
pub use log::BuildLog;
pub use request::{KindChoice, Request, RequestError};
pub use run::{Run, RunConfig};
pub use snapshot::{SnapshotError, snapshot, source_excludes};

/// Where an app lies in every sandbox and runtime instance.
pub const WORKSPACE: &str = "/workspace";
