//! Runs workloads on this host: an OCI runtime program, an overlay of template and volume, user
//! and network namespaces made ahead, cgroups.
//!
//! Promises: workloads outlive this process and are taken over when it comes back; every host
//! object carries the installation's id, so that several installations run side by side; what no
//! record knows is removed at the start.

mod cgroup;
pub mod config;
mod converge;
mod dns;
mod files;
mod guest_binary;
mod host;
mod launch;
pub mod layers;
mod names;
mod network;
mod preflight;
mod program;
mod readiness;
pub mod rootfs;
mod runtime;
mod seccomp;
mod spec;
mod state;
pub mod storage;
mod sweep;
mod sys;
pub mod template;
pub mod userns;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use miosa_provider::{
    Caps, Confinement, Error as ProviderError, Events, Key, Memory, Missing, Owner, Provider, When,
    WorkloadSpec, board::Board,
};
use miosa_types::{InstanceId, Size};
use tokio::sync::Semaphore;

pub use config::OciConfig;
pub use layers::LayerSource;
pub use sweep::{Removed, remove, sweep_foreign};

use converge::{Request, Workloads, unavailable};
use host::{Host, Shared};
use names::Names;
use network::Network;
use runtime::Runtime;
use state::State;
use template::Templates;

/// Longest removal of everything.
const REMOVAL: Duration = Duration::from_mins(1);

/// Why the provider could not be opened. An operator must act: see [`Provider::preflight`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volumes.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The user namespaces.
    #[error(transparent)]
    Userns(#[from] userns::Error),
    /// Something else of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was set up.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Adds what was set up.
trait Setting<T> {
    fn setting(self, what: &'static str) -> Result<T, Error>;
}

impl<T> Setting<T> for io::Result<T> {
    fn setting(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Host { what, source })
    }
}

/// What an operator is shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Kind of the volumes' storage.
    pub storage: String,
    /// `hard` if the kernel enforces disk limits, else `soft`.
    pub disk_limit: &'static str,
    /// Addresses of the workloads.
    pub subnet: String,
    /// Workloads.
    pub workloads: usize,
    /// Replicas.
    pub replicas: usize,
    /// Network namespaces that wait.
    pub network_namespaces_ready: usize,
}

/// The provider.
#[derive(Debug)]
pub struct OciProvider {
    config: OciConfig,
    host: Arc<Host>,
    workloads: Arc<Workloads>,
    dns: Mutex<Option<dns::Forwarder>>,
}

impl OciProvider {
    /// Sets up what the host lacks, takes over the workloads from before and removes what no
    /// record knows.
    pub async fn open(config: OciConfig) -> Result<Arc<Self>, Error> {
        let names = Names::new(config.installation);
        let state = State::open(config.data_dir.join("oci")).setting("state")?;
        let instances = state.instances().setting("state")?;
        let alive: Vec<_> = instances
            .iter()
            .filter(|record| record.process.as_ref().is_some_and(state::Process::is_alive))
            .collect();
        sweep::register(&names, &config.data_dir, None).setting("registration")?;
        let addresses: Vec<_> = alive.iter().map(|record| record.address).collect();
        let bases: Vec<_> = alive.iter().map(|record| record.userns_base).collect();
        let network = Network::open(names.clone(), state.folder(), config.env.clone(), &addresses)
            .await
            .setting("network")?;
        sweep::register(&names, &config.data_dir, Some(network.subnet()))
            .setting("registration")?;
        let gateway = network.subnet().gateway();
        let dns = dns::Forwarder::start(gateway).await.setting("name server")?;
        let host = tokio::task::spawn_blocking({
            let config = config.clone();
            move || open_host(&config, names, state, network, bases)
        });
        let host = Arc::new(host.await.map_err(io::Error::other).setting("host")??);
        let dns = Mutex::new(Some(dns));
        let provider = Arc::new(Self { config, host, workloads: Arc::default(), dns });
        // Before anything may start: the sweep takes what it finds no record of for a leftover.
        sweep::leftovers(&provider.host).await;
        provider.adopt(instances).await?;
        Ok(provider)
    }

