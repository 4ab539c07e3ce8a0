//! What the provider knows, on disk, so that a restarted control takes its workloads over.
//!
//! Promises: files are replaced by rename; a process is taken for ours only if its id and its
//! start time agree with the record and the machine has not been restarted. Records survive the
//! death of this process; after the machine's they are only used to start things again.

mod reserve;

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;
use miosa_provider::{Exit, Owner, WorkloadSpec};
use miosa_types::{Digest, InstanceId, Secret, Size, WorkloadId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::files;

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WorkloadRecord {
    /// As applied last, with the number of replicas as scaled last.
    pub(crate) spec: WorkloadSpec,
    /// Whose it is now.
    pub(crate) owner: Owner,
    /// Its limits now.
    pub(crate) size: Size,
    /// How often replicas were started again.
    pub(crate) restarts: u32,
    /// Exits since a replica was last ready for long enough.
    pub(crate) exits_in_a_row: u32,
    /// The last exit.
    pub(crate) last_exit: Option<Exit>,
    /// Being deleted, with that many seconds of grace.
    pub(crate) deleting: Option<u32>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct InstanceRecord {
    /// Its id.
    pub(crate) instance: InstanceId,
    /// Its workload.
    pub(crate) workload: WorkloadId,
    /// The revision it runs.
    pub(crate) revision: u64,
    /// What lets the platform in.
    pub(crate) token: Secret,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The host's id of its root.
    pub(crate) userns_base: u32,
    /// Template that it was started from.
    pub(crate) template: Digest,
    /// PID 1 of it, once it runs.
    pub(crate) process: Option<Process>,
    /// When it began to start.
    pub(crate) started_at: Timestamp,
    /// When it became ready.
    pub(crate) ready_at: Option<Timestamp>,
    /// Whether it was told to end.
    pub(crate) is_draining: bool,
    /// How it ended, if it did and is not replaced.
    pub(crate) exit: Option<Exit>,
}

/// A process, told apart from a later one of the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// Clock ticks after boot at which it started.
    pub(crate) start_time: u64,
    /// The machine's run that it belongs to.
    pub(crate) boot_id: String,
}

impl Process {
    /// Looks at a running process.
    pub(crate) fn look(pid: u32) -> io::Result<Self> {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let boot_id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { pid, start_time, boot_id })
    }

    /// Whether this very process runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::look(self.pid).is_ok_and(|seen| seen == *self)
    }
}

