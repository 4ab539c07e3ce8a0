//! Processes: start, output, input, signals.
//!
//! Promises: a process lives on when its readers are gone; its output is then thrown away, so it
//! never blocks on a pipe that nobody reads. While somebody reads, a slow reader slows the process
//! down and nothing piles up here. The end is told once the process itself is gone and its pipes
//! are empty, or [`DRAIN`] later if other processes still hold them.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    sync::{Mutex as AsyncMutex, oneshot},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    error::{Code, Error},
    reaper::{Children, Exit},
    state::State,
    sys,
};

/// How long output may still come after the process itself has ended.
const DRAIN: Duration = Duration::from_millis(200);
/// Read at once from a pipe.
const CHUNK: usize = 16 << 10;
/// Processes that run at once; more are refused.
const MAX_PROCESSES: usize = 1024;
/// How long a process may leave its input unread before a write to it fails.
const INPUT_DEADLINE: Duration = Duration::from_secs(30);

/// What to start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment.
    pub env: BTreeMap<String, String>,
    /// Working folder; it must exist.
    pub cwd: Option<String>,
    /// Unix user.
    pub user: Option<String>,
    /// Whether input stays open.
    pub stdin: bool,
    /// When its whole process group is killed.
    pub time_limit: Option<Duration>,
    /// Name by which callers find it again.
    pub tag: Option<String>,
}

/// Which pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// How.
    pub exit: Exit,
    /// Whether we killed it because its time was over.
    pub timed_out: bool,
}

/// Takes the output of a process in order. It may wait: then the process waits as well.
pub(crate) trait Sink: Send {
    /// Takes a piece of output.
    fn output(&mut self, channel: Channel, bytes: &[u8]) -> impl Future<Output = ()> + Send;
    /// Takes the end; nothing follows.
    fn end(&mut self, end: End) -> impl Future<Output = ()> + Send;
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its id, and that of its session and group.
    pub pid: i32,
    /// What was asked for.
    pub request: Request,
    /// Those who read its output.
    pub readers: Mutex<Vec<crate::body::Sender>>,
    stdin: AsyncMutex<Option<pipe::Sender>>,
}

/// Every process that was started and not collected yet.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    /// Collects them.
    pub children: Children,
    running: Mutex<HashMap<i32, Arc<Process>>>,
}

/// A started process whose output nobody takes yet.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process.
    pub process: Arc<Process>,
    pipes: Pipes,
    exit: oneshot::Receiver<Exit>,
}

impl Processes {
    /// Those that run.
    pub(crate) fn list(&self) -> Vec<Arc<Process>> {
        self.running().values().cloned().collect()
    }

