//! What a workload can reach and do.

use std::{collections::BTreeMap, net::UdpSocket};

use miosa_provider::{Confinement, Exit, WorkloadSpec};

use crate::machine::with_machine;

/// `name=value` lines.
fn values(exit: &Exit) -> BTreeMap<&str, &str> {
    assert_eq!(exit.code, Some(0), "{}", exit.log_tail);
    exit.log_tail.lines().filter_map(|line| line.split_once('=')).collect()
}

/// The address under which the machine itself is reached.
fn host_address() -> std::net::IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn a_workload_reaches_nobody_here() {
    with_machine(async |machine| {
        let neighbour = machine.start(&machine.server()).await.phase.ready().unwrap();
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let gateway = machine.gateway();
        let host = host_address();
        // The listener answers whoever may reach it.
        tokio::net::TcpStream::connect((gateway, port)).await.unwrap();
        tokio::net::TcpStream::connect((host, port)).await.unwrap();
        let script = include_str!("reach.py");
        let targets = format!(
            "gateway={gateway}:{port} host={host}:{port} neighbour={neighbour} \
             neighbours_guest={}:49983 metadata=169.254.169.254:80 private=192.168.1.1:80",
            neighbour.ip()
        );
        let spec = machine
            .workload(&["python3", "-c", script, &targets], miosa_provider::Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        accepting.abort();
        let seen = values(&exit);
        for name in ["gateway", "host", "neighbour", "neighbours_guest", "metadata", "private"] {
            assert_eq!(seen[name], "blocked", "{name}: {seen:?}");
        }
        assert_eq!((seen["dns_udp"], seen["dns_tcp"]), ("answered", "answered"), "{seen:?}");
        assert_eq!((seen["raw"], seen["packet"]), ("refused", "refused"), "{seen:?}");
        assert_eq!((seen["ipv6"], seen["port_80"]), ("off", "bound"), "{seen:?}");
    });
}

#[test]
fn the_machines_boot_line_and_disks_are_not_told() {
    with_machine(async |machine| {
        let script = "echo seen=$(cat /proc/cmdline /proc/partitions | wc -c); echo cpus=$(nproc)";
        for confinement in [Confinement::Sandbox, Confinement::Runtime] {
            let exit = machine.script(script, confinement).await;
            assert_eq!(values(&exit)["seen"], "0", "{}", exit.log_tail);
        }
    });
}

#[test]
fn a_package_registry_is_reached_where_the_host_reaches_it() {
    with_machine(async |machine| {
        let fetch = "pip download --no-deps --quiet --dest /tmp/x six && echo got=it";
        let on_host = std::process::Command::new("python3")
            .args(["-m", "pip", "download", "--no-deps", "--quiet", "six", "--dest"])
            .arg(machine.folder.path().join("six"))
            .status();
        if !on_host.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: the host itself reaches no package registry");
            return;
        }
        let exit = machine.script(fetch, Confinement::Sandbox).await;
        assert_eq!(values(&exit)["got"], "it");
    });
}

/// What a process says of itself.
const STATUS: &str = r#"
echo uid=$(id -u)
awk -F: '/^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):/ {gsub(/[ \t]/, "", $2); print $1 "=" $2}' /proc/self/status
echo map=$(awk '{print $1 "," ($2 >= 100000) "," $3}' /proc/self/uid_map)
echo sudo=$(sudo -n id -u 2>/dev/null)
echo mount=$(sudo -n mount -t tmpfs x /mnt 2>/dev/null && echo done || echo refused)
echo device=$(sudo -n mknod /tmp/d b 8 0 2>/dev/null && sudo -n head -c1 /tmp/d >/dev/null 2>&1 && echo read || echo refused)
echo userns=$(unshare -U true 2>/dev/null && echo made || echo refused)
echo hostname=$(sudo -n hostname other 2>/dev/null && echo changed || echo refused)
echo tracing=$(sudo -n cat /proc/1/environ 2>/dev/null | wc -c)
echo sys=$(ls /sys | wc -l)
echo secrets=$(env | grep -c GUEST_)
echo named=$(cat /proc/mounts /proc/self/mountinfo /etc/hosts /etc/resolv.conf | grep -ci miosa)
echo resolved=$(getent hosts "$(hostname)" | wc -l)
echo tmp=$(touch /tmp/x && echo written)
echo workspace=$(touch /workspace/x && echo written)
"#;

#[test]
fn a_sandbox_has_root_only_inside() {
    with_machine(async |machine| {
        let exit = machine.script(STATUS, Confinement::Sandbox).await;
        let seen = values(&exit);
        assert_eq!((seen["uid"], seen["sudo"]), ("1000", "0"), "{seen:?}");
        assert_eq!(seen["map"], "0,1,65536", "its root is nobody on the host: {seen:?}");
        assert_eq!(seen["CapBnd"], "00000000a80425fb", "the usual set: {seen:?}");
        assert_eq!((seen["NoNewPrivs"], seen["Seccomp"]), ("0", "2"), "{seen:?}");
        common(&seen);
    });
}

#[test]
fn a_runtime_instance_is_nobody_anywhere() {
    with_machine(async |machine| {
        let exit = machine.script(STATUS, Confinement::Runtime).await;
        let seen = values(&exit);
        assert_eq!((seen["uid"], seen["sudo"]), ("1000", ""), "{seen:?}");
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(seen[set], "0000000000000000", "{seen:?}");
        }
        assert_eq!((seen["NoNewPrivs"], seen["Seccomp"]), ("1", "2"), "{seen:?}");
        common(&seen);
    });
}

fn common(seen: &BTreeMap<&str, &str>) {
    for name in ["mount", "device", "userns"] {
        assert_eq!(seen[name], "refused", "{name}: {seen:?}");
    }
    for name in ["tracing", "sys", "secrets", "named"] {
        assert_eq!(seen[name], "0", "{name}: {seen:?}");
    }
    assert_eq!((seen["tmp"], seen["workspace"]), ("written", "written"), "{seen:?}");
    assert_eq!(seen["resolved"], "1", "sudo complains otherwise: {seen:?}");
}
