//! Removing what nobody wants any more: leftovers of this installation that no record knows, and
//! whole installations whose data folder is gone or became another's.
//!
//! Promises: only objects that carry an installation's id are touched, and of other installations
//! only those whose state is gone from their data folder. (The folder itself may still be there:
//! `rm -rf` cannot remove the mount point of the volumes.) A folder that cannot be read is not
//! taken for one that is gone, and what another installation has in it is never touched.

mod orphans;

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
use tokio::time::Instant;

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

/// Longest wait for the killed processes of one leftover, while others wait for the sweep.
const DEATH: Duration = Duration::from_secs(2);
/// Longest wait for all of an installation: one that waits for a disk dies when that has answered.
const DEATHS: Duration = Duration::from_secs(30);
/// Whose state is in a data folder, below `oci`.
const MARK: &str = "installation";

/// What [`Names::registration`] holds.
#[derive(Debug, Serialize, Deserialize)]
struct Registration {
    data_dir: PathBuf,
    subnet: Option<Subnet>,
}

/// What a data folder is to an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folder {
    /// It has its state there, or that cannot be told.
    Its,
    /// Its state is gone.
    Gone,
    /// Another installation has its state there now.
    Anothers,
}

impl Folder {
    fn look(names: &Names, data_dir: &Path) -> Self {
        let state = data_dir.join("oci");
        Self::judge(
            names.installation(),
            state.try_exists(),
            std::fs::read_to_string(state.join(MARK)),
        )
    }

    fn judge(id: &str, is_there: io::Result<bool>, mark: io::Result<String>) -> Self {
        match (is_there, mark) {
            (Ok(false), _) => Self::Gone,
            (Ok(true), Ok(owner)) if InstallationId::from_str(owner.trim()).is_ok() => {
                if owner.trim() == id { Self::Its } else { Self::Anothers }
            }
            // Unreadable, cut short, or by an earlier version.
            _ => Self::Its,
        }
    }
}

/// Tells everyone on this machine of the installation, and of its addresses once it has some.
/// Called before any other host object is made.
pub(crate) fn register(names: &Names, data_dir: &Path, subnet: Option<Subnet>) -> io::Result<()> {
    let mark = data_dir.join("oci").join(MARK);
    if !std::fs::read_to_string(&mark).is_ok_and(|text| text == names.installation()) {
        // First of all: whoever finds the registration finds the mark.
        let draft = mark.with_extension("new");
        fs_err::write(&draft, names.installation())?;
        fs_err::rename(draft, &mark)?;
    }
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

/// Ends every process of an installation and removes its cgroups. All are killed first, then waited
/// for: one that dies slowly keeps no other from its end.
fn end_all(cgroups: &Cgroups, names: &Names) -> io::Result<()> {
    let parent = names.cgroup();
    let groups: Vec<_> =
        cgroups.children(&parent).into_iter().map(|name| parent.join(name)).collect();
    let processes: Vec<u32> = groups.iter().flat_map(|group| cgroups.processes(group)).collect();
    for pid in &processes {
        program::kill(*pid);
    }
    let deadline = Instant::now() + DEATHS;
    for pid in processes {
        // One that has ended already cannot be waited for, and need not be.
        program::wait(pid, deadline.saturating_duration_since(Instant::now())).ok();
    }
    let mut left = Vec::new();
    for group in groups {
        // Those that were born while they were killed.
        end_processes(cgroups, &group);
        if let Err(error) = cgroups.remove(&group) {
            let name = group.file_name().unwrap_or_default().to_string_lossy().into_owned();
            left.push(format!("{name} (processes {:?}: {error})", cgroups.processes(&group)));
        }
    }
    if left.is_empty() {
        return cgroups.remove(&parent);
    }
    let (count, left) = (left.len(), left.join(", "));
    Err(io::Error::other(format!("{count} workloads have not ended yet: {left}")))
}

/// Removes what is left of an installation, all but its network and its registration: that goes
/// last, so that whatever is left can be found. Blocks.
fn remove_rest(names: &Names, data_dir: &Path, folder: Folder) -> io::Result<()> {
    end_all(&Cgroups::detect()?, names)?;
    match folder {
        Folder::Its => {
            Storage::destroy_at(data_dir).map_err(io::Error::other)?;
            UsernsPool::forget(data_dir)?;
            files::remove_dir_all(&data_dir.join("layers"))?;
            files::remove_dir_all(&data_dir.join("oci"))?;
        }
        Folder::Gone => {
            for mount in rootfs::mounts_under(data_dir)? {
                rootfs::unmount(&mount)?;
                // Only if nothing is in it.
                std::fs::remove_dir(mount).ok();
            }
            std::fs::remove_dir(data_dir).ok();
        }
        Folder::Anothers => {}
    }
    files::remove_dir_all(&names.run_dir())
}

/// Removes what is left of this installation once its network is gone. Blocks.
pub(crate) fn remove_own(names: &Names, data_dir: &Path) -> io::Result<()> {
    remove_rest(names, data_dir, Folder::look(names, data_dir))?;
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
        // A record that a crash left half written stands beside the whole one.
        Ok(entries) => entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json"))
            .count(),
        Err(_) => 0,
    };
    let removed = Removed { workloads: count("workloads"), instances: count("instances") };
    // None after a restart of the machine: nothing of its network is left then.
    let known: Option<Registration> = files::read_json(&Names::new(installation).registration())?;
    let subnet = known.and_then(|registration| registration.subnet);
    let registration = Registration { data_dir: data_dir.to_owned(), subnet };
    remove_foreign(installation, registration, Folder::Its).await?;
    Ok(removed)
}

