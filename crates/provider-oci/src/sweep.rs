//! Removing what nobody wants any more: leftovers of this installation that no record knows, and
//! whole installations whose data folder is gone.
//!
//! Promises: only objects that carry an installation's id are touched, and of other installations
//! only those whose state is gone from their data folder. (The folder itself may still be there:
//! `rm -rf` cannot remove the mount point of the volumes.)

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::Arc,
    time::Duration,
};

use miosa_types::{InstallationId, InstanceId};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Cgroups,
    converge::start,
    files,
    host::Host,
    names::{Names, RUN},
    network::{self, Subnet, link},
    program, rootfs,
    state::InstanceRecord,
    storage::Storage,
    userns::UsernsPool,
};

/// Longest wait for a killed process.
const DEATH: Duration = Duration::from_secs(2);

/// What [`Names::registration`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Registration {
    data_dir: PathBuf,
    subnet: Option<Subnet>,
}

/// Whether an installation has its state in this folder.
fn is_there(data_dir: &Path) -> bool {
    data_dir.join("oci").exists()
}

/// Tells everyone on this machine of the installation, and of its addresses once it has some.
pub(crate) fn register(names: &Names, data_dir: &Path, subnet: Option<Subnet>) -> io::Result<()> {
    fs_err::create_dir_all(RUN)?;
    let registration = Registration { data_dir: data_dir.to_owned(), subnet };
    files::write_json(&names.registration(), &registration)
}

/// The registered installations.
fn registered() -> io::Result<Vec<(InstallationId, Registration)>> {
    let entries = match fs_err::read_dir(RUN) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let id = stem.and_then(|stem| InstallationId::from_str(stem).ok());
        if let (Some(id), Ok(Some(registration))) = (id, files::read_json(&path)) {
            found.push((id, registration));
        }
    }
    Ok(found)
}

/// Subnets of the other installations, those that do not run included.
pub(crate) fn subnets_of_others(names: &Names) -> io::Result<Vec<Subnet>> {
    let others = registered()?.into_iter().filter(|(id, _)| id.simple() != names.installation());
    Ok(others.filter_map(|(_, registration)| registration.subnet).collect())
}

/// Removes leftovers of this installation that no record knows. Links and routes are the
/// network's to remove. What cannot be removed is told and left for the next start. Nothing may
/// be started meanwhile.
pub(crate) async fn leftovers(host: &Arc<Host>) {
    let host = Arc::clone(host);
    let swept = tokio::task::spawn_blocking(move || sweep(&host)).await;
    match swept.map_err(io::Error::other).flatten() {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "removed leftovers"),
        Err(error) => tracing::warn!(%error, "leftovers could not be removed"),
    }
}

fn sweep(host: &Host) -> io::Result<usize> {
    let known: BTreeSet<String> =
        host.state.instances()?.iter().map(|record| record.instance.simple()).collect();
    let cgroups = host.runtime.cgroups();
    let mut found: BTreeSet<String> = cgroups.children(&host.names.cgroup()).into_iter().collect();
    found.extend(host.runtime.known()?);
    found.extend(host.storage.list().map_err(io::Error::other)?.into_iter().map(|v| v.name));
    found.extend(host.state.logged()?.into_iter().map(InstanceId::simple));
    for entry in fs_err::read_dir(host.names.run_dir())? {
        found.extend(entry?.file_name().into_string().ok());
    }
    let mut count = 0;
    for name in found.difference(&known) {
        // Other names are not of instances: the shared files, for example.
        let Ok(instance) = InstanceId::from_str(name) else { continue };
        count += 1;
        end_processes(cgroups, &host.names.instance_cgroup(instance));
        cgroups.remove(&host.names.instance_cgroup(instance))?;
        host.runtime.forget(name)?;
        host.storage.remove(name).map_err(io::Error::other)?;
        files::remove_dir_all(&host.names.run_dir().join(name))?;
        host.state.remove_instance(instance)?;
    }
    Ok(count)
}

