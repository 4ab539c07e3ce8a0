//! The commands that are not roles: one file each.

pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod status;
pub(crate) mod template;
pub(crate) mod tenant;

use std::path::PathBuf;

use clap::Args;

/// Which installation, and how to answer.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// Data folder of the platform.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/miosa")]
    pub(crate) data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs a future to its end; for commands, which do one thing.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}