    /// The templates of the cache.
    pub fn templates(&self) -> &Templates {
        &self.host.templates
    }

    /// What an operator is shown.
    pub fn status(&self) -> Status {
        let is_hard = self.host.storage.is_hard();
        Status {
            storage: self.host.storage.kind().to_string(),
            disk_limit: if is_hard { "hard" } else { "soft" },
            subnet: self.host.network.subnet().to_string(),
            workloads: self.workloads.ids().len(),
            replicas: self.host.board.all().len(),
            network_namespaces_ready: self.host.network.ready(),
        }
    }

    /// Ends every workload and removes every host object of the installation. The provider cannot
    /// be used afterwards. Each part is tried; the first fault is returned.
    pub async fn remove_everything(&self) -> Result<(), Error> {
        self.dns.lock().unwrap_or_else(PoisonError::into_inner).take();
        for workload in self.workloads.ids() {
            let key = Key { workload, revision: u64::MAX };
            self.workloads.ask(workload, Request::Delete(key, 0)).await;
        }
        let emptied = tokio::time::timeout(REMOVAL, async {
            while !self.workloads.ids().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let emptied = emptied.await.map_err(io::Error::other).setting("workloads");
        self.workloads.clear();
        let network = self.host.network.remove().await.setting("network");
        let config = self.config.clone();
        let names = self.host.names.clone();
        let rest = tokio::task::spawn_blocking(move || sweep::remove_own(&names, &config.data_dir));
        let rest = rest.await.map_err(io::Error::other).flatten().setting("what is left");
        emptied.and(network).and(rest)
    }

    /// Whether a sandbox or build that begins now could write.
    fn has_room(&self) -> Result<(), ProviderError> {
        if !self.host.storage.is_short() {
            return Ok(());
        }
        Err(ProviderError::Quota { reason: "the disk of the host is nearly full".to_owned() })
    }

    async fn adopt(&self, instances: Vec<state::InstanceRecord>) -> Result<(), Error> {
        let mut instances = instances;
        for record in self.host.state.workloads().setting("state")? {
            let workload = record.spec.key.workload;
            let (own, others) = instances.into_iter().partition(|one| one.workload == workload);
            instances = others;
            self.workloads.adopt(&self.host, record, own).await;
        }
        for orphan in instances {
            tracing::warn!(instance = %orphan.instance, "removing an instance of no workload");
            sweep::end_instance(&self.host, orphan).await;
        }
        Ok(())
    }
}

fn open_host(
    config: &OciConfig,
    names: Names,
    state: State,
    network: Arc<Network>,
    bases: Vec<u32>,
) -> Result<Host, Error> {
    let cgroups = cgroup::Cgroups::detect().setting("cgroups")?;
    let runtime = Runtime::open(state.runtime_root(), cgroups).setting("runtime program")?;
    let storage = storage::Storage::open(&config.data_dir)?;
    let userns = userns::UsernsPool::open(&config.data_dir, bases)?;
    let shared = Shared::install(&names.run_dir(), guest_binary::BYTES, config.trust_host_ca);
    let layers = layers::Layers::open(&config.data_dir.join("layers"), Arc::clone(&config.layers));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Host {
        env: config.env.clone(),
        names,
        state,
        runtime,
        network,
        userns,
        storage,
        templates: config.templates.clone(),
        layers: layers.setting("layers")?,
        board: Board::default(),
        starts: Semaphore::new(cores + 1),
        limits: host::limits(),
        shared: shared.setting("guest")?,
    })
}

#[async_trait]
impl Provider for OciProvider {
    fn caps(&self) -> Caps {
        Caps {
            snapshot: false,
            pause: false,
            resize: false,
            hard_disk_limit: self.host.storage.is_hard(),
        }
    }

