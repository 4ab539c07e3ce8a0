//! A guest to test: started on a loopback address of its own, killed when dropped.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::chown,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use miosa_net::guest::HttpGuest;
use miosa_types::{
    Secret,
    guest::{self, ByteStream, Endpoint, Guest as _, Output, PORT},
};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_miosa-guest");
const TOKEN: &str = "test-token";
/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest on a loopback address of its own.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: HttpGuest,
    /// The working folder.
    pub(crate) dir: tempfile::TempDir,
}

impl Running {
    /// With the rights of whoever runs the tests.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], None)
    }

    /// With more environment; `script` is run by a shell and ends with `exec "$GUEST"`.
    pub(crate) fn start_with(env: &[(&str, &str)], script: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Other users must get to the working folder.
        chmod(dir.path(), 0o755);
        let addr = unused_address();
        let mut log = std::fs::OpenOptions::new();
        let log = log.create(true).append(true).open(dir.path().join(".log")).unwrap();
        let mut command = match script {
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-ec", script]);
                shell
            }
            None => Command::new(PROGRAM),
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("GUEST", PROGRAM)
            .env("GUEST_TOKEN", TOKEN)
            .env("GUEST_ADDRESS", addr.ip().to_string())
            .env("GUEST_USER", rustix::process::geteuid().as_raw().to_string())
            .env("GUEST_WORKDIR", dir.path())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap();
        let endpoint = Endpoint { addr, token: Secret::new(TOKEN.into()) };
        Self { child, endpoint, client: HttpGuest::new(), dir }
    }

    /// Once it answers.
    pub(crate) async fn up(self) -> Self {
        tokio::time::timeout(PATIENCE, async {
            let wait = Duration::from_secs(1);
            while self.client.health(&self.endpoint, wait).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the guest does not answer");
        self
    }

    /// Runs a shell line to its end.
    pub(crate) async fn run(&self, line: &str) -> Ran {
        self.run_command(&shell(line)).await.unwrap()
    }

    pub(crate) async fn run_command(&self, command: &guest::Command) -> Result<Ran, guest::Error> {
        let mut output = self.client.start(&self.endpoint, command).await?;
        let mut ran = Ran::default();
        let read = async {
            while let Some(item) = output.next().await {
                match item.unwrap() {
                    Output::Started { pid } => ran.pid = pid,
                    Output::Stdout(bytes) => ran.stdout.extend_from_slice(&bytes),
                    Output::Stderr(bytes) => ran.stderr.extend_from_slice(&bytes),
                    Output::Ended { code, timed_out } => {
                        assert!(ran.end.is_none(), "two ends");
                        ran.end = Some((code, timed_out));
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the process's stream does not end");
        Ok(ran)
    }

    pub(crate) async fn read(&self, path: &str) -> Result<Vec<u8>, guest::Error> {
        let body = self.client.read(&self.endpoint, path).await?;
        Ok(body.map(|piece| piece.unwrap().to_vec()).concat().await)
    }

    pub(crate) async fn write(&self, path: &str, content: &str) -> Result<(), guest::Error> {
        self.client.write(&self.endpoint, path, body(content.as_bytes().to_vec())).await
    }

    /// A request without the client; the status code.
    pub(crate) fn raw(&self, head: &str, content: &str) -> u16 {
        let mut stream = TcpStream::connect(self.endpoint.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: guest\r\nx-access-token: {TOKEN}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{content}",
            content.len(),
        )
        .unwrap();
        let mut answer = String::new();
        // It may have ended before the answer was all there.
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the guest does not end")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(".log")).unwrap()
    }

    /// Most memory it ever used, KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What it started ends by itself: no test starts a process without an end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process did.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Code, and whether its time was over.
    pub(crate) end: Option<(i32, bool)>,
}

impl Ran {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }
}

pub(crate) fn shell(line: &str) -> guest::Command {
    guest::Command {
        argv: ["/bin/sh", "-c", line].map(str::to_owned).into(),
        cwd: None,
        env: BTreeMap::new(),
        user: None,
        stdin: false,
        timeout: None,
    }
}

pub(crate) fn body(content: Vec<u8>) -> ByteStream {
    stream::iter([Ok(Bytes::from(content))]).boxed()
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// True if we may become other users; else says what is skipped.
pub(crate) fn is_root(what: &str) -> bool {
    let is = rustix::process::geteuid().is_root();
    if !is {
        eprintln!("skipped: {what} needs root");
    }
    is
}

/// Hands a folder to the user `nobody`.
pub(crate) fn give_to_nobody(path: &Path) {
    chown(path, Some(65534), Some(65534)).unwrap();
}

/// No other test's: the process id and a number make it unique on the loopback network.
fn unused_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let _ = high;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from((Ipv4Addr::new(127, middle.max(1), low, number), PORT))
}
