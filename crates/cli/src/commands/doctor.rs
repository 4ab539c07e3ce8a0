//! `miosa doctor`: what this machine lacks, and how to get it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::block_on;
use crate::logging::result;

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the platform, made or not.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/miosa")]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let missing =
        block_on(async { Ok(miosa_provider_oci::preflight(&arguments.data_dir).await?) })?;
    let is_fatal = missing.iter().any(|one| one.is_fatal);
    if arguments.json {
        let rows: Vec<_> = missing
            .iter()
            .map(|m| json!({ "what": m.what, "hint": m.hint, "is_fatal": m.is_fatal }))
            .collect();
        result(&json!({ "ok": !is_fatal, "missing": rows }).to_string());
    } else if missing.is_empty() {
        result("this machine has everything that is needed");
    } else {
        for one in &missing {
            let mark = if one.is_fatal { "missing" } else { "advice " };
            result(&format!("{mark}  {}\n         {}", one.what, one.hint));
        }
    }
    anyhow::ensure!(!is_fatal, "this machine cannot run the platform yet");
    Ok(())
}
