//! Commands in a sandbox: run and wait, run and stream.
//!
//! Promises: a command runs as the sandbox's user in a login shell; it is killed when its time is
//! over; what is kept of its output is bounded.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
    routing::post,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use miosa_control::{Control, sandboxes};
use miosa_types::{
    SandboxId,
    guest::{self, Command, Endpoint, Output, OutputStream},
};
use miosa_wire::{Data, sandboxes as wire};
use tokio::time::Instant;

use crate::{
    AppState, Caller, Error, Json, Path,
    sandboxes::{HEARTBEAT, guest_error},
};

/// Time of a command that names none: below the 60 s after which SDKs hang up.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(50);
/// Time of a streamed command that names none.
const DEFAULT_STREAM_TIMEOUT: Duration = Duration::from_mins(10);
/// Longest time of a command.
const MAX_TIMEOUT: Duration = Duration::from_mins(10);
/// How long after its time a command's end is waited for.
const LATE: Duration = Duration::from_secs(5);
/// What is kept of each of the two outputs, in bytes.
const MAX_OUTPUT: usize = 10 * 1024 * 1024;
/// Longest command, and longest variable with its name, in bytes: Linux takes 128 KiB with the
/// closing zero byte for one argument (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT: usize = 128 * 1024 - 1;
/// Longest variables together, in bytes; with the command that is far below what Linux takes.
const MAX_ENV: usize = 512 * 1024;
/// A line longer than that is sent in parts.
const MAX_LINE: usize = 64 * 1024;
/// Exit code of a command whose time was over, as `timeout(1)` has it.
const TIMED_OUT: i32 = 124;

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandboxes/{id}/exec", post(exec))
        .route("/sandboxes/{id}/exec/stream", post(exec_stream))
}

async fn exec(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Exec>,
) -> Result<Json<Data<wire::ExecResult>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    run(&state.control, &endpoint, &body).await.map(|result| Json(Data::new(result)))
}

/// Runs a command to its end.
pub(crate) async fn run(
    control: &Control,
    endpoint: &Endpoint,
    body: &wire::Exec,
) -> Result<wire::ExecResult, Error> {
    let command = command(body, DEFAULT_TIMEOUT)?;
    let limit = command.timeout.unwrap_or(MAX_TIMEOUT);
    let started = Instant::now();
    let mut result = collect(control, endpoint, &command, body.stdin.as_deref(), limit).await?;
    result.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(result)
}

/// Runs any command to its end and keeps its output.
pub(crate) async fn collect(
    control: &Control,
    endpoint: &Endpoint,
    command: &Command,
    stdin: Option<&str>,
    limit: Duration,
) -> Result<wire::ExecResult, Error> {
    let work = async {
        let mut output = control.guest.start(endpoint, command).await.map_err(command_error)?;
        let (mut out, mut err) = (Kept::default(), Kept::default());
        while let Some(event) = output.next().await {
            match event.map_err(command_error)? {
                Output::Started { pid } => {
                    if let Some(text) = stdin {
                        let bytes = Bytes::from(text.to_owned());
                        feed(control, endpoint, pid, bytes).await?;
                    }
                }
                Output::Stdout(bytes) => out.push(&bytes),
                Output::Stderr(bytes) => err.push(&bytes),
                Output::Ended { code, timed_out } => {
                    return Ok(wire::ExecResult {
                        truncated: out.is_cut || err.is_cut,
                        stdout: out.text(),
                        stderr: err.text(),
                        exit_code: if timed_out { TIMED_OUT } else { code },
                        duration_ms: 0,
                        timed_out,
                    });
                }
            }
        }
        Err(lost())
    };
    tokio::time::timeout(limit + LATE, work).await.unwrap_or_else(|_| Err(lost()))
}

/// Gives a program its input. It need not read it, and may have ended by now.
async fn feed(control: &Control, to: &Endpoint, pid: u32, bytes: Bytes) -> Result<(), Error> {
    let fed = match control.guest.send_stdin(to, pid, bytes).await {
        Ok(()) => control.guest.close_stdin(to, pid).await,
        error => error,
    };
    match fed {
        Ok(()) | Err(guest::Error::NotFound { .. } | guest::Error::Invalid { .. }) => Ok(()),
        Err(error) => Err(command_error(error)),
    }
}

fn lost() -> Error {
    Error::Busy {
        code: "SANDBOX_EXEC_UNAVAILABLE",
        message: "the sandbox stopped answering before the command ended".to_owned(),
        retry_after_ms: 1000,
    }
}

/// The guest's objections to a command are about its folder, user or program; its words begin
/// with which.
pub(crate) fn command_error(error: guest::Error) -> Error {
    match error {
        guest::Error::Invalid { reason } => {
            let field = match reason.split(' ').next() {
                Some("cwd") => "cwd",
                Some("user") => "user",
                _ => "command",
            };
            Error::Invalid { field, message: reason }
        }
        guest::Error::NotFound { what } => {
            Error::Invalid { field: "command", message: format!("{what} was not found") }
        }
        guest::Error::Unavailable { source } => {
            tracing::warn!(error = %source, "a guest does not answer");
            Error::Busy {
                code: "SANDBOX_EXEC_UNAVAILABLE",
                message: "the sandbox does not answer".to_owned(),
                retry_after_ms: 1000,
            }
        }
        other @ guest::Error::NoSpace => guest_error(other),
    }
}

