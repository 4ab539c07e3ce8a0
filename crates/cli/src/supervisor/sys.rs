//! System calls of the supervisor: signals as a descriptor, pipes, poll, process descriptors.
#![expect(unsafe_code, reason = "signal masks and pre-exec hooks have no safe wrapper")]

use std::{
    fs::Permissions,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec};

/// What the operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Upgrade,
}

/// SIGTERM, SIGINT and SIGHUP, read from a descriptor instead of handled.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks them for this thread. Call before any other thread exists.
    pub(super) fn block() -> io::Result<Self> {
        let set = signal_set();
        // SAFETY: `set` is initialised; a null old set is allowed.
        if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0
        {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: -1 asks for a new descriptor; `set` is initialised.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above made it and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that arrived, if any.
    pub(super) fn read(&self) -> Option<Signal> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.0, &mut info).ok()?;
        if read < 4 {
            return None;
        }
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        Some(if number == libc::SIGHUP.unsigned_abs() { Signal::Upgrade } else { Signal::Stop })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set; sigaddset gets valid signal numbers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Both ends of a pipe; closed on exec unless passed on.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }
}

/// Lets `command` inherit `fds` and start with no blocked signal.
pub(super) fn inherit(command: &mut Command, fds: Vec<RawFd>) {
    let hook = move || {
        for fd in &fds {
            // SAFETY: fcntl with F_SETFD is async-signal-safe; a bad descriptor is an error.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let set = signal_set();
        // SAFETY: as in `Signals::block`; async-signal-safe.
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: the hook only makes async-signal-safe calls and does not allocate.
    unsafe { command.pre_exec(hook) };
}

/// A descriptor that becomes readable when the process ends.
pub(super) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such process id"))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Waits until one of `fds` can be read, at most `timeout` (`None`: for ever). Returns early
/// without an error when interrupted.
pub(super) fn poll(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let timeout = timeout.map(|t| Timespec {
        tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether `fd` has something to read now, and a byte of it: `Some(true)` a byte, `Some(false)`
/// the end, `None` nothing yet.
pub(super) fn read_byte(fd: &OwnedFd) -> Option<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut fds, Some(&zero)).ok()? == 0 {
        return None;
    }
    let mut byte = [0];
    rustix::io::read(fd, &mut byte).ok().map(|read| read == 1)
}

/// SIGTERM.
pub(super) fn terminate(pid: i32) -> io::Result<()> {
    send(pid, rustix::process::Signal::TERM)
}

/// SIGKILL.
pub(super) fn kill(pid: i32) -> io::Result<()> {
    send(pid, rustix::process::Signal::KILL)
}

fn send(pid: i32, signal: rustix::process::Signal) -> io::Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::other("process 0"))?;
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where permitted, the kernel ends others before the supervisor when memory runs out.
pub(super) fn lower_oom_score() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::debug!(%error, "the out-of-memory score stays as it is");
    }
}

/// Lets the edge's user pass through the data folder to its own folder; nothing else in it is
/// readable to others.
pub(super) fn allow_traversal(data_dir: &Path) -> io::Result<()> {
    fs_err::set_permissions(data_dir, Permissions::from_mode(0o711))
}

/// Number of a descriptor, for a child's environment.
pub(super) fn raw(fd: &impl AsFd) -> RawFd {
    fd.as_fd().as_raw_fd()
}
