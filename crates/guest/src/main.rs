//! The daemon inside every sandbox and runtime instance: PID 1, the only way in.
//!
//! It speaks the E2B `envd` protocol on TCP port 49983, collects orphans, and, where a command is
//! given, runs it and ends with it.
//!
//! Promises: it starts the command before it serves; no other process of the sandbox can read
//! its memory, trace it or make it run code by a signal; its memory does not grow with the size of
//! what passes through it.

mod body;
mod command;
mod config;
mod connect;
mod error;
mod files;
mod filesystem;
mod http;
mod metrics;
mod ports;
mod process;
mod process_api;
mod reaper;
mod routes;
mod state;
mod sys;
mod tar_in;
mod tar_out;
mod time;
mod users;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, waitid};
use tokio::{net::TcpListener, time::Instant};

use crate::{config::Config, reaper::Exit, state::State};

fn main() -> ExitCode {
    match start() {
        Ok(code) => ExitCode::from(code),
        Err(reason) => {
            let _ = sys::write_out(format!("{reason}\n").as_bytes());
            ExitCode::from(125)
        }
    }
}

fn start() -> Result<u8, String> {
    sys::harden().map_err(|e| format!("cannot protect myself: {e}"))?;
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::from_env(variables)?;
    let report = config.command.as_ref().and_then(|_| sys::take_fd_3());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Threads are for file calls only and end when these do.
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_stack_size(256 << 10)
        .build()
        .map_err(|e| format!("cannot start: {e}"))?;
    let code = runtime.block_on(run(config))?;
    command::report(code, report);
    // Threads that still work on files must not hold up the end.
    runtime.shutdown_background();
    Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}

/// Runs until the command ended or somebody asked to end; gives the code to exit with.
async fn run(config: Config) -> Result<i32, String> {
    let state = Arc::new(State::new(&config));
    tokio::spawn(state.processes.children.clone().reap());
    let command = config.command.clone();
    let command = async {
        match &command {
            Some(command) => command::run(&state, command).await,
            None => std::future::pending().await,
        }
    };
    let serving = async {
        let address = SocketAddr::new(config.address, config.port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("cannot listen on {address}: {e}"))?;
        http::serve(state.clone(), listener).await;
        Ok::<(), String>(())
    };
    tokio::pin!(command, serving);
    tokio::select! {
        // The command is started by the first poll, before anything else.
        biased;
        code = &mut command => return Ok(code),
        () = state.shutdown.wake.notified() => {}
        failed = &mut serving => return failed.map(|()| 0),
    }
    let ending = end_processes(&state);
    tokio::pin!(ending);
    tokio::select! {
        biased;
        code = &mut command => Ok(code),
        () = &mut ending => Ok(if config.command.is_some() { Exit::Signal(9).code() } else { 0 }),
        failed = &mut serving => failed.map(|()| 0),
    }
}

/// SIGTERM to all processes, time to end, SIGKILL.
async fn end_processes(state: &State) {
    let grace = Duration::from_millis(state.shutdown.grace_ms.load(Ordering::Relaxed));
    let deadline = Instant::now() + grace;
    signal_all(state, Signal::TERM);
    while Instant::now() < deadline && has_children() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    signal_all(state, Signal::KILL);
    // So that a command's own end is seen, and told with its own code.
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline && has_children() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As PID 1: everything in the namespace. Otherwise, as in tests, only what we started.
fn signal_all(state: &State, signal: Signal) {
    if getpid() == Pid::INIT {
        sys::signal_everything(signal);
        return;
    }
    for process in state.processes.list() {
        // It may have ended by itself.
        let _ = process.signal(&state.processes.children, signal);
    }
}

fn has_children() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, look).is_ok()
}
