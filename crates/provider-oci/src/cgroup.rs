//! Limits of memory, CPU and processes, on both versions of cgroups.
//!
//! The runtime program makes a cgroup with the limits that the configuration names; this lowers
//! them when a pool slot is claimed, and removes the cgroup. Promises: the machine's own
//! controllers and groups are not touched.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use miosa_types::Size;

/// Where the hierarchies are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One hierarchy for each controller.
    V1 {
        /// Mount points.
        roots: Vec<PathBuf>,
        /// A mount of version 2 beside them that has controllers, for which crun refuses to run.
        hybrid: Option<PathBuf>,
    },
    /// One hierarchy.
    V2 {
        /// Mount point.
        root: PathBuf,
    },
}

/// What a replica may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of memory; swap is not given in addition.
    pub(crate) memory: u64,
    /// Microseconds of CPU time in each [`PERIOD_US`].
    pub(crate) cpu_quota_us: u64,
    /// Processes and threads.
    pub(crate) pids: u64,
}

/// Length of a CPU accounting period in microseconds.
pub(crate) const PERIOD_US: u64 = 100_000;

impl Limits {
    /// Of a size. Processes: 512 and 256 more for each vCPU above one, at most 4096.
    pub(crate) fn of(size: Size) -> Self {
        let cpus = u64::from(size.cpu_millis).div_ceil(1000);
        Self {
            memory: u64::from(size.memory_mib) << 20,
            cpu_quota_us: u64::from(size.cpu_millis) * PERIOD_US / 1000,
            pids: (256 + 256 * cpus).min(4096),
        }
    }

    /// Weight of CPU time against other groups, as version 1 counts it (1024 for one vCPU).
    pub(crate) fn cpu_shares(&self) -> u64 {
        (self.cpu_quota_us * 1024 / PERIOD_US).max(2)
    }
}

impl Cgroups {
    /// Looks what this machine has.
    pub(crate) fn detect() -> io::Result<Self> {
        let mounts = fs_err::read_to_string("/proc/self/mounts")?;
        let controllers = |root: &Path| fs_err::read_to_string(root.join("cgroup.controllers"));
        parse(&mounts, |root| controllers(root).is_ok_and(|text| !text.trim().is_empty()))
            .ok_or_else(|| io::Error::other("no cgroup hierarchy is mounted"))
    }

    /// What must be out of sight of the runtime program.
    pub(crate) fn hidden(&self) -> Option<&Path> {
        match self {
            Self::V1 { hybrid, .. } => hybrid.as_deref(),
            Self::V2 { .. } => None,
        }
    }

    /// Whether memory and swap can be limited together.
    pub(crate) fn has_swap_limit(&self) -> bool {
        match self {
            Self::V1 { roots, .. } => {
                roots.iter().any(|root| root.join("memory.memsw.limit_in_bytes").exists())
            }
            Self::V2 { .. } => true,
        }
    }

