//! The edge: takes every visitor's connection, and knows no database.
//!
//! It serves from a table that control sends over the edge link and that is kept on the edge's
//! own disk, so it starts and keeps serving with control dead.

pub mod body;
pub mod config;

use std::io;

pub use body::Body;
pub use config::{EdgeConfig, Limits, Listeners};

/// Why an edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its folder, its sockets or its threads: the operator must act.
    #[error("{what}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
