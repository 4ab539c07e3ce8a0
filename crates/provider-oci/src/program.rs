//! Programs that are run to their end, each with a deadline.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Runs a program with `input` on its standard input. What it wrote to standard error is the text
/// of the error.
pub(crate) async fn feed(
    program: &'static str,
    args: &'static [&'static str],
    input: String,
    deadline: Duration,
) -> io::Result<()> {
    tokio::task::spawn_blocking(move || feed_blocking(program, args, &input, deadline))
        .await
        .map_err(io::Error::other)?
}

/// [`feed`] on this thread, in its namespaces.
pub(crate) fn feed_blocking(
    program: &str,
    args: &[&str],
    input: &str,
    deadline: Duration,
) -> io::Result<()> {
    let with_name = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(with_name)?;
    // The input is far smaller than a pipe, so this does not wait for the program.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).ok();
    }
    if !wait(child.id(), deadline).map_err(with_name)? {
        child.kill().ok();
    }
    let output = child.wait_with_output().map_err(with_name)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}: {}", output.status, text.trim())))
}

/// Runs a program and returns what it wrote to standard output, which must fit a pipe.
pub(crate) fn read_blocking(
    program: &str,
    args: &[&str],
    deadline: Duration,
) -> io::Result<String> {
    let with_name = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(with_name)?;
    if !wait(child.id(), deadline).map_err(with_name)? {
        child.kill().ok();
    }
    let output = child.wait_with_output().map_err(with_name)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{program}: {}", output.status)))
}

/// Waits for the end of a child of ours, without reaping it. False if the time ran out.
pub(crate) fn wait(pid: u32, deadline: Duration) -> io::Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(pid.ok_or(io::ErrorKind::InvalidInput)?, PidfdFlags::empty())?;
    let limit = Timespec::try_from(deadline).map_err(io::Error::other)?;
    let mut waiting = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        match poll(&mut waiting, Some(&limit)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills a process of ours that ran too long.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
    {
        pidfd_send_signal(&pidfd, Signal::KILL).ok();
    }
}
