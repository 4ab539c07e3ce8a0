//! `miosa down`: stops the platform of a data folder and removes every workload and host object.
//!
//! Promises: it can be repeated; what is durable (database, artifacts, keys) stays, so that `up`
//! brings every app back. It opens nothing that it would only have to close again.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use miosa_provider_oci::Removed;
use miosa_store::{Store, installations};
use miosa_types::InstallationId;
use serde_json::json;

use super::block_on;
use crate::{
    bootstrap,
    logging::{progress, result},
    roles,
    settings::{DATA_DIR_ENV, Options, Settings},
    supervisor,
};

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the platform.
    #[arg(long, value_name = "DIR", env = DATA_DIR_ENV, default_value = "/var/lib/miosa")]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The platform is stopped already, by the caller, who holds its lock.
    #[arg(long, hide = true)]
    stopped: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    roles::require_root("down")?;
    let settings = Settings::load(&Options::for_data_dir(&arguments.data_dir))?;
    let noted = bootstrap::read_installation(&settings.installation_file())?;
    if noted.is_none() && !settings.database_file().exists() {
        say(arguments, None, false);
        return Ok(());
    }
    let was_running = !arguments.stopped && supervisor::stop_running(&settings.data_dir)?;
    let removed = block_on(remove(&settings, noted))?;
    say(arguments, removed, was_running);
    Ok(())
}

async fn remove(
    settings: &Settings,
    noted: Option<InstallationId>,
) -> anyhow::Result<Option<Removed>> {
    let found = if noted.is_some() {
        noted
    } else {
        // Of a version that did not note it.
        let store = Store::open_sqlite(&settings.database_file()).await.context("the database")?;
        installations::find(&mut *store.conn().await?).await?
    };
    let Some(installation) = found else { return Ok(None) };
    let removed = miosa_provider_oci::remove(installation, &settings.data_dir).await;
    removed.map(Some).context("something of the installation is left; run `down` again")
}

fn say(arguments: &Arguments, removed: Option<Removed>, was_running: bool) {
    if arguments.json {
        let removed = removed.unwrap_or_default();
        let Removed { workloads, instances } = removed;
        let answer = json!({
            "was_running": was_running, "workloads": workloads, "instances": instances,
        });
        result(&answer.to_string());
        return;
    }
    let sentence = sentence(&arguments.data_dir.display().to_string(), removed, was_running);
    // Of `up --ephemeral`, whose standard output is the operator's.
    if arguments.stopped {
        progress(&sentence);
    } else {
        result(&sentence);
    }
}

fn sentence(data_dir: &str, removed: Option<Removed>, was_running: bool) -> String {
    let Some(Removed { workloads, instances }) = removed else {
        return format!("nothing to do: {data_dir} holds no platform");
    };
    if (workloads, instances, was_running) == (0, 0, false) {
        return format!("nothing to do: nothing runs on {data_dir}; apps and data stay");
    }
    let stopped = if was_running { "stopped the platform and " } else { "" };
    format!(
        "{stopped}removed {workloads} workloads ({instances} instances) with their networks and \
         volumes; apps and data stay in {data_dir}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_is_gone() {
        assert_eq!(sentence("/d", None, false), "nothing to do: /d holds no platform");
        let removed = Removed { workloads: 4, instances: 3 };
        let line = sentence("/d", Some(removed), true);
        assert_eq!(
            line,
            "stopped the platform and removed 4 workloads (3 instances) with their networks and \
             volumes; apps and data stay in /d"
        );
        let none = sentence("/d", Some(Removed::default()), false);
        assert_eq!(none, "nothing to do: nothing runs on /d; apps and data stay");
        assert!(sentence("/d", Some(removed), false).starts_with("removed 4 workloads"));
    }
}
