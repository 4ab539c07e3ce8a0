//! Programs that are run to their end, each with a deadline.

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
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
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    finish(program, &mut command, input, deadline).map(drop)
}

/// Runs a program and returns what it wrote to standard output, which must fit a pipe.
pub(crate) fn read_blocking(
    program: &str,
    args: &[&str],
    deadline: Duration,
) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let output = finish(program, &mut command, "", deadline)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, or kills it. Unless it succeeds, what it wrote to a piped standard
/// error is the text of the error.
fn finish(
    program: &str,
    command: &mut Command,
    input: &str,
    deadline: Duration,
) -> io::Result<Output> {
    let with_name = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
    let mut child = command.spawn().map_err(with_name)?;
    // The input is far smaller than a pipe, so this does not wait for the program.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).ok();
    }
    if !wait(child.id(), deadline).map_err(with_name)? {
        child.kill().ok();
    }
    let output = child.wait_with_output().map_err(with_name)?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let colon = if text.is_empty() { "" } else { ": " };
    Err(io::Error::other(format!("{program}: {}{colon}{}", output.status, text.trim())))
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
