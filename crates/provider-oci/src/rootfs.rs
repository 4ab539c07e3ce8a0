//! A root filesystem: an overlay of read-only lowers and a volume, seen through the id map of one
//! user namespace.
//!
//! Promises: files on disk keep their true ids (root 0, user 1000) whatever range the namespace
//! has, so templates, volumes and copies of them fit any range. A mount that succeeds is
//! writable. Unmounting what is not mounted is no fault.
//!
//! The mount is made in the mount namespace of this process and stays when the process ends.
//! Host root cannot create files through it (`EOVERFLOW`): its ids are outside the map.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, openat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount, unmount as detach,
    },
};

use crate::{
    storage::Volume,
    sys::{creds, mount::idmapped_tree},
    userns::Userns,
};

/// Written and removed again to see that a mount is writable.
const PROBE: &str = ".mount-probe";

/// Mounts `lowers` (top first) and `volume` at the existing folder `target`.
///
/// About 0.2 ms. `Err` of kind `ReadOnlyFilesystem` if the kernel mounted it read-only, which it
/// does when it cannot use the volume's work folder.
pub fn mount(
    lowers: &[PathBuf],
    volume: &Volume,
    userns: &Userns,
    target: &Path,
) -> io::Result<()> {
    let tree = |path: &Path| {
        idmapped_tree(path, &userns.fd)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    // Upper and work folder must be on one mount, so their common parent is what is mapped.
    let whole = tree(volume.upper.parent().unwrap_or(&volume.upper))?;
    let part = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&whole, path.file_name().unwrap_or_default(), flags, Mode::empty())
    };
    let layers = Layers {
        lowers: lowers.iter().map(|path| tree(path)).collect::<io::Result<_>>()?,
        upper: part(&volume.upper)?,
        work: part(&volume.work)?,
    };
    creds::as_fsuid(userns.base, || {
        let mounted = overlay(&layers)?;
        probe(&mounted)?;
        move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(())
    })
}

/// Removes the mount at `target`; `Ok` if there is none. Processes that still use it keep it
/// until they end.
pub fn unmount(target: &Path) -> io::Result<()> {
    loop {
        match detach(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Another may lie below it.
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The mount points under `folder`, deepest first: the order to unmount them in.
pub fn mounts_under(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs_err::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> =
        mount_points(&table).filter(|point| point.starts_with(folder) && point != folder).collect();
    found.reverse();
    found.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(found)
}

/// Mount points (column 5 of proc(5) mountinfo), unescaped.
pub(crate) fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(|raw| PathBuf::from(unescape(raw)))
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

struct Layers {
    /// Top first.
    lowers: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// A detached overlay. `lowerdir+` with descriptors is Linux 6.13; before it `lowerdir+` takes
/// paths (6.5), before that there is one colon-separated `lowerdir`.
fn overlay(layers: &Layers) -> io::Result<OwnedFd> {
    let mut last = None;
    for way in [by_descriptor, by_path, by_one_string] {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // What a workload sees in its mount table; the usual name says nothing of the platform.
        fsconfig_set_string(&context, "source", "overlay")?;
        match way(&context, layers) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => {
                last = Some(rustix::io::Errno::INVAL);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        for option in ["index", "metacopy", "redirect_dir", "xino"] {
            // Off: each would tie the upper to these very lowers, or to inode numbers.
            fsconfig_set_string(&context, option, "off")?;
        }
        match fsconfig_create(&context) {
            Ok(()) => {
                let attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
                return Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(rustix::io::Errno::NOSYS).into())
}

fn by_descriptor(context: &OwnedFd, layers: &Layers) -> rustix::io::Result<()> {
    for lower in &layers.lowers {
        fsconfig_set_fd(context, "lowerdir+", lower)?;
    }
    fsconfig_set_fd(context, "upperdir", &layers.upper)?;
    fsconfig_set_fd(context, "workdir", &layers.work)
}

fn by_path(context: &OwnedFd, layers: &Layers) -> rustix::io::Result<()> {
    for lower in &layers.lowers {
        fsconfig_set_string(context, "lowerdir+", fd_path(lower))?;
    }
    fsconfig_set_string(context, "upperdir", fd_path(&layers.upper))?;
    fsconfig_set_string(context, "workdir", fd_path(&layers.work))
}

fn by_one_string(context: &OwnedFd, layers: &Layers) -> rustix::io::Result<()> {
    let lowers: Vec<String> = layers.lowers.iter().map(fd_path).collect();
    fsconfig_set_string(context, "lowerdir", lowers.join(":"))?;
    fsconfig_set_string(context, "upperdir", fd_path(&layers.upper))?;
    fsconfig_set_string(context, "workdir", fd_path(&layers.work))
}

/// `/proc/thread-self`, since the descriptors are looked up by the calling thread.
fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// Makes and removes a folder at the top: the kernel falls back to a read-only mount in silence.
fn probe(mounted: &OwnedFd) -> io::Result<()> {
    rustix::fs::mkdirat(mounted, PROBE, Mode::from_raw_mode(0o700))?;
    rustix::fs::unlinkat(mounted, PROBE, AtFlags::REMOVEDIR)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = "36 35 98:0 / /mnt/a\\040b rw - ext4 /dev/root rw\n\
                     37 35 98:0 / /mnt/c\\134d rw - ext4 /dev/root rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/mnt/a b"), PathBuf::from("/mnt/c\\d")]);
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        for target in [folder.path().to_owned(), folder.path().join("absent")] {
            match unmount(&target) {
                Ok(()) => {}
                // Asking is root's privilege; the answer is the same for anyone else.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            }
        }
    }
}
