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

/// Unmounts what a failing test leaves behind, before its folder is removed.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        for mount in crate::rootfs::mounts_under(&self.0).unwrap_or_default() {
            let _ = crate::rootfs::unmount(&mount);
        }
    }
}
