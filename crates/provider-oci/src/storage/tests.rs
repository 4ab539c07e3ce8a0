use super::*;

/// Says aloud that a test is not run; a failure where nothing may be skipped.
fn skip(why: &str) {
    let is_demanded = std::env::var_os("MIOSA_TEST_MACHINE").is_some();
    assert!(!is_demanded, "MIOSA_TEST_MACHINE is set, but {why}");
    eprintln!("SKIPPED: {why}");
}

fn lacks(program: &str) -> bool {
    let has = std::process::Command::new(program).arg("-V").output().is_ok();
    let lacks = !rustix::process::geteuid().is_root() || !has;
    if lacks {
        skip(&format!("it needs root and {program}"));
    }
    lacks
}

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
    if lacks("mkfs.ext4") {
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
    let size = 512 << 20;
    create_private(&files.image).unwrap().set_len(size).unwrap();
    btrfs::format(&files.image, size).unwrap();
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
    if lacks("mkfs.btrfs") {
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

/// A pool of a small first size on the disk of this machine, which has room.
fn growing_pool(folder: &Path) -> (Storage, Files) {
    let files = Files::of(folder);
    let size = 2 << 30;
    let image = create_private(&files.image).unwrap();
    rustix::fs::fallocate(&image, rustix::fs::FallocateFlags::empty(), 0, size).unwrap();
    drop(image);
    let mut mkfs = std::process::Command::new("mkfs.btrfs");
    btrfs::run(mkfs.args(["-q", "-K", "-m", "single"]).arg(&files.image)).unwrap();
    make_private(&files.pool).unwrap();
    (Storage::open_as(StorageKind::BtrfsLoop, &files).unwrap(), files)
}

#[test]
fn no_writer_outruns_the_growth_of_a_pool_whose_disk_has_room() {
    use std::{
        io::Write as _,
        sync::atomic::{AtomicBool, Ordering},
    };
    if lacks("mkfs.btrfs") {
        return;
    }
    let stat = rustix::fs::statvfs("/var/tmp").unwrap();
    if stat.f_bavail * stat.f_frsize < 30 << 30 {
        // A small disk is no fault of a machine that has everything else.
        eprintln!("SKIPPED: /var/tmp has less than 30 GiB");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let _guard = Unmounted(folder.path().to_owned());
    let (storage, files) = growing_pool(folder.path());
    let volume = |name: &str| {
        let volume = storage.create(name, 10 << 10).unwrap();
        storage.yields(name, 10 << 10).unwrap();
        volume
    };
    let fast = ["a", "b", "c", "d"].map(volume);
    let neighbour = volume("neighbour");
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let block = vec![3; 4 << 20];
            let mut count = 0;
            while !is_done.load(Ordering::Relaxed) {
                let mut file = fs_err::File::create(neighbour.upper.join("f")).unwrap();
                file.write_all(&block).unwrap();
                file.sync_all().unwrap();
                count += 1;
            }
            count
        });
        // No faster writers than those into the page cache.
        let fast: Vec<_> = fast
            .iter()
            .map(|volume| {
                scope.spawn(|| {
                    let mut file = fs_err::File::create(volume.upper.join("f"))?;
                    let block = vec![7; 1 << 20];
                    (0..2 << 10).try_for_each(|_| file.write_all(&block))?;
                    file.sync_all()
                })
            })
            .collect();
        let wrote: io::Result<()> =
            fast.into_iter().try_for_each(|fast| fast.join().expect("a writer"));
        is_done.store(true, Ordering::Relaxed);
        assert!(neighbour.join().expect("the neighbour writes") > 0);
        wrote.unwrap();
    });
    assert!(fs_err::metadata(&files.image).unwrap().len() > 8 << 30, "it grew");
    storage.destroy().unwrap();
}

#[test]
fn what_a_writer_was_promised_counts_as_used_before_it_is_on_the_device() {
    use std::io::Write as _;
    if lacks("mkfs.btrfs") {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let _guard = Unmounted(folder.path().to_owned());
    let (storage, files) = small_pool(folder.path());
    let volume = storage.create("a", 1000).unwrap();
    let room = || grow::room(&files.pool, &grow::device_of(&files.pool).unwrap()).unwrap().free;
    let before = room();
    // Small enough that the kernel does not begin to write it out.
    let mut file = fs_err::File::create(volume.upper.join("f")).unwrap();
    file.write_all(&vec![7; 64 << 20]).unwrap();
    let used = before.saturating_sub(room());
    assert!(used >= 60 << 20, "{} of {} MiB", used >> 20, before >> 20);
    drop(file);
    storage.destroy().unwrap();
}

#[test]
fn a_pool_that_sandboxes_filled_still_has_room_for_an_app() {
    use std::io::Write as _;
    if lacks("mkfs.btrfs") {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let _guard = Unmounted(folder.path().to_owned());
    let (storage, _files) = small_pool(folder.path());
    let sandbox = storage.create("sandbox", 10_000).unwrap();
    storage.yields("sandbox", 10_000).unwrap();
    let mut file = fs_err::File::create(sandbox.upper.join("f")).unwrap();
    // Into the page cache: faster than any look at the pool.
    let block = vec![7; 1 << 20];
    let refused = (0..1000).find_map(|_| file.write_all(&block).err());
    drop(file);
    assert!(refused.is_some(), "the pool is smaller than that");
    wait_for("sandboxes are held", || storage.is_short());
    // The reserve is given once they are, so the first attempt may come too early.
    wait_for("an app has a volume", || storage.create("app", 100).is_ok());
    let app = storage.create("app", 100).unwrap();
    assert_eq!(write(&app, "data", 8), 8);
    storage.remove("app").unwrap();
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
