use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    opened: AtomicUsize,
}

#[async_trait]
impl LayerSource for Memory {
    async fn open(&self, _: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(io::Cursor::new(self.bytes.clone())))
    }
}

struct Item(&'static str, tar::EntryType, &'static str);

/// Writes the name into the header as it is: the library's own setter refuses hostile ones.
fn archive(items: &[Item]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for Item(path, kind, content) in items {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(1_700_000_000);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        let body = if is_link { "" } else { content };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn layers(folder: &Path, bytes: Vec<u8>) -> (Layers, Arc<Memory>, Digest) {
    let digest = Digest::of(&bytes);
    let source = Arc::new(Memory { bytes, opened: AtomicUsize::new(0) });
    (Layers::open(&folder.join("layers"), source.clone()).unwrap(), source, digest)
}

use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};

#[tokio::test]
async fn a_layer_is_unpacked_once_and_whole() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let folder = tempfile::tempdir().unwrap();
    let (layers, source, digest) = layers(
        folder.path(),
        archive(&[
            Item("workspace/", Directory, ""),
            Item("workspace/server.js", Regular, "old"),
            Item("./workspace/server.js", Regular, "new"),
            Item("workspace/bin/python", Symlink, "/usr/bin/python3"),
            Item("workspace/bin/up", Symlink, "../server.js"),
            Item("workspace/same.js", Link, "workspace/server.js"),
        ]),
    );
    let all = tokio::join!(layers.ensure(digest), layers.ensure(digest), layers.ensure(digest));
    let path = all.0.unwrap();
    assert_eq!((all.1.unwrap(), all.2.unwrap()), (path.clone(), path.clone()));
    assert_eq!(source.opened.load(Ordering::SeqCst), 1, "single flight");
    let read = |name: &str| std::fs::read_to_string(path.join("workspace").join(name)).unwrap();
    assert_eq!(read("server.js"), "new", "the last one counts");
    assert_eq!(read("bin/up"), "new");
    assert_eq!(read("same.js"), "new");
    let meta = std::fs::metadata(path.join("workspace/server.js")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "set-id bits are dropped");
    assert_eq!(meta.mtime(), 1_700_000_000);
    if rustix::process::geteuid().is_root() {
        assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
        let implied = std::fs::metadata(path.join("workspace/bin")).unwrap();
        assert_eq!(implied.uid(), 1000, "a folder that the archive left out");
    }
    assert_eq!(layers.list().unwrap(), [digest]);
    layers.remove(digest).unwrap();
    layers.remove(digest).unwrap();
    assert_eq!(layers.list().unwrap(), []);
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let cases: &[(&str, &[Item])] = &[
        ("`..`", &[Item("../evil", Regular, "x")]),
        ("`..` in the middle", &[Item("workspace/../../evil", Regular, "x")]),
        ("absolute", &[Item("/etc/passwd", Regular, "x")]),
        ("character device", &[Item("dev/null", Char, "")]),
        ("block device", &[Item("dev/sda", Block, "")]),
        ("pipe", &[Item("pipe", Fifo, "")]),
        ("link out", &[Item("workspace/up", Symlink, "../../evil")]),
        ("absolute link out", &[Item("up", Symlink, "/../evil")]),
        ("hard link out", &[Item("passwd", Link, "../../../../etc/passwd")]),
        ("absolute hard link", &[Item("passwd", Link, "/etc/passwd")]),
        ("hard link to nothing", &[Item("a", Link, "b")]),
        (
            "through an absolute link",
            &[Item("tmp", Symlink, "/tmp"), Item("tmp/evil-layer", Regular, "x")],
        ),
        (
            "through a relative link",
            &[Item("a", Directory, ""), Item("b", Symlink, "a"), Item("b/c", Regular, "x")],
        ),
        (
            "hard link through a link",
            &[Item("etc", Symlink, "/etc"), Item("passwd", Link, "etc/passwd")],
        ),
        ("a folder over a link", &[Item("t", Symlink, "/tmp"), Item("t", Directory, "")]),
        ("a file over a folder", &[Item("t", Directory, ""), Item("t", Regular, "")]),
    ];
    for (what, items) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (layers, _, digest) = layers(folder.path(), archive(items));
        let error = layers.ensure(digest).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{what}: {error}");
        assert_eq!(std::fs::read_dir(folder.path().join("layers")).unwrap().count(), 0, "{what}");
    }
    assert!(!Path::new("/tmp/evil-layer").exists());
}

#[tokio::test]
async fn other_bytes_than_the_digest_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (layers, _, _) = layers(folder.path(), archive(&[Item("a", Regular, "x")]));
    let wanted = Digest::of(b"something else");
    let error = layers.ensure(wanted).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(layers.list().unwrap(), []);
}

#[test]
fn what_a_crash_left_is_removed_at_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layers");
    for name in [".new-a", ".old-b"] {
        std::fs::create_dir_all(path.join(name).join("deep")).unwrap();
    }
    let _ = layers(folder.path(), Vec::new());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
}
