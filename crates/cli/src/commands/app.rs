//! `miosa deploy`, `cancel`, `logs` and `rollback`: published apps of a running platform.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use miosa_client::{Client, segment};
use serde_json::{Value, json};

use super::{Tenancy, block_on, text};
use crate::logging::{progress, result};

/// How often it is looked whether a version is ready.
const LOOK: Duration = Duration::from_millis(500);

/// Longest that a version is waited for.
const PATIENCE: Duration = Duration::from_mins(20);

/// Arguments of `deploy`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Deploy {
    /// Id of the sandbox whose files are published.
    sandbox: String,
    /// Name of the app; an app of that name gets a new version.
    #[arg(long)]
    name: String,
    /// What it is, if it is not to be found out.
    #[arg(long)]
    kind: Option<Kind>,
    /// Shell line that builds it.
    #[arg(long, value_name = "COMMAND")]
    build: Option<String>,
    /// Shell line that runs it.
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Port that it listens on.
    #[arg(long)]
    port: Option<u16>,
    /// Do not wait for the build.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    tenancy: Tenancy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Files.
    Static,
    /// A process.
    Dynamic,
}

/// Arguments of `cancel`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Cancel {
    /// Name, slug or id of the app.
    app: String,
    /// Number of the version whose build is ended (default: the newest that is being built).
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
    #[command(flatten)]
    tenancy: Tenancy,
}

/// Arguments of `logs`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Logs {
    /// Name, slug or id of the app.
    app: String,
    /// Show at most so many of the last lines.
    #[arg(long, value_name = "COUNT", default_value = "200")]
    lines: u32,
    #[command(flatten)]
    tenancy: Tenancy,
}

/// Arguments of `rollback`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Rollback {
    /// Name, slug or id of the app.
    app: String,
    /// Number of the version to go back to (default: the one before).
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
    #[command(flatten)]
    tenancy: Tenancy,
}

pub(crate) fn deploy(arguments: &Deploy) -> anyhow::Result<()> {
    block_on(async {
        let client = arguments.tenancy.client()?;
        let mut body = json!({
            "name": arguments.name,
            "build_command": arguments.build,
            "run_command": arguments.run,
            "port": arguments.port,
        });
        if let Some(kind) = arguments.kind {
            body["kind"] = match kind {
                Kind::Static => "static".into(),
                Kind::Dynamic => "dynamic".into(),
            };
        }
        let path = format!("/api/v1/sandboxes/{}/deploy", segment(&arguments.sandbox));
        let answer: Value = client.post(&path, &body).await?;
        let mut data = answer["data"].clone();
        if !arguments.no_wait {
            progress("the files are saved; building");
            let app = text(&data["deployment_id"]);
            data["version"] = built(&client, &app, &text(&data["version_id"])).await?;
        }
        result(&if arguments.tenancy.target.json { data.to_string() } else { text(&data["url"]) });
        Ok(())
    })
}

/// Waits until a version is built. An error tells the end of its build's log.
async fn built(client: &Client, app: &str, version: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/deployments/{app}/versions/{version}");
    let waits = async {
        loop {
            let answer: Value = client.get(&path).await?;
            match text(&answer["data"]["state"]).as_str() {
                "building" => tokio::time::sleep(LOOK).await,
                "ready" => return anyhow::Ok(answer["data"].clone()),
                state => {
                    let logs: Value = client.get(&format!("{path}/logs")).await?;
                    progress(text(&logs["data"]["logs"]).trim_end());
                    anyhow::bail!("the version is {state}; its log is above");
                }
            }
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, waits).await;
    outcome.context("the build still runs; see `miosa status`")?
}

pub(crate) fn cancel(arguments: &Cancel) -> anyhow::Result<()> {
    block_on(async {
        let Cancel { app, version, tenancy } = arguments;
        let client = tenancy.client()?;
        let path = format!("/api/v1/deployments/{}/versions", segment(app));
        let versions: Value = client.get(&path).await?;
        let id = match version {
            Some(number) => find(&versions["data"], *number)?,
            None => building(&versions["data"])?,
        };
        let answer: Value = client.post(&format!("{path}/{id}/cancel"), &json!({})).await?;
        let data = &answer["data"];
        result(&if tenancy.target.json {
            data.to_string()
        } else {
            format!("the build of version {} is cancelled", text(&data["version_number"]))
        });
        Ok(())
    })
}

pub(crate) fn logs(arguments: &Logs) -> anyhow::Result<()> {
    block_on(async {
        let Logs { app, lines, tenancy } = arguments;
        let path = format!("/api/v1/deployments/{}/logs?lines={lines}", segment(app));
        let answer: Value = tenancy.client()?.get(&path).await?;
        let data = &answer["data"];
        result(&if tenancy.target.json {
            data.to_string()
        } else {
            text(&data["logs"]).trim_end().to_owned()
        });
        Ok(())
    })
}

pub(crate) fn rollback(arguments: &Rollback) -> anyhow::Result<()> {
    block_on(async {
        let Rollback { app, version, tenancy } = arguments;
        let client = tenancy.client()?;
        let path = format!("/api/v1/deployments/{}", segment(app));
        let body = match version {
            None => json!({}),
            Some(number) => {
                let versions: Value = client.get(&format!("{path}/versions")).await?;
                json!({ "version_id": find(&versions["data"], *number)? })
            }
        };
        let answer: Value = client.post(&format!("{path}/rollback"), &body).await?;
        let data = &answer["data"];
        if tenancy.target.json {
            result(&data.to_string());
        } else {
            let versions: Value = client.get(&format!("{path}/versions")).await?;
            let number = number_of(&versions["data"], &data["active_version_id"]);
            let name = text(&data["name"]);
            result(&format!("{name} goes back to version {}", number.unwrap_or_default()));
        }
        Ok(())
    })
}

fn find(versions: &Value, number: u32) -> anyhow::Result<String> {
    let all: Vec<&Value> = versions.as_array().into_iter().flatten().collect();
    let found = all.iter().find(|version| version["version_number"] == number);
    let known: Vec<_> = all.iter().map(|version| text(&version["version_number"])).collect();
    let found = found
        .with_context(|| format!("there is no version {number}; there are {}", known.join(", ")))?;
    Ok(text(&found["id"]))
}

/// The newest that is being built; they are listed newest first.
fn building(versions: &Value) -> anyhow::Result<String> {
    let mut all = versions.as_array().into_iter().flatten();
    let found = all.find(|version| version["state"] == "building");
    Ok(text(&found.context("no version of this app is being built")?["id"]))
}

fn number_of(versions: &Value, id: &Value) -> Option<String> {
    let mut all = versions.as_array().into_iter().flatten();
    all.find(|version| &version["id"] == id).map(|version| text(&version["version_number"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_by_its_number() {
        let versions = json!([{"id": "b", "version_number": 2}, {"id": "a", "version_number": 1}]);
        assert_eq!(find(&versions, 1).unwrap(), "a");
        let error = find(&versions, 3).unwrap_err().to_string();
        assert_eq!(error, "there is no version 3; there are 2, 1");
        assert_eq!(number_of(&versions, &json!("b")).as_deref(), Some("2"));
        assert_eq!(
            building(&versions).unwrap_err().to_string(),
            "no version of this app is being built"
        );
        let versions = json!([{"id": "b", "state": "ready"}, {"id": "a", "state": "building"}]);
        assert_eq!(building(&versions).unwrap(), "a");
    }
}
