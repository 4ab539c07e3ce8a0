//! `miosa template build|list`.

use std::path::PathBuf;

use clap::Subcommand;
use miosa_provider_oci::template::Templates;
use serde_json::json;

use crate::logging::{progress, result};

/// What to do with templates.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a template from a declarative file; quick if the cache has it.
    Build {
        /// The file (TOML); without one the default template is built.
        file: Option<PathBuf>,
        /// Folder of templates.
        #[arg(long, value_name = "DIR", default_value = "/var/cache/miosa")]
        cache_dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List what the cache holds.
    List {
        /// Folder of templates.
        #[arg(long, value_name = "DIR", default_value = "/var/cache/miosa")]
        cache_dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Shows one line of a build.
pub(crate) fn progress_line(line: &str) {
    progress(line);
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Build { file, cache_dir, json } => {
            crate::roles::require_root("template build")?;
            let templates = Templates::open(cache_dir)?;
            let template = match file {
                Some(file) => templates.build(file, &progress_line)?,
                None => templates.build_default(&progress_line)?,
            };
            if *json {
                result(&json!({ "name": template.name, "digest": template.digest }).to_string());
            } else {
                result(&format!("{} {}", template.name, template.digest));
            }
        }
        Command::List { cache_dir, json } => {
            let all = Templates::open(cache_dir)?.list()?;
            if *json {
                let rows: Vec<_> = all
                    .iter()
                    .map(|t| json!({ "name": t.name, "digest": t.digest, "aliases": t.spec.aliases }))
                    .collect();
                result(&serde_json::Value::from(rows).to_string());
            } else {
                for template in all {
                    let digest = template.digest.to_string();
                    result(&format!("{:<24} {}", template.name, &digest[..12]));
                }
            }
        }
    }
    Ok(())
}
