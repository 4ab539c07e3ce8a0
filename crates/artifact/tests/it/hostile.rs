//! What must be refused, and what a repacked archive looks like.

use std::{
    io::{self, Read},
    path::Component,
};

use miosa_artifact::{
    ArtifactStore,
    archive::{Error, Limits, Links, Repack, repack, walk},
    store_archive,
};
use miosa_types::guest::TAR_FAULT;
use proptest::prelude::*;
use tar::EntryType;
use tokio_stream::StreamExt as _;

use crate::{Item, tar};

const SMALL: Limits = Limits { entries: 5, file_bytes: 10, total_bytes: 15 };
const INSIDE: Links = Links::Inside { root: "/workspace" };

fn refusal(items: &[Item<'_>], links: Links) -> String {
    match walk(&tar(items)[..], SMALL, links, |_| Ok(())) {
        Err(Error::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn hostile_entries_are_refused_with_a_reason() {
    let file = |name| Item::File(name, b"x");
    let cases: [(&[Item<'_>], &str); 14] = [
        (&[file("../etc/passwd")], "contains `..`"),
        (&[file("a/../../b")], "contains `..`"),
        (&[file("/etc/passwd")], "is absolute"),
        (&[Item::Symlink("out", "/etc")], "points out, to `/etc`"),
        (&[Item::Symlink("a/out", "../../x")], "points out"),
        (&[Item::Symlink("out", "/workspace/../etc")], "points out"),
        (&[Item::Symlink("nowhere", "")], "points nowhere"),
        (&[Item::HardLink("a", "/etc/passwd")], "is absolute"),
        (&[Item::HardLink("a", "b")], "no file of the archive"),
        (&[Item::Symlink("a", "b"), file("a/c")], "lies behind the link `a`"),
        (&[Item::Symlink("a", "b"), Item::Folder("a")], "a link and a folder"),
        (&[Item::Other("dev", EntryType::Char)], "neither a file"),
        (&[Item::Other("pipe", EntryType::Fifo)], "neither a file"),
        (&[Item::Other("sparse", EntryType::GNUSparse)], "is damaged"),
    ];
    for (items, wanted) in cases {
        let reason = refusal(items, INSIDE);
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn count_and_sizes_are_bounded() {
    let names: Vec<String> = (0..6).map(|number| number.to_string()).collect();
    let many: Vec<_> = names.iter().map(|name| Item::File(name, b"")).collect();
    assert!(refusal(&many, INSIDE).contains("more than 5"));
    assert!(refusal(&[Item::File("a", &[0; 11])], INSIDE).contains("is larger than"));
    let total = [Item::File("a", &[0; 8]), Item::File("b", &[0; 8])];
    assert!(refusal(&total, INSIDE).contains("in total"));
    let mut cut = tar(&[Item::File("a", b"abcdef")]);
    cut.truncate(515);
    let read = walk(&cut[..], SMALL, INSIDE, |entry| {
        if let miosa_artifact::archive::Kind::File { body, .. } = entry.kind {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map_err(|source| Error::Io { source })?;
        }
        Ok(())
    });
    assert!(read.is_err());
}

#[test]
fn an_archive_that_tells_a_fault_is_refused_with_it() {
    let record = format!(" {TAR_FAULT}=`a\x1b[31m` cannot be read\n");
    let record = format!("{}{record}", record.len() + 2);
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_path("fault").unwrap();
    header.set_size(record.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(tar(&[Item::File("a", b"x")])[..1024].to_vec());
    archive.append(&header, record.as_bytes()).unwrap();
    match walk(&archive.into_inner().unwrap()[..], SMALL, INSIDE, |_| Ok(())) {
        Err(Error::Refused { reason }) => assert_eq!(reason, "`a[31m` cannot be read"),
        other => panic!("not refused: {other:?} {}", record.len()),
    }
}

/// A reader that fails once everything before is read.
struct ThenFails<'a>(&'a [u8]);

impl Read for ThenFails<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::ConnectionAborted.into()),
            read => Ok(read),
        }
    }
}

#[test]
fn what_follows_the_end_is_read_and_an_error_there_counts() {
    let whole = tar(&[Item::File("a", b"x")]);
    let read = walk(ThenFails(&whole), SMALL, INSIDE, |_| Ok(()));
    assert!(matches!(read, Err(Error::Io { .. })), "{read:?}");
    let mut padded = whole.clone();
    padded.resize(whole.len() + 10_240, 0);
    assert!(walk(&padded[..], SMALL, INSIDE, |_| Ok(())).is_ok(), "tar fills up its last block");
    padded.resize(whole.len() + (2 << 20), 0);
    let read = walk(&padded[..], SMALL, INSIDE, |_| Ok(()));
    assert!(matches!(read, Err(Error::Refused { .. })), "{read:?}");
}

#[test]
fn links_that_stay_inside_are_fine_and_apps_may_link_to_the_system() {
    let inside = [
        Item::File("a/b", b"x"),
        Item::Symlink("a/c", "b"),
        Item::Symlink("d", "/workspace/a"),
        Item::Symlink("a/e", "../a/b"),
    ];
    assert!(walk(&tar(&inside)[..], SMALL, INSIDE, |_| Ok(())).is_ok());
    let system = [Item::Symlink(".venv/bin/python3", "/usr/bin/python3")];
    assert!(walk(&tar(&system)[..], SMALL, Links::Anywhere, |_| Ok(())).is_ok());
}

#[tokio::test]
async fn a_repacked_app_has_the_prefix_an_owner_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path()).unwrap();
    let long = format!("deep/{}/file.txt", "x".repeat(80));
    let items = [
        Item::Folder("./"),
        Item::File("./server.js", b"listen"),
        Item::File(&long, b"long"),
        Item::HardLink("copy.js", "./server.js"),
        Item::Symlink("python3", "/usr/bin/python3"),
    ];
    let options =
        Repack { limits: Limits::APP, links: Links::Anywhere, prefix: "workspace", owner: 1000 };
    let archive = std::io::Cursor::new(tar(&items));
    let (blob, totals) = store_archive(&store, archive, options).await.unwrap();
    assert_eq!((totals.files, totals.bytes), (4, 10));
    let bytes = store.get_bytes(blob.digest, u64::MAX).await.unwrap();
    let mut seen = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.header().uid().unwrap(), 1000);
        assert_eq!(entry.header().mode().unwrap() & 0o6000, 0, "no set-id bits");
        seen.push(entry.path().unwrap().display().to_string());
    }
    let long = format!("workspace/{long}");
    let wanted =
        ["workspace", "workspace/server.js", &long, "workspace/copy.js", "workspace/python3"];
    assert_eq!(seen, wanted);
}

