//! One file's bytes and what the file system says about it, by the user's rights.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use miosa_types::guest::{Error, FileType, Guest as _};

use crate::support::{Running, body, chmod, give_to_nobody, is_root};

#[tokio::test]
async fn a_file_is_written_read_described_and_removed() {
    let guest = Running::start().up().await;
    let (client, at) = (&guest.client, &guest.endpoint);
    guest.write("a/b/hello.txt", "hello").await.unwrap();
    assert_eq!(guest.read("a/b/hello.txt").await.unwrap(), b"hello");
    let info = client.stat(at, "a/b/hello.txt").await.unwrap();
    assert_eq!(info.path, guest.dir.path().join("a/b/hello.txt").to_str().unwrap());
    assert_eq!((info.name.as_str(), info.size, info.mode), ("hello.txt", 5, 0o644));
    assert_eq!(info.file_type, FileType::File);
    let on_disk = std::fs::metadata(&info.path).unwrap().modified().unwrap();
    assert_eq!(info.modified_at.unwrap(), jiff::Timestamp::try_from(on_disk).unwrap());

    client.rename(at, "a/b/hello.txt", "c/moved.txt").await.unwrap();
    assert!(matches!(guest.read("a/b/hello.txt").await, Err(Error::NotFound { .. })));
    assert_eq!(guest.read("c/moved.txt").await.unwrap(), b"hello");
    client.make_dir(at, "c/empty/deep").await.unwrap();
    client.make_dir(at, "c/empty/deep").await.unwrap();
    let names = |depth| async move {
        let list = client.list(at, "c", depth).await.unwrap();
        list.into_iter().map(|info| info.name).collect::<Vec<_>>()
    };
    assert_eq!(names(1).await, ["empty", "moved.txt"]);
    assert_eq!(names(2).await, ["empty", "deep", "moved.txt"]);
    client.remove(at, "c").await.unwrap();
    client.remove(at, "c").await.unwrap();
    assert!(!guest.dir.path().join("c").exists());
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let guest = Running::start().up().await;
    std::fs::create_dir(guest.dir.path().join("folder")).unwrap();
    let status = std::process::Command::new("mkfifo").arg(guest.dir.path().join("pipe")).status();
    assert!(status.unwrap().success());
    for path in ["folder", "pipe", "/dev/zero"] {
        assert!(matches!(guest.read(path).await, Err(Error::Invalid { .. })), "{path}");
        assert!(matches!(guest.write(path, "x").await, Err(Error::Invalid { .. })), "{path}");
    }
    assert!(matches!(
        guest.client.list(&guest.endpoint, "pipe", 1).await,
        Err(Error::Invalid { .. })
    ));
    assert!(matches!(guest.client.stat(&guest.endpoint, "no").await, Err(Error::NotFound { .. })));
    let folder = guest.client.make_dir(&guest.endpoint, "pipe").await;
    assert!(matches!(folder, Err(Error::Invalid { .. })), "{folder:?}");
}

#[tokio::test]
async fn a_replaced_file_keeps_its_mode_and_a_link_stays() {
    let guest = Running::start().up().await;
    let (tool, link) = (guest.dir.path().join("tool"), guest.dir.path().join("link"));
    std::fs::write(&tool, "old").unwrap();
    chmod(&tool, 0o755);
    std::os::unix::fs::symlink("tool", &link).unwrap();
    guest.write("link", "new").await.unwrap();
    assert_eq!(std::fs::read_to_string(&tool).unwrap(), "new");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(guest.client.stat(&guest.endpoint, "tool").await.unwrap().mode, 0o755);
    let info = guest.client.stat(&guest.endpoint, "link").await.unwrap();
    assert_eq!(info.symlink_target.as_deref(), Some("tool"));
}

