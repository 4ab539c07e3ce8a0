//! The envd service `process.Process`.
//!
//! Source: E2B `packages/envd/spec/process/process.proto`. Terminals are not offered.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use hyper::body::Incoming;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    body::{self, Answer},
    connect::{self, Messages},
    error::{Code, Error},
    process::{self, Channel, End, Process, Request, Sink},
    reaper::Exit,
    state::State,
};

/// Readers of one process; more are refused.
const MAX_READERS: usize = 16;

/// `StartRequest`.
#[derive(Debug, Deserialize)]
pub(crate) struct Start {
    process: Config,
    pty: Option<Value>,
    tag: Option<String>,
    stdin: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Config {
    cmd: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    envs: BTreeMap<String, String>,
    cwd: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Selector {
    pid: Option<i32>,
    tag: Option<String>,
}

/// A request about one process.
#[derive(Debug, Deserialize)]
pub(crate) struct About {
    process: Selector,
    input: Option<Input>,
    signal: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Input {
    stdin: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StreamInput {
    start: Option<StreamStart>,
    data: Option<StreamData>,
}

#[derive(Debug, Deserialize)]
struct StreamStart {
    process: Selector,
}

#[derive(Debug, Deserialize)]
struct StreamData {
    input: Input,
}

/// What the headers of a call say.
#[derive(Debug)]
pub(crate) struct Call {
    /// `Connect-Timeout-Ms`.
    pub time_limit: Option<Duration>,
    /// `Keepalive-Ping-Interval`.
    pub keepalive: Duration,
    /// User of the `Authorization` header.
    pub user: Option<String>,
}

/// Starts a process and streams what it does.
pub(crate) fn start(state: &Arc<State>, call: Call, request: Start) -> Result<Answer, Error> {
    if request.pty.is_some() {
        return Err(Error::new(Code::Unimplemented, "terminals are not offered"));
    }
    let argv = std::iter::once(request.process.cmd).chain(request.process.args).collect();
    let started = process::start(
        state,
        Request {
            argv,
            env: request.process.envs,
            cwd: request.process.cwd,
            user: call.user,
            stdin: request.stdin.unwrap_or(true),
            time_limit: call.time_limit,
            tag: request.tag,
        },
    )?;
    let answer = subscribe(&started.process, call.keepalive)?;
    let state = state.clone();
    tokio::spawn(async move {
        let readers = Fanout(started.process.clone());
        started.run(&state, readers).await;
    });
    Ok(answer)
}

/// Streams what a running process does from now on.
pub(crate) fn connect(state: &State, call: &Call, about: &About) -> Result<Answer, Error> {
    subscribe(&*find(state, &about.process)?, call.keepalive)
}

/// All processes that run.
pub(crate) fn list(state: &State) -> Value {
    let processes: Vec<_> = state
        .processes
        .list()
        .iter()
        .map(|process| {
            let Request { argv, env, cwd, tag, .. } = &process.request;
            json!({
                "pid": process.pid,
                "tag": tag,
                "config": { "cmd": argv.first(), "args": argv.get(1..), "envs": env, "cwd": cwd },
            })
        })
        .collect();
    json!({ "processes": processes })
}

/// Writes to a process's input.
pub(crate) async fn send_input(state: &State, about: About) -> Result<Value, Error> {
    let process = find(state, &about.process)?;
    process.write(&decode(about.input)?).await?;
    Ok(json!({}))
}

/// Writes a stream of messages to a process's input.
pub(crate) async fn stream_input(state: &State, body: Incoming) -> Result<Value, Error> {
    let mut messages = Messages::new(body);
    let mut process = None;
    while let Some(message) = messages.next::<StreamInput>().await? {
        if let Some(start) = message.start {
            process = Some(find(state, &start.process)?);
        }
        if let Some(data) = message.data {
            let process: &Arc<Process> = process
                .as_ref()
                .ok_or_else(|| Error::invalid("the first message does not name a process"))?;
            process.write(&decode(Some(data.input))?).await?;
        }
    }
    Ok(json!({}))
}

/// Ends a process's input.
pub(crate) async fn close_stdin(state: &State, about: About) -> Result<Value, Error> {
    find(state, &about.process)?.close_stdin().await;
    Ok(json!({}))
}

/// Signals a process and its group.
pub(crate) fn send_signal(state: &State, about: &About) -> Result<Value, Error> {
    let signal = match &about.signal {
        Some(Value::String(name)) if name == "SIGNAL_SIGKILL" => Signal::KILL,
        Some(Value::String(name)) if name == "SIGNAL_SIGTERM" => Signal::TERM,
        Some(Value::Number(n)) if n.as_i64() == Some(9) => Signal::KILL,
        Some(Value::Number(n)) if n.as_i64() == Some(15) => Signal::TERM,
        _ => return Err(Error::invalid("signals are SIGNAL_SIGKILL and SIGNAL_SIGTERM")),
    };
    find(state, &about.process)?.signal(&state.processes.children, signal)?;
    Ok(json!({}))
}

fn find(state: &State, selector: &Selector) -> Result<Arc<Process>, Error> {
    state.processes.find(selector.pid, selector.tag.as_deref())
}

fn decode(input: Option<Input>) -> Result<Vec<u8>, Error> {
    let input = input.ok_or_else(|| Error::invalid("no input is given"))?;
    match input.stdin {
        Some(text) => BASE64.decode(text).map_err(|_| Error::invalid("the input is not base64")),
        None => Err(Error::new(Code::Unimplemented, "terminals are not offered")),
    }
}

fn start_event(pid: i32) -> Bytes {
    connect::envelope(&json!({ "event": { "start": { "pid": pid } } }))
}

fn end_event(end: End) -> Bytes {
    let (exited, status) = match end.exit {
        Exit::Code(code) => (true, format!("exit status {code}")),
        Exit::Signal(signal) => (false, format!("signal: {signal}")),
    };
    let error = end.timed_out.then_some("its time was over");
    connect::envelope(&json!({ "event": { "end": {
        "exitCode": end.exit.code(), "exited": exited, "status": status, "error": error,
    } } }))
}

/// A new reader of a process: it gets the start event at once.
fn subscribe(process: &Process, keepalive: Duration) -> Result<Answer, Error> {
    let (tx, answer) = body::stream();
    // The stream is new and empty, so there is room.
    let _ = tx.try_send(Ok(start_event(process.pid)));
    let mut readers = process.readers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    readers.retain(|reader| !reader.is_closed());
    if readers.len() >= MAX_READERS {
        return Err(Error::new(Code::ResourceExhausted, "too many readers of one process"));
    }
    readers.push(tx.clone());
    tokio::spawn(keep_alive(tx.downgrade(), keepalive));
    Ok(answer)
}

/// Tells a quiet stream's reader that we are still here.
async fn keep_alive(tx: mpsc::WeakSender<io::Result<Bytes>>, period: Duration) {
    let mut ticks: Interval = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Some(tx) = tx.upgrade() else { return };
        let sign = connect::envelope(&json!({ "event": { "keepalive": {} } }));
        // With a full stream the reader has something else to read.
        if let Err(mpsc::error::TrySendError::Closed(_)) = tx.try_send(Ok(sign)) {
            return;
        }
    }
}

/// Copies output to everybody who listens at the moment.
struct Fanout(Arc<Process>);

impl Fanout {
    async fn send(&self, piece: Bytes) {
        let readers =
            self.0.readers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for reader in readers {
            if !body::send(&reader, piece.clone()).await {
                self.0
                    .readers
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .retain(|other| !other.same_channel(&reader));
            }
        }
    }
}

impl Sink for Fanout {
    async fn output(&mut self, channel: Channel, bytes: &[u8]) {
        let data = BASE64.encode(bytes);
        let data = match channel {
            Channel::Stdout => json!({ "stdout": data }),
            Channel::Stderr => json!({ "stderr": data }),
        };
        self.send(connect::envelope(&json!({ "event": { "data": data } }))).await;
    }

    async fn end(&mut self, end: End) {
        self.send(end_event(end)).await;
        let error = end.timed_out.then(|| Error::new(Code::DeadlineExceeded, "its time was over"));
        self.send(connect::end(error.as_ref())).await;
        self.0.readers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
    }
}
