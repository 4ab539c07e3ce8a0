//! Limits hold, and a workload that runs into one disturbs nobody.

use std::path::PathBuf;

use miosa_provider::{Confinement, Observed, Owner, Phase, Provider as _, Readiness, WorkloadSpec};
use miosa_types::Size;

use crate::machine::{Machine, output, skip, tell, with_machine, with_small_machine};

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
    // One flow with many packets that nobody answers, many flows to many ports, and many that the
    // bridge has no business with: what `br_netfilter` remembers of those is not forwarded.
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
print("group refused=%d" % send(6000, lambda i: ("224.0.0.9", 1000 + i)), flush=True)
"#;
    with_machine(async |machine| {
        let table = output("nft", &["list", "table", "inet", &machine.table()]);
        if !table.contains("ct count over") {
            skip("this kernel cannot count connections");
            return;
        }
        let spec = machine.workload(&["python3", "-c", FLOOD], Readiness::Guest);
        let exit = machine.run(WorkloadSpec { restart: false, ..spec }).await;
        let says = &exit.log_tail;
        let address = says.lines().find_map(|line| line.strip_prefix("address=")).unwrap();
        let Ok(known) = std::fs::read_to_string("/proc/net/nf_conntrack") else {
            skip("this kernel does not list its connections");
            return;
        };
        let source = format!(" src={address} ");
        let count = known.lines().filter(|line| line.contains(&source)).count();
        // Those by which the host looks for its guest are among them.
        assert!((1000..4200).contains(&count), "{count}: {says}");
    });
}

#[test]
fn the_gateway_keeps_its_hardware_address() {
    with_machine(async |machine| {
        let gateway = format!("inet {}/32", machine.gateway());
        let addresses = output("ip", &["-o", "-4", "address"]);
        let bridge = addresses.lines().find(|line| line.contains(&gateway)).unwrap();
        let bridge = bridge.split_whitespace().nth(1).unwrap();
        let read = |file: &str| {
            std::fs::read_to_string(format!("/sys/class/net/{bridge}/{file}")).unwrap()
        };
        // NET_ADDR_SET: not that of a port, so it stays as ports come and go.
        assert_eq!(read("addr_assign_type").trim(), "3");
        let [a, b, c, d] = machine.gateway().octets();
        assert_eq!(read("address").trim(), format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
    });
}

#[test]
fn a_full_disk_is_only_its_own() {
    with_machine(async |machine| {
        if machine.provider().status().disk_limit != "hard" {
            skip("disk limits are not enforced by this kernel");
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
        let tail =
            format!("workloads/{}/{}", machine.installation.simple(), ready.instance.simple());
        let read = |path: &str, file: &str| {
            let path = PathBuf::from("/sys/fs/cgroup").join(path).join(&tail).join(file);
            let text = std::fs::read_to_string(&path);
            let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            text.split_whitespace().next().unwrap_or_default().to_owned()
        };
        let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let files = if is_v2 {
            [("", "memory.max"), ("", "cpu.max"), ("", "pids.max")]
        } else {
            [("memory", "memory.limit_in_bytes"), ("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max")]
        };
        let limits = || files.map(|(path, file)| read(path, file));
        assert_eq!(limits(), ["1073741824", "400000", "1280"]);
        let owner = Owner::Sandbox(machine.env.id());
        let size = Size { memory_mib: 256, cpu_millis: 1000, disk_mib: 128 };
        machine.provider().claim(slot.key, owner, size).await.unwrap();
        assert_eq!(limits(), ["268435456", "100000", "512"]);
    });
}

#[test]
fn a_claim_starts_nothing() {
    with_machine(async |machine: std::sync::Arc<Machine>| {
        let slot = WorkloadSpec { owner: Owner::Pool, ..machine.sandbox() };
        let before = machine.start(&slot).await;
        let owner = Owner::Sandbox(machine.env.id());
        machine.provider().claim(slot.key, owner, slot.size).await.unwrap();
        let after = machine.ready(slot.key.workload).await;
        assert_eq!(after.owner, owner);
        // The same process, which runs since before the claim: that is what makes it quick.
        assert_eq!((after.instance, after.started_at), (before.instance, before.started_at));
        assert_eq!((after.ready_at, after.restarts), (before.ready_at, 0));
    });
}

#[test]
fn want_of_room_is_no_exit_of_the_app_and_passes() {
    with_small_machine(async |machine| {
        let spec = machine.server();
        let app = machine.start(&spec).await;
        // Everything, the reserve included.
        let fill = machine.folder.path().join("pool/fill");
        let used_up = || {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&fill)?;
            let block = vec![7; 1 << 20];
            loop {
                std::io::Write::write_all(&mut file, &block)?;
            }
        };
        let full: std::io::Result<()> = used_up();
        assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        tell(&app, "exit 3").await.ok();
        let workload = spec.key.workload;
        let waits = |own: &[Observed]| match own {
            [one] if one.instance != app.instance => match &one.phase {
                Phase::Pending { why } if why.contains("no room") => {
                    Some((why.clone(), one.clone()))
                }
                _ => None,
            },
            _ => None,
        };
        let mut attempts = std::collections::BTreeSet::new();
        while attempts.len() < 7 {
            // It may have given room that the reserve had.
            used_up().ok();
            let (why, one) = machine.until(workload, waits).await;
            assert_eq!(why, "The platform has no room for it.");
            assert_eq!((one.exits_in_a_row, one.restarts), (1, 1), "its own exit only");
            attempts.insert(one.started_at);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        std::fs::remove_file(&fill).unwrap();
        let again = machine.ready(workload).await;
        assert_eq!((again.exits_in_a_row, again.restarts), (1, 1));
        assert_eq!(tell(&again, "hi").await.unwrap(), "hello");
    });
}
