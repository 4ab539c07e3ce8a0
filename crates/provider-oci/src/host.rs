//! What all workloads of an installation share.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use miosa_provider::{Error, board::Board};
use miosa_types::{Digest, Env};
use tokio::sync::Semaphore;

use crate::{
    converge::unavailable,
    files,
    layers::Layers,
    names::Names,
    network::Network,
    runtime::Runtime,
    spec,
    state::State,
    storage::Storage,
    template::{self, Template, Templates},
    userns::UsernsPool,
};

/// The host's CA bundle on Debian.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What all workloads of an installation share.
#[derive(Debug)]
pub(crate) struct Host {
    /// Time, ids, randomness.
    pub(crate) env: Env,
    /// Names of host objects.
    pub(crate) names: Names,
    /// Records.
    pub(crate) state: State,
    /// Starts instances.
    pub(crate) runtime: Runtime,
    /// Addresses and network namespaces.
    pub(crate) network: Arc<Network>,
    /// User namespaces.
    pub(crate) userns: Arc<UsernsPool>,
    /// Volumes.
    pub(crate) storage: Storage,
    /// Root filesystems.
    pub(crate) templates: Templates,
    /// Artifact layers.
    pub(crate) layers: Layers,
    /// What is observed.
    pub(crate) board: Board,
    /// Starts under way. A start keeps a core busy, so more at once only make each later.
    pub(crate) starts: Semaphore,
    /// What this process may set for its children.
    pub(crate) limits: spec::Host,
    /// Files that instances share.
    pub(crate) shared: Shared,
}

impl Host {
    /// The template of that name. An unknown one is the caller's fault.
    pub(crate) async fn resolve(self: &Arc<Self>, name: String) -> Result<Template, Error> {
        let host = Arc::clone(self);
        let found = tokio::task::spawn_blocking(move || host.templates.resolve(&name)).await;
        found.map_err(unavailable)?.map_err(|error| match error {
            template::Error::NotFound { .. } => Error::Invalid { reason: error.to_string() },
            other => unavailable(other),
        })
    }
}

/// Files on the host that every instance mounts.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The guest's binary.
    pub(crate) guest: PathBuf,
    /// A copy of the host's CA bundle, if it is to be trusted.
    pub(crate) ca_bundle: Option<PathBuf>,
}

impl Shared {
    /// Puts them into `run_dir`: paths without the platform's name, which a workload may see.
    pub(crate) fn install(run_dir: &Path, guest: &[u8], trust_host_ca: bool) -> io::Result<Self> {
        fs_err::create_dir_all(run_dir)?;
        // The runtime program goes through it with the ids of an instance; nobody may list it.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs_err::set_permissions(run_dir, passable)?;
        let name = &Digest::of(guest).to_string()[..12];
        let guest = keep(&run_dir.join(format!("guest-{name}")), guest, 0o755)?;
        let bundle = if trust_host_ca { fs_err::read(CA_BUNDLE).ok() } else { None };
        let ca_bundle = match bundle {
            Some(bytes) => {
                let name = &Digest::of(&bytes).to_string()[..12];
                Some(keep(&run_dir.join(format!("ca-{name}.pem")), &bytes, 0o644)?)
            }
            None => None,
        };
        Ok(Self { guest, ca_bundle })
    }

    /// The bundle for a root filesystem, unless that has the very same.
    pub(crate) fn ca_bundle_for(&self, rootfs: &Path) -> Option<&Path> {
        let ours = self.ca_bundle.as_deref()?;
        let theirs = fs_err::read(rootfs.join(CA_BUNDLE.trim_start_matches('/'))).ok();
        let is_same = theirs.is_some_and(|theirs| fs_err::read(ours).is_ok_and(|o| o == theirs));
        (!is_same).then_some(ours)
    }
}

/// What this process may set for its children.
pub(crate) fn limits() -> spec::Host {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    spec::Host {
        open_files: open_files.unwrap_or(u64::MAX),
        can_set_oom_score: has_sys_resource(&status),
    }
}

/// Bit 24 of the effective set: `CAP_SYS_RESOURCE`.
fn has_sys_resource(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 24) != 0)
}

/// Writes a file unless it is there; its name says what is in it.
fn keep(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    if !path.exists() {
        let new = path.with_extension("new");
        fs_err::write(&new, bytes)?;
        fs_err::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        fs_err::rename(&new, path)?;
    }
    Ok(path.to_owned())
}

/// The folder of one instance that lives until it ends.
pub(crate) fn bundle(names: &Names, id: &str) -> PathBuf {
    names.run_dir().join(id)
}

/// Removes it.
pub(crate) fn remove_bundle(names: &Names, id: &str) -> io::Result<()> {
    files::remove_dir_all(&bundle(names, id))
}

/// What `/proc/meminfo` says. Pure.
pub(crate) fn memory(text: &str) -> Option<miosa_provider::Memory> {
    let mib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
    };
    let (total_mib, available_mib) = (mib("MemTotal:")?, mib("MemAvailable:")?);
    Some(miosa_provider::Memory { total_mib, available_mib })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        assert!(has_sys_resource("Name:\ta\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_sys_resource("CapEff:\t000001fffeffffff\n"));
        assert!(!has_sys_resource(""));
    }

    #[test]
    fn the_bundle_is_mounted_only_where_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours.pem");
        std::fs::write(&ours, "a").unwrap();
        let shared = Shared { guest: PathBuf::new(), ca_bundle: Some(ours.clone()) };
        let rootfs = folder.path().join("rootfs");
        let theirs = rootfs.join("etc/ssl/certs/ca-certificates.crt");
        std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
        assert_eq!(shared.ca_bundle_for(&rootfs), Some(&*ours));
        std::fs::write(&theirs, "a").unwrap();
        assert_eq!(shared.ca_bundle_for(&rootfs), None);
        std::fs::write(&theirs, "b").unwrap();
        assert_eq!(shared.ca_bundle_for(&rootfs), Some(&*ours));
    }

    #[test]
    fn memory_is_read_from_what_the_kernel_says() {
        let text = "MemTotal:       24609244 kB\nMemFree: 1 kB\nMemAvailable:   20480000 kB\n";
        let memory = memory(text).unwrap();
        assert_eq!((memory.total_mib, memory.available_mib), (24_032, 20_000));
        assert!(super::memory("MemTotal: 1024 kB\n").is_none());
    }
}