/// Field 22 of proc(5) stat. The second field may contain spaces and brackets.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie has ended; its start time must not make it look alive.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Where records and what belongs to them are kept.
#[derive(Clone, Debug)]
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// Opens the folder, `<data_dir>/oci`, and removes the records that a crash left half written.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        for name in ["workloads", "instances", "logs", "run"] {
            fs_err::create_dir_all(folder.join(name))?;
        }
        for name in ["workloads", "instances"] {
            files::remove_drafts(&folder.join(name))?;
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(&folder, private)?;
        reserve::keep(&folder);
        Ok(Self { folder })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The runtime program's own folder.
    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What an instance wrote.
    pub(crate) fn log(&self, instance: InstanceId) -> PathBuf {
        self.folder.join("logs").join(format!("{instance}.log"))
    }

    /// The exit code that an instance left.
    pub(crate) fn exit(&self, instance: InstanceId) -> PathBuf {
        self.folder.join("logs").join(format!("{instance}.exit"))
    }

    /// Keeps a workload.
    pub(crate) fn save_workload(&self, record: &WorkloadRecord) -> io::Result<()> {
        self.save(&self.workload(record.spec.key.workload), record)
    }

    /// Keeps an instance.
    pub(crate) fn save_instance(&self, record: &InstanceRecord) -> io::Result<()> {
        self.save(&self.instance(record.instance), record)
    }

    /// Gives some of the room that is kept for a full disk. Whoever could not start tries again.
    pub(crate) fn give_room(&self) {
        if reserve::give(&self.folder) {
            tracing::info!("the disk is full; a start gets some of the room that was kept for it");
        }
    }

    fn save(&self, path: &Path, record: &impl Serialize) -> io::Result<()> {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        match files::write_json(path, record) {
            Err(error) if is_full(&error) && reserve::give(&self.folder) => {
                files::write_json(path, record)
            }
            done => {
                reserve::keep(&self.folder);
                done
            }
        }
    }

    /// Forgets a workload.
    pub(crate) fn remove_workload(&self, workload: WorkloadId) -> io::Result<()> {
        files::remove_file(&self.workload(workload))
    }

    /// Forgets an instance and what it wrote.
    pub(crate) fn remove_instance(&self, instance: InstanceId) -> io::Result<()> {
        files::remove_file(&self.log(instance))?;
        files::remove_file(&self.exit(instance))?;
        files::remove_file(&self.instance(instance))
    }

    /// All workloads.
    pub(crate) fn workloads(&self) -> io::Result<Vec<WorkloadRecord>> {
        self.all("workloads")
    }

    /// All instances.
    pub(crate) fn instances(&self) -> io::Result<Vec<InstanceRecord>> {
        self.all("instances")
    }

    /// Ids of the instances that have a log or an exit file.
    pub(crate) fn logged(&self) -> io::Result<Vec<InstanceId>> {
        let mut found = Vec::new();
        for entry in fs_err::read_dir(self.folder.join("logs"))? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            found.extend(stem.and_then(|stem| InstanceId::from_str(stem).ok()));
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The code an instance wrote when its command ended, if it did.
    pub(crate) fn exit_code(&self, instance: InstanceId) -> Option<i32> {
        fs_err::read_to_string(self.exit(instance)).ok()?.trim().parse().ok()
    }

    fn workload(&self, workload: WorkloadId) -> PathBuf {
        self.folder.join("workloads").join(format!("{workload}.json"))
    }

    fn instance(&self, instance: InstanceId) -> PathBuf {
        self.folder.join("instances").join(format!("{instance}.json"))
    }

    fn all<T: DeserializeOwned>(&self, name: &str) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        for entry in fs_err::read_dir(self.folder.join(name))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match files::read_json(&path) {
                Ok(record) => found.extend(record),
                // One damaged file must not keep all workloads down; what it stood for is swept.
                Err(error) => tracing::error!(path = %path.display(), %error, "unreadable record"),
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_records_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        State::open(folder.path().join("oci")).unwrap();
        for name in ["instances", "workloads"] {
            let folder = folder.path().join("oci").join(name);
            std::fs::write(folder.join("a.new"), "").unwrap();
            std::fs::write(folder.join("b.json"), "{}").unwrap();
        }
        State::open(folder.path().join("oci")).unwrap();
        for name in ["instances", "workloads"] {
            let folder = folder.path().join("oci").join(name);
            assert!(!folder.join("a.new").exists() && folder.join("b.json").exists());
        }
    }

    /// A disk of 200 MiB that is unmounted at the end.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn mount() -> Self {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, c"size=200m").unwrap();
            Self(folder)
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(self.0.path(), flags).ok();
        }
    }

    #[test]
    fn records_are_kept_while_the_disk_is_full() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("MIOSA_TEST_MACHINE").is_none(), "it needs root");
            return eprintln!("SKIPPED: it needs root");
        }
        let disk = Disk::mount();
        let state = State::open(disk.0.path().join("oci")).unwrap();
        let hog = disk.0.path().join("hog");
        let fill = || {
            let mut file = std::fs::File::options().append(true).create(true).open(&hog).unwrap();
            let block = vec![7; 64 << 10];
            let full = std::iter::repeat_with(|| io::Write::write_all(&mut file, &block))
                .find_map(Result::err)
                .unwrap();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        };
        let record = |n: u32| serde_json::json!({ "n": n, "text": "x".repeat(8 << 10) });
        let path = |n: u32| disk.0.path().join(format!("oci/instances/{n}.json"));
        // Each time others take at once what the save before left of its piece.
        for n in 0..20 {
            fill();
            assert!(files::write_json(&path(n), &record(n)).is_err(), "{n}: it is not full");
            state.save(&path(n), &record(n)).unwrap();
            assert_eq!(files::read_json(&path(n)).unwrap(), Some(record(n)));
        }
        // And there is room for as much again once the disk has some.
        let kept = || disk.0.path().join("oci/.reserve").metadata().unwrap().len();
        let before = kept();
        std::fs::remove_file(&hog).unwrap();
        state.save(&path(0), &record(0)).unwrap();
        assert!(kept() > before, "{before}");
    }

    #[test]
    fn a_process_is_told_from_a_later_one_of_the_same_id() {
        let mut me = Process::look(std::process::id()).unwrap();
        assert!(me.is_alive());
        me.start_time += 1;
        assert!(!me.is_alive());
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time(&stat.replace(" S ", " Z ")), None);
    }
}
