//! What outlives the provider, what is swept, and who else is on the machine.

use std::{path::PathBuf, time::Duration};

use miosa_provider::{Observed, Phase, Provider as _};
use miosa_provider_oci::{Removed, remove, sweep_foreign};
use miosa_types::Env;

use crate::machine::{DEADLINE, Machine, output, tell, with_machine};

/// One sweep at a time: each removes what another test is about to look for.
fn the_only_sweep() -> std::fs::File {
    let file = std::fs::File::create(std::env::temp_dir().join("provider-tests.lock")).unwrap();
    file.lock().unwrap();
    file
}

/// The same replica, never started again. That it is ready is told before it is written down, so
/// a provider that died in between looks again, and finds it ready at a later time.
fn assert_taken_over(after: &Observed, before: &Observed) {
    assert!(after.ready_at >= before.ready_at, "{after:?}");
    assert_eq!(Observed { ready_at: before.ready_at, ..after.clone() }, *before);
}

#[test]
fn workloads_outlive_the_provider_and_are_taken_over() {
    with_machine(async |machine| {
        let spec = machine.server();
        let before = machine.start(&spec).await;
        machine.die().await;
        assert_eq!(tell(&before, "hi").await.unwrap(), "hello", "it serves with control dead");
        machine.open().await;
        let after = machine.ready(spec.key.workload).await;
        assert_taken_over(&after, &before);
        tell(&after, "exit 9").await.ok();
        let restarted = machine
            .until(spec.key.workload, |own| {
                own.iter().find(|one| one.phase.ready().is_some() && one.restarts == 1).cloned()
            })
            .await;
        assert_ne!(restarted.instance, before.instance);
        assert_eq!(restarted.last_exit.unwrap().code, Some(9));
    });
}

#[test]
fn an_exit_while_nobody_looked_is_seen_later() {
    with_machine(async |machine| {
        let spec = machine.server();
        let once = miosa_provider::WorkloadSpec { restart: false, ..machine.server() };
        let (first, other) = (machine.start(&spec).await, machine.start(&once).await);
        machine.die().await;
        tell(&first, "exit 5").await.ok();
        tell(&other, "exit 6").await.ok();
        let gone =
            async { while tell(&first, "hi").await.is_ok() || tell(&other, "hi").await.is_ok() {} };
        tokio::time::timeout(DEADLINE, gone).await.unwrap();
        machine.open().await;
        let restarted = machine.ready(spec.key.workload).await;
        assert_eq!((restarted.restarts, restarted.exits_in_a_row), (1, 1));
        assert_eq!(restarted.last_exit.unwrap().code, Some(5));
        let ended = machine.until(once.key.workload, |own| own.first().cloned()).await;
        assert_eq!((ended.phase, ended.instance), (Phase::Exited { code: 6 }, other.instance));
    });
}

#[test]
fn what_no_record_knows_is_removed() {
    with_machine(async |machine| {
        let (forgotten, kept) = (machine.server(), machine.server());
        let orphan = machine.start(&forgotten).await;
        let served = machine.start(&kept).await;
        machine.die().await;
        let oci = machine.folder.path().join("oci");
        std::fs::remove_file(oci.join(format!("workloads/{}.json", forgotten.key.workload)))
            .unwrap();
        std::fs::remove_file(oci.join(format!("instances/{}.json", orphan.instance))).unwrap();
        machine.open().await;
        assert_taken_over(&machine.ready(kept.key.workload).await, &served);
        assert_eq!(machine.provider().status().replicas, 1);
        assert!(tell(&orphan, "hi").await.is_err(), "its process is gone");
        assert_eq!(tell(&served, "hi").await.unwrap(), "hello");
        let logs = std::fs::read_dir(oci.join("logs")).unwrap();
        let left: Vec<_> = logs.flatten().map(|entry| entry.file_name()).collect();
        assert!(
            left.iter().all(|name| !name.to_string_lossy().contains(&orphan.instance.to_string()))
        );
    });
}

