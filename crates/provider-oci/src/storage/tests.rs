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
    let files = Files {
        pool: folder.path().join("pool"),
        image: folder.path().join("pool.img"),
        kind: folder.path().join("pool.kind"),
    };
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