#[tokio::test]
async fn a_broken_upload_changes_nothing() {
    let guest = Running::start().up().await;
    guest.write("file", "old").await.unwrap();
    let pieces: [std::io::Result<Bytes>; 2] =
        [Ok(Bytes::from(vec![b'x'; 1 << 20])), Err(std::io::Error::other("the caller went away"))];
    let broken = guest.client.write(&guest.endpoint, "file", stream::iter(pieces).boxed()).await;
    assert!(broken.is_err());
    assert_eq!(guest.read("file").await.unwrap(), b"old");
    // The guest sees the broken connection a moment after its caller.
    let clean = "for i in $(seq 100); do ls -A | grep -q part || exit 0; sleep 0.05; done; exit 1";
    assert_eq!(guest.run(clean).await.end, Some((0, false)), "a temporary file is left");
}

#[tokio::test]
async fn big_files_pass_without_growth() {
    const PIECE: usize = 1 << 20;
    const COUNT: usize = 200;
    let guest = Running::start().up().await;
    let before = guest.peak_kib();
    let pieces = (0..COUNT).map(|n| Ok(Bytes::from(vec![u8::try_from(n).unwrap(); PIECE])));
    guest.client.write(&guest.endpoint, "big", stream::iter(pieces).boxed()).await.unwrap();
    let mut content = guest.client.read(&guest.endpoint, "big").await.unwrap();
    let mut length = 0;
    while let Some(piece) = content.next().await {
        for byte in piece.unwrap() {
            assert_eq!(usize::from(byte), length / PIECE, "at {length}");
            length += 1;
        }
    }
    assert_eq!(length, PIECE * COUNT);
    let peak = guest.peak_kib();
    eprintln!("peak memory of the guest: {before} KiB at rest, {peak} KiB after 200 MiB both ways");
    assert!(peak < before + (8 << 10), "the guest grew from {before} to {peak} KiB");
}

#[tokio::test]
async fn files_belong_to_the_user_and_his_rights_count() {
    if !is_root("changing the user") {
        return;
    }
    let guest = Running::start_with(&[("GUEST_USER", "nobody")], None);
    give_to_nobody(guest.dir.path());
    let guest = guest.up().await;
    guest.write("sub/mine", "x").await.unwrap();
    for path in ["sub", "sub/mine"] {
        assert_eq!(guest.client.stat(&guest.endpoint, path).await.unwrap().owner, "nobody");
    }
    let secret = guest.dir.path().join("secret");
    std::fs::write(&secret, "root's").unwrap();
    chmod(&secret, 0o600);
    assert!(guest.read("secret").await.is_err());
    std::os::unix::fs::symlink("/etc", guest.dir.path().join("etc")).unwrap();
    assert!(guest.write("etc/made-by-nobody", "x").await.is_err());
    assert!(guest.client.remove(&guest.endpoint, "etc/passwd").await.is_err());
    assert!(guest.client.make_dir(&guest.endpoint, "/made-by-nobody").await.is_err());
    // The thread that had the user's rights has its own again.
    assert!(guest.client.ports(&guest.endpoint).await.is_ok());
}

#[tokio::test]
async fn a_full_disk_is_told_apart() {
    if !is_root("a small file system") {
        return;
    }
    let script = r#"exec unshare -m sh -ec 'mount -t tmpfs -o size=1m none "$GUEST_WORKDIR"; exec "$GUEST"'"#;
    let guest = Running::start_with(&[], Some(script)).up().await;
    guest.write("small", "kept").await.unwrap();
    let large = vec![0; 3 << 20];
    let full = guest.client.write(&guest.endpoint, "small", body(large.clone())).await;
    assert!(matches!(full, Err(Error::NoSpace)), "{full:?}");
    assert_eq!(guest.read("small").await.unwrap(), b"kept");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(large.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "large", large.as_slice()).unwrap();
    let tar = body(archive.into_inner().unwrap());
    let full = guest.client.write_tar(&guest.endpoint, ".", tar).await;
    assert!(matches!(full, Err(Error::NoSpace)), "{full:?}");
}
