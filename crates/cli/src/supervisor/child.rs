//! One child: how it is started, what tells that it is ready, how it ends.
//!
//! A child is this same program. What it inherits is told in its environment: listening sockets
//! in `EDGE_LISTEN_HTTP`, `EDGE_LISTEN_HTTPS` and `CONTROL_LISTEN_ADMIN` (descriptors, separated
//! by commas), where to say that it is ready in `READY_FD`, and in `SUPERVISOR_FD` a pipe whose
//! end means that the supervisor is gone.

use std::{
    net::TcpListener,
    os::fd::{AsFd, OwnedFd, RawFd},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;

use super::{sockets::Sockets, sys};
use crate::settings::{CONFIG_ENV, DATABASE_ENV, Settings};

/// Which child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Control,
    Edge,
}

impl Role {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Edge => "edge",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Edge => 1,
        }
    }
}

/// A running child.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    pub(super) pidfd: OwnedFd,
    /// Read end of its readiness pipe.
    pub(super) readiness: OwnedFd,
    pub(super) is_ready: bool,
    /// When it is killed if it has not ended by then.
    pub(super) kill_at: Option<Instant>,
}

/// Starts a child.
pub(super) fn spawn(
    role: Role,
    settings: &Settings,
    sockets: &Sockets,
    lifeline: &sys::Pipe,
) -> anyhow::Result<Child> {
    let ready = sys::Pipe::new()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(role.name()).stdin(Stdio::null());
    let mut fds = vec![sys::raw(&ready.write), sys::raw(&lifeline.read)];
    command.env("READY_FD", fds[0].to_string()).env("SUPERVISOR_FD", fds[1].to_string());
    match role {
        Role::Edge => {
            command.args(settings.edge_arguments());
            command.env_remove(DATABASE_ENV).env_remove(CONFIG_ENV);
            pass(&mut command, &mut fds, "EDGE_LISTEN_HTTP", &sockets.http);
            pass(&mut command, &mut fds, "EDGE_LISTEN_HTTPS", &sockets.https);
        }
        Role::Control => {
            command.args(settings.control_arguments());
            if let Some(url) = &settings.database {
                command.env(DATABASE_ENV, url.expose());
            }
            let admin = std::slice::from_ref(&sockets.admin);
            pass(&mut command, &mut fds, "CONTROL_LISTEN_ADMIN", admin);
        }
    }
    sys::inherit(&mut command, fds);
    let process = command.spawn().with_context(|| format!("cannot start {}", role.name()))?;
    let pidfd = sys::pidfd(process.id())?;
    Ok(Child { process, pidfd, readiness: ready.read, is_ready: false, kill_at: None })
}

fn pass(command: &mut Command, fds: &mut Vec<RawFd>, name: &str, sockets: &[TcpListener]) {
    let numbers: Vec<RawFd> = sockets.iter().map(sys::raw).collect();
    let text: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    command.env(name, text.join(","));
    fds.extend(numbers);
}

impl Child {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Notes whether it said that it is ready.
    pub(super) fn read_readiness(&mut self) {
        if !self.is_ready && sys::read_byte(&self.readiness) == Some(true) {
            self.is_ready = true;
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        match self.process.try_wait() {
            Ok(status) => status.map(describe),
            Err(error) => Some(format!("cannot be waited for: {error}")),
        }
    }

    pub(super) fn kill(&mut self) {
        if let Ok(pid) = i32::try_from(self.pid())
            && let Err(error) = sys::kill(pid)
        {
            tracing::warn!(pid, %error, "cannot kill");
        }
    }

    /// Tells it to drain and end; it is killed at `kill_at`.
    pub(super) fn retire(mut self, kill_at: Instant) -> Self {
        if let Ok(pid) = i32::try_from(self.pid())
            && let Err(error) = sys::terminate(pid)
        {
            tracing::warn!(pid, %error, "cannot signal");
        }
        self.kill_at = Some(kill_at);
        self
    }
}

/// Drains `children` side by side; what is left after `patience` is killed.
pub(super) fn stop_all(children: Vec<Child>, patience: Duration) {
    let end = Instant::now() + patience;
    let mut left: Vec<Child> = children.into_iter().map(|child| child.retire(end)).collect();
    loop {
        left.retain_mut(|child| child.ended().is_none());
        if left.is_empty() {
            return;
        }
        let wait = end.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            for child in &mut left {
                tracing::warn!(pid = child.pid(), "did not drain in time");
                child.kill();
                // It was killed: this returns at once.
                if let Err(error) = child.process.wait() {
                    tracing::warn!(%error, "cannot wait");
                }
            }
            return;
        }
        let fds: Vec<_> = left.iter().map(|child| child.pidfd.as_fd()).collect();
        if let Err(error) = sys::poll(&fds, Some(wait)) {
            tracing::warn!(%error, "cannot poll");
        }
    }
}

/// Removes every workload and host object of the installation, in a process of its own: the
/// supervisor has no runtime.
pub(super) fn run_cleanup(settings: &Settings) -> anyhow::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("down").arg("--data-dir").arg(&settings.data_dir).arg("--stopped");
    sys::inherit(&mut command, vec![]);
    let status = command.status().context("cannot start the clean-up")?;
    anyhow::ensure!(status.success(), "the clean-up failed: {}", describe(status));
    Ok(())
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
