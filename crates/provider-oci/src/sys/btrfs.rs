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

const TREE_SEARCH: libc::Ioctl = 0xd000_9411;
const INO_LOOKUP: libc::Ioctl = 0xd000_9412;
/// `BTRFS_QUOTA_TREE_OBJECTID`.
const QUOTA_TREE: u64 = 8;
/// `BTRFS_QGROUP_INFO_KEY`.
const QGROUP_INFO: u32 = 242;
/// `BTRFS_FIRST_FREE_OBJECTID`: the root folder of a subvolume.
const ROOT_FOLDER: u64 = 256;

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

/// `struct btrfs_ioctl_qgroup_limit_args`; the id is the subvolume's.
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

/// `struct btrfs_ioctl_search_args`.
#[repr(C)]
struct Search {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused64: [u64; 4],
    /// A header of 32 bytes and an item, for each that is found.
    found: [u8; 3992],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    treeid: u64,
    objectid: u64,
    name: [u8; 4080],
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

/// Limits what `subvolume` may refer to, by way of the filesystem's `root`: the kernel charges the
/// change to the subvolume it is asked of, and one that is full would refuse. Unit: bytes.
pub(crate) fn limit(root: impl AsFd, subvolume: impl AsFd, bytes: u64) -> io::Result<()> {
    let args = QgroupLimit {
        qgroupid: id(subvolume)?,
        flags: LIMIT_MAX_RFER,
        max_rfer: bytes,
        max_excl: 0,
        rsv_rfer: 0,
        rsv_excl: 0,
    };
    // SAFETY: `args` has the layout that the kernel reads for this number and outlives the call.
    check(unsafe { libc::ioctl(root.as_fd().as_raw_fd(), QGROUP_LIMIT, &raw const args) })?;
    Ok(())
}

/// The number of a subvolume.
fn id(subvolume: impl AsFd) -> io::Result<u64> {
    let mut lookup = Box::new(InoLookup { treeid: 0, objectid: ROOT_FOLDER, name: [0; 4080] });
    let fd = subvolume.as_fd().as_raw_fd();
    // SAFETY: `lookup` has the layout that the kernel reads and writes, and outlives the call.
    check(unsafe { libc::ioctl(fd, INO_LOOKUP, &raw mut *lookup) })?;
    Ok(lookup.treeid)
}

/// What `subvolume` refers to, as of the last commit. Unit: bytes.
pub(crate) fn referenced(subvolume: impl AsFd) -> io::Result<u64> {
    let id = id(&subvolume)?;
    let mut search = Box::new(Search {
        tree_id: QUOTA_TREE,
        min_objectid: 0,
        max_objectid: 0,
        min_offset: id,
        max_offset: id,
        min_transid: 0,
        max_transid: u64::MAX,
        min_type: QGROUP_INFO,
        max_type: QGROUP_INFO,
        nr_items: 1,
        unused: 0,
        unused64: [0; 4],
        found: [0; 3992],
    });
    // SAFETY: `search` has the layout that the kernel reads and writes, and outlives the call.
    check(unsafe { libc::ioctl(subvolume.as_fd().as_raw_fd(), TREE_SEARCH, &raw mut *search) })?;
    // The second number of `struct btrfs_qgroup_info_item`, little-endian.
    let bytes: [u8; 8] = search.found[40..48].try_into().map_err(io::Error::other)?;
    if search.nr_items == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the subvolume is not counted"));
    }
    Ok(u64::from_le_bytes(bytes))
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
        assert_eq!(size_of::<Search>(), size(TREE_SEARCH));
        assert_eq!(size_of::<InoLookup>(), size(INO_LOOKUP));
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
