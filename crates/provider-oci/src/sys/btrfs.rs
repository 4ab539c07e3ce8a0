//! btrfs by its ioctls: subvolumes, quota groups, growing a mounted filesystem.
//!
//! Layouts and numbers: `<linux/btrfs.h>`. The ioctls cost 20 to 80 µs; the `btrfs` program costs
//! milliseconds and has no flag for simple quotas.
#![expect(unsafe_code, reason = "ioctl takes a pointer to a structure that the kernel reads")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use super::check;

const SUBVOL_CREATE_V2: libc::Ioctl = 0x5000_9418;
const SNAP_DESTROY: libc::Ioctl = 0x5000_940f;
const QGROUP_LIMIT: libc::Ioctl = 0x8030_942b;
const QUOTA_CTL: libc::Ioctl = 0xc010_9428;
const RESIZE: libc::Ioctl = 0x5000_9403;

/// `BTRFS_QGROUP_LIMIT_MAX_RFER`: the limit is on all bytes that the subvolume refers to.
const LIMIT_MAX_RFER: u64 = 1;

/// What `statfs` calls a btrfs.
pub(crate) const MAGIC: i64 = 0x9123_683e;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_qgroup_limit_args`; id 0 means the subvolume of the descriptor.
#[repr(C)]
struct QgroupLimit {
    qgroupid: u64,
    flags: u64,
    max_rfer: u64,
    max_excl: u64,
    rsv_rfer: u64,
    rsv_excl: u64,
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    cmd: u64,
    status: u64,
}

/// How quotas are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quota {
    /// Each extent belongs to the subvolume that wrote it first (kernel ≥ 6.7); cheap.
    Simple,
    /// Shared extents are tracked; a snapshot costs several times as much.
    Classic,
}

/// Makes subvolume `name` in `parent`.
pub(crate) fn create_subvolume(parent: impl AsFd, name: &str) -> io::Result<()> {
    let mut args =
        Box::new(VolArgsV2 { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: [0; 4040] });
    copy_name(name, &mut args.name)?;
    // SAFETY: `args` has the layout that the kernel reads for this number and outlives the call.
    check(unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SUBVOL_CREATE_V2, &raw const *args) })?;
    Ok(())
}

/// Removes subvolume `name` of `parent` with everything in it; the kernel frees it later.
pub(crate) fn destroy_subvolume(parent: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = Box::new(VolArgs { fd: 0, name: [0; 4088] });
    copy_name(name, &mut args.name)?;
    // SAFETY: `args` has the layout that the kernel reads for this number and outlives the call.
    check(unsafe { libc::ioctl(parent.as_fd().as_raw_fd(), SNAP_DESTROY, &raw const *args) })?;
    Ok(())
}

/// Limits what `subvolume` may refer to. Unit: bytes.
pub(crate) fn limit(subvolume: impl AsFd, bytes: u64) -> io::Result<()> {
    let args = QgroupLimit {
        qgroupid: 0,
        flags: LIMIT_MAX_RFER,
        max_rfer: bytes,
        max_excl: 0,
        rsv_rfer: 0,
        rsv_excl: 0,
    };
    // SAFETY: `args` has the layout that the kernel reads for this number and outlives the call.
    check(unsafe { libc::ioctl(subvolume.as_fd().as_raw_fd(), QGROUP_LIMIT, &raw const args) })?;
    Ok(())
}

/// Switches quotas on for the filesystem that `root` is in; `Ok` if they are on.
pub(crate) fn enable_quota(root: impl AsFd, quota: Quota) -> io::Result<()> {
    let cmd = match quota {
        Quota::Classic => 1,
        Quota::Simple => 4,
    };
    let mut args = QuotaCtl { cmd, status: 0 };
    // SAFETY: `args` has the layout that the kernel reads and writes, and outlives the call.
    match check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), QUOTA_CTL, &raw mut args) }) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}

/// Lets the mounted filesystem that `root` is in use all of its (grown) device.
pub(crate) fn resize_to_device(root: impl AsFd) -> io::Result<()> {
    let mut args = Box::new(VolArgs { fd: 0, name: [0; 4088] });
    copy_name("max", &mut args.name)?;
    // SAFETY: `args` has the layout that the kernel reads for this number and outlives the call.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), RESIZE, &raw const *args) })?;
    Ok(())
}

/// Copies one path component, NUL-terminated.
fn copy_name(name: &str, into: &mut [u8]) -> io::Result<()> {
    let is_component = !name.is_empty() && name != "." && name != "..";
    if !is_component || name.len() > 255 || name.bytes().any(|b| b == b'/' || b == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no name for a subvolume"));
    }
    into[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_that_the_numbers_encode() {
        // An ioctl number carries the size of its argument in bits 16 to 29.
        let size = |number: libc::Ioctl| usize::try_from((number >> 16) & 0x3fff).unwrap();
        assert_eq!(size_of::<VolArgsV2>(), size(SUBVOL_CREATE_V2));
        assert_eq!(size_of::<VolArgs>(), size(SNAP_DESTROY));
        assert_eq!(size_of::<VolArgs>(), size(RESIZE));
        assert_eq!(size_of::<QgroupLimit>(), size(QGROUP_LIMIT));
        assert_eq!(size_of::<QuotaCtl>(), size(QUOTA_CTL));
    }

    #[test]
    fn a_name_is_one_component() {
        let mut buffer = [0; 300];
        for bad in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
            assert!(copy_name(bad, &mut buffer).is_err(), "{bad:?}");
        }
        assert!(copy_name("0198-a", &mut buffer).is_ok());
    }
}
