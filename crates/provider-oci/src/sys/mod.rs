//! The system calls that no library wraps, and the only `unsafe` of this crate.
//!
//! Promises: every function here is safe to call with any arguments; what the kernel refuses comes
//! back as an `io::Error`. Nothing here decides anything.

pub(crate) mod btrfs;
pub(crate) mod creds;
pub(crate) mod loopdev;
pub(crate) mod mount;
pub(crate) mod ns;
pub(crate) mod userns;

use std::io;

/// The result of a system call that answers -1 with `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
