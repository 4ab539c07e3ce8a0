//! The only way into a sandbox: what the platform asks of the guest.
//!
//! `net` implements [`Guest`] over the envd protocol (Connect-JSON and HTTP on TCP port
//! [`PORT`]); `testkit` has a fake. Every call carries the workload's token. Every call has a
//! deadline of its own; none retries.

use std::{collections::BTreeMap, net::SocketAddr, pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// TCP port on which every guest listens.
pub const PORT: u16 = 49_983;

/// Keyword of the global pax record (POSIX `pax`, extended header) by which a guest tells that it
/// could not read everything. An archive with it is to be refused with the record's text.
pub const TAR_FAULT: &str = "GUEST.fault";

/// Where one guest is and what lets us in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address of the sandbox, port [`PORT`].
    pub addr: SocketAddr,
    /// Token of this workload.
    pub token: Secret,
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments. Shell text is `["/bin/bash", "-l", "-c", text]`.
    pub argv: Vec<String>,
    /// Working folder; `None`: the guest's default. A missing one is `Error::Invalid`.
    pub cwd: Option<String>,
    /// Added to the guest's environment.
    pub env: BTreeMap<String, String>,
    /// Unix user name; `None`: the guest's default user.
    pub user: Option<String>,
    /// Whether standard input stays open for [`Guest::send_stdin`]; else it is empty.
    pub stdin: bool,
    /// The guest kills the process after that long; `None`: never.
    pub timeout: Option<Duration>,
}

impl Command {
    /// A line for a login shell of the default user.
    pub fn shell(line: impl Into<String>) -> Self {
        Self {
            argv: vec!["/bin/bash".into(), "-l".into(), "-c".into(), line.into()],
            cwd: None,
            env: BTreeMap::new(),
            user: None,
            stdin: false,
            timeout: None,
        }
    }
}

/// What a started process does, in order: `Started`, any output, `Ended`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It runs.
    Started {
        /// Its process id inside the sandbox.
        pid: u32,
    },
    /// Bytes of standard output.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// It ended and its output is drained (at most 200 ms are given to children that hold the
    /// pipe).
    Ended {
        /// Exit code, or 128 + signal.
        code: i32,
        /// Whether the guest killed it because its time was over.
        timed_out: bool,
    },
}

/// Output of a process.
pub type OutputStream = Pin<Box<dyn Stream<Item = Result<Output, Error>> + Send>>;

/// Bytes of a file.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// Kind of a file system entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// Regular file.
    File,
    /// Folder.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// One file system entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Last part of the path.
    pub name: String,
    /// Absolute path.
    pub path: String,
    /// Kind.
    pub file_type: FileType,
    /// Length in bytes.
    pub size: u64,
    /// Permission bits, as in `0o644`.
    pub mode: u32,
    /// User name or number.
    pub owner: String,
    /// Group name or number.
    pub group: String,
    /// Time of the last change.
    pub modified_at: Option<jiff::Timestamp>,
    /// Where a link points.
    pub symlink_target: Option<String>,
}

/// A listening TCP port inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningPort {
    /// Address it is bound to, as text.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Process that holds it, if the guest could tell.
    pub pid: Option<u32>,
    /// Name of that process.
    pub process: Option<String>,
}

/// What the guest is told once after start or claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Environment of every process started from now on.
    pub env: BTreeMap<String, String>,
    /// Host name, if it changes.
    pub hostname: Option<String>,
    /// Default working folder of processes.
    pub workdir: Option<String>,
}

/// Calls into a sandbox.
#[async_trait]
pub trait Guest: std::fmt::Debug + Send + Sync {
    /// Whether the guest answers, within `timeout`.
    async fn health(&self, guest: &Endpoint, timeout: Duration) -> Result<(), Error>;

    /// Hands over environment and host name. May be repeated.
    async fn init(&self, guest: &Endpoint, init: &Init) -> Result<(), Error>;

    /// Starts a process. Dropping the stream does not end the process.
    async fn start(&self, guest: &Endpoint, command: &Command) -> Result<OutputStream, Error>;

    /// Writes to a process that was started with `stdin`.
    async fn send_stdin(&self, guest: &Endpoint, pid: u32, bytes: Bytes) -> Result<(), Error>;

    /// Ends a process's standard input.
    async fn close_stdin(&self, guest: &Endpoint, pid: u32) -> Result<(), Error>;

    /// Sends signal 9 or 15.
    async fn signal(&self, guest: &Endpoint, pid: u32, signal: i32) -> Result<(), Error>;

    /// Reads one file.
    async fn read(&self, guest: &Endpoint, path: &str) -> Result<ByteStream, Error>;

    /// Writes one file, parents included. The old content stays until all bytes are there.
    async fn write(&self, guest: &Endpoint, path: &str, body: ByteStream) -> Result<(), Error>;

    /// Entries of a folder, `depth` levels deep (at least 1).
    async fn list(&self, guest: &Endpoint, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error>;

    /// One entry.
    async fn stat(&self, guest: &Endpoint, path: &str) -> Result<FileInfo, Error>;

    /// Removes a file or a folder with all it holds. `Ok` if it is gone already.
    async fn remove(&self, guest: &Endpoint, path: &str) -> Result<(), Error>;

    /// Makes a folder and its parents.
    async fn make_dir(&self, guest: &Endpoint, path: &str) -> Result<(), Error>;

    /// Renames.
    async fn rename(&self, guest: &Endpoint, from: &str, to: &str) -> Result<(), Error>;

    /// Uncompressed tar (POSIX pax) of a folder's content, paths relative to it, without the
    /// entries whose path begins with one of `exclude` or whose last part equals one of them.
    async fn read_tar(
        &self,
        guest: &Endpoint,
        path: &str,
        exclude: &[String],
    ) -> Result<ByteStream, Error>;

    /// Unpacks a tar stream into a folder as the default user.
    async fn write_tar(&self, guest: &Endpoint, path: &str, tar: ByteStream) -> Result<(), Error>;

    /// TCP ports that somebody listens on, the guest's own left out.
    async fn ports(&self, guest: &Endpoint) -> Result<Vec<ListeningPort>, Error>;

    /// The end of what the workload's own command printed, at most `bytes` bytes
    /// (`GET /logs?bytes=`).
    async fn logs(&self, guest: &Endpoint, bytes: u32) -> Result<Bytes, Error>;
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path, process or user does not exist.
    #[error("{what} was not found")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Asking again cannot help.
    #[error("{reason}")]
    Invalid {
        /// Why, for the person who asked.
        reason: String,
    },
    /// The sandbox's disk is full.
    #[error("no space is left in the sandbox")]
    NoSpace,
    /// The guest does not answer: starting, gone, or out of reach. What it did is unknown.
    #[error("the sandbox does not answer")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
