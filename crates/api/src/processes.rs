//! Background processes of a sandbox: `/processes` and `/commands`.
//!
//! What is known of them lies in the sandbox, in `~/.processes`, as `<pid>.command`, `.name`,
//! `.log` and `.exit`; so they outlive a restart of the platform, and nothing is kept here.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::State,
    response::{
        IntoResponse as _, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, StreamExt as _};
use http::StatusCode;
use miosa_control::{Control, sandboxes};
use miosa_types::{
    SandboxId,
    guest::{self, Command, Endpoint, Output},
};
use miosa_wire::{Data, envelope::Listed, sandboxes as wire};
use serde::Deserialize;

use crate::{
    AppState, Caller, Error, Json, Path, Query,
    exec::{self, command_error},
    paging::Paging,
    sandboxes::guest_error,
};

/// Started as the process; `$1` is the command, `$2` its name. `$$` is the pid that the guest
/// reports, and the group that a signal goes to. It prints a word once the process can be found. A
/// signal ends the command, and is then seen in its exit code.
const KEEP: &str = r#"
d="$HOME/.processes"; mkdir -p "$d" || exit 125
trap : TERM INT HUP
rm -f "$d/$$.exit"
: >"$d/$$.log"; printf %s "$2" >"$d/$$.name"; printf %s "$1" >"$d/$$.command" || exit 125
echo known
exec </dev/null >"$d/$$.log" 2>&1
/bin/bash -l -c "$1"
code=$?
printf %s "$code" >"$d/$$.exit"
exit "$code"
"#;

/// Prints pid, state, exit code, name and command of each process, or of `$1`, each ended by NUL.
const LIST: &str = r#"
cd "$HOME/.processes" 2>/dev/null || exit 0
for f in ${1:-*}.command; do
  p="${f%.command}"; [ -f "$f" ] || continue
  if [ -f "$p.exit" ]; then s=exited
  elif kill -0 "$p" 2>/dev/null; then s=running
  else s=exited; [ -f "$p.exit" ] || printf 137 >"$p.exit"; fi
  printf '%s\0%s\0%s\0%s\0%s\0' "$p" "$s" "$(cat "$p.exit" 2>/dev/null)" \
    "$(cat "$p.name" 2>/dev/null)" "$(cat "$f")"
done
"#;

/// Prints the last `$2` lines of process `$1`.
const TAIL: &str = r#"exec tail -n "$2" "$HOME/.processes/$1.log""#;
/// Prints all of the output of process `$1`, and goes on until it ends.
const FOLLOW: &str = r#"exec tail -n +1 -s 0.2 --pid="$1" -f "$HOME/.processes/$1.log""#;

/// Longest time of one of the scripts above, of following aside.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time that output is followed.
const FOLLOW_TIMEOUT: Duration = Duration::from_hours(1);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often it is looked whether a process has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of log if the caller does not say.
const DEFAULT_TAIL: u32 = 200;
/// Most lines of log.
const MAX_TAIL: u32 = 100_000;

/// Routes below `/api/v1`.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/sandboxes/{id}/processes", post(start).get(list))
        .route("/sandboxes/{id}/processes/{pid}", get(show).delete(stop))
        .route("/sandboxes/{id}/processes/{pid}/logs", get(logs))
        .route("/sandboxes/{id}/processes/{pid}/stream", get(follow))
        .route("/sandboxes/{id}/commands", post(command).get(list))
        .route("/sandboxes/{id}/commands/{pid}", get(show))
        .route("/sandboxes/{id}/commands/{pid}/logs", get(logs))
        .route("/sandboxes/{id}/commands/{pid}/kill", post(stop))
}

async fn start(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Exec>,
) -> Result<(StatusCode, Json<Data<wire::Process>>), Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    let process = start_in(&state.control, &endpoint, &body).await?;
    Ok((StatusCode::CREATED, Json(Data::new(process))))
}