    async fn preflight(&self) -> Result<Vec<Missing>, ProviderError> {
        preflight(&self.config.data_dir).await.map_err(unavailable)
    }

    async fn apply(&self, spec: &WorkloadSpec) -> Result<(), ProviderError> {
        check(spec)?;
        let template = self.host.resolve(spec.root.template.clone()).await?;
        let workload = spec.key.workload;
        let request = Request::Apply(Box::new(spec.clone()), Box::new(template.clone()));
        if let Some(answer) = self.workloads.ask(workload, request).await {
            return answer;
        }
        if spec.confinement == Confinement::Sandbox {
            self.has_room()?;
        }
        let record = state::WorkloadRecord {
            spec: spec.clone(),
            owner: spec.owner,
            size: spec.size,
            restarts: 0,
            exits_in_a_row: 0,
            last_exit: None,
            deleting: None,
        };
        let (host, kept) = (Arc::clone(&self.host), record.clone());
        tokio::task::spawn_blocking(move || host.state.save_workload(&kept))
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?;
        self.workloads.insert(&self.host, record, template);
        Ok(())
    }

    async fn scale(&self, key: Key, replicas: u32) -> Result<(), ProviderError> {
        let answer = self.workloads.ask(key.workload, Request::Scale(key, replicas)).await;
        answer.unwrap_or(Err(ProviderError::Conflict { workload: key.workload }))
    }

    async fn replace(
        &self,
        key: Key,
        instance: InstanceId,
        when: When,
    ) -> Result<(), ProviderError> {
        let request = Request::Replace(key, instance, when);
        self.workloads.ask(key.workload, request).await.unwrap_or(Ok(()))
    }

    async fn delete(&self, key: Key, grace_s: u32) -> Result<(), ProviderError> {
        self.workloads.ask(key.workload, Request::Delete(key, grace_s)).await.unwrap_or(Ok(()))
    }

    async fn claim(&self, slot: Key, owner: Owner, size: Size) -> Result<(), ProviderError> {
        self.has_room()?;
        let answer = self.workloads.ask(slot.workload, Request::Claim(slot, owner, size)).await;
        answer.unwrap_or(Err(ProviderError::Conflict { workload: slot.workload }))
    }

    async fn room(&self) -> Result<(), ProviderError> {
        self.has_room()
    }

    async fn memory(&self) -> Option<Memory> {
        host::memory(&fs_err::read_to_string("/proc/meminfo").ok()?)
    }

    async fn cpu_time(&self, instance: InstanceId) -> Option<Duration> {
        let group = self.host.names.instance_cgroup(instance);
        self.host.runtime.cgroups().cpu_time(&group)
    }

    async fn watch(&self) -> Result<Events, ProviderError> {
        Ok(self.host.board.watch())
    }
}

/// What is missing on this machine, asked before the provider is opened.
pub async fn preflight(data_dir: &Path) -> io::Result<Vec<Missing>> {
    let data_dir = data_dir.to_owned();
    tokio::task::spawn_blocking(move || preflight::look(&data_dir)).await.map_err(io::Error::other)
}

/// What no start could succeed with.
fn check(spec: &WorkloadSpec) -> Result<(), ProviderError> {
    let invalid = |reason: String| Err(ProviderError::Invalid { reason });
    let Size { memory_mib, cpu_millis, disk_mib } = spec.size;
    if let Err(error) = Size::new(memory_mib, cpu_millis, disk_mib) {
        return invalid(error.to_string());
    }
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let name = &spec.hostname;
    if name.is_empty() || name.len() > 63 || !name.chars().all(is_letter) {
        return invalid(format!("`{name}` is no host name"));
    }
    if spec.key.revision == 0 {
        return invalid("revisions count from 1".into());
    }
    if let Some(command) = &spec.command
        && command.argv.first().is_none_or(String::is_empty)
    {
        return invalid("the command is empty".into());
    }
    Ok(())
}
