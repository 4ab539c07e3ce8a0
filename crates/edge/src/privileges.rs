//! What an edge process gives up before it serves: it faces the internet.
//!
//! After [`confine`] it has no capability and cannot regain one, owns nothing but its folder,
//! cannot start a program, and is refused the system calls that no proxy needs. It still connects
//! to workloads and to control's sockets, and uses the listening sockets that it inherited.

use std::{collections::BTreeMap, fmt, io, path::Path};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use rustix::{
    process::{Gid, Resource, Rlimit, Uid, geteuid, getrlimit, setrlimit},
    thread,
};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// How far [`confine`] came. What is false or not full was not possible on this kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// It runs as the given user without capabilities; false if it was not root to begin with.
    pub user: bool,
    /// Files are limited to the edge's folder: `full`, `partial` or `none`.
    pub landlock: &'static str,
    /// The filter of system calls is in force.
    pub seccomp: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, landlock, seccomp } = self;
        write!(f, "own user: {user}, landlock: {landlock}, seccomp: {seccomp}")
    }
}

/// Gives up everything that an edge does not need. `dir` is made and given to `uid:gid`.
///
/// Call it while the process has one thread: what is given up is given up by a thread, and later
/// threads inherit it. An error means that the process keeps more than it should: do not serve.
pub fn confine(uid: u32, gid: u32, dir: &Path) -> io::Result<Report> {
    let threads = fs_err::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("{threads} threads run already")));
    }
    fs_err::create_dir_all(dir)?;
    let user = geteuid().is_root();
    if user {
        give(dir, uid, gid)?;
        drop_root(uid, gid)?;
    }
    thread::set_no_new_privs(true)?;
    let landlock = limit_files(dir).map_err(io::Error::other)?;
    let seccomp = match filter_calls() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "system calls are not filtered");
            false
        }
    };
    Ok(Report { user, landlock, seccomp })
}

/// How many files this process may have open, after it has asked for as many as it can get;
/// `None`: any number.
pub fn open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // It has what it had.
        Err(_) => current,
    }
}

/// The folder may come from a time when the edge ran as somebody else.
fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    if fs_err::symlink_metadata(path)?.is_dir() {
        for entry in fs_err::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

fn drop_root(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // First of all, while we may: nothing that is started later could get one back.
    for number in 0..64 {
        let capability = thread::CapabilitySet::from_bits_retain(1 << number);
        match thread::remove_capability_from_bounding_set(capability) {
            // A kernel that does not know this one; or a container that keeps CAP_SETPCAP away,
            // where no-new-privileges has the same effect.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => break,
            other => other?,
        }
    }
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    // Leaving user 0 empties the permitted, effective and ambient sets.
    thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn limit_files(dir: &Path) -> Result<&'static str, landlock::RulesetError> {
    let all = AccessFs::from_all(ABI::V5);
    let Ok(folder) = PathFd::new(dir) else { return Ok("none") };
    let status = Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rule(PathBeneath::new(folder, all))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}

/// Calls that no proxy makes and that exploits need. They fail with EPERM instead of killing: a
/// library that tries one and falls back goes on.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_personality,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

fn filter_calls() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, vec![other_sockets()?]);
    rules.insert(libc::SYS_clone, vec![processes()?]);
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    // `clone3` has its flags in memory, out of a filter's sight. With this answer the C library
    // falls back to `clone`.
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch)?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}

/// Sockets of another family than Unix, IPv4 and IPv6: netlink, raw packets, and the like.
fn other_sockets() -> Result<SeccompRule, seccompiler::BackendError> {
    let not = |family: i32| {
        let family = u64::from(family.unsigned_abs());
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    };
    SeccompRule::new(vec![not(libc::AF_UNIX)?, not(libc::AF_INET)?, not(libc::AF_INET6)?])
}

/// `clone` that makes a process, not a thread.
fn processes() -> Result<SeccompRule, seccompiler::BackendError> {
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let is_process =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    SeccompRule::new(vec![is_process])
}
