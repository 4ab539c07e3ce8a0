//! Limits hold, and a workload that runs into one disturbs nobody.

use std::path::PathBuf;

use miosa_provider::{Confinement, Owner, Provider as _, Readiness, WorkloadSpec};
use miosa_types::Size;

use crate::machine::{Machine, output, tell, with_machine};

#[test]
fn a_memory_hog_dies_alone() {
    with_machine(async |machine| {
        let neighbour = machine.start(&machine.server()).await;
        let hog = "x = []\nwhile True: x.append(bytearray(1 << 20))";
        let spec = machine.workload(&["python3", "-c", hog], Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        assert_eq!(exit.code, Some(137), "{}", exit.log_tail);
        assert_eq!(tell(&neighbour, "hi").await.unwrap(), "hello");
    });
}

#[test]
fn a_fork_bomb_is_bounded() {
    with_machine(async |machine| {
        let bomb = "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept OSError: print(f'forked={n}', flush=True)\nos._exit(0)";
        let spec = machine.workload(&["python3", "-c", bomb], Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        let count: u32 = exit.log_tail.trim().strip_prefix("forked=").unwrap().parse().unwrap();
        assert!((100..512).contains(&count), "{count}");
    });
}

#[test]
fn one_workload_cannot_fill_the_table_of_connections() {
    // Many flows to many ports, then one flow with many packets that nobody answers.
    const FLOOD: &str = r#"
import socket
def send(count, to):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    refused = 0
    for i in range(count):
        try: s.sendto(b"x", to(i))
        except OSError: refused += 1
    return refused
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("198.51.100.9", 7))
print("address=" + s.getsockname()[0], flush=True)
print("one flow refused=%d" % send(6000, lambda i: ("198.51.100.9", 7)), flush=True)
print("flows refused=%d" % send(12000, lambda i: ("198.51.100.%d" % (1 + i % 8), 1000 + i)), flush=True)
"#;
    with_machine(async |machine| {
        let table = output("nft", &["list", "table", "inet", &machine.table()]);
        if !table.contains("ct count over") {
            eprintln!("SKIPPED: this kernel cannot count connections");
            return;
        }
        let spec = machine.workload(&["python3", "-c", FLOOD], Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        let says = &exit.log_tail;
        let address = says.lines().find_map(|line| line.strip_prefix("address=")).unwrap();
        let Ok(known) = std::fs::read_to_string("/proc/net/nf_conntrack") else {
            eprintln!("SKIPPED: this kernel does not list its connections");
            return;
        };
        let source = format!(" src={address} ");
        let count = known.lines().filter(|line| line.contains(&source)).count();
        // One or two more can be on their way while they are counted.
        assert!((1000..4100).contains(&count), "{count}: {says}");
    });
}

#[test]
fn a_full_disk_is_only_its_own() {
    with_machine(async |machine| {
        if machine.provider().status().disk_limit != "hard" {
            eprintln!("SKIPPED: disk limits are not enforced by this kernel");
            return;
        }
        let fill = "dd if=/dev/zero of=/workspace/f bs=1M count=400 2>&1; sync; \
                    echo size=$(($(stat -c %s /workspace/f) >> 20)); rm /workspace/f && echo removed";
        let exit = machine.script(fill, Confinement::Sandbox).await;
        let says = &exit.log_tail;
        assert!(says.contains("quota exceeded") || says.contains("No space left"), "{says}");
        let size = says.lines().find_map(|line| line.strip_prefix("size=")).unwrap();
        assert!(size.parse::<u32>().unwrap() <= 128, "{says}");
        assert!(says.contains("removed"), "what is too much can be removed: {says}");
    });
}

#[test]
fn a_claimed_slot_has_the_lower_limits() {
    with_machine(async |machine| {
        let slot = WorkloadSpec {
            owner: Owner::Pool,
            size: Size { memory_mib: 1024, cpu_millis: 4000, disk_mib: 1024 },
            ..machine.sandbox()
        };
        let ready = machine.start(&slot).await;
        let group = |controller: &str, file: &str| {
            let tail = format!(
                "workloads/{}/{}/{file}",
                machine.installation.simple(),
                ready.instance.simple()
            );
            let v1 = PathBuf::from("/sys/fs/cgroup").join(controller).join(&tail);
            let text = std::fs::read_to_string(v1);
            text.ok().map(|text| text.trim().to_owned())
        };
        if group("memory", "memory.limit_in_bytes").is_none() {
            eprintln!("SKIPPED: no cgroups of version 1");
            return;
        }
        let limits = || {
            (
                group("memory", "memory.limit_in_bytes"),
                group("cpu", "cpu.cfs_quota_us"),
                group("pids", "pids.max"),
            )
        };
        let some = |a: &str, b: &str, c: &str| {
            (Some(a.to_owned()), Some(b.to_owned()), Some(c.to_owned()))
        };
        assert_eq!(limits(), some("1073741824", "400000", "1280"));
        let owner = Owner::Sandbox(machine.env.id());
        let size = Size { memory_mib: 256, cpu_millis: 1000, disk_mib: 128 };
        machine.provider().claim(slot.key, owner, size).await.unwrap();
        assert_eq!(limits(), some("268435456", "100000", "512"));
    });
}

#[test]
fn a_claim_is_quick_and_a_start_is_near_the_bare_program() {
    with_machine(async |machine: std::sync::Arc<Machine>| {
        let mut starts = Vec::new();
        for _ in 0..12 {
            let spec = machine.sandbox();
            let began = tokio::time::Instant::now();
            machine.start(&spec).await;
            starts.push(began.elapsed());
            machine.remove(spec.key).await;
        }
        starts.sort();
        eprintln!("apply to ready: median {:?}, slowest {:?}", starts[6], starts[11]);
        let slot = WorkloadSpec { owner: Owner::Pool, ..machine.sandbox() };
        machine.start(&slot).await;
        let began = tokio::time::Instant::now();
        let owner = Owner::Sandbox(machine.env.id());
        machine.provider().claim(slot.key, owner, slot.size).await.unwrap();
        eprintln!("claim: {:?}", began.elapsed());
    });
}
