//! The system calls that no library wraps, and the only `unsafe` of this crate.
//!
//! Promises: every function here is safe to call with any arguments; what the kernel refuses comes
//! back as an `io::Error`. Nothing here decides anything.

pub mod btrfs;
pub mod creds;
pub mod loopdev;
pub mod mount;
pub mod ns;
pub mod spawn;
pub mod userns;

use std::io;

/// The result of a system call that answers -1 with `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