    /// Finds by id or tag.
    pub(crate) fn find(&self, pid: Option<i32>, tag: Option<&str>) -> Result<Arc<Process>, Error> {
        let running = self.running();
        let found = match (pid, tag) {
            (Some(pid), _) => running.get(&pid),
            (None, Some(tag)) => running.values().find(|p| p.request.tag.as_deref() == Some(tag)),
            (None, None) => return Err(Error::invalid("neither pid nor tag is given")),
        };
        found.cloned().ok_or_else(|| Error::not_found("the process was not found"))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<i32, Arc<Process>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a process. Must be called on the runtime's thread.
pub(crate) fn start(state: &State, request: Request) -> Result<Started, Error> {
    if state.processes.running().len() >= MAX_PROCESSES {
        return Err(Error::new(Code::ResourceExhausted, "too many processes run"));
    }
    let user = state.user(request.user.as_deref())?;
    let cwd = working_folder(state, &user, request.cwd.as_deref())?;
    let [program, arguments @ ..] = &request.argv[..] else {
        return Err(Error::invalid("no program is given"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(state.env_for(&user, &request.env))
        .stdin(if request.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = sys::spawn(&mut command, user.switch()?, cwd)
        .map_err(|e| Error::io(&format!("'{program}'"), &e))?;
    let pid = i32::try_from(child.id()).expect("process ids are below 2^22");
    let exit = state.processes.children.watch(pid);
    let mut pipes = || -> io::Result<_> {
        let stdin =
            child.stdin.take().map(|p| pipe::Sender::from_owned_fd(p.into())).transpose()?;
        let stdout = Some(receiver(child.stdout.take())?);
        let stderr = Some(receiver(child.stderr.take())?);
        Ok((stdin, Pipes { stdout, stderr, buffer: vec![0; CHUNK].into() }))
    };
    let (stdin, pipes) = pipes().map_err(|e| Error::io("the process's pipes", &e))?;
    let process = Arc::new(Process {
        pid,
        request,
        readers: Mutex::default(),
        stdin: AsyncMutex::new(stdin),
    });
    state.processes.running().insert(pid, process.clone());
    Ok(Started { process, pipes, exit })
}

fn receiver(pipe: Option<impl Into<OwnedFd>>) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(pipe.ok_or(io::ErrorKind::BrokenPipe)?.into())
}

/// The folder to start in: the asked one, or the first of the defaults that is there.
fn working_folder(
    state: &State,
    user: &crate::users::User,
    asked: Option<&str>,
) -> Result<CString, Error> {
    let path = match asked.filter(|path| !path.is_empty()) {
        Some(path) => {
            let folder = state.resolve(path, user);
            if !folder.is_dir() {
                return Err(Error::invalid(format!("cwd '{path}' does not exist")));
            }
            folder
        }
        None => [state.workdir(), PathBuf::from(&user.home)]
            .into_iter()
            .find(|folder| folder.is_dir())
            .unwrap_or_else(|| PathBuf::from("/")),
    };
    CString::new(path.into_os_string().into_vec())
        .map_err(|_| Error::invalid("cwd has a zero byte"))
}

impl Process {
    /// Sends a signal to the process and its group.
    pub(crate) fn signal(&self, children: &Children, signal: Signal) -> Result<(), Error> {
        // Collecting and signalling happen on one thread, so the id cannot be another's by now.
        match Pid::from_raw(self.pid).filter(|_| children.is_ours(self.pid)) {
            Some(group) => kill_process_group(group, signal)
                .map_err(|e| Error::io("sending the signal", &e.into())),
            None => Err(Error::not_found("the process was not found")),
        }
    }

    /// Writes to its input; returns when the pipe took everything.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdin = self.stdin.lock().await;
        let Some(pipe) = stdin.as_mut() else {
            return Err(Error::invalid("the process's standard input is closed"));
        };
        match timeout(INPUT_DEADLINE, pipe.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::invalid("the process closed its standard input")),
            Err(_) => {
                Err(Error::new(Code::DeadlineExceeded, "the process does not read its input"))
            }
        }
    }

    /// Ends its input.
    pub(crate) async fn close_stdin(&self) {
        *self.stdin.lock().await = None;
    }
}

impl Started {
    /// Hands all output and the end to `sink`; returns after the end.
    pub(crate) async fn run(self, state: &State, mut sink: impl Sink) -> End {
        let Self { process, mut pipes, mut exit } = self;
        let time_over = process.request.time_limit.map(|limit| Instant::now() + limit);
        let mut timed_out = false;
        let exit = loop {
            tokio::select! {
                biased;
                exit = &mut exit => break exit.unwrap_or(Exit::Code(-1)),
                () = at(time_over), if !timed_out => {
                    timed_out = true;
                    // It may have ended at this very moment.
                    let _ = process.signal(&state.processes.children, Signal::KILL);
                }
                (channel, n) = pipes.read() => if n > 0 {
                    sink.output(channel, &pipes.buffer[..n]).await;
                },
            }
        };
        state.processes.running().remove(&process.pid);
        pipes.drain(&mut sink).await;
        let end = End { exit, timed_out };
        sink.end(end).await;
        tokio::spawn(pipes.discard());
        end
    }
}

/// The reading ends of a process's output; `None` once closed.
#[derive(Debug)]
struct Pipes {
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
}

impl Pipes {
    /// Puts a piece of output into the buffer and tells its length: 0 if one of the pipes was
    /// closed. Waits for ever once both are. May be dropped while it waits without loss.
    async fn read(&mut self) -> (Channel, usize) {
        loop {
            let channel = tokio::select! {
                () = readable(self.stdout.as_ref()) => Channel::Stdout,
                () = readable(self.stderr.as_ref()) => Channel::Stderr,
            };
            let pipe = match channel {
                Channel::Stdout => &mut self.stdout,
                Channel::Stderr => &mut self.stderr,
            };
            match pipe.as_ref().map(|open| open.try_read(&mut self.buffer)) {
                Some(Ok(n)) if n > 0 => return (channel, n),
                Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
                _ => {
                    *pipe = None;
                    return (channel, 0);
                }
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// After the end of the process: what is still in the pipes, and what others that hold them
    /// write within [`DRAIN`]. Time that the sink takes does not count.
    async fn drain(&mut self, sink: &mut impl Sink) {
        let mut until = Instant::now() + DRAIN;
        // What two full pipes hold is taken even if we come late.
        let mut late = 2 * (64 << 10);
        loop {
            if self.is_closed() || late == 0 {
                return;
            }
            tokio::select! {
                biased;
                (channel, n) = self.read() => {
                    if Instant::now() > until {
                        late = usize::saturating_sub(late, n.max(1));
                    }
                    let before = Instant::now();
                    if n > 0 {
                        sink.output(channel, &self.buffer[..n]).await;
                    }
                    until += before.elapsed();
                }
                () = sleep_until(until) => return,
            }
        }
    }

    /// Processes that still hold the pipes must not be killed by SIGPIPE nor block.
    async fn discard(mut self) {
        self.buffer = vec![0; 1 << 10].into();
        while !self.is_closed() {
            self.read().await;
        }
    }
}

async fn readable(pipe: Option<&pipe::Receiver>) {
    match pipe {
        // An error shows again when the pipe is read.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
