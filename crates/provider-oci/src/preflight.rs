//! What this machine lacks, and how to get it.

use std::path::{Path, PathBuf};

use miosa_provider::Missing;
use rustix::fs::statfs;

use crate::{cgroup::Cgroups, network};

/// Programs that are run, the Debian package of each, and what only some need it for.
const PROGRAMS: [(&str, &str, Option<&str>); 6] = [
    ("crun", "crun", None),
    ("nft", "nftables", None),
    ("mkfs.btrfs", "btrfs-progs", None),
    ("mkfs.ext4", "e2fsprogs", Some("where btrfs does not work")),
    ("mmdebstrap", "mmdebstrap", Some("to build a template")),
    ("npm", "npm", Some("to build a template with npm packages, as the default one")),
];
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
    missing.extend(programs(is_installed));
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
    if missing.iter().all(|one| !one.is_fatal) && !network::can_bound_flows() {
        missing.push(Missing {
            what: "`ct count` of nftables: one sandbox can fill the machine's table of connections"
                .into(),
            hint: "use a kernel with CONFIG_NFT_CONNLIMIT (modprobe nft_connlimit)".into(),
            is_fatal: false,
        });
    }
    missing.extend(SETTINGS.iter().filter_map(|(name, least, what)| setting(name, *least, what)));
    missing
}

fn fatal(what: &str, hint: &str) -> Missing {
    Missing { what: what.into(), hint: hint.into(), is_fatal: true }
}

/// The programs that are not there.
fn programs(is_there: impl Fn(&str) -> bool) -> Vec<Missing> {
    let absent = PROGRAMS.iter().filter(|(program, ..)| !is_there(program));
    let missing = absent.map(|(program, package, purpose)| Missing {
        what: match purpose {
            None => (*program).to_owned(),
            Some(purpose) => format!("{program}, needed {purpose}"),
        },
        hint: format!("apt-get install {package}"),
        is_fatal: purpose.is_none(),
    });
    missing.collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = FOLDERS.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    folders.into_iter().any(|folder| folder.join(program).exists())
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
    fn every_program_that_is_missing_is_named_with_its_package() {
        assert_eq!(programs(|_| true), []);
        let missing = programs(|_| false);
        assert_eq!(missing.len(), PROGRAMS.len());
        for (one, (program, package, purpose)) in missing.iter().zip(PROGRAMS) {
            assert!(one.what.starts_with(program), "{one:?}");
            assert_eq!(one.hint, format!("apt-get install {package}"));
            assert_eq!(one.is_fatal, purpose.is_none());
        }
        let only = programs(|program| program != "nft");
        assert_eq!(only[0].hint, "apt-get install nftables");
        assert_eq!(only.len(), 1);
    }

    #[test]
    fn what_is_there_is_not_missing() {
        assert!(is_installed("sh") && !is_installed("no-such-program"));
        assert!(!is_on_overlay(Path::new("/proc/no/such/folder")));
        let missing = setting("kernel.pid_max", u64::MAX, "ids").unwrap();
        assert!(missing.hint.starts_with("sysctl -w kernel.pid_max=") && !missing.is_fatal);
        assert_eq!(setting("kernel.pid_max", 1, "ids"), None);
    }
}
