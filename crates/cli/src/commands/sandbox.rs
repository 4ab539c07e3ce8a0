//! `miosa sandbox list|create|exec|destroy`, on a running platform.

use std::{io::Write as _, process::ExitCode};

use clap::{Args, Subcommand};
use http::Method;
use miosa_client::segment;
use miosa_types::size::Tier;
use serde_json::{Map, Value, json};

use super::{Tenancy, block_on, table::table, text};
use crate::logging::{progress, result};

/// What to do with sandboxes.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// List sandboxes, newest first.
    #[command(after_help = "Example:\n  miosa sandbox list --tenant cliniciq")]
    List(Tenancy),
    /// Make a sandbox and print its id once it takes commands.
    #[command(after_help = "Example:\n  miosa sandbox create --name booking --size small")]
    Create(Create),
    /// Run a command in a sandbox; ends with the command's exit code.
    #[command(after_help = "Examples:\n  \
        miosa sandbox exec 0198c5c4-… -- ls -la\n  \
        miosa sandbox exec 0198c5c4-… -- 'npm ci && npm test'")]
    Exec(Exec),
    /// Destroy a sandbox and its files. Apps that were published from it stay.
    #[command(after_help = "Example:\n  miosa sandbox destroy 0198c5c4-…")]
    Destroy(Destroy),
}

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Create {
    /// Display name.
    #[arg(long)]
    name: Option<String>,
    /// What it starts from, as `miosa template list` names it.
    #[arg(long)]
    template: Option<String>,
    /// CPU and memory: xs, small, medium, large or xl.
    #[arg(long, value_parser = tier)]
    size: Option<Tier>,
    #[command(flatten)]
    tenancy: Tenancy,
}

/// Arguments of `exec`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Exec {
    /// Id of the sandbox.
    sandbox: String,
    /// The command: one word is a line for the shell, several are passed on as they are.
    #[arg(required = true, last = true)]
    command: Vec<String>,
    /// Working folder (default: `/workspace`).
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Seconds after which it is killed.
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    timeout: u32,
    #[command(flatten)]
    tenancy: Tenancy,
}

/// Arguments of `destroy`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Destroy {
    /// Id of the sandbox.
    sandbox: String,
    #[command(flatten)]
    tenancy: Tenancy,
}

fn tier(word: &str) -> Result<Tier, String> {
    serde_json::from_value(word.into()).map_err(|_| "it is xs, small, medium, large or xl".into())
}

pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List(tenancy) => block_on(list(tenancy)),
        Command::Create(arguments) => block_on(create(arguments)),
        Command::Exec(arguments) => block_on(exec(arguments)),
        Command::Destroy(arguments) => block_on(destroy(arguments)),
    }
}

async fn list(tenancy: &Tenancy) -> anyhow::Result<ExitCode> {
    let answer: Value = tenancy.client()?.get("/api/v1/sandboxes").await?;
    if tenancy.target.json {
        result(&answer["data"].to_string());
    } else {
        let all = answer["data"].as_array().into_iter().flatten();
        let rows: Vec<_> = all
            .map(|one| {
                ["id", "name", "state", "template_id", "size", "created_at"].map(|f| text(&one[f]))
            })
            .collect();
        let headings = ["ID", "NAME", "STATE", "TEMPLATE", "SIZE", "CREATED"];
        result(table(headings, &rows).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(arguments: &Create) -> anyhow::Result<ExitCode> {
    let Create { name, template, size, tenancy } = arguments;
    let mut body = Map::new();
    for (field, value) in [("name", name), ("template_id", template)] {
        body.extend(value.as_ref().map(|value| (field.to_owned(), value.as_str().into())));
    }
    body.extend(size.map(|size| ("size".to_owned(), size.as_str().into())));
    let answer: Value = tenancy.client()?.post("/api/v1/sandboxes", &body).await?;
    let data = &answer["data"];
    result(&if tenancy.target.json { data.to_string() } else { text(&data["id"]) });
    Ok(ExitCode::SUCCESS)
}

async fn exec(arguments: &Exec) -> anyhow::Result<ExitCode> {
    let Exec { sandbox, command, cwd, timeout, tenancy } = arguments;
    let body = json!({ "command": line(command), "cwd": cwd, "timeout": timeout });
    let path = format!("/api/v1/sandboxes/{}/exec", segment(sandbox));
    let answer: Value = tenancy.client()?.post(&path, &body).await?;
    let data = &answer["data"];
    let code = data["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    if tenancy.target.json {
        result(&data.to_string());
        return Ok(ExitCode::from(code));
    }
    // As they were: no line is added.
    std::io::stdout().write_all(text(&data["stdout"]).as_bytes())?;
    std::io::stderr().write_all(text(&data["stderr"]).as_bytes())?;
    if data["timed_out"] == true {
        progress(&format!("killed after {timeout} s; allow more with --timeout"));
    }
    if data["truncated"] == true {
        progress("the output was cut");
    }
    Ok(ExitCode::from(code))
}

/// A line for the sandbox's shell: one word is one, several are quoted.
fn line(command: &[String]) -> String {
    let quoted = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    match command {
        [line] => line.clone(),
        words => words.iter().map(quoted).collect::<Vec<_>>().join(" "),
    }
}

async fn destroy(arguments: &Destroy) -> anyhow::Result<ExitCode> {
    let Destroy { sandbox, tenancy } = arguments;
    let path = format!("/api/v1/sandboxes/{}", segment(sandbox));
    let answer: Value = tenancy.client()?.call(Method::DELETE, &path, None::<&()>).await?;
    if tenancy.target.json {
        result(&answer["data"].to_string());
    } else {
        result(&format!("{sandbox} is destroyed"));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_program_as_they_were() {
        assert_eq!(line(&["ls && pwd".into()]), "ls && pwd");
        assert_eq!(line(&["echo".into(), "a b".into(), "it's".into()]), r"'echo' 'a b' 'it'\''s'");
        assert_eq!(tier("xl"), Ok(Tier::Xl));
        assert!(tier("huge").unwrap_err().contains("xs, small"));
    }
}