/// Waits for the end of a command, or starts it in the background if it is `detached`.
async fn command(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    Json(body): Json<wire::Exec>,
) -> Result<Response, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    if body.detached == Some(true) {
        let process = start_in(&state.control, &endpoint, &body).await?;
        return Ok((StatusCode::CREATED, Json(Data::new(process))).into_response());
    }
    let result = exec::run(&state.control, &endpoint, &body).await?;
    Ok(Json(Data::new(result)).into_response())
}

/// Starts a process and leaves it running; its output goes to its log.
pub(crate) async fn start_in(
    control: &Control,
    endpoint: &Endpoint,
    body: &wire::Exec,
) -> Result<wire::Process, Error> {
    // Checked as any command is; only a time that was asked for ends it.
    let checked = exec::command(body, exec::DEFAULT_TIMEOUT)?;
    let has_limit = body.timeout.or(body.timeout_sec).or(body.timeout_seconds).is_some();
    let name = body.name.clone().unwrap_or_default().replace('\0', "");
    let command = Command {
        argv: script(KEEP, &[&body.command, &name]),
        stdin: false,
        timeout: checked.timeout.filter(|_| has_limit),
        ..checked
    };
    let started = async {
        let mut output = control.guest.start(endpoint, &command).await.map_err(command_error)?;
        let mut pid = None;
        while let Some(event) = output.next().await {
            match (event.map_err(command_error)?, pid) {
                (Output::Started { pid: started }, _) => pid = Some(started),
                // It can be found now. Its output goes to its log, so nobody need read on.
                (Output::Stdout(_), Some(pid)) => return Ok(pid),
                (Output::Ended { .. }, _) => break,
                (Output::Stdout(_) | Output::Stderr(_), _) => {}
            }
        }
        Err(Error::Busy {
            code: "SANDBOX_EXEC_UNAVAILABLE",
            message: "the process could not be started".to_owned(),
            retry_after_ms: 1000,
        })
    };
    let pid = tokio::time::timeout(SCRIPT_TIMEOUT, started).await.unwrap_or_else(|_| {
        Err(Error::Busy {
            code: "SANDBOX_EXEC_UNAVAILABLE",
            message: "the sandbox does not answer".to_owned(),
            retry_after_ms: 1000,
        })
    })?;
    Ok(wire::Process {
        pid,
        id: pid.to_string(),
        state: "running".to_owned(),
        status: "running".to_owned(),
        exit_code: None,
        name: Some(name).filter(|name| !name.is_empty()),
        command: body.command.clone(),
    })
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SandboxId>,
    paging: Paging,
) -> Result<Json<Listed<wire::Process>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, id).await?;
    let text = run(&state.control, &endpoint, LIST, &[]).await?;
    let part = paging.of(read_list(&text), |process| process.pid.to_string())?;
    Ok(part.show(|process| process))
}

/// Path of one process. A pid is a number, so that no script can be given anything else.
#[derive(Debug, Deserialize)]
struct At {
    id: SandboxId,
    pid: u32,
}

async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<Json<Data<wire::Process>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, at.id).await?;
    find(&state.control, &endpoint, at.pid).await.map(|process| Json(Data::new(process)))
}

async fn find(control: &Control, endpoint: &Endpoint, pid: u32) -> Result<wire::Process, Error> {
    let text = run(control, endpoint, LIST, &[&pid.to_string()]).await?;
    let found = read_list(&text).into_iter().find(|process| process.pid == pid);
    found.ok_or_else(|| Error::NotFound { kind: "process", id: pid.to_string() })
}

/// SIGTERM to the process and its children, SIGKILL to what is left after [`GRACE`].
async fn stop(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<Json<Data<wire::Process>>, Error> {
    let control = &state.control;
    let (_, endpoint) = sandboxes::enter(control, caller.tenant, at.id).await?;
    let mut process = find(control, &endpoint, at.pid).await?;
    for signal in [15, 9] {
        if process.state != "running" {
            break;
        }
        match control.guest.signal(&endpoint, at.pid, signal).await {
            Ok(()) | Err(guest::Error::NotFound { .. }) => {}
            Err(error) => return Err(guest_error(error)),
        }
        let deadline = tokio::time::Instant::now() + GRACE;
        while process.state == "running" && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
            process = find(control, &endpoint, at.pid).await?;
        }
    }
    Ok(Json(Data::new(process)))
}

