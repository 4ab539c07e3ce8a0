//! The OCI runtime program (crun), run to start an instance.
//!
//! Promises: every run has a deadline; a failed start leaves no process; the program's messages go
//! to a file, never to a pipe that the instance would inherit and keep open.
//!
//! Ending an instance needs no program: PID 1 of its process namespace is killed, then the cgroup
//! and the program's folder are removed (17 ms less than `crun delete`, which does the same).

use std::{
    ffi::CString,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{cgroup::Cgroups, files, launch, program, seccomp};

/// Longest run of one start.
const DEADLINE: Duration = Duration::from_secs(20);

/// Starts instances.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// The program's own folder.
    root: PathBuf,
    /// Compiled filter, base64.
    filter: RwLock<Option<Arc<str>>>,
    filter_file: PathBuf,
    cgroups: Cgroups,
}

/// One start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// Name of the container.
    pub(crate) id: &'a str,
    /// Folder for the configuration and the program's messages.
    pub(crate) bundle: &'a Path,
    /// The configuration.
    pub(crate) config: &'a Value,
    /// Standard output and error of the instance.
    pub(crate) output: &'a File,
    /// Descriptor 3 of the instance.
    pub(crate) exit: &'a File,
}

impl Runtime {
    /// `root` is the program's folder; the compiled filter is kept beside it.
    pub(crate) fn open(root: PathBuf, cgroups: Cgroups) -> io::Result<Self> {
        fs_err::create_dir_all(&root)?;
        let name = format!("filter-{}.bpf", &seccomp::digest().to_string()[..16]);
        let filter_file = root.with_file_name(name);
        let filter = fs_err::read(&filter_file).ok().map(|bytes| STANDARD.encode(bytes).into());
        Ok(Self { root, filter: RwLock::new(filter), filter_file, cgroups })
    }

    /// The compiled filter, once there is one.
    pub(crate) fn filter(&self) -> Option<Arc<str>> {
        self.filter.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The machine's cgroups.
    pub(crate) const fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Starts an instance in the mounts that `mount` makes, and returns the host's id of its
    /// PID 1. Blocks; about 15 ms.
    pub(crate) fn start(
        &self,
        start: &Start<'_>,
        mount: impl FnOnce() -> io::Result<()> + Send,
    ) -> io::Result<u32> {
        let pid_file = start.bundle.join("pid");
        let messages = start.bundle.join("messages");
        files::write_json(&start.bundle.join("config.json"), start.config)?;
        let args = self.arguments(start, &messages, &pid_file)?;
        let code = launch::in_own_mounts(self.cgroups.hidden(), || {
            mount()?;
            let pid = launch::spawn(c"crun", &args, start.output, start.exit)?;
            let has_ended = program::wait(pid, DEADLINE)?;
            if !has_ended {
                program::kill(pid);
            }
            launch::reap(pid)
        });
        let failed = |reason: String| {
            self.forget(start.id).ok();
            Err(io::Error::other(reason))
        };
        match code {
            Ok(0) => {}
            Ok(_) => return failed(files::tail(&messages, 2000).trim().to_owned()),
            Err(error) => return failed(error.to_string()),
        }
        self.keep_filter(start.id);
        match fs_err::read_to_string(&pid_file)?.trim().parse() {
            Ok(pid) => Ok(pid),
            Err(error) => failed(format!("no process id: {error}")),
        }
    }

    /// Removes what the program keeps of an instance. Its processes must have ended, except after
    /// a failed start: those are ended here.
    pub(crate) fn forget(&self, id: &str) -> io::Result<()> {
        files::remove_dir_all(&self.root.join(id))
    }

    /// Names of the instances that the program keeps something of.
    pub(crate) fn known(&self) -> io::Result<Vec<String>> {
        let names = fs_err::read_dir(&self.root)?;
        names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn arguments(
        &self,
        start: &Start<'_>,
        messages: &Path,
        pid_file: &Path,
    ) -> io::Result<Vec<CString>> {
        use std::os::unix::ffi::OsStrExt as _;
        let root = [b"--root=", self.root.as_os_str().as_bytes()].concat();
        let messages = [b"--log=", messages.as_os_str().as_bytes()].concat();
        let bundle = [b"--bundle=", start.bundle.as_os_str().as_bytes()].concat();
        let pid_file = [b"--pid-file=", pid_file.as_os_str().as_bytes()].concat();
        [
            b"crun".as_slice(),
            &root,
            &messages,
            b"--cgroup-manager=cgroupfs",
            b"run",
            b"--detach",
            b"--preserve-fds=1",
            &bundle,
            &pid_file,
            start.id.as_bytes(),
        ]
        .into_iter()
        .map(|arg| CString::new(arg).map_err(io::Error::other))
        .collect()
    }

    /// crun leaves the compiled filter in its folder: kept for the next start.
    fn keep_filter(&self, id: &str) {
        if self.filter().is_some() {
            return;
        }
        let Ok(bytes) = fs_err::read(self.root.join(id).join("seccomp.bpf")) else { return };
        let new = self.filter_file.with_extension("new");
        let kept =
            fs_err::write(&new, &bytes).and_then(|()| fs_err::rename(&new, &self.filter_file));
        if let Err(error) = kept {
            tracing::warn!(%error, "the compiled filter could not be kept");
        }
        *self.filter.write().unwrap_or_else(PoisonError::into_inner) =
            Some(STANDARD.encode(bytes).into());
    }
}