/// What Linux would refuse once the command is inside.
fn check_length(body: &wire::Exec) -> Result<(), Error> {
    let refuse = |field, message| Err(Error::Invalid { field, message });
    let length = body.command.len();
    if length > MAX_ARGUMENT {
        let message = format!(
            "it has {length} bytes and a command may have at most {MAX_ARGUMENT}; write a longer \
             one to a file and run that"
        );
        return refuse("command", message);
    }
    let variables = body.env.iter().flatten();
    let lengths: Vec<_> = variables.map(|(name, value)| name.len() + value.len() + 1).collect();
    if lengths.iter().any(|length| *length > MAX_ARGUMENT) {
        let message = format!("a variable with its name may have at most {MAX_ARGUMENT} bytes");
        return refuse("env", message);
    }
    if lengths.iter().sum::<usize>() > MAX_ENV {
        let message = format!("all variables together may have at most {MAX_ENV} bytes");
        return refuse("env", message);
    }
    Ok(())
}

/// The command that a request describes.
pub(crate) fn command(body: &wire::Exec, default: Duration) -> Result<Command, Error> {
    let invalid = |field, message: String| Error::Invalid { field, message };
    if body.command.trim().is_empty() {
        return Err(invalid("command", "`command` must not be empty".to_owned()));
    }
    if body.command.contains('\0') {
        return Err(invalid("command", "`command` must not hold a NUL character".to_owned()));
    }
    check_length(body)?;
    let seconds = body.timeout.or(body.timeout_sec).or(body.timeout_seconds);
    let timeout = match seconds {
        None => default,
        Some(seconds) if seconds > MAX_TIMEOUT.as_secs_f64() => {
            let max = MAX_TIMEOUT.as_secs();
            let message = format!("a command may take at most {max} seconds");
            return Err(Error::Refused { code: "TIMEOUT_TOO_LONG", field: "timeout", message });
        }
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| invalid("timeout", "it must be above 0 seconds".to_owned()))?,
    };
    let cwd = body.cwd.as_ref().or(body.dir.as_ref()).or(body.working_dir.as_ref());
    let user = if body.sudo == Some(true) { Some("root".to_owned()) } else { body.user.clone() };
    Ok(Command {
        cwd: cwd.filter(|cwd| !cwd.is_empty()).cloned(),
        env: body.env.clone().unwrap_or_default(),
        user,
        stdin: body.stdin.is_some(),
        timeout: Some(timeout),
        ..Command::shell(body.command.clone())
    })
}

async fn exec_stream(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Exec>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    let mut command = command(&body, DEFAULT_STREAM_TIMEOUT)?;
    command.stdin = false;
    let output = state.control.guest.start(&endpoint, &command).await.map_err(command_error)?;
    Ok(events(output))
}

/// Output as events `stdout`, `stderr` and, last, `exit`.
pub(crate) fn events(output: OutputStream) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut framer = Framer::default();
    // One more round after the end, for a stream that ended without telling.
    let output = output.map(Some).chain(stream::once(async { None }));
    let events = output.map(move |item| stream::iter(framer.take(item))).flatten();
    let events =
        events.map(|frame| Ok(Event::default().event(frame.name).data(frame.data.to_string())));
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

/// An event to send.
#[derive(Clone, Debug, PartialEq)]
struct Frame {
    name: &'static str,
    data: serde_json::Value,
}

/// Cuts output into lines.
#[derive(Debug, Default)]
struct Framer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    is_done: bool,
}

impl Framer {
    fn take(&mut self, item: Option<Result<Output, guest::Error>>) -> Vec<Frame> {
        if self.is_done {
            return Vec::new();
        }
        match item {
            Some(Ok(Output::Started { .. })) => Vec::new(),
            Some(Ok(Output::Stdout(bytes))) => lines(&mut self.stdout, &bytes, "stdout"),
            Some(Ok(Output::Stderr(bytes))) => lines(&mut self.stderr, &bytes, "stderr"),
            Some(Ok(Output::Ended { code, timed_out })) => {
                let code = if timed_out { TIMED_OUT } else { code };
                self.end(serde_json::json!({ "exit_code": code, "timed_out": timed_out }))
            }
            Some(Err(error)) => self.lost(&error.to_string()),
            None => self.lost("the sandbox stopped answering before the command ended"),
        }
    }

    fn lost(&mut self, why: &str) -> Vec<Frame> {
        self.end(serde_json::json!({ "exit_code": -1, "error": why }))
    }

    fn end(&mut self, data: serde_json::Value) -> Vec<Frame> {
        self.is_done = true;
        let mut frames = Vec::new();
        for (rest, name) in [(&self.stdout, "stdout"), (&self.stderr, "stderr")] {
            if !rest.is_empty() {
                frames.push(line(rest, name));
            }
        }
        frames.push(Frame { name: "exit", data });
        frames
    }
}