#[test]
fn the_sweep_leaves_alone_what_is_just_being_started() {
    with_machine(async |machine| {
        let specs: Vec<_> = (0..6).map(|_| machine.server()).collect();
        let mut instances = Vec::new();
        for spec in &specs {
            instances.push(machine.start(spec).await.instance);
        }
        machine.die().await;
        // The workloads are to be started again while all of this is removed.
        let oci = machine.folder.path().join("oci");
        for instance in instances {
            std::fs::remove_file(oci.join(format!("instances/{instance}.json"))).unwrap();
        }
        std::fs::write(oci.join("instances/half.new"), "").unwrap();
        machine.open().await;
        for spec in specs {
            let started = machine.ready(spec.key.workload).await;
            assert_eq!((started.exits_in_a_row, started.last_exit), (0, None));
        }
        let volumes = std::fs::read_dir(machine.folder.path().join("pool")).unwrap();
        let is_volume = |e: &std::fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
        assert_eq!(volumes.flatten().filter(is_volume).count(), 6);
        assert!(!oci.join("instances/half.new").exists());
    });
}

/// What any user of the machine can read below `folder`, which all may pass through.
fn readable_by_all(folder: &std::path::Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (kind, mode) = (entry.file_type().unwrap(), entry.metadata().unwrap().permissions());
        if kind.is_dir() && mode.mode() & 0o001 != 0 {
            found.extend(readable_by_all(&entry.path()));
        } else if kind.is_file() && mode.mode() & 0o006 != 0 {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn nothing_of_a_tenant_is_readable_by_other_users() {
    use std::os::unix::fs::PermissionsExt as _;
    with_machine(async |machine| {
        let layer = machine.artifacts.add(&[("workspace/secret", "s")]);
        let mut spec = machine.server();
        spec.root.layer = Some(layer);
        machine.start(&spec).await;
        let data = machine.folder.path();
        assert_eq!(readable_by_all(data), Vec::<PathBuf>::new());
        let image = data.join("pool.img");
        if !image.exists() {
            return;
        }
        // As an earlier version made it.
        machine.die().await;
        std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o644)).unwrap();
        machine.open().await;
        assert_eq!(readable_by_all(data), Vec::<PathBuf>::new());
    });
}

#[test]
fn an_instance_without_its_workload_is_removed() {
    with_machine(async |machine| {
        let spec = machine.server();
        let orphan = machine.start(&spec).await;
        machine.die().await;
        let record = format!("oci/workloads/{}.json", spec.key.workload);
        std::fs::remove_file(machine.folder.path().join(record)).unwrap();
        machine.open().await;
        assert_eq!(machine.provider().status().replicas, 0);
        assert!(tell(&orphan, "hi").await.is_err(), "its process is gone");
    });
}

#[test]
fn installations_live_side_by_side() {
    with_machine(async |machine| {
        let other = Machine::new(Env::system()).await;
        let (ours, theirs) = (machine.server(), other.server());
        let (ours, theirs) = (machine.start(&ours).await, other.start(&theirs).await);
        let subnet = |machine: &Machine| machine.provider().status().subnet;
        assert_ne!(subnet(&machine), subnet(&other));
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
        assert_eq!(tell(&theirs, "hi").await.unwrap(), "hello");
        other.remove_everything().await;
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
    });
}

#[test]
fn an_installation_is_removed_without_being_opened() {
    with_machine(async |machine| {
        let other = Machine::new(Env::system()).await;
        let (ours, theirs) = (machine.server(), other.server());
        let ours = machine.start(&ours).await;
        let theirs = other.start(&theirs).await;
        other.die().await;
        let removed = remove(other.installation, other.folder.path()).await.unwrap();
        assert_eq!(removed, Removed { workloads: 1, instances: 1 });
        // Somebody else may answer: no route of ours keeps the address on this machine any more.
        assert_ne!(tell(&theirs, "hi").await.ok().as_deref(), Some("hello"));
        other.assert_nothing_is_left();
        assert!(!other.folder.path().join("oci").exists());
        let again = remove(other.installation, other.folder.path()).await.unwrap();
        assert_eq!(again, Removed::default());
        assert!(other.folder.path().exists(), "the data folder is the operator's");
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
    });
}

#[test]
fn an_installation_whose_folder_is_gone_is_swept() {
    let _alone = the_only_sweep();
    with_machine(async |machine| {
        let other = Machine::new(Env::system()).await;
        let (ours, theirs) = (machine.server(), other.server());
        let ours = machine.start(&ours).await;
        other.start(&theirs).await;
        other.die().await;
        let registration =
            PathBuf::from(format!("/run/workloads/{}.json", other.installation.simple()));
        assert!(registration.exists());
        // Ends with an error: the volumes are still mounted.
        std::process::Command::new("rm").arg("-rf").arg(other.folder.path()).output().unwrap();
        let swept = sweep_foreign().await.unwrap();
        assert!(swept.contains(&other.installation), "{swept:?}");
        assert!(!swept.contains(&machine.installation));
        other.assert_nothing_is_left();
        assert!(!other.folder.path().exists());
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
    });
}

