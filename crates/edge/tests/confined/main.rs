//! A confined edge: what it can still do, and what it cannot. A program of its own, because a
//! process gives up its privileges while it has one thread, and no test harness leaves it that.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test, and it speaks to the test runner itself"
)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
};

use miosa_edge::{EdgeConfig, Limits, Listeners, privileges};
use miosa_types::{EdgeId, Env};

/// An account that owns nothing.
const NOBODY: u32 = 65_534;

/// Tells the child where to work.
const FOLDER: &str = "CONFINED_FOLDER";

const NAME: &str = "a_confined_edge_serves_and_can_do_nothing_else";

fn main() -> ExitCode {
    let asks = |flag: &str| std::env::args().any(|argument| argument == flag);
    if asks("--list") {
        if !asks("--ignored") {
            println!("{NAME}: test");
        }
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return ExitCode::SUCCESS;
    }
    if let Some(dir) = std::env::var_os(FOLDER) {
        confined(Path::new(&dir));
        return ExitCode::SUCCESS;
    }
    // Who is confined cannot clean up: a child is, and root removes the folder.
    let dir = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, dir.path())
        .status()
        .unwrap();
    println!("test {NAME} ... {}", if child.success() { "ok" } else { "FAILED" });
    if child.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn confined(dir: &Path) {
    // Others may pass, as they may pass the data folder.
    let passable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, passable).unwrap();
    let own = dir.join("edge");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("table"), "").unwrap();
    std::fs::write(dir.join("secret"), "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = std::os::unix::net::UnixListener::bind(dir.join("api.sock")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.join("api.sock"), open).unwrap();

    let report = privileges::confine(NOBODY, NOBODY, &own).unwrap();
    eprintln!("{report}");
    assert!(report.user);

    let status = std::fs::read_to_string("/proc/thread-self/status");
    // With Landlock in force even this file is out of reach.
    if let Ok(status) = status {
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
    assert_eq!(rustix::process::geteuid().as_raw(), NOBODY);
    let set = rustix::thread::capabilities(None).unwrap();
    assert!(set.effective.is_empty() && set.permitted.is_empty(), "{set:?}");
    assert!(rustix::thread::no_new_privs().unwrap());
    assert!(rustix::thread::set_thread_uid(rustix::process::Uid::ROOT).is_err());
    std::fs::write(own.join("file"), "mine").unwrap();
    if report.landlock != "none" {
        for path in [dir.join("secret"), "/etc/passwd".into()] {
            assert!(std::fs::read(&path).is_err(), "{} can be read", path.display());
        }
    }
    if report.seccomp {
        let error = std::process::Command::new("/bin/true").status().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        let netlink = rustix::net::socket(
            rustix::net::AddressFamily::NETLINK,
            rustix::net::SocketType::RAW,
            None,
        );
        assert!(netlink.is_err());
    }
    serves(&own, listener, dir, api);
}

/// Threads, timers, the blocking pool, a Unix socket and TCP still work.
fn serves(own: &Path, listener: TcpListener, dir: &Path, api: std::os::unix::net::UnixListener) {
    let address = listener.local_addr().unwrap();
    let config = EdgeConfig {
        dir: own.to_owned(),
        link_socket: dir.join("link.sock"),
        api_socket: dir.join("api.sock"),
        edge: EdgeId::from_uuid(uuid::Uuid::from_u128(1)),
        env: Env::system(),
        trusted_proxies: Vec::new(),
        limits: Limits::default(),
    };
    let control = std::thread::spawn(move || {
        let (mut stream, _) = api.accept().unwrap();
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listeners = Listeners { http: vec![listener], https: vec![] };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let client = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        drop(stop);
        answer
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let ready = move |_| sender.send(std::thread::spawn(client)).unwrap();
    runtime
        .block_on(miosa_edge::run(config, listeners, ready, async { drop(stopped.await) }))
        .unwrap();
    let answer = receiver.recv().unwrap().join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok"), "{answer}");
    control.join().unwrap();
}
