//! The calls to the kernel that need `unsafe`: process start, signals, identities.
//!
//! Promises: everything here is one thin wrapper per call, without policy. Identity changes made
//! by [`as_identity`] touch the calling thread only and are undone before it returns.

#![expect(
    unsafe_code,
    reason = "fork hooks, signalfd and per-thread credentials have no safe form"
)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

/// Numbers that decide what a process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// To be called first in `main`, before any thread exists.
///
/// Not dumpable: other processes of the sandbox, even its root, cannot trace the guest, read its
/// memory or environment or take its descriptors. No signal handler stays: PID 1 is immune to
/// signals from inside its namespace only where none is installed (the standard library installs
/// two, for SIGSEGV and SIGBUS). SIGCHLD is blocked, so that it can be read from a descriptor.
pub(crate) fn harden() -> io::Result<()> {
    // SAFETY: plain integers are passed; no memory is handed over.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    // SAFETY: SIG_DFL installs no code; `umask`, `mallopt` and `close_range` take integers.
    unsafe {
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        libc::umask(0o022);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    // Children must not inherit what the runtime left open. Old kernels lack the call; then only
    // descriptors that we did not open ourselves could pass, and the runtime closes those.
    // SAFETY: as above.
    let _ =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    block_sigchld()
}

fn block_sigchld() -> io::Result<()> {
    let set = sigchld_set();
    // SAFETY: `set` is initialised and outlives the call; the old set is not asked for.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

fn sigchld_set() -> libc::sigset_t {
    // SAFETY: a zeroed `sigset_t` is valid, and both calls only write into it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        set
    }
}

/// A descriptor that becomes readable when a child ended.
pub(crate) fn child_events() -> io::Result<OwnedFd> {
    let set = sigchld_set();
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes descriptor 3 if it is open for writing.
pub(crate) fn take_fd_3() -> Option<std::fs::File> {
    // SAFETY: asks for flags of a descriptor by number; fails if it is not open.
    let flags = unsafe { libc::fcntl(3, libc::F_GETFL) };
    let writable = flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY;
    // SAFETY: called once, at start, before we opened anything: nobody else owns descriptor 3.
    writable.then(|| unsafe { std::fs::File::from_raw_fd(3) })
}

/// Changes the host name.
pub(crate) fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`, which outlives the call.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sends `signal` to every process that we may signal, but ourselves. For PID 1 only: elsewhere
/// that is every process of the machine.
pub(crate) fn signal_everything(signal: rustix::process::Signal) {
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        // SAFETY: integers only. It fails if there is nobody, which is what we want.
        let _ = unsafe { libc::kill(-1, signal.as_raw()) };
    }
}

/// Writes all of `bytes` to standard output, past the standard library's line buffer.
pub(crate) fn write_out(bytes: &[u8]) -> io::Result<()> {
    use std::os::fd::AsFd;
    let out = io::stdout();
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(out.as_fd(), rest) {
            Ok(n) => rest = &rest[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Bytes that standard output, a file, holds already; else 0.
pub(crate) fn length_of_out() -> u64 {
    let found = rustix::fs::fstat(io::stdout());
    found.map_or(0, |found| u64::try_from(found.st_size).unwrap_or(0))
}

/// Cuts the first `bytes` off a file that is open for writing, or all of it where the file system
/// cannot do that.
pub(crate) fn drop_front(fd: &impl AsRawFd, bytes: i64) -> io::Result<()> {
    const COLLAPSE_RANGE: i32 = 0x08;
    // SAFETY: integers only.
    if unsafe { libc::fallocate(fd.as_raw_fd(), COLLAPSE_RANGE, 0, bytes) } == 0 {
        return Ok(());
    }
    // SAFETY: integers only.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }).map(drop)
}

/// Starts `command` in a session of its own, as `identity` (`None`: as we are), in `cwd`.
///
/// Blocks until the program runs or cannot be run.
pub(crate) fn spawn(
    command: &mut Command,
    identity: Option<&Identity>,
    cwd: CString,
) -> io::Result<Child> {
    let identity = identity.cloned();
    let hook = move || {
        let set = sigchld_set();
        // SAFETY: after fork only async-signal-safe calls are made, on values made before it.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            check(libc::setsid())?;
        }
        if let Some(identity) = &identity {
            // SAFETY: the pointer and length are those of a live vector; one thread exists.
            unsafe {
                check(libc::setgroups(identity.groups.len(), identity.groups.as_ptr()))?;
                check(libc::setgid(identity.gid))?;
                check(libc::setuid(identity.uid))?;
            }
        }
        // After the change of user, so that nobody gets into a folder he may not enter.
        // SAFETY: `cwd` ends with a zero byte.
        check(unsafe { libc::chdir(cwd.as_ptr()) }).map(drop)
    };
    // SAFETY: the hook allocates nothing and takes no lock.
    unsafe { command.pre_exec(hook) };
    command.spawn()
}

/// Runs `work` on this thread with the file rights of `identity`.
///
/// Only the superuser can change them, so the caller passes `None` where we are not it.
pub(crate) fn as_identity<T>(
    identity: Option<&Identity>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(identity) = identity else { return work() };
    let _restore = Restore;
    // The raw call changes this thread only; the C library's would change all.
    // SAFETY: pointer and length are those of a live vector.
    let code = unsafe {
        libc::syscall(libc::SYS_setgroups, identity.groups.len(), identity.groups.as_ptr())
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // These two report no errors; the second call, with an invalid id, tells what is set now.
    // SAFETY: integers only. `fsuid` last, because it gives up the right to change the rest.
    let set = unsafe {
        libc::setfsgid(identity.gid);
        libc::setfsuid(identity.uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    if (set.0.cast_unsigned(), set.1.cast_unsigned()) != (identity.uid, identity.gid) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    work()
}

struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: integers and an empty list. Giving back our own effective ids always works.
        unsafe {
            libc::setfsuid(libc::geteuid());
            libc::setfsgid(libc::getegid());
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        }
    }
}

fn check(code: i32) -> io::Result<i32> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(code) }
}

/// Watches a descriptor that the returned value owns.
pub(crate) fn watch(
    fd: std::os::fd::OwnedFd,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: the descriptor is owned by the value that watches it, is not closed before it, and
    // always reports the same file.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(Into::into)
}
