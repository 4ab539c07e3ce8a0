//! Starting the runtime program: in a throw-away mount namespace, without forking this process;
//! and waiting for a descriptor.
#![expect(unsafe_code, reason = "posix_spawn, unshare and AsyncFd have no safe wrapper")]

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Runs `work` on a thread of its own with a mount namespace of its own.
///
/// What `work` mounts is seen by it and by the programs that it starts, and is gone with the last
/// of them: nothing has to be unmounted, and the host's mount table does not grow. `hidden` is
/// unmounted there first (crun refuses a hybrid cgroup hierarchy otherwise).
pub(crate) fn in_own_mounts<T: Send>(
    hidden: Option<&Path>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let run = || {
        // SAFETY: neither flag shares or moves memory or descriptors, and the thread ends with
        // this closure.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        if let Some(path) = hidden {
            unmount(path, UnmountFlags::DETACH)?;
        }
        work()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Starts a program in the namespaces of this thread, with standard output and error on `output`,
/// no input, `extra` as descriptor 3, and only `PATH` in its environment. Returns its process id;
/// it must be reaped by [`reap`].
///
/// `posix_spawn` does not copy the page tables of this process, which a fork would.
pub(crate) fn spawn(
    program: &CStr,
    args: &[CString],
    output: &File,
    extra: &File,
) -> io::Result<u32> {
    let null = File::open("/dev/null")?;
    let mut actions = Actions::new()?;
    actions.dup(&null, 0)?;
    actions.dup(output, 1)?;
    actions.dup(output, 2)?;
    actions.dup(extra, 3)?;
    let attributes = Attributes::new()?;
    let path = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let environment = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut pointers: Vec<_> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let mut pid = 0;
    // SAFETY: all pointers are to live, terminated values; the arrays end with null.
    check(unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            pointers.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    u32::try_from(pid).map_err(io::Error::other)
}

/// Reaps a child that has ended. Returns its exit code, or 128 + signal.
pub(crate) fn reap(pid: u32) -> io::Result<i32> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: writes to a local.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Ok(128 + libc::WTERMSIG(status))
    }
}

/// Waits for a descriptor to be readable. Needs a runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open and stays the same until it is dropped with the result.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = std::mem::MaybeUninit::uninit();
        // SAFETY: initializes the value, which is read only after success.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: initialized by the call above.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn dup(&mut self, file: &File, number: i32) -> io::Result<()> {
        // SAFETY: an initialized value and plain numbers.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, file.as_raw_fd(), number)
        })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// No blocked signal, and SIGPIPE as usual: Rust programs ignore it, and a workload would inherit
/// that.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: initializes the value, which is read only after success.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialized by the call above.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: initialized values; sigset_t is a plain array of bits, for which zero is valid.
        unsafe {
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            check(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, &raw const signals))?;
            libc::sigaddset(&raw mut signals, libc::SIGPIPE);
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, &raw const signals))?;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialized in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// The result of a call that answers with an error number.
fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
