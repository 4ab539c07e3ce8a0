//! What a child process does between fork and exec.
#![expect(unsafe_code, reason = "pre_exec runs in a forked child")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::Command,
};

use super::check;

/// Lets the child of `command` run in a mount namespace of its own, from which `unmount` is
/// removed if given. The child's mounts are slaves: it sees new ones of the host, the host sees
/// none of its.
pub fn in_own_mounts(command: &mut Command, unmount: Option<CString>) {
    let hook = move || {
        // SAFETY: plain system calls on C strings that live in the closure; no allocation, no
        // lock, so they are allowed between fork and exec.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let flags = libc::MS_REC | libc::MS_SLAVE;
            let none = std::ptr::null();
            check(libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()))?;
            if let Some(path) = &unmount {
                check(libc::umount2(path.as_ptr(), libc::MNT_DETACH))?;
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe calls.
    unsafe { command.pre_exec(hook) };
}

/// Gives the child of `command` a copy of `fd` as descriptor `number`, open across exec. `fd`
/// stays open in this process as long as `command` lives.
pub fn pass_fd(command: &mut Command, fd: OwnedFd, number: i32) {
    let hook = move || -> io::Result<()> {
        // SAFETY: system calls on plain numbers, allowed between fork and exec.
        unsafe {
            if fd.as_raw_fd() == number {
                check(libc::fcntl(number, libc::F_SETFD, 0))?;
            } else {
                check(libc::dup2(fd.as_raw_fd(), number))?;
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe calls.
    unsafe { command.pre_exec(hook) };
}