#[tokio::test]
async fn a_refused_archive_leaves_no_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path()).unwrap();
    let items = [Item::File("good", &[7; 9]), Item::File("../bad", b"x")];
    let options = Repack { limits: SMALL, links: INSIDE, prefix: "", owner: 1000 };
    let archive = std::io::Cursor::new(tar(&items));
    let error = store_archive(&store, archive, options).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(store.list().collect::<Vec<_>>().await.len(), 0);
}

proptest! {
    /// Whatever the bytes: no panic, and whatever passes stays inside.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = walk(&bytes[..], SMALL, INSIDE, |_| Ok(()));
    }

    #[test]
    fn any_names(names in prop::collection::vec("[a-c./]{1,12}", 0..5), link in "[a-c./]{1,12}") {
        let mut items: Vec<_> = names.iter().map(|name| Item::File(name, b"x")).collect();
        items.insert(0, Item::Symlink("l", &link));
        let options = Repack { limits: SMALL, links: INSIDE, prefix: "p", owner: 1 };
        let mut copy = Vec::new();
        if repack(&tar(&items)[..], &mut copy, options).is_ok() {
            let mut archive = tar::Archive::new(&copy[..]);
            for entry in archive.entries().unwrap() {
                let path = entry.unwrap().path().unwrap().into_owned();
                let goes_up = path.components().any(|part| part == Component::ParentDir);
                prop_assert!(path.starts_with("p") && !goes_up);
            }
        }
    }
}