/// Ends an instance that belongs to no workload.
pub(crate) async fn end_instance(host: &Arc<Host>, record: InstanceRecord) {
    let instance = record.instance;
    let address = record.address;
    let work = {
        let host = Arc::clone(host);
        move || start::clean(&host, &record).and_then(|()| host.state.remove_instance(instance))
    };
    let cleaned = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
    let released = host.network.release(address, None).await;
    if let Err(error) = cleaned.and(released) {
        tracing::warn!(%instance, %error, "something of an instance is left");
    }
}

fn end_processes(cgroups: &Cgroups, group: &Path) {
    let processes = cgroups.processes(group);
    for pid in &processes {
        program::kill(*pid);
    }
    for pid in processes {
        // One that has ended already cannot be waited for, and need not be.
        program::wait(pid, DEATH).ok();
    }
}

/// Removes what is left of an installation once its network is gone. Blocks.
pub(crate) fn remove_rest(names: &Names, data_dir: &Path) -> io::Result<()> {
    let cgroups = Cgroups::detect()?;
    for name in cgroups.children(&names.cgroup()) {
        let group = names.cgroup().join(name);
        end_processes(&cgroups, &group);
        cgroups.remove(&group)?;
    }
    cgroups.remove(&names.cgroup())?;
    if is_there(data_dir) {
        Storage::destroy_at(data_dir).map_err(io::Error::other)?;
        UsernsPool::forget(data_dir)?;
        files::remove_dir_all(&data_dir.join("layers"))?;
        files::remove_dir_all(&data_dir.join("oci"))?;
    } else {
        for mount in rootfs::mounts_under(data_dir)? {
            rootfs::unmount(&mount)?;
            // Only if nothing is in it.
            std::fs::remove_dir(mount).ok();
        }
        std::fs::remove_dir(data_dir).ok();
    }
    files::remove_dir_all(&names.run_dir())?;
    files::remove_file(&names.registration())
}

/// What [`remove`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Sandboxes, builds, versions and slots of the pool.
    pub workloads: usize,
    /// Their replicas.
    pub instances: usize,
}

/// Ends every workload of an installation that no provider has open, and removes every host object
/// of it. Can be repeated.
pub async fn remove(installation: InstallationId, data_dir: &Path) -> io::Result<Removed> {
    let folder = data_dir.join("oci");
    // The folder is the operator's: without this mark it would be taken for one that is gone, of
    // which nothing is to be left.
    fs_err::create_dir_all(&folder)?;
    let count = |of: &str| match fs_err::read_dir(folder.join(of)) {
        Ok(entries) => entries.count(),
        Err(_) => 0,
    };
    let removed = Removed { workloads: count("workloads"), instances: count("instances") };
    // None after a restart of the machine: nothing of its network is left then.
    let known: Option<Registration> = files::read_json(&Names::new(installation).registration())?;
    let subnet = known.and_then(|registration| registration.subnet);
    let registration = Registration { data_dir: data_dir.to_owned(), subnet };
    remove_foreign(installation, registration).await?;
    Ok(removed)
}

/// Removes every host object of installations whose data folder is gone. Returns their ids.
pub async fn sweep_foreign() -> io::Result<Vec<InstallationId>> {
    let mut swept = Vec::new();
    for (id, registration) in registered()? {
        if !is_there(&registration.data_dir) {
            remove_foreign(id, registration).await?;
            swept.push(id);
        }
    }
    Ok(swept)
}

async fn remove_foreign(id: InstallationId, registration: Registration) -> io::Result<()> {
    let names = Names::new(id);
    let Registration { data_dir, subnet } = registration;
    let rest = {
        let names = names.clone();
        move || remove_rest(&names, &data_dir)
    };
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let prefix = names.link_prefix();
    let bridge = names.bridge();
    let removed = async {
        // The processes first: a link pair whose inner end lives can be removed all the same, but
        // what listens inside must not outlive its packet filter.
        tokio::task::spawn_blocking(rest).await.map_err(io::Error::other).flatten()?;
        for (index, name) in link::all(&netlink).await? {
            if name.starts_with(&prefix) || name == bridge {
                link::remove(&netlink, index).await?;
            }
        }
        if let Some(subnet) = subnet {
            link::no_unreachable(&netlink, subnet).await?;
        }
        network::remove_table(&names).await
    };
    let removed = removed.await;
    connection.abort();
    removed
}
