use super::*;

#[test]
fn names_cannot_leave_the_pool() {
    for bad in ["", ".", "..", "a/b", "../a", ".new-a", "A", "a b", "-a", "probe_"] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    assert!(check_name("0198c0ffee-0").is_ok());
}

#[test]
fn a_disk_has_a_least_and_a_greatest_size() {
    assert_eq!(bytes(0).unwrap(), 16 << 20);
    assert_eq!(bytes(100).unwrap(), 100 << 20);
    assert!(bytes(u64::MAX).is_err());
}

#[test]
fn soft_volumes_are_whole_or_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::of(folder.path());
    make_private(&files.pool).unwrap();
    let storage = Storage::open_as(StorageKind::Soft, &files).unwrap();
    assert!(!storage.is_hard());
    let volume = storage.create("a", 100).unwrap();
    assert_eq!(storage.create("a", 100).unwrap(), volume, "again the same");
    // What a crash leaves: half-made, half-removed.
    fs_err::create_dir_all(files.pool.join(".half-b/u")).unwrap();
    let storage = Storage::open_as(StorageKind::Soft, &files).unwrap();
    assert_eq!(storage.list().unwrap(), [volume]);
    assert!(!files.pool.join(".half-b").exists());
    storage.remove("a").unwrap();
    storage.remove("a").unwrap();
    assert_eq!(storage.list().unwrap(), []);
    storage.destroy().unwrap();
}

#[test]
fn ext4_images_have_a_hard_limit_and_leave_no_device() {
    use std::io::Write as _;
    let has = std::process::Command::new("mkfs.ext4").arg("-V").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has {
        eprintln!("SKIPPED ext4_images_have_a_hard_limit: it needs root and mkfs.ext4");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let files = Files::of(folder.path());
    make_private(&files.pool).unwrap();
    let _guard = Unmounted(files.pool.clone());
    // Opening provokes the limit.
    let storage = Storage::open_as(StorageKind::Ext4Image, &files).unwrap();
    let volume = storage.create("a", 32).unwrap();
    assert!(matches!(storage.set_limit("a", 16), Err(Error::Invalid(_))), "it cannot shrink");
    let mut content = 20 << 20;
    match storage.set_limit("a", 64) {
        Ok(()) => content = 40 << 20,
        // The kernel wants CAP_SYS_RESOURCE for it; the old limit must still work then.
        Err(error) => {
            eprintln!("SKIPPED the growth of an ext4 image: {error}");
            assert!(storage.set_limit("a", 32).is_ok());
        }
    }
    let mut file = fs_err::File::create(volume.upper.join("f")).unwrap();
    file.write_all(&vec![1; content]).unwrap();
    drop(file);
    let of_pool = |table: String| {
        crate::rootfs::mount_points(&table).filter(|p| p.starts_with(&files.pool)).count()
    };
    let mounts = || of_pool(fs_err::read_to_string("/proc/self/mountinfo").unwrap());
    assert_eq!(mounts(), 1);
    // The machine restarted, in the middle of making another.
    storage.close().unwrap();
    fs_err::write(files.pool.join("b.new"), "half").unwrap();
    assert_eq!(mounts(), 0);
    let storage = Storage::open_as(StorageKind::Ext4Image, &files).unwrap();
    assert_eq!(storage.list().unwrap(), std::slice::from_ref(&volume));
    assert_eq!(fs_err::metadata(volume.upper.join("f")).unwrap().len(), content as u64);
    storage.destroy().unwrap();
    assert_eq!(mounts(), 0);
}

/// A pool on a disk so small that nothing of it may be taken: it stays as it is.
fn small_pool(folder: &Path) -> (Storage, Files) {
    let disk = folder.join("disk");
    fs_err::create_dir(&disk).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &disk, "tmpfs", flags, c"size=800m").unwrap();
    let files = Files::of(&disk);
    create_private(&files.image).unwrap().set_len(512 << 20).unwrap();
    let mut mkfs = std::process::Command::new("mkfs.btrfs");
    btrfs::run(mkfs.args(["-q", "-m", "single"]).arg(&files.image)).unwrap();
    make_private(&files.pool).unwrap();
    (Storage::open_as(StorageKind::BtrfsLoop, &files).unwrap(), files)
}

/// Writes until its limit refuses more. Returns how much.
fn write(volume: &Volume, name: &str, mib: usize) -> usize {
    use std::io::Write as _;
    let path = volume.upper.join(name);
    for done in 0..mib {
        let file = fs_err::OpenOptions::new().append(true).create(true).open(&path);
        let wrote = file.and_then(|mut file| {
            file.write_all(&vec![7; 1 << 20])?;
            file.sync_data()
        });
        match wrote {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => return done,
            other => other.unwrap(),
        }
    }
    mib
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn sandboxes_are_held_when_a_pool_that_cannot_grow_is_short_of_room() {
    let has = std::process::Command::new("mkfs.btrfs").arg("-V").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has {
        eprintln!("SKIPPED sandboxes_are_held: it needs root and mkfs.btrfs");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let _guard = Unmounted(folder.path().to_owned());
    let (storage, files) = small_pool(folder.path());
    let sandbox = storage.create("sandbox", 10_000).unwrap();
    storage.yields("sandbox", 10_000).unwrap();
    let app = storage.create("app", 10_000).unwrap();
    assert!(!storage.is_short());
    let room = || {
        let stat = rustix::fs::statvfs(&files.pool).unwrap();
        (stat.f_bavail * stat.f_frsize) >> 20
    };
    let mut number = 0;
    while room() > 100 {
        number += 1;
        if write(&sandbox, &format!("f{number}"), 8) < 8 {
            break;
        }
    }
    wait_for("it is short", || storage.is_short());
    let more = write(&sandbox, "more", 100);
    assert!(more <= 32, "held, it wrote {more} MiB");
    assert_eq!(write(&app, "data", 30), 30, "an app has the room that is left");
    storage.set_limit("sandbox", 9000).unwrap();
    assert!(write(&sandbox, "still", 100) <= 16, "a new limit does not let it go");
    // Held, it can remove files; only until its use is known not even that.
    for n in 1..=number {
        let path = sandbox.upper.join(format!("f{n}"));
        wait_for("a file is removed", || absent_ok(fs_err::remove_file(&path)).is_ok());
    }
    wait_for("there is room again", || !storage.is_short());
    wait_for("it is let go", || write(&sandbox, "again", 50) == 50);
    storage.destroy().unwrap();
}

/// Unmounts what a failing test leaves behind, before its folder is removed.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        for mount in crate::rootfs::mounts_under(&self.0).unwrap_or_default() {
            let _ = crate::rootfs::unmount(&mount);
        }
    }
}
