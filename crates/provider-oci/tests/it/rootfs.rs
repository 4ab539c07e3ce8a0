//! Volumes, user namespaces, overlays and templates on the real kernel.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use miosa_provider_oci::{
    rootfs,
    storage::{Storage, StorageKind},
    template::Templates,
    userns::UsernsPool,
};

use crate::machine::{cache, skip};

/// True with a word on stderr if the test cannot run here.
fn is_skipped(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let reason = match (is_root, has("mkfs.btrfs")) {
        (false, _) => "it needs root",
        (_, false) => "mkfs.btrfs is not installed",
        _ => return false,
    };
    skip(&format!("{what}: {reason}"));
    true
}

/// A data folder that unmounts what a failing test left in it.
struct Data(tempfile::TempDir);

impl Data {
    fn new() -> Self {
        // Not /tmp: that may be a tmpfs, which cannot hold a loop file of this size.
        Self(tempfile::tempdir_in("/var/tmp").unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        for mount in rootfs::mounts_under(self.path()).unwrap_or_default() {
            let _ = rootfs::unmount(&mount);
        }
        let _ = UsernsPool::forget(self.path());
    }
}

/// Loop devices whose file lies under `folder`.
fn loops_of(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap() {
        let backing = entry.unwrap().path().join("loop/backing_file");
        let file = std::fs::read_to_string(backing).unwrap_or_default();
        if file.starts_with(folder.to_str().unwrap()) {
            found.push(file);
        }
    }
    found
}

/// Waits until no loop device has a file under `folder`.
///
/// A device goes with its last mount, and a workload that starts next door has, until it changes
/// its root, a copy of every mount of the host.
fn let_go_of_loops(folder: &Path) {
    const LOOK: Duration = Duration::from_millis(10);
    const LOOKS: usize = 2_000;
    let is_free = (0..LOOKS).any(|_| {
        let is_free = loops_of(folder).is_empty();
        if !is_free {
            std::thread::sleep(LOOK);
        }
        is_free
    });
    assert!(is_free, "loop devices are left: {:?}", loops_of(folder));
}

/// Runs `script` as root of the namespace, in the root filesystem `root`.
fn inside(userns: &miosa_provider_oci::userns::Userns, root: &Path, script: &str) -> String {
    use std::os::fd::AsRawFd as _;
    let ns = format!("/proc/{}/fd/{}", std::process::id(), userns.fd.as_raw_fd());
    let output = Command::new("nsenter")
        .arg(format!("--user={ns}"))
        .args(["--setuid=0", "--setgid=0", "--wd=/", "sh", "-c"])
        .arg(format!("cd {} && {script}", root.display()))
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_volumes_limit_holds_through_the_overlay_and_the_neighbour_has_its_own() {
    if is_skipped("a_volumes_limit_holds_through_the_overlay") {
        return;
    }
    let data = Data::new();
    open_to_all(data.path());
    let storage = Storage::open(data.path()).unwrap();
    eprintln!("storage: {}", storage.kind());
    assert!(storage.is_hard());
    let pool = UsernsPool::open(data.path(), []).unwrap();
    let lower = data.folder("lower");
    std::fs::write(lower.join("greeting"), "hello").unwrap();
    let mounted = ["a", "b"].map(|name| {
        let volume = storage.create(name, 64).unwrap();
        assert_eq!(storage.create(name, 64).unwrap(), volume, "again the same");
        let userns = pool.take().unwrap();
        let target = data.folder(&format!("root-{name}"));
        rootfs::mount(std::slice::from_ref(&lower), &volume, &userns, &target).unwrap();
        (volume, userns, target)
    });
    let [(volume, userns, a), (_, neighbour, b)] = &mounted;
    assert_ne!(userns.base, neighbour.base);

    let seen = inside(userns, a, "cat greeting; echo x > made; mkdir -m 777 deep; stat -c %u made");
    assert_eq!(seen, "hello0\n", "root inside owns what it makes");
    let owner = |path: &Path| std::fs::symlink_metadata(path).unwrap().uid();
    assert_eq!(owner(&volume.upper.join("made")), 0, "ids on disk are not shifted");
    assert_eq!(owner(&a.join("made")), userns.base, "the host sees the range");
    assert!(!b.join("made").exists(), "the neighbour does not see it");
    let host = std::fs::write(a.join("by-host"), "x").unwrap_err();
    assert_eq!(host.raw_os_error(), Some(75), "the host's root is outside the map");

    let flood =
        "dd if=/dev/zero of=flood bs=1M count=200 conv=fsync 2>&1; rm flood && echo removed";
    let seen = inside(userns, a, flood);
    assert!(seen.contains("Disk quota exceeded"), "{seen}");
    assert!(seen.contains("removed"), "{seen}");
    let seen =
        inside(neighbour, b, "dd if=/dev/zero of=f bs=1M count=40 conv=fsync 2>&1 && echo ok");
    assert!(seen.ends_with("ok\n"), "{seen}");

    storage.set_limit("a", 300).unwrap();
    let seen = inside(userns, a, "dd if=/dev/zero of=f bs=1M count=200 conv=fsync 2>&1 && echo ok");
    assert!(seen.ends_with("ok\n"), "{seen}");
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(a.to_str().unwrap())).unwrap();
    let seen_inside = line.split(" - ").nth(1).unwrap();
    assert!(!seen_inside.contains(data.path().to_str().unwrap()), "no host path: {seen_inside}");
    assert!(line.contains("nodev"), "{line}");
    let nested = inside(userns, a, "unshare --user true && echo nested");
    assert!(!nested.contains("nested"), "nested namespaces are off: {nested}");

    for (_, _, target) in &mounted {
        rootfs::unmount(target).unwrap();
        rootfs::unmount(target).unwrap();
    }
    storage.destroy().unwrap();
    let_go_of_loops(data.path());
    assert_eq!(rootfs::mounts_under(data.path()).unwrap(), Vec::<PathBuf>::new());
}

/// The namespace's root is nobody on the host, and the temporary folder is closed by default.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn volumes_survive_a_restart_and_leftovers_are_swept() {
    if is_skipped("volumes_survive_a_restart") {
        return;
    }
    let data = Data::new();
    let storage = Storage::open(data.path()).unwrap();
    let kind = storage.kind();
    let volume = storage.create("kept", 64).unwrap();
    std::fs::write(volume.upper.join("file"), "content").unwrap();
    storage.create("gone", 64).unwrap();
    storage.remove("gone").unwrap();
    storage.remove("gone").unwrap();
    // What a crash in the middle of `create` leaves.
    if kind == StorageKind::BtrfsLoop || kind == StorageKind::Btrfs {
        std::fs::rename(
            storage.create("half", 64).unwrap().upper.parent().unwrap(),
            data.path().join("pool/.new-half"),
        )
        .unwrap();
    }
    // Control died and came again: everything is mounted still.
    drop(storage);
    let storage = Storage::open(data.path()).unwrap();
    assert_eq!(storage.list().unwrap(), std::slice::from_ref(&volume));
    assert!(!data.path().join("pool/.new-half").exists());
    // The machine restarted: nothing is mounted.
    storage.close().unwrap();
    let_go_of_loops(data.path());
    let storage = Storage::open(data.path()).unwrap();
    assert_eq!(storage.kind(), kind);
    assert_eq!(std::fs::read_to_string(volume.upper.join("file")).unwrap(), "content");
    drop(storage);
    Storage::destroy_at(data.path()).unwrap();
    let_go_of_loops(data.path());
    assert!(!data.path().join("pool.img").exists());
    // `rm -rf` of a data folder while its pool is mounted: the mount point stays.
    let storage = Storage::open(data.path()).unwrap();
    for name in ["pool.img", "pool.kind"] {
        std::fs::remove_file(data.path().join(name)).unwrap();
    }
    Storage::destroy_at(data.path()).unwrap();
    // Though another still has it open.
    let_go_of_loops(data.path());
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
    drop(storage);
}

