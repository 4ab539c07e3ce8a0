//! What this machine lacks, and how to get it.

use std::path::{Path, PathBuf};

use miosa_provider::Missing;
use rustix::fs::statfs;

use crate::cgroup::Cgroups;

/// Programs that are run, and the Debian package of each.
const PROGRAMS: [(&str, &str); 3] =
    [("crun", "crun"), ("nft", "nftables"), ("mkfs.btrfs", "btrfs-progs")];
/// Only to build a template.
const BUILD_PROGRAMS: [(&str, &str); 1] = [("mmdebstrap", "mmdebstrap")];
const FOLDERS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// `OVERLAYFS_SUPER_MAGIC` of `<linux/magic.h>`.
const OVERLAY: u64 = 0x794c_7630;

/// Limits of the kernel, the least that is sensible for 200 sandboxes, and what runs out.
const SETTINGS: [(&str, u64, &str); 2] = [
    ("fs.inotify.max_user_instances", 1024, "file watchers: user namespaces are charged to root"),
    ("kernel.pid_max", 65_536, "process ids"),
];

/// Looks at this machine.
pub(crate) fn look(data_dir: &Path) -> Vec<Missing> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push(fatal("root", "run as root: namespaces, mounts and cgroups need it"));
    }
    for (program, package) in PROGRAMS {
        if !is_installed(program) {
            missing.push(fatal(program, &format!("apt-get install {package}")));
        }
    }
    for (program, package) in BUILD_PROGRAMS {
        if !is_installed(program) {
            let hint = format!("apt-get install {package} (needed to build a template)");
            missing.push(Missing { what: program.into(), hint, is_fatal: false });
        }
    }
    if let Err(error) = Cgroups::detect() {
        missing.push(fatal("cgroups", &format!("mount a cgroup hierarchy: {error}")));
    }
    let known = fs_err::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        missing.push(fatal("overlayfs", "modprobe overlay"));
    }
    if is_on_overlay(data_dir) {
        let what = format!("a data folder on a real file system ({})", data_dir.display());
        missing.push(fatal(&what, "choose a folder that does not lie on an overlay"));
    }
    missing.extend(SETTINGS.iter().filter_map(|(name, least, what)| setting(name, *least, what)));
    missing
}

fn fatal(what: &str, hint: &str) -> Missing {
    Missing { what: what.into(), hint: hint.into(), is_fatal: true }
}

fn is_installed(program: &str) -> bool {
    FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists())
}

/// The nearest folder that is there decides.
fn is_on_overlay(folder: &Path) -> bool {
    let there: Option<PathBuf> =
        folder.ancestors().find(|folder| folder.exists()).map(Path::to_owned);
    let kind = there.and_then(|folder| statfs(&folder).ok()).map(|found| found.f_type);
    kind.and_then(|kind| u64::try_from(kind).ok()) == Some(OVERLAY)
}

fn setting(name: &str, least: u64, what: &str) -> Option<Missing> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let text = fs_err::read_to_string(path).ok()?;
    let value: u64 = text.trim().parse().ok()?;
    (value < least).then(|| Missing {
        what: format!("{name} is {value}: {what} may run out"),
        hint: format!("sysctl -w {name}={least}"),
        is_fatal: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(is_installed("sh") && !is_installed("no-such-program"));
        assert!(!is_on_overlay(Path::new("/proc/no/such/folder")));
        let missing = setting("kernel.pid_max", u64::MAX, "ids").unwrap();
        assert!(missing.hint.starts_with("sysctl -w kernel.pid_max=") && !missing.is_fatal);
        assert_eq!(setting("kernel.pid_max", 1, "ids"), None);
    }
}