fn lines(rest: &mut Vec<u8>, bytes: &[u8], name: &'static str) -> Vec<Frame> {
    let mut frames = Vec::new();
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        rest.extend_from_slice(piece);
        if let Some(whole) = rest.strip_suffix(b"\n") {
            frames.push(line(whole, name));
            rest.clear();
        } else if rest.len() >= MAX_LINE {
            frames.push(line(rest, name));
            rest.clear();
        }
    }
    frames
}

fn line(bytes: &[u8], name: &'static str) -> Frame {
    let text = String::from_utf8_lossy(bytes);
    Frame { name, data: serde_json::json!({ "line": text, "data": text }) }
}

/// Output up to a bound.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_OUTPUT - self.bytes.len();
        self.is_cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(self) -> String {
        String::from_utf8(self.bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &'static str) -> Output {
        Output::Stdout(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn output_becomes_lines_whatever_its_pieces_are() {
        let mut framer = Framer::default();
        let mut seen = Vec::new();
        let end = Output::Ended { code: 3, timed_out: false };
        for item in [Some(out("a\nb")), Some(out("c\n\nd")), Some(end), None] {
            seen.extend(framer.take(item.map(Ok)));
        }
        let text = |frame: &Frame| frame.data["line"].as_str().map(str::to_owned);
        let lines: Vec<_> = seen.iter().filter_map(text).collect();
        assert_eq!(lines, ["a", "bc", "", "d"]);
        assert_eq!(seen.len(), 5, "exactly one event tells the end");
        assert_eq!(seen[4].data["exit_code"], 3);
    }

    #[test]
    fn a_stream_that_breaks_off_tells_it() {
        let frames = Framer::default().take(None);
        assert_eq!((frames[0].name, &frames[0].data["exit_code"]), ("exit", &(-1).into()));
        let mut long = Framer::default();
        let part = Bytes::from(vec![b'x'; MAX_LINE + 1]);
        assert_eq!(long.take(Some(Ok(Output::Stdout(part)))).len(), 1, "a line has a bound");
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let mut kept = Kept::default();
        kept.push(&vec![b'x'; MAX_OUTPUT - 1]);
        assert!(!kept.is_cut);
        kept.push(b"yz");
        assert!(kept.is_cut && kept.bytes.len() == MAX_OUTPUT);
        kept.push(b"more");
        assert_eq!(kept.text().len(), MAX_OUTPUT);
    }

    #[test]
    fn an_objection_names_its_field() {
        let invalid = |reason: &str| guest::Error::Invalid { reason: reason.into() };
        for (error, expected, text) in [
            (invalid("cwd '/x' does not exist"), "cwd", "cwd '/x' does not exist"),
            (invalid("user 'x' does not exist"), "user", "user 'x' does not exist"),
            (invalid("'/bin/x': permission denied"), "command", "'/bin/x': permission denied"),
            (guest::Error::NotFound { what: "'/x'".into() }, "command", "'/x' was not found"),
        ] {
            match command_error(error) {
                Error::Invalid { field, message } => {
                    assert_eq!((field, &*message), (expected, text));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn bad_commands_are_refused() {
        let body = |command: &str, timeout| wire::Exec {
            command: command.into(),
            timeout,
            ..wire::Exec::default()
        };
        for bad in [
            body("", None),
            body(" \n", None),
            body("a\0b", None),
            body("a", Some(0.0)),
            body("a", Some(-1.0)),
            body("a", Some(f64::NAN)),
            body("a", Some(601.0)),
        ] {
            assert!(command(&bad, DEFAULT_TIMEOUT).is_err(), "{bad:?}");
        }
        let long = "x".repeat(MAX_ARGUMENT + 1);
        let error = command(&body(&long, None), DEFAULT_TIMEOUT).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid { field: "command", message } if message.contains("131071")),
            "{error:?}"
        );
        assert!(command(&body(&long[1..], None), DEFAULT_TIMEOUT).is_ok());
        let with_env = |value: &str, count: usize| wire::Exec {
            env: Some((0..count).map(|n| (format!("V{n}"), value.to_owned())).collect()),
            ..body("a", None)
        };
        for bad in [with_env(&long, 1), with_env(&long[..100_000], 6)] {
            let error = command(&bad, DEFAULT_TIMEOUT).unwrap_err();
            assert!(matches!(error, Error::Invalid { field: "env", .. }), "{error:?}");
        }
        let late = command(&body("a", Some(601.0)), DEFAULT_TIMEOUT).unwrap_err();
        assert_eq!(late.status().1, "TIMEOUT_TOO_LONG");
        let good = command(&body("echo a", Some(1.5)), DEFAULT_TIMEOUT).unwrap();
        assert_eq!(good.argv.last().map(String::as_str), Some("echo a"));
        assert_eq!(good.timeout, Some(Duration::from_millis(1500)));
    }
}
