//! `miosa config check|schema`: what a configuration file would do, without doing it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{table::table, text};
use crate::{
    logging::result,
    settings::{self, Checked, Options, Problem},
};

/// What to do with a configuration file.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is wrong with a configuration file and what would take effect.
    ///
    /// The environment is looked at as `up` would; options of `up` would go before both.
    #[command(after_help = "Examples:\n  \
        miosa config check /etc/miosa.toml\n  \
        miosa config check /etc/miosa.toml --json | jq .problems\n\n\
        Exit code 1: it cannot be used.")]
    Check(Check),
    /// Print the JSON schema of the configuration file, for editors.
    #[command(after_help = "Example:\n  miosa config schema > miosa.schema.json")]
    Schema,
}

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Check {
    /// The file; without one what the environment and the defaults say.
    file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Check(arguments) => check(arguments),
        Command::Schema => {
            result(settings::schema_text().trim_end());
            Ok(())
        }
    }
}

fn check(arguments: &Check) -> anyhow::Result<()> {
    let mut options = Options::of_environment().map_err(|error| {
        // The first line names the variable's option and its value.
        let shown = error.to_string();
        let first = shown.lines().next().unwrap_or_default();
        anyhow::anyhow!("the environment: {}", first.trim_start_matches("error: "))
    })?;
    if arguments.file.is_some() {
        options.folder.config.clone_from(&arguments.file);
    }
    let config = options.folder.config.as_deref();
    let checked = settings::check(&options, &settings::read_text(config)?);
    let name = config.map(|path| path.display().to_string());
    if arguments.json {
        let answer = json!({
            "ok": checked.problems.is_empty(),
            "file": name,
            "problems": checked.problems,
            "settings": checked.effects,
        });
        result(&answer.to_string());
    } else {
        result(page(name.as_deref(), &checked).trim_end());
    }
    let count = checked.problems.len();
    let many = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    anyhow::ensure!(count == 0, "the configuration cannot be used ({many})");
    Ok(())
}

/// Problems first, then every setting with its source.
fn page(file: Option<&str>, checked: &Checked) -> String {
    let mut page = String::new();
    for Problem { line, message, .. } in &checked.problems {
        let at = match (file, line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            _ => String::new(),
        };
        page += &format!("{at}{message}\n");
    }
    if !page.is_empty() {
        page.push('\n');
    }
    let rows: Vec<_> = checked
        .effects
        .iter()
        .map(|(key, effect)| {
            let source = json!(effect.source);
            [key.clone(), text(&source), text(&effect.value)]
        })
        .collect();
    page + &table(["KEY", "FROM", "VALUE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_first_and_then_what_would_take_effect() {
        let checked = settings::check(&Options::default(), "[edge]\nplain_http = true\nx = 1");
        let page = page(Some("/etc/m.toml"), &checked);
        assert!(page.starts_with("/etc/m.toml:3: there is no key `edge.x`"), "{page}");
        let row = page.lines().find(|line| line.starts_with("edge.plain_http")).unwrap();
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells, ["edge.plain_http", "file", "true"]);
        assert!(page.contains("\nadmin"), "{page}");
    }
}