#[test]
fn ranges_in_use_before_are_not_given_out_again() {
    if is_skipped("ranges_in_use_before") {
        return;
    }
    let data = Data::new();
    let first = UsernsPool::open(data.path(), []).unwrap();
    let base = first.take().unwrap().base;
    let again = UsernsPool::open(data.path(), [base]).unwrap();
    let bases: Vec<u32> = (0..40).map(|_| again.take().unwrap().base).collect();
    let mut distinct = bases.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), bases.len());
    assert!(!bases.contains(&base));
}

/// Uses the cache that installations share: the build takes half a minute once per machine.
#[test]
fn the_default_template_has_what_it_promises() {
    if is_skipped("the_default_template_has_what_it_promises") {
        return;
    }
    let templates = Templates::open(&cache()).unwrap();
    let built = match templates.build_default(&|line| eprintln!("{line}")) {
        Ok(template) => template,
        Err(error) => {
            // Without a network there is no way to build it.
            return skip(&format!("the template cannot be built: {error}"));
        }
    };
    let again = templates.build_default(&|line| panic!("built again: {line}")).unwrap();
    assert_eq!(again, built);
    let found = templates.resolve("base").unwrap();
    assert_eq!(found.name, "miosa-sandbox");
    // Read-only: programs leave caches and logs behind, and others start from this very tree.
    let closed = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && \
                  exec chroot \"$0\" sh -c \"$1\"";
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", closed]).arg(&found.rootfs).arg(script);
        String::from_utf8_lossy(&command.output().unwrap().stdout).trim().to_owned()
    };
    assert!(run("node --version").starts_with("v22."));
    assert!(!run("npm --version").is_empty() && !run("npx --version").is_empty());
    assert!(run("python3 -m pip --version").starts_with("pip "));
    assert_eq!(run("python3 -m venv --help | head -c 5"), "usage");
    assert!(run("git --version; curl --version").contains("curl"));
    assert_eq!(
        run("id -u user; id -g user; stat -c %U /workspace /home/user"),
        "1000\n1000\nuser\nuser"
    );
    assert!(run("cat /etc/hosts").contains("localhost"));
    let sudoers = std::fs::read_to_string(found.rootfs.join("etc/sudoers.d/user")).unwrap();
    assert!(sudoers.contains("NOPASSWD"));
    let bundle = found.rootfs.join("etc/ssl/certs/ca-certificates.crt");
    assert!(std::fs::metadata(bundle).unwrap().len() > 100_000);
}
