//! What a child inherits from the supervisor, read from its environment (see
//! `supervisor/child.rs`). Without a supervisor there is nothing, and the role binds for itself.
#![expect(unsafe_code, reason = "a descriptor number becomes an owned descriptor")]

use std::{
    fs::File,
    io::Write as _,
    net::TcpListener,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::Context as _;
use rustix::io::{FdFlags, fcntl_setfd};

/// Listening sockets named by `variable`; `None` if it is not set.
pub(crate) fn listeners(variable: &str) -> anyhow::Result<Option<Vec<TcpListener>>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    let mut sockets = Vec::new();
    for number in text.split(',') {
        let socket = TcpListener::from(owned(number).with_context(|| format!("in {variable}"))?);
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    Ok(Some(sockets))
}

/// The pipe whose end means that the supervisor is gone. Call inside a runtime.
pub(crate) fn lifeline() -> anyhow::Result<Option<tokio::net::unix::pipe::Receiver>> {
    let Ok(number) = std::env::var("SUPERVISOR_FD") else { return Ok(None) };
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(owned(&number)?);
    Ok(Some(pipe.context("in SUPERVISOR_FD")?))
}

/// Says that this child serves.
#[derive(Debug)]
pub(crate) struct Readiness(Option<File>);

impl Readiness {
    /// Takes the pipe from the environment.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let Ok(number) = std::env::var("READY_FD") else { return Ok(Self(None)) };
        Ok(Self(Some(File::from(owned(&number)?))))
    }

    /// Writes the byte; once.
    pub(crate) fn announce(mut self) {
        if let Some(pipe) = &mut self.0
            && let Err(error) = pipe.write_all(b"1")
        {
            tracing::warn!(%error, "the supervisor does not hear that this child is ready");
        }
    }
}

fn owned(number: &str) -> anyhow::Result<OwnedFd> {
    let number: RawFd = number.trim().parse().context("a descriptor is a number")?;
    anyhow::ensure!(number > 2, "descriptor {number} is not one that the supervisor passes");
    // SAFETY: the supervisor passed this descriptor to this process for this use only, and each
    // variable is read once, at start.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // Fails if the descriptor is not open; keeps it from workloads and programs we start.
    fcntl_setfd(&fd, FdFlags::CLOEXEC).context("the descriptor is not open")?;
    Ok(fd)
}