    /// Sets the limits of an existing group. Lower ones only: the order of writes relies on it.
    pub(crate) fn lower(&self, group: &Path, limits: &Limits) -> io::Result<()> {
        let files = match self {
            Self::V1 { .. } => vec![
                ("memory.limit_in_bytes", limits.memory.to_string()),
                ("memory.memsw.limit_in_bytes", limits.memory.to_string()),
                ("cpu.cfs_quota_us", limits.cpu_quota_us.to_string()),
                ("cpu.shares", limits.cpu_shares().to_string()),
                ("pids.max", limits.pids.to_string()),
            ],
            Self::V2 { .. } => vec![
                ("memory.max", limits.memory.to_string()),
                ("cpu.max", format!("{} {PERIOD_US}", limits.cpu_quota_us)),
                ("pids.max", limits.pids.to_string()),
            ],
        };
        for (name, value) in files {
            let found = self.roots().map(|root| root.join(group).join(name)).find(|f| f.exists());
            match found {
                Some(file) => fs_err::write(file, value)?,
                // Swap accounting may be off; nothing else may be missing.
                None if name.contains("memsw") => {}
                None => {
                    return Err(io::Error::other(format!(
                        "{name} of {} is not there",
                        group.display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Removes a group in every hierarchy. `Ok` if it is gone. Its processes must have ended;
    /// the kernel may take a moment to notice.
    pub(crate) fn remove(&self, group: &Path) -> io::Result<()> {
        let mut last = Ok(());
        for root in self.roots() {
            last = remove_empty(&root.join(group)).and(last);
        }
        last
    }

    /// The groups below `parent`, in any hierarchy.
    pub(crate) fn children(&self, parent: &Path) -> Vec<String> {
        let mut names: Vec<String> = self
            .roots()
            .filter_map(|root| fs_err::read_dir(root.join(parent)).ok())
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// CPU time that a group has used; `None` if it is gone.
    pub(crate) fn cpu_time(&self, group: &Path) -> Option<Duration> {
        let read = |name| {
            self.roots().find_map(|root| std::fs::read_to_string(root.join(group).join(name)).ok())
        };
        match self {
            Self::V1 { .. } => read("cpuacct.usage")?.trim().parse().ok().map(Duration::from_nanos),
            Self::V2 { .. } => {
                let text = read("cpu.stat")?;
                let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                used.trim().parse().ok().map(Duration::from_micros)
            }
        }
    }

    /// The processes of a group.
    pub(crate) fn processes(&self, group: &Path) -> Vec<u32> {
        let mut pids: Vec<u32> = self
            .roots()
            .filter_map(|root| fs_err::read_to_string(root.join(group).join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        match self {
            Self::V1 { roots, .. } => roots.iter(),
            Self::V2 { root } => std::slice::from_ref(root).iter(),
        }
    }
}

fn remove_empty(folder: &Path) -> io::Result<()> {
    for attempt in 0..20 {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last process is being buried.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(1 << (attempt / 4)));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is in use", folder.display())))
}

/// Reads a mount table (proc(5) mounts).
fn parse(mounts: &str, has_controllers: impl Fn(&Path) -> bool) -> Option<Cgroups> {
    let of_kind = |kind: &'static str| {
        mounts.lines().filter_map(move |line| {
            let mut words = line.split(' ');
            let (_, point, found) = (words.next()?, words.next()?, words.next()?);
            (found == kind).then(|| PathBuf::from(point))
        })
    };
    let roots: Vec<_> = of_kind("cgroup").collect();
    let unified = of_kind("cgroup2").next();
    match unified {
        Some(root) if roots.is_empty() => Some(Cgroups::V2 { root }),
        hybrid if !roots.is_empty() => {
            Some(Cgroups::V1 { roots, hybrid: hybrid.filter(|root| has_controllers(root)) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use miosa_types::size::Tier;

    use super::*;

    #[test]
    fn each_kind_of_machine_is_told_apart() {
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(parse(pure, |_| true), Some(Cgroups::V2 { root: "/sys/fs/cgroup".into() }));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let roots = vec![PathBuf::from("/sys/fs/cgroup/memory")];
        let unified = Some(PathBuf::from("/sys/fs/cgroup/unified"));
        let expected = Cgroups::V1 { roots: roots.clone(), hybrid: unified };
        assert_eq!(parse(hybrid, |_| true), Some(expected));
        assert_eq!(parse(hybrid, |_| false), Some(Cgroups::V1 { roots, hybrid: None }));
        assert_eq!(parse("proc /proc proc rw 0 0\n", |_| true), None);
    }

    #[test]
    fn limits_follow_the_size() {
        let xs = Limits::of(Tier::Xs.size());
        assert_eq!((xs.memory, xs.cpu_quota_us, xs.pids), (2048 << 20, 100_000, 512));
        assert_eq!(xs.cpu_shares(), 1024);
        let small = Limits::of(Size { memory_mib: 64, cpu_millis: 50, disk_mib: 64 });
        assert_eq!((small.cpu_quota_us, small.pids, small.cpu_shares()), (5000, 512, 51));
    }
}
