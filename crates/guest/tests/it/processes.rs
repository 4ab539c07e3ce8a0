//! Start, output, input, signals, users, environment, ports.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use miosa_types::{
    Secret,
    guest::{Endpoint, Error, Guest as _, Init, Output},
};
use tokio::time::Instant;

use crate::support::{Running, chmod, give_to_nobody, is_root, shell};

#[tokio::test]
async fn output_streams_are_apart_and_codes_come_through() {
    let guest = Running::start().up().await;
    let ran = guest.run("echo out; echo err >&2; exit 7").await;
    assert_eq!(ran.stdout, b"out\n");
    assert_eq!(ran.stderr, b"err\n");
    assert_eq!(ran.end, Some((7, false)));
    assert!(ran.pid > 0);
    let ran = guest.run("kill -9 $$").await;
    assert_eq!(ran.end, Some((137, false)));
    let ran = guest.run("exec 1>&- 2>&-; exit 3").await;
    assert_eq!(ran.end, Some((3, false)), "a process may close its output before it ends");
}

#[tokio::test]
async fn much_output_arrives_whole_and_in_order() {
    let guest = Running::start().up().await;
    let ran = guest.run("seq 1 500000").await;
    assert_eq!(ran.end, Some((0, false)));
    let expected = (1..=500_000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    assert!(ran.stdout == expected.as_bytes(), "{} bytes", ran.stdout.len());
    let peak = guest.peak_kib();
    assert!(peak < 16 << 10, "the guest grew to {peak} KiB");
}

#[tokio::test]
async fn a_background_child_holds_up_nobody_and_lives_on() {
    let guest = Running::start().up().await;
    let began = Instant::now();
    // It writes to the pipe after the end was told: that must not kill it.
    let ran = guest
        .run("(i=0; while [ $i -lt 20 ]; do echo tick; sleep 0.1; i=$((i+1)); done; touch lived) & echo first")
        .await;
    assert_eq!(ran.end, Some((0, false)));
    assert!(ran.text().starts_with("first") || ran.text().contains("first"), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let lived = "for i in $(seq 100); do [ -e lived ] && exit 0; sleep 0.1; done; exit 1";
    assert_eq!(guest.run(lived).await.end, Some((0, false)));
}

#[tokio::test]
async fn the_whole_group_is_killed_when_its_time_is_over() {
    let guest = Running::start().up().await;
    let mut command = shell("sleep 20 & echo $!; wait");
    command.timeout = Some(Duration::from_millis(300));
    let ran = guest.run_command(&command).await.unwrap();
    assert_eq!(ran.end, Some((137, true)));
    // Dead, or dead and not yet collected by the machine's first process.
    let state =
        format!("! kill -0 {0} 2>/dev/null || grep -q 'State:.Z' /proc/{0}/status", ran.text());
    let gone = format!("for i in $(seq 100); do ({state}) && exit 0; sleep 0.05; done; exit 1");
    assert_eq!(guest.run(&gone).await.end, Some((0, false)));
}

#[tokio::test]
async fn input_reaches_a_process_until_it_is_closed() {
    let guest = Running::start().up().await;
    let mut command = shell("cat; echo done");
    command.stdin = true;
    let mut output = guest.client.start(&guest.endpoint, &command).await.unwrap();
    let Some(Ok(Output::Started { pid })) = output.next().await else { panic!("no start") };
    for piece in ["a", "b\n"] {
        let bytes = Bytes::from_static(piece.as_bytes());
        guest.client.send_stdin(&guest.endpoint, pid, bytes).await.unwrap();
    }
    guest.client.close_stdin(&guest.endpoint, pid).await.unwrap();
    let mut text = Vec::new();
    while let Some(item) = output.next().await {
        match item.unwrap() {
            Output::Stdout(bytes) => text.extend_from_slice(&bytes),
            Output::Ended { code, .. } => assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(text, b"ab\ndone\n");
    let late = guest.client.send_stdin(&guest.endpoint, pid, Bytes::from_static(b"x")).await;
    assert!(matches!(late, Err(Error::NotFound { .. })), "{late:?}");
}

#[tokio::test]
async fn signals_end_a_process_whose_reader_is_gone() {
    let guest = Running::start().up().await;
    let script = "trap 'touch ended; exit 5' TERM; echo set; while :; do sleep 0.05; done";
    let mut output = guest.client.start(&guest.endpoint, &shell(script)).await.unwrap();
    let Some(Ok(Output::Started { pid })) = output.next().await else { panic!("no start") };
    // Before its trap is set the signal would end the shell itself.
    let Some(Ok(Output::Stdout(_))) = output.next().await else { panic!("no trap") };
    drop(output);
    let alive = guest.run(&format!("kill -0 {pid}")).await;
    assert_eq!(alive.end, Some((0, false)), "dropping the stream must not end the process");
    guest.client.signal(&guest.endpoint, pid, 15).await.unwrap();
    let ended = "for i in $(seq 100); do [ -e ended ] && exit 0; sleep 0.05; done; exit 1";
    assert_eq!(guest.run(ended).await.end, Some((0, false)));
    let nobody = guest.client.signal(&guest.endpoint, 1 << 22, 9).await;
    assert!(matches!(nobody, Err(Error::NotFound { .. })), "{nobody:?}");
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_process_and_not_the_guest() {
    let guest = Running::start().up().await;
    let command = shell("exec head -c 200000000 /dev/zero");
    let mut output = guest.client.start(&guest.endpoint, &command).await.unwrap();
    let Some(Ok(Output::Started { pid })) = output.next().await else { panic!("no start") };
    // Everything in between is full once the process sleeps in its write.
    let stuck = format!(
        "for i in $(seq 200); do grep -q pipe_write /proc/{pid}/wchan && exit 0; \
         grep -q 'State:.S' /proc/{pid}/status && exit 0; sleep 0.05; done; exit 1"
    );
    assert_eq!(guest.run(&stuck).await.end, Some((0, false)), "other calls go on");
    let mut length = 0;
    while let Some(item) = output.next().await {
        if let Output::Stdout(bytes) = item.unwrap() {
            length += bytes.len();
        }
    }
    assert_eq!(length, 200_000_000);
    let peak = guest.peak_kib();
    assert!(peak < 16 << 10, "the guest grew to {peak} KiB");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let guest = Running::start().up().await;
    let mut command = shell("true");
    command.argv = vec!["/no/such/program".into()];
    let error = guest.run_command(&command).await.unwrap_err();
    assert!(matches!(&error, Error::NotFound { what } if what.contains("/no/such")), "{error:?}");
    let mut command = shell("true");
    command.cwd = Some("/no/such/folder".into());
    let error = guest.run_command(&command).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { reason } if reason.contains("does not exist")));
    let mut command = shell("true");
    command.user = Some("no-such-user".into());
    assert!(guest.run_command(&command).await.is_err());
}

#[tokio::test]
async fn the_environment_is_the_asked_one_and_never_ours() {
    let guest = Running::start_with(&[("FROM_ROOTFS", "1")], None).up().await;
    let init = Init {
        env: BTreeMap::from([("FROM_INIT".into(), "2".into()), ("BOTH".into(), "init".into())]),
        hostname: None,
        workdir: None,
    };
    guest.client.init(&guest.endpoint, &init).await.unwrap();
    let mut command = shell("env; pwd");
    command.env.insert("BOTH".into(), "call".into());
    let ran = guest.run_command(&command).await.unwrap();
    let lines: Vec<_> = ran.text().lines().collect();
    for expected in ["FROM_ROOTFS=1", "FROM_INIT=2", "BOTH=call"] {
        assert!(lines.contains(&expected), "{expected} is missing in {lines:?}");
    }
    assert!(!ran.text().contains("GUEST_"), "{lines:?}");
    assert_eq!(lines.last(), Some(&guest.dir.path().to_str().unwrap()));
    let fds = guest.run("ls /proc/self/fd | wc -l").await;
    assert_eq!(fds.text(), "4", "three, and the one that lists");
}

#[tokio::test]
async fn nothing_but_health_works_without_the_token() {
    let guest = Running::start().up().await;
    let wrong = Endpoint { addr: guest.endpoint.addr, token: Secret::new("test-tokem".into()) };
    guest.client.health(&wrong, Duration::from_secs(5)).await.unwrap();
    assert!(guest.client.stat(&wrong, "/").await.is_err());
    assert!(guest.client.read(&wrong, "/etc/passwd").await.is_err());
    assert!(guest.client.start(&wrong, &shell("touch intruder")).await.is_err());
    assert!(guest.client.ports(&wrong).await.is_err());
    assert!(!guest.dir.path().join("intruder").exists());
    assert!(guest.client.stat(&guest.endpoint, "/").await.is_ok());
}

#[tokio::test]
async fn it_cannot_be_looked_into() {
    if !is_root("another user's look at the guest") {
        return;
    }
    let guest = Running::start_with(&[("GUEST_USER", "nobody")], None).up().await;
    let look = format!("cat /proc/{0}/environ || ls /proc/{0}/fd", guest.child.id());
    let ran = guest.run(&look).await;
    assert_ne!(ran.end, Some((0, false)), "{ran:?}");
    assert!(ran.stdout.is_empty(), "{ran:?}");
}

#[tokio::test]
async fn processes_run_as_the_asked_user() {
    if !is_root("changing the user") {
        return;
    }
    let guest = Running::start_with(&[("GUEST_USER", "nobody")], None);
    give_to_nobody(guest.dir.path());
    let guest = guest.up().await;
    let ran = guest.run("id -u; id -G; umask; touch mine; stat -c %u mine").await;
    assert_eq!(ran.text(), "65534\n65534\n0022\n65534");
    assert_eq!(guest.run("kill -9 $PPID").await.end.map(|(code, _)| code), Some(1));
    let mut command = shell("id -u");
    command.user = Some("root".into());
    assert_eq!(guest.run_command(&command).await.unwrap().text(), "0");
    let secret = guest.dir.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    chmod(&secret, 0o700);
    let mut command = shell("pwd");
    command.cwd = Some("secret".into());
    assert!(guest.run_command(&command).await.is_err(), "a folder of another user");
}

#[tokio::test]
async fn listening_ports_are_told_with_their_process() {
    let guest = Running::start().up().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = guest.client.ports(&guest.endpoint).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let found = ports.iter().find(|found| found.port == port).expect("our port is listed");
    assert_eq!((found.address.as_str(), found.pid), ("127.0.0.1", Some(std::process::id())));
    assert!(ports.iter().all(|found| found.port != miosa_types::guest::PORT));
}
