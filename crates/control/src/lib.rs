//! What the platform does: sandboxes, warm pool, deployments, monitor, routes, certificates.
//!
//! Promises: it names no provider and opens no connection itself (its outgoing I/O goes through
//! the traits of `miosa-types` and `miosa-provider`); it never reads the clock; every decision is
//! a pure `plan` whose shell does the I/O; status is only ever written from what was observed.

pub mod access;
pub mod assembly;
pub mod back_off;
pub mod certificates;
pub mod deployments;
pub mod domains;
pub mod driver;
pub mod edges;
pub mod healing;
pub mod histogram;
pub mod instances;
pub mod link;
pub mod monitor;
pub mod observe;
pub mod pool;
pub mod previews;
pub mod publishing;
pub mod reconcile;
pub mod rollout;
pub mod routes;
pub mod sandboxes;
pub mod templates;
pub mod waiting;
pub mod workloads;

use std::{path::PathBuf, sync::Arc};

use miosa_artifact::ArtifactStore;
use miosa_provider::Provider;
use miosa_store::Store;
use miosa_types::{Env, dns::Dns, guest::Guest, host::Domains, probe::Probe};

pub use driver::{Reconciler, Report, Wakes};
pub use observe::Observations;

/// Everything that the parts of control share. Cheap to share as an `Arc`.
#[derive(Debug)]
pub struct Control {
    /// The database.
    pub store: Store,
    /// What runs workloads.
    pub provider: Arc<dyn Provider>,
    /// The way into sandboxes.
    pub guest: Arc<dyn Guest>,
    /// Asks apps whether they answer.
    pub probe: Arc<dyn Probe>,
    /// Looks up names that tenants bring.
    pub dns: Arc<dyn Dns>,
    /// What edges shall serve, and how far they are: `Edges::new(start time in ms)`.
    pub edges: edges::Edges,
    /// Replicas that do not answer: `Suspects::default()`.
    pub suspects: monitor::Suspects,
    /// Counts failures and recoveries: `Healing::default()`.
    pub healing: healing::Healing,
    /// What sandboxes can start from.
    pub templates: Arc<dyn templates::Catalogue>,
    /// Sandboxes that a task of this process brings up: `InHand::default()`.
    pub in_hand: sandboxes::InHand,
    /// What the warm pool did: `pool::Stats::default()`.
    pub pool: pool::Stats,
    /// Blobs by digest.
    pub artifacts: ArtifactStore,
    /// Time, ids, randomness.
    pub env: Env,
    /// Settings.
    pub config: Config,
    /// What the provider last reported.
    pub observed: Observations,
    /// Wakes reconcilers.
    pub wakes: Wakes,
}

/// Settings of control.
#[derive(Clone, Debug)]
pub struct Config {
    /// Domains of the installation.
    pub domains: Domains,
    /// Addresses that visitors reach edges at, for names that are no aliases; may be empty.
    pub addresses: Vec<std::net::IpAddr>,
    /// Folder of durable data.
    pub data_dir: PathBuf,
    /// Warm slots to keep, if the operator set nothing else on the running platform.
    pub pool: Vec<PoolTarget>,
    /// Serve apps on plain HTTP instead of answering 308.
    pub plain_http: bool,
    /// Template that a sandbox gets if it names none.
    pub default_template: String,
}

/// How many warm slots to keep for one template and size.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PoolTarget {
    /// Template name.
    pub template: String,
    /// Size of each slot.
    pub size: miosa_types::Size,
    /// How many.
    pub count: u32,
}
