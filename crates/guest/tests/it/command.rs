//! The one program of a runtime instance, and the end of the guest.

use miosa_types::guest::Guest as _;

use crate::support::Running;

/// The runtime hands over descriptor 3.
const WITH_FD_3: &str = r#"exec 3>"$GUEST_WORKDIR/.code"; exec "$GUEST""#;

fn command(line: &str) -> String {
    format!(r#"{{"argv":["/bin/sh","-c",{line:?}],"cwd":"","env":{{"OWN":"1"}},"user":null}}"#)
}

fn run(line: &str) -> Running {
    Running::start_with(&[("GUEST_COMMAND", &command(line))], Some(WITH_FD_3))
}

fn code(guest: &Running) -> String {
    std::fs::read_to_string(guest.dir.path().join(".code")).unwrap()
}

#[tokio::test]
async fn it_ends_with_its_command_and_tells_the_code() {
    for (line, exit) in
        [("echo $OWN out; echo err >&2; exit 7", 7), ("kill -9 $$", 137), ("true", 0)]
    {
        let mut guest = run(line);
        assert_eq!(guest.exit().await.code(), Some(exit), "{line}");
        assert_eq!(code(&guest), format!("{exit}\n"));
        if exit == 7 {
            let log = guest.log();
            assert!(log.contains("1 out\n") && log.contains("err\n"), "{log}");
        }
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_says_why() {
    let json = r#"{"argv":["/no/such/program"]}"#;
    let mut guest = Running::start_with(&[("GUEST_COMMAND", json)], Some(WITH_FD_3));
    assert_eq!(guest.exit().await.code(), Some(127));
    assert_eq!(code(&guest), "127\n");
    assert!(guest.log().contains("/no/such/program"), "{}", guest.log());
    let mut guest = Running::start_with(&[("GUEST_COMMAND", "nonsense")], Some(WITH_FD_3));
    assert_eq!(guest.exit().await.code(), Some(125));
    assert!(guest.log().contains("GUEST_COMMAND"), "{}", guest.log());
}

#[tokio::test]
async fn it_serves_beside_its_command_and_tells_its_last_output() {
    let guest = run("echo ready; exec sleep 20").up().await;
    let said = "for i in $(seq 100); do grep -q ready .log && exit 0; sleep 0.05; done; exit 1";
    assert_eq!(guest.run(said).await.end, Some((0, false)));
    assert_eq!(&guest.client.logs(&guest.endpoint, 3).await.unwrap()[..], b"dy\n");
    assert_eq!(guest.raw("POST /shutdown", r#"{"grace_ms":0}"#), 202);
}

#[tokio::test]
async fn a_shutdown_lets_the_command_end_by_itself() {
    let line = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done";
    let mut guest = run(line).up().await;
    let said = "for i in $(seq 100); do grep -q ready .log && exit 0; sleep 0.05; done; exit 1";
    assert_eq!(guest.run(said).await.end, Some((0, false)));
    assert_eq!(guest.raw("POST /shutdown", r#"{"grace_ms":20000}"#), 202);
    assert_eq!(guest.exit().await.code(), Some(4));
    assert_eq!(code(&guest), "4\n");
    assert!(guest.log().contains("bye\n"), "{}", guest.log());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let line =
        "trap '' TERM; echo ready; i=0; while [ $i -lt 400 ]; do sleep 0.05; i=$((i+1)); done";
    let mut guest = run(line).up().await;
    let said = "for i in $(seq 100); do grep -q ready .log && exit 0; sleep 0.05; done; exit 1";
    assert_eq!(guest.run(said).await.end, Some((0, false)));
    assert_eq!(guest.raw("POST /shutdown", r#"{"grace_ms":100}"#), 202);
    assert_eq!(guest.exit().await.code(), Some(137));
    assert_eq!(code(&guest), "137\n");
}

#[tokio::test]
async fn without_a_command_a_shutdown_ends_it_well() {
    let mut guest = Running::start().up().await;
    assert_eq!(guest.raw("POST /shutdown", "{}"), 202);
    assert_eq!(guest.exit().await.code(), Some(0));
}

#[tokio::test]
async fn signals_of_the_sandbox_find_no_handler() {
    let guest = Running::start().up().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(caught, 16).unwrap(), 0, "a signal is caught: {caught}");
}

#[tokio::test]
async fn the_log_is_bounded() {
    let mut guest = run("head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last");
    assert_eq!(guest.exit().await.code(), Some(0));
    let log = guest.log();
    assert!(log.ends_with("x\nlast\n"));
    assert!(log.len() <= 8 << 20, "{} bytes", log.len());
    assert!(!log.contains('\0'), "a hole instead of a cut");
}
