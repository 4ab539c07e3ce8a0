//! `miosa down`: stops the platform of a data folder and removes every workload and host object.
//!
//! Promises: it can be repeated; what is durable (database, artifacts, keys) stays, so that `up`
//! brings every app back.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Args;
use miosa_artifact::ArtifactStore;
use miosa_store::{Store, installations};
use miosa_types::Env;

use super::block_on;
use crate::{
    logging::progress,
    roles::{self, control::open_provider},
    settings::{Options, Settings},
    supervisor,
};

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the platform.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/miosa")]
    data_dir: PathBuf,
    /// The platform is stopped already, by the caller, who holds its lock.
    #[arg(long, hide = true)]
    stopped: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    roles::require_root("down")?;
    let settings = Settings::load(&Options::for_data_dir(&arguments.data_dir))?;
    if !settings.database().exists() {
        progress(&format!("nothing to do: {} holds no platform", settings.data_dir.display()));
        return Ok(());
    }
    if !arguments.stopped && supervisor::stop_running(&settings.data_dir)? {
        progress("the platform has stopped");
    }
    block_on(remove(&settings))?;
    progress("workloads and host objects are removed; apps and data stay");
    Ok(())
}

async fn remove(settings: &Settings) -> anyhow::Result<()> {
    let store = Store::open_sqlite(&settings.database()).await.context("the database")?;
    let found = installations::find(&mut *store.conn().await?).await?;
    let Some(installation) = found else { return Ok(()) };
    let artifacts = ArtifactStore::open(&settings.artifacts_dir())?;
    let provider: Arc<_> =
        open_provider(settings, installation, &Env::system(), &artifacts).await?;
    provider.remove_everything().await.context("something of the installation is left")?;
    Ok(())
}