#[test]
fn an_installation_whose_folder_became_anothers_is_swept() {
    let _alone = the_only_sweep();
    with_machine(async |machine| {
        let former = Machine::new(Env::system()).await;
        former.start(&former.server()).await;
        former.die().await;
        std::process::Command::new("rm").arg("-rf").arg(former.folder.path()).output().unwrap();
        let (ours, id) = (machine.server(), former.installation);
        let next = former.become_another().await;
        let theirs = next.start(&next.server()).await;
        let ours = machine.start(&ours).await;
        let swept = sweep_foreign().await.unwrap();
        assert!(swept.contains(&id) && !swept.contains(&next.installation), "{swept:?}");
        assert!(!PathBuf::from(format!("/run/workloads/{}.json", id.simple())).exists());
        assert_eq!(tell(&theirs, "hi").await.unwrap(), "hello", "what is in the folder now stays");
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
        Machine::assert_nothing_is_left_of(id, &[]);
        next.remove_everything().await;
    });
}

#[test]
fn a_table_of_which_nothing_else_is_left_is_removed() {
    let _alone = the_only_sweep();
    with_machine(async |machine| {
        let ours = machine.start(&machine.server()).await;
        let lost: miosa_types::InstallationId = machine.env.id();
        let table = format!("wl_{}", lost.simple());
        output("nft", &["add", "table", "inet", &table]);
        assert!(output("nft", &["list", "tables"]).contains(&table));
        let swept = sweep_foreign().await.unwrap();
        assert!(swept.contains(&lost), "{swept:?}");
        let tables = output("nft", &["list", "tables"]);
        assert!(!tables.contains(&table) && tables.contains(&machine.table()), "{tables}");
        assert_eq!(tell(&ours, "hi").await.unwrap(), "hello");
    });
}

#[test]
fn one_workload_that_dies_slowly_keeps_no_other_from_its_end() {
    with_machine(async |_| {
        let other = Machine::new(Env::system()).await;
        let mut frozen = Vec::new();
        for count in 0..3 {
            let one = other.start(&other.server()).await;
            let group = format!("{}/{}", other.installation.simple(), one.instance.simple());
            let v1 = PathBuf::from("/sys/fs/cgroup/freezer/workloads").join(&group);
            // Killed processes of a frozen group of version 1 die only once it is thawed.
            if count < 2 && v1.exists() {
                std::fs::write(v1.join("freezer.state"), "FROZEN").unwrap();
                frozen.push(v1.join("freezer.state"));
            }
        }
        other.die().await;
        let removing = remove(other.installation, other.folder.path());
        let thaw = async {
            // Longer than the 2 s that each death may take elsewhere.
            tokio::time::sleep(Duration::from_secs(5)).await;
            for state in frozen {
                std::fs::write(state, "THAWED").unwrap();
            }
        };
        let (removed, ()) = tokio::join!(removing, thaw);
        let Removed { workloads, instances } = removed.unwrap();
        // On a busy machine a replica may have been replaced before: its record counts too.
        assert!(workloads == 3 && instances >= 3, "{workloads} {instances}");
        other.assert_nothing_is_left();
    });
}

#[test]
fn a_dead_address_fails_at_once() {
    with_machine(async |machine| {
        let spec = machine.server();
        let alive = machine.start(&spec).await;
        let addr = alive.phase.ready().unwrap();
        let fails_at_once = async |addr: std::net::SocketAddr| {
            let connect = tokio::net::TcpStream::connect(addr);
            let result = tokio::time::timeout(Duration::from_millis(200), connect).await;
            result.expect("at once").is_err()
        };
        assert!(fails_at_once((addr.ip(), 4000).into()).await, "nobody listens on that port");
        machine.remove(spec.key).await;
        assert!(fails_at_once(addr).await, "nobody has that address");
        let never_used = u32::from(machine.gateway()) + 10_000;
        assert!(fails_at_once((std::net::Ipv4Addr::from(never_used), 80).into()).await);
        machine.provider().delete(spec.key, 0).await.unwrap();
    });
}
