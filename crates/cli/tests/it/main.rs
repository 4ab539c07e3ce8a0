//! `miosa up` as a real process: readiness, restarts of its children, rights, the end.
//!
//! Needs root and the template cache (`MIOSA_CACHE_DIR`, default `/var/cache/miosa`; the first
//! run fills it). One platform at a time: each test has its own data folder and free ports.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod command_line;
mod platform;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use tokio::time::Instant;

use platform::{Platform, get, skipped, status_field, wait_for};

#[test]
fn ready_means_that_the_api_answers_with_its_commit() {
    if skipped() {
        return;
    }
    let platform = Platform::up();
    let (status, body) = get(&platform.ready.http, "/health");
    assert_eq!(status, 200, "{body}");
    let health: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(health["service"], "miosa-compute");
    assert!(health["commit"].as_str().is_some_and(|commit| commit.len() >= 7), "{body}");
    let (status, body) = get(&platform.ready.http, "/health/ready");
    assert_eq!(status, 200, "{body}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(platform.data.join("ready.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn only_control_keeps_rights() {
    if skipped() {
        return;
    }
    let platform = Platform::up();
    let edge = platform.child("edge");
    assert_ne!(status_field(edge, "Uid:").split_whitespace().next(), Some("0"));
    assert_eq!(status_field(edge, "CapEff:"), "0000000000000000");
    assert_eq!(status_field(edge, "CapBnd:").trim_start_matches('0'), "");
    assert_eq!(status_field(edge, "NoNewPrivs:"), "1");
    assert_eq!(status_field(edge, "Seccomp:"), "2");
    let control = platform.child("control");
    assert_eq!(status_field(control, "Uid:").split_whitespace().next(), Some("0"));
}

#[test]
fn a_killed_child_is_back_within_a_second_and_calls_wait_for_it() {
    if skipped() {
        return;
    }
    let platform = Platform::up();
    for role in ["control", "edge", "control"] {
        let old = platform.child(role);
        let killed = Instant::now();
        platform::kill(old, "KILL");
        let new = wait_for(Duration::from_secs(5), "another child", || {
            platform.try_child(role).filter(|pid| *pid != old)
        });
        assert!(killed.elapsed() < Duration::from_secs(1), "{role} took {:?}", killed.elapsed());
        assert_ne!(new, old);
        // Held while control is away, and accepted on the same sockets while the edge is.
        let (status, body) = get(&platform.ready.http, "/health");
        assert_eq!(status, 200, "after the end of {role}: {body}");
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    if skipped() {
        return;
    }
    let mut platform = Platform::up_without_log();
    // Each end and each start is something to tell of.
    for role in ["control", "edge"] {
        let old = platform.child(role);
        platform::kill(old, "KILL");
        wait_for(Duration::from_secs(5), "another child", || {
            platform.try_child(role).filter(|pid| *pid != old)
        });
        let (status, body) = get(&platform.ready.http, "/health");
        assert_eq!(status, 200, "after the end of {role}: {body}");
    }
    let (control, edge) = (platform.child("control"), platform.child("edge"));
    assert!(platform.stop().success());
    wait_for(Duration::from_secs(5), "the end of both", || {
        (!platform::is_alive(control) && !platform::is_alive(edge)).then_some(())
    });
}

#[test]
fn a_new_edge_takes_over_without_a_failed_request() {
    if skipped() {
        return;
    }
    let platform = Platform::up();
    let old = platform.child("edge");
    let address = platform.ready.http.clone();
    let asking = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(3);
        let mut answers = 0;
        while Instant::now() < end {
            assert_eq!(get(&address, "/health").0, 200);
            answers += 1;
        }
        answers
    });
    platform::kill(platform.pid(), "HUP");
    wait_for(Duration::from_secs(10), "another edge", || {
        platform.try_child("edge").filter(|pid| *pid != old)
    });
    assert!(asking.join().unwrap() > 20);
    wait_for(Duration::from_secs(30), "the end of the old edge", || {
        (!std::path::Path::new(&format!("/proc/{old}")).exists()).then_some(())
    });
}

#[test]
fn a_second_platform_on_the_folder_is_refused_and_the_end_is_clean() {
    if skipped() {
        return;
    }
    let mut platform = Platform::up();
    let second = Command::new(env!("CARGO_BIN_EXE_miosa"))
        .args(["up", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(&platform.data)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(error.contains("already runs") && error.contains("down --data-dir"), "{error}");
    assert_eq!(get(&platform.ready.http, "/health").0, 200, "the first goes on");
    let status = platform.stop();
    assert_eq!(status.code(), Some(0));
    assert!(!platform.data.join("ready.json").exists());
}

#[test]
fn children_end_when_the_supervisor_is_killed() {
    if skipped() {
        return;
    }
    let mut platform = Platform::up();
    let children = [platform.child("edge"), platform.child("control")];
    platform::kill(platform.pid(), "KILL");
    platform.wait();
    for pid in children {
        wait_for(Duration::from_secs(30), "the end of a child", || {
            (!platform::is_alive(pid)).then_some(())
        });
    }
}

#[test]
fn metrics_are_on_the_admin_listener_only() {
    if skipped() {
        return;
    }
    let platform = Platform::up();
    let (status, body) = get(&platform.ready.admin, "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("# TYPE") && body.contains("\nmiosa_edge_up 1\n"), "{body}");
    get(&platform.ready.http, "/health");
    let (_, body) = get(&platform.ready.admin, "/metrics");
    assert!(body.contains("edge_requests_total{class=\"Api\",status=\"2\"}"), "{body}");
    // The counters of the edge that took over, not of the one that drains.
    let old = platform.child("edge");
    platform::kill(old, "KILL");
    wait_for(Duration::from_secs(10), "the metrics of another edge", || {
        let (_, body) = get(&platform.ready.admin, "/metrics");
        assert!(body.contains("platform_build_info"), "control's own are always there: {body}");
        let is_new = platform.try_child("edge").is_some_and(|edge| edge != old);
        (is_new && body.contains("\nmiosa_edge_up 1\n")).then_some(())
    });
    assert_ne!(get(&platform.ready.http, "/metrics").0, 200);
    let mut stream = TcpStream::connect(&platform.ready.http).unwrap();
    stream
        .write_all(
            b"GET /api/v1/sandboxes HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}
