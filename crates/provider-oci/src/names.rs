//! Names of host objects. Each carries the installation's id, so that several installations run
//! side by side and leftovers are told from other people's objects; none carries the platform's
//! name, because some are visible inside a workload.

use std::path::{Path, PathBuf};

use miosa_types::{InstallationId, InstanceId};

/// Folder of what lives until the machine restarts.
pub(crate) const RUN: &str = "/run/workloads";
/// Parent of all cgroups.
pub(crate) const CGROUP: &str = "workloads";

/// Names of one installation's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    full: String,
}

impl Names {
    /// For this installation.
    pub(crate) fn new(installation: InstallationId) -> Self {
        Self { full: installation.simple() }
    }

    /// The id as 32 hexadecimal digits.
    pub(crate) fn installation(&self) -> &str {
        &self.full
    }

    /// The last 10 digits: random in a UUIDv7, and short enough for a link's name (15 bytes).
    fn short(&self) -> &str {
        self.full.get(22..).unwrap_or(&self.full)
    }

    /// The bridge.
    pub(crate) fn bridge(&self) -> String {
        format!("br{}", self.short())
    }

    /// Begins the name of every outer end of a link pair.
    pub(crate) fn link_prefix(&self) -> String {
        format!("v{}", self.short())
    }

    /// The outer end of a link pair. `index` is below 2^14.
    pub(crate) fn link(&self, index: u32) -> String {
        format!("{}{index:04x}", self.link_prefix())
    }

    /// The packet filter table.
    pub(crate) fn table(&self) -> String {
        format!("wl_{}", self.full)
    }

    /// Parent of the instances' cgroups, relative to a hierarchy's root.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new(CGROUP).join(&self.full)
    }

    /// An instance's cgroup, relative to a hierarchy's root.
    pub(crate) fn instance_cgroup(&self, instance: InstanceId) -> PathBuf {
        self.cgroup().join(instance.simple())
    }

    /// Folder of what lives until the machine restarts.
    pub(crate) fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(&self.full)
    }

    /// Tells everyone on this machine of the installation and of its data folder.
    pub(crate) fn registration(&self) -> PathBuf {
        Path::new(RUN).join(format!("{}.json", self.full))
    }
}

#[cfg(test)]
mod tests {
    use miosa_types::Env;

    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        let env = Env::system();
        let (a, b) = (Names::new(env.id()), Names::new(env.id()));
        assert!(a.link(0x3fff).len() <= 15 && a.bridge().len() <= 15);
        assert_ne!(a.bridge(), b.bridge());
        assert_ne!(a.link(1), b.link(1));
        assert!(a.link(1).starts_with(&a.link_prefix()));
    }
}
