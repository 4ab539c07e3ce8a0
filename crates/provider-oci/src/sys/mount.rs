//! The new mount API, where rustix stops: a tree whose ids are mapped.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::mount::{OpenTreeFlags, open_tree};

/// `MOUNT_ATTR_IDMAP` of `<linux/mount.h>`.
const ATTR_IDMAP: u64 = 0x0010_0000;

/// `struct mount_attr`.
#[repr(C)]
struct Attr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A detached copy of the mount at `path`, seen through the id map of `userns` (kernel ≥ 5.12;
/// as a layer of an overlay ≥ 5.19). It is attached nowhere and goes with its descriptor.
pub(crate) fn idmapped_tree(path: &Path, userns: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)?;
    let attr = Attr {
        set: ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        userns_fd: u64::from(userns.as_fd().as_raw_fd().unsigned_abs()),
    };
    // SAFETY: `attr` has the layout that the kernel reads, its true size is passed, the path is an
    // empty C string, and all of them outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(tree) }
}
