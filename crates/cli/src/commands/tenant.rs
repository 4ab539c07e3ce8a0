//! `miosa tenant create|list`, on a running platform.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{Target, block_on, client, table::table, text};
use crate::logging::{progress, result};

/// What to do with tenants.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a tenant and show its API key, once.
    #[command(
        after_help = "Example:\n  miosa tenant create ClinicIQ --deployment-domain apps.cliniciq.com"
    )]
    Create(Create),
    /// List tenants.
    #[command(after_help = "Example:\n  miosa tenant list --json")]
    List(Target),
}

/// Arguments of `create`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Create {
    /// Display name, as `ClinicIQ`; the slug is made from it.
    name: String,
    /// Apps are published below this domain (default: the tenant's slug below the apps domain).
    #[arg(long, value_name = "DOMAIN")]
    deployment_domain: Option<String>,
    /// Previews are reached below this domain.
    #[arg(long, value_name = "DOMAIN")]
    preview_domain: Option<String>,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Create(arguments) => block_on(create(arguments)),
        Command::List(target) => block_on(list(target)),
    }
}

async fn create(arguments: &Create) -> anyhow::Result<()> {
    let mut body = Map::from_iter([("name".to_owned(), Value::from(arguments.name.as_str()))]);
    for (field, value) in [
        ("deployment_domain", &arguments.deployment_domain),
        ("preview_domain", &arguments.preview_domain),
    ] {
        if let Some(value) = value {
            body.insert(field.to_owned(), value.as_str().into());
        }
    }
    let answer: Value = client(&arguments.target)?.post("/api/v1/admin/tenants", &body).await?;
    let data = &answer["data"];
    if arguments.target.json {
        result(&data.to_string());
    } else {
        result(&text(&data["api_key"]));
        progress(&format!(
            "tenant {} has the slug {}; its key is shown above, once",
            text(&data["tenant"]["name"]),
            text(&data["tenant"]["slug"]),
        ));
    }
    Ok(())
}

async fn list(target: &Target) -> anyhow::Result<()> {
    let answer: Value = client(target)?.get("/api/v1/platform/tenants").await?;
    if target.json {
        result(&answer["data"].to_string());
        return Ok(());
    }
    let rows: Vec<_> = answer["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tenant| ["slug", "name", "deployment_domain", "id"].map(|field| text(&tenant[field])))
        .collect();
    result(table(["SLUG", "NAME", "APPS BELOW", "ID"], &rows).trim_end());
    Ok(())
}
