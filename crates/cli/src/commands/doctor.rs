//! `miosa doctor`: what this machine lacks, and how to get it.

use std::path::{Path, PathBuf};

use clap::Args;
use miosa_provider::Missing;
use serde_json::json;

use super::block_on;
use crate::{logging::result, settings::DATA_DIR_ENV};

/// How a hint begins that names a package.
const INSTALL: &str = "apt-get install ";

/// Arguments of the command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Data folder of the platform, made or not.
    #[arg(long, value_name = "DIR", env = DATA_DIR_ENV, default_value = "/var/lib/miosa")]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let missing = look(&arguments.data_dir)?;
    let is_fatal = missing.iter().any(|one| one.is_fatal);
    if arguments.json {
        let rows: Vec<_> = missing
            .iter()
            .map(|m| json!({ "what": m.what, "hint": m.hint, "is_fatal": m.is_fatal }))
            .collect();
        let install = install(&missing);
        result(&json!({ "ok": !is_fatal, "missing": rows, "install": install }).to_string());
    } else {
        result(report(&missing).trim_end());
    }
    anyhow::ensure!(!is_fatal, "this machine cannot run the platform yet");
    Ok(())
}

/// Refuses to start where nothing could run: a start that fails over and over is harder to read.
pub(crate) fn require(data_dir: &Path) -> anyhow::Result<()> {
    let mut fatal = look(data_dir)?;
    fatal.retain(|one| one.is_fatal);
    let list: Vec<_> = fatal.iter().map(|one| format!("{} ({})", one.what, one.hint)).collect();
    anyhow::ensure!(fatal.is_empty(), "this machine lacks {}; see `miosa doctor`", list.join(", "));
    Ok(())
}

fn look(data_dir: &Path) -> anyhow::Result<Vec<Missing>> {
    let data_dir = std::path::absolute(data_dir)?;
    block_on(async { Ok(miosa_provider_oci::preflight(&data_dir).await?) })
}

/// One command for all packages.
fn install(missing: &[Missing]) -> Option<String> {
    let packages: Vec<&str> =
        missing.iter().filter_map(|one| one.hint.strip_prefix(INSTALL)).collect();
    (!packages.is_empty()).then(|| format!("{INSTALL}{}", packages.join(" ")))
}

fn report(missing: &[Missing]) -> String {
    if missing.is_empty() {
        return "this machine has everything that is needed".to_owned();
    }
    let mut report = String::new();
    for one in missing {
        let mark = if one.is_fatal { "missing" } else { "advice " };
        report += &format!("{mark}  {}\n         {}\n", one.what, one.hint);
    }
    if let Some(install) = install(missing) {
        report += &format!("\nall packages at once: {install}\n");
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_one_by_one_and_all_at_once() {
        let one = |what: &str, hint: &str, is_fatal| Missing {
            what: what.into(),
            hint: hint.into(),
            is_fatal,
        };
        let missing = [
            one("crun", "apt-get install crun", true),
            one("root", "run as root", true),
            one("npm", "apt-get install npm", false),
        ];
        let report = report(&missing);
        assert!(report.starts_with("missing  crun\n         apt-get install crun\n"), "{report}");
        assert!(report.contains("advice   npm\n"), "{report}");
        assert!(report.ends_with("\nall packages at once: apt-get install crun npm\n"), "{report}");
        assert_eq!(install(&missing[1..2]), None);
    }
}
