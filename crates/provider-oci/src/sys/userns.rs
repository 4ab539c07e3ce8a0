//! User namespaces with an id map and limits, held by a descriptor.
#![expect(unsafe_code, reason = "a user namespace is made by a forked child")]

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use super::check;

/// Limits inside each namespace (`Documentation/admin-guide/sysctl/user.rst`). Written from inside
/// before anything runs there; root inside cannot raise them. No nested user namespaces; inotify
/// so that one workload cannot use up what the creating user has on the whole host.
const LIMITS: [(&CStr, &[u8]); 3] = [
    (c"/proc/sys/user/max_user_namespaces", b"0"),
    (c"/proc/sys/user/max_inotify_instances", b"64"),
    (c"/proc/sys/user/max_inotify_watches", b"65536"),
];

/// A user namespace in which ids `0..size` are `base..base + size` outside. About 1 ms.
///
/// It needs a child process, since a process with several threads may not make one for itself;
/// the child is gone when this returns.
pub(crate) fn create(base: u32, size: u32) -> io::Result<OwnedFd> {
    let (ready, ready_end) = io::pipe()?;
    let (go, mut go_end) = io::pipe()?;
    // SAFETY: the child calls only `child`, which makes plain system calls and never returns: no
    // allocation, no lock that another thread may have held at the fork.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        child(ready_end.as_raw_fd(), go.as_raw_fd(), go_end.as_raw_fd());
    }
    drop((ready_end, go));
    let result = map(pid, base, size, ready);
    // A byte, not only the end of the pipe: a child forked elsewhere at this moment holds a copy
    // of our end until it execs. If the write fails the child is gone already.
    let _ = go_end.write_all(&[0]);
    drop(go_end);
    // SAFETY: the child is ours and ends now; nothing is written through the null pointer. That
    // it was reaped by someone else is no fault.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    result
}

fn map(pid: libc::pid_t, base: u32, size: u32, mut ready: io::PipeReader) -> io::Result<OwnedFd> {
    let mut answer = [0; 1];
    let count = io::Read::read(&mut ready, &mut answer)?;
    if count == 0 || answer[0] != 0 {
        let code = if count == 0 { libc::EIO } else { i32::from(answer[0]) };
        return Err(io::Error::from_raw_os_error(code));
    }
    for file in ["gid_map", "uid_map"] {
        let mut file = File::options().write(true).open(format!("/proc/{pid}/{file}"))?;
        file.write_all(format!("0 {base} {size}").as_bytes())?;
    }
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// Unshares, sets the limits, reports an errno (0: well), and waits for the end of its pipe.
fn child(ready: RawFd, go: RawFd, go_end: RawFd) -> ! {
    // SAFETY: system calls on descriptors that the parent opened and on buffers on this stack.
    unsafe {
        // Else this process would hold open the pipe whose end it waits for.
        libc::close(go_end);
        let code = match enter() {
            Ok(()) => 0,
            Err(errno) => u8::try_from(errno).unwrap_or(u8::MAX),
        };
        libc::write(ready, (&raw const code).cast(), 1);
        let mut byte = 0_u8;
        while libc::read(go, (&raw mut byte).cast(), 1) < 0 && errno() == libc::EINTR {}
        libc::_exit(0)
    }
}

fn enter() -> Result<(), i32> {
    // SAFETY: system calls on constant C strings and byte strings.
    unsafe {
        if libc::unshare(libc::CLONE_NEWUSER) < 0 {
            return Err(errno());
        }
        for (path, value) in LIMITS {
            let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file < 0 {
                return Err(errno());
            }
            let written = libc::write(file, value.as_ptr().cast(), value.len());
            if written < 0 {
                return Err(errno());
            }
            libc::close(file);
        }
    }
    Ok(())
}

fn errno() -> i32 {
    // SAFETY: the address of this thread's own errno.
    unsafe { *libc::__errno_location() }
}
