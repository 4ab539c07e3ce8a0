//! Installations of which nothing is left but objects of the host: no registration, no process.
//!
//! Promises: what could belong to an installation that runs or begins is left alone. Whoever makes
//! such an object has registered before, so the objects are listed first and the registrations
//! after them. An id is taken from its full form only (table, cgroup, run folder); a link has just
//! a part of it, which alone proves nothing.

use std::{collections::BTreeSet, io, path::Path, str::FromStr as _, time::Duration};

use miosa_types::InstallationId;

use crate::{
    cgroup::Cgroups,
    names::{CGROUP, Names, RUN},
    program,
};

/// Longest run of the `nft` program.
const NFT_DEADLINE: Duration = Duration::from_secs(10);

/// Those that may be removed: found, not registered, and without a process.
fn plan(
    found: BTreeSet<InstallationId>,
    registered: &BTreeSet<InstallationId>,
    has_process: impl Fn(InstallationId) -> bool,
) -> Vec<InstallationId> {
    found.into_iter().filter(|id| !registered.contains(id) && !has_process(*id)).collect()
}

/// Looks for them.
pub(super) async fn find() -> io::Result<Vec<InstallationId>> {
    tokio::task::spawn_blocking(look).await.map_err(io::Error::other)?
}

fn look() -> io::Result<Vec<InstallationId>> {
    let cgroups = Cgroups::detect()?;
    let tables = program::read_blocking("nft", &["list", "tables"], NFT_DEADLINE)?;
    let mut found = of_tables(&tables);
    found.extend(cgroups.children(Path::new(CGROUP)).iter().filter_map(|name| id(name)));
    if let Ok(entries) = std::fs::read_dir(RUN) {
        let folders = entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
        found.extend(folders.filter_map(|e| id(&e.file_name().to_string_lossy())));
    }
    let has_process = |id: InstallationId| {
        let parent = Names::new(id).cgroup();
        let groups = cgroups.children(&parent).into_iter().map(|name| parent.join(name));
        groups.chain([parent.clone()]).any(|group| !cgroups.processes(&group).is_empty())
    };
    let registered = registrations()?;
    // Asked by name as well: a listing may miss a file that is being replaced meanwhile.
    found.retain(|id| matches!(Names::new(*id).registration().try_exists(), Ok(false)));
    Ok(plan(found, &registered, has_process))
}

/// Also of files that cannot be read: that there is one is enough.
fn registrations() -> io::Result<BTreeSet<InstallationId>> {
    let entries = match std::fs::read_dir(RUN) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        found.extend(name.split_once('.').and_then(|(stem, _)| id(stem)));
    }
    Ok(found)
}

/// Of the answer to `nft list tables`.
fn of_tables(text: &str) -> BTreeSet<InstallationId> {
    text.lines().filter_map(|line| id(line.trim().strip_prefix("table inet wl_")?)).collect()
}

/// The form that host objects carry: 32 digits.
fn id(text: &str) -> Option<InstallationId> {
    InstallationId::from_str(text).ok().filter(|id| id.simple() == text)
}

#[cfg(test)]
mod tests {
    use miosa_types::Env;

    use super::*;

    #[test]
    fn only_what_nobody_registered_and_nothing_runs_in_is_an_orphan() {
        let env = Env::system();
        let [lost, registered, running]: [InstallationId; 3] = [env.id(), env.id(), env.id()];
        let found = BTreeSet::from([lost, registered, running]);
        let orphans = plan(found, &BTreeSet::from([registered]), |id| id == running);
        assert_eq!(orphans, [lost]);
    }

    #[test]
    fn tables_of_others_are_not_ours() {
        let lost: InstallationId = Env::system().id();
        let text = format!(
            "table ip nat\ntable inet filter\ntable inet wl_probe\ntable inet wl_{}\n",
            lost.simple()
        );
        assert_eq!(of_tables(&text), BTreeSet::from([lost]));
    }
}