/// Removes every host object of installations whose data folder is gone or became another's, and
/// of those that nothing else is known of. Returns their ids. One that cannot be removed keeps no
/// other from it; the first such fault is told.
pub async fn sweep_foreign() -> io::Result<Vec<InstallationId>> {
    let mut done = Ok(());
    let mut swept = Vec::new();
    for (id, registration) in registered()? {
        let folder = Folder::look(&Names::new(id), &registration.data_dir);
        if folder != Folder::Its {
            match remove_foreign(id, registration, folder).await {
                Ok(()) => swept.push(id),
                Err(error) => done = done.and(Err(error)),
            }
        }
    }
    for id in orphans::find().await? {
        // It never had a folder that anybody knows of.
        let registration = Registration { data_dir: PathBuf::new(), subnet: None };
        match remove_foreign(id, registration, Folder::Anothers).await {
            Ok(()) => swept.push(id),
            Err(error) => done = done.and(Err(error)),
        }
    }
    done.map(|()| swept)
}

async fn remove_foreign(
    id: InstallationId,
    registration: Registration,
    folder: Folder,
) -> io::Result<()> {
    let names = Names::new(id);
    let Registration { data_dir, subnet } = registration;
    let rest = {
        let names = names.clone();
        move || remove_rest(&names, &data_dir, folder)
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
        network::remove_table(&names).await?;
        files::remove_file(&names.registration())
    };
    let removed = removed.await;
    connection.abort();
    removed
}

#[cfg(test)]
mod tests {
    use io::ErrorKind::{NotFound, PermissionDenied};

    use super::*;

    #[test]
    fn a_folder_is_gone_or_anothers_only_if_that_is_certain() {
        let (id, other) = ("0198c0ffee0070008000000000000001", "0198c0ffee0070008000000000000002");
        let fails = |kind: io::ErrorKind| io::Error::from(kind);
        for (is_there, mark, expected) in [
            (Ok(true), Ok(id), Folder::Its),
            (Ok(true), Ok(other), Folder::Anothers),
            (Ok(true), Ok(""), Folder::Its),
            (Ok(true), Ok("0198"), Folder::Its),
            (Ok(true), Err(NotFound), Folder::Its),
            (Ok(true), Err(PermissionDenied), Folder::Its),
            (Ok(false), Err(NotFound), Folder::Gone),
            (Err(PermissionDenied), Err(PermissionDenied), Folder::Its),
        ] {
            let told = format!("{is_there:?} {mark:?}");
            let mark = mark.map(str::to_owned).map_err(fails);
            assert_eq!(Folder::judge(id, is_there.map_err(fails), mark), expected, "{told}");
        }
    }
}