#[derive(Debug, Deserialize)]
struct TailQuery {
    tail: Option<u32>,
    lines: Option<u32>,
}

async fn logs(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
    Query(query): Query<TailQuery>,
) -> Result<Json<Data<String>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, at.id).await?;
    find(&state.control, &endpoint, at.pid).await?;
    let tail = query.tail.or(query.lines).unwrap_or(DEFAULT_TAIL).min(MAX_TAIL);
    let arguments = [at.pid.to_string(), tail.to_string()];
    let text = run(&state.control, &endpoint, TAIL, &[&arguments[0], &arguments[1]]).await?;
    Ok(Json(Data::new(text)))
}

async fn follow(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let (_, endpoint) = sandboxes::enter(&state.control, caller.tenant, at.id).await?;
    find(&state.control, &endpoint, at.pid).await?;
    let command = Command {
        argv: script(FOLLOW, &[&at.pid.to_string()]),
        timeout: Some(FOLLOW_TIMEOUT),
        ..Command::shell("")
    };
    let output = state.control.guest.start(&endpoint, &command).await.map_err(command_error)?;
    Ok(exec::events(output))
}

fn script(text: &str, arguments: &[&str]) -> Vec<String> {
    let fixed = ["/bin/bash", "-c", text, "process"];
    fixed.iter().chain(arguments).map(|part| (*part).to_owned()).collect()
}

async fn run(
    control: &Control,
    endpoint: &Endpoint,
    text: &str,
    arguments: &[&str],
) -> Result<String, Error> {
    let command = Command {
        argv: script(text, arguments),
        timeout: Some(SCRIPT_TIMEOUT),
        ..Command::shell("")
    };
    Ok(exec::collect(control, endpoint, &command, None, SCRIPT_TIMEOUT).await?.stdout)
}

fn read_list(text: &str) -> Vec<wire::Process> {
    let fields: Vec<_> = text.split_terminator('\0').collect();
    let read = |row: &[&str]| {
        let [pid, state, exit, name, command] = row else { return None };
        Some(wire::Process {
            pid: pid.parse().ok()?,
            id: (*pid).to_owned(),
            state: (*state).to_owned(),
            status: (*state).to_owned(),
            exit_code: exit.parse().ok(),
            name: Some((*name).to_owned()).filter(|name| !name.is_empty()),
            command: (*command).to_owned(),
        })
    };
    fields.chunks(5).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script on this machine with its own home, as the guest would inside.
    fn bash(home: &std::path::Path, text: &str, arguments: &[&str]) -> std::process::Command {
        let argv = script(text, arguments);
        let mut command = std::process::Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
        command
    }

    #[test]
    fn the_scripts_keep_and_show_what_a_process_did() {
        let home = tempfile::tempdir().unwrap();
        let list = |arguments: &[&str]| {
            let output = bash(home.path(), LIST, arguments).output().unwrap();
            read_list(std::str::from_utf8(&output.stdout).unwrap())
        };
        assert_eq!(list(&[]), [], "no process yet");
        let command = "echo 'one\ntwo'; echo err >&2; exit 3";
        let mut child = bash(home.path(), KEEP, &[command, "a name"]).spawn().unwrap();
        let pid = child.id();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let shown = list(&[]);
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].pid, pid);
        assert_eq!((shown[0].state.as_str(), shown[0].exit_code), ("exited", Some(3)));
        assert_eq!(shown[0].name.as_deref(), Some("a name"));
        assert_eq!(shown[0].command, command);
        assert_eq!(list(&[&pid.to_string()]), shown);
        assert_eq!(list(&["1"]), []);
        let tail = bash(home.path(), TAIL, &[&pid.to_string(), "2"]).output().unwrap();
        assert_eq!(tail.stdout, b"two\nerr\n");
        let follow = bash(home.path(), FOLLOW, &[&pid.to_string()]).output().unwrap();
        assert_eq!(follow.stdout, b"one\ntwo\nerr\n", "it ends with the process");
    }
}
