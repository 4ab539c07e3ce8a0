//! The commands that are not roles: one file each.

pub(crate) mod app;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod pool;
pub(crate) mod sandbox;
pub(crate) mod status;
mod table;
pub(crate) mod template;
pub(crate) mod tenant;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use miosa_client::Client;
use miosa_types::Secret;
use serde_json::Value;

use crate::{settings::DATA_DIR_ENV, supervisor::Ready};

/// Which installation, and how to answer.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// Data folder of the platform.
    #[arg(long, value_name = "DIR", env = DATA_DIR_ENV, default_value = "/var/lib/miosa")]
    pub(crate) data_dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which installation, and which of its tenants.
#[derive(Clone, Debug, Args)]
pub(crate) struct Tenancy {
    /// Act for this tenant (slug or id) instead of `default`.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Tenancy {
    /// A client that acts for the tenant and waits as long as the longest call may take.
    fn client(&self) -> anyhow::Result<Client> {
        Ok(client(&self.target)?.for_tenant(self.tenant.clone()).within(LONGEST))
    }
}

/// Longest that one call may take: a command in a sandbox, or saving the files of a big one.
const LONGEST: Duration = Duration::from_mins(11);

/// A client with the operator's key of a running platform.
pub(crate) fn client(target: &Target) -> anyhow::Result<Client> {
    let ready = Ready::read(&target.data_dir)?;
    Ok(Client::new(&ready.api_url, Secret::new(ready.admin_key))?)
}

/// A field as text; empty if it is null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Runs a future to its end; for commands, which do one thing.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(work)
}
