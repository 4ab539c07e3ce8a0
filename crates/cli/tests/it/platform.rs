//! Starts a platform for a test and removes it again, also when the test fails.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use serde::Deserialize;

/// What `ready.json` holds, as far as the tests need it.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    pub(crate) http: String,
    pub(crate) admin: String,
}

/// One running platform.
pub(crate) struct Platform {
    process: Child,
    pub(crate) data: PathBuf,
    pub(crate) ready: Ready,
    _home: tempfile::TempDir,
}

/// Says aloud why a test does not run here.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skipped() -> bool {
    let is_root = status_field(std::process::id(), "Uid:").starts_with('0');
    let has_runtime = Command::new("crun").arg("--version").output().is_ok();
    if is_root && has_runtime {
        return false;
    }
    assert!(std::env::var_os("MIOSA_TEST_MACHINE").is_none(), "a platform needs root and crun");
    eprintln!("SKIPPED: a platform needs root and crun");
    true
}

impl Platform {
    pub(crate) fn up() -> Self {
        let home = tempfile::Builder::new().prefix("up-").tempdir_in("/var/tmp").unwrap();
        let log = fs::File::create(home.path().join("log")).unwrap();
        Self::up_in(home, log)
    }

    /// With a log that can be opened, and never written.
    pub(crate) fn up_without_log() -> Self {
        let home = tempfile::Builder::new().prefix("up-").tempdir_in("/var/tmp").unwrap();
        Self::up_in(home, fs::File::options().write(true).open("/dev/full").unwrap())
    }

    fn up_in(home: tempfile::TempDir, log: fs::File) -> Self {
        let data = home.path().join("data");
        let cache = std::env::var("MIOSA_CACHE_DIR").unwrap_or_else(|_| "/var/cache/miosa".into());
        let process = Command::new(env!("CARGO_BIN_EXE_miosa"))
            .args(["up", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--cache-dir", &cache, "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let file = data.join("ready.json");
        let mut platform = Self {
            process,
            data,
            ready: Ready { http: String::new(), admin: String::new() },
            _home: home,
        };
        // A cold cache builds the template first.
        let text = wait_for(Duration::from_mins(10), "ready.json", || {
            if let Some(status) = platform.process.try_wait().unwrap() {
                panic!("`up` ended with {status}: {}", platform.log());
            }
            fs::read_to_string(&file).ok()
        });
        platform.ready = serde_json::from_str(&text).unwrap();
        platform
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data.parent().unwrap().join("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn child(&self, role: &str) -> u32 {
        wait_for(Duration::from_secs(5), "a child", || self.try_child(role))
    }

    /// The child of that role that was started last.
    pub(crate) fn try_child(&self, role: &str) -> Option<u32> {
        let mut found: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| status_field(*pid, "PPid:") == self.pid().to_string())
            .filter(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes()) && is_alive(*pid)
            })
            .collect();
        found.sort_unstable();
        found.pop()
    }

    pub(crate) fn stop(&mut self) -> ExitStatus {
        kill(self.pid(), "TERM");
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for(Duration::from_mins(1), "the end of `up`", || self.process.try_wait().unwrap())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if self.process.try_wait().ok().flatten().is_none() {
            kill(self.pid(), "TERM");
            let _ = self.process.wait();
        }
        let down = Command::new(env!("CARGO_BIN_EXE_miosa"))
            .args(["down", "--data-dir"])
            .arg(&self.data)
            .output();
        let is_clean = down.is_ok_and(|output| output.status.success());
        assert!(is_clean || std::thread::panicking(), "`down` failed: {}", self.log());
    }
}

/// Looks again until `look` finds something; panics with `what` when the time is over.
pub(crate) fn wait_for<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "no {what} within {limit:?}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(status_field(pid, "State:").chars().next(), None | Some('Z'))
}

/// A field of `/proc/PID/status`; empty if the process is gone.
pub(crate) fn status_field(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_default().trim().to_owned()
}

/// One request on a new connection: status and body.
pub(crate) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}
