//! `miosa template build|list`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use miosa_provider_oci::template::{Template, Templates};
use serde_json::{Value, json};

use super::{Target, block_on, client, table::table, text};
use crate::{
    logging::{progress, result},
    roles::require_root,
    settings::CACHE_DIR_ENV,
    supervisor,
};

/// What to do with templates.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a template from a declarative file; quick if the cache has it.
    #[command(after_help = "Examples:\n  miosa template build\n  miosa template build python.toml")]
    Build(Build),
    /// List the templates that sandboxes can start from.
    #[command(after_help = "Examples:\n  miosa template list\n  \
                            miosa template list --data-dir /srv/miosa --json")]
    List(List),
}

/// Arguments of `build`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Build {
    /// The file (TOML); without one the default template is built.
    file: Option<PathBuf>,
    /// Folder of templates.
    #[arg(long, value_name = "DIR", env = CACHE_DIR_ENV, default_value = "/var/cache/miosa")]
    cache_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct List {
    /// Ask the platform that runs on this data folder what it has.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of templates, looked at if no platform is asked.
    #[arg(long, value_name = "DIR", env = CACHE_DIR_ENV, default_value = "/var/cache/miosa")]
    cache_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows one line of a build.
pub(crate) fn progress_line(line: &str) {
    progress(line);
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Build(arguments) => build(arguments),
        Command::List(arguments) => list(arguments),
    }
}

fn build(arguments: &Build) -> anyhow::Result<()> {
    require_root("template build")?;
    let templates = open(&arguments.cache_dir)?;
    let template = match &arguments.file {
        Some(file) => templates.build(file, &progress_line)?,
        None => templates.build_default(&progress_line)?,
    };
    if arguments.json {
        result(&of_cache(&template).to_string());
    } else {
        result(&format!("{} {}", template.name, template.digest));
    }
    Ok(())
}

fn list(arguments: &List) -> anyhow::Result<()> {
    let running = match &arguments.data_dir {
        Some(data_dir) if supervisor::is_running(data_dir)? => Some(data_dir),
        Some(data_dir) => {
            let cache = arguments.cache_dir.display();
            progress(&format!("no platform runs on {}; this is in {cache}", data_dir.display()));
            None
        }
        None => None,
    };
    let rows: Vec<Value> = match running {
        Some(data_dir) => {
            let target = Target { data_dir: data_dir.clone(), json: arguments.json };
            let answer: Value =
                block_on(async { Ok(client(&target)?.get("/api/v1/sandbox-templates").await?) })?;
            answer["data"].as_array().into_iter().flatten().map(of_platform).collect()
        }
        None => open(&arguments.cache_dir)?.list()?.iter().map(of_cache).collect(),
    };
    if arguments.json {
        result(&Value::from(rows).to_string());
    } else if rows.is_empty() {
        result("no template yet; `miosa template build` makes the default one");
    } else {
        result(page(&rows).trim_end());
    }
    Ok(())
}

/// The cache is root's: it holds setuid programs.
fn open(cache_dir: &Path) -> anyhow::Result<Templates> {
    require_root("template")?;
    Templates::open(cache_dir).with_context(|| {
        format!("{} cannot be used; choose another with --cache-dir", cache_dir.display())
    })
}

fn of_cache(template: &Template) -> Value {
    json!({
        "name": template.name,
        "aliases": template.spec.aliases,
        "description": template.spec.description,
        "digest": template.digest,
    })
}

/// The API names no digests.
fn of_platform(template: &Value) -> Value {
    json!({
        "name": template["name"],
        "aliases": template["aliases"],
        "description": template["description"],
    })
}

fn page(rows: &[Value]) -> String {
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let aliases: Vec<_> =
                row["aliases"].as_array().into_iter().flatten().map(text).collect();
            [text(&row["name"]), aliases.join(", "), text(&row["description"])]
        })
        .collect();
    table(["NAME", "ALIASES", "DESCRIPTION"], &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_like_a_table() {
        let rows = [json!({"name": "a", "aliases": ["b", "c"], "description": "For all."})];
        assert_eq!(page(&rows), "NAME  ALIASES  DESCRIPTION\na     b, c     For all.\n");
    }
}
