//! Archives both ways: what comes back, what other programs make, what a hostile one tries.

use std::{io::Read as _, path::Path};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use miosa_types::guest::{Error, Guest as _, TAR_FAULT};
use tar::{Builder, EntryType, Header};

use crate::support::{Running, body};

async fn pack(guest: &Running, path: &str, exclude: &[&str]) -> Vec<u8> {
    let exclude: Vec<_> = exclude.iter().map(|text| (*text).to_owned()).collect();
    let tar = guest.client.read_tar(&guest.endpoint, path, &exclude).await.unwrap();
    tar.map(|piece| piece.unwrap().to_vec()).concat().await
}

async fn unpack(guest: &Running, path: &str, archive: Vec<u8>) -> Result<(), Error> {
    guest.client.write_tar(&guest.endpoint, path, body(archive)).await
}

/// An archive of entries whose names are written as they are, however wrong.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_mtime(1_000_000_000);
        let is_file = kind.is_file();
        if !is_file {
            header.set_link_name_literal(content).unwrap();
        }
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        header.set_cksum();
        builder.append(&header, if is_file { content.as_bytes() } else { &[] }).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn a_tree_comes_back_as_it_was() {
    let guest = Running::start().up().await;
    let deep = format!("{0}/{0}/{0}", "long-name".repeat(12));
    let make = format!(
        "mkdir -p src/{deep} src/node_modules/x src/dist src/empty && echo text > src/{deep}/file \
         && printf 'a\\0b' > 'src/sp ace' && chmod 755 'src/sp ace' && ln -s {deep}/file src/link \
         && echo no > src/node_modules/x/y && echo no > src/dist/z && touch -d @1000000000 'src/sp ace' \
         && mkfifo src/pipe"
    );
    assert_eq!(guest.run(&make).await.end, Some((0, false)));
    let tar = pack(&guest, "src", &["node_modules", "dist/z"]).await;
    assert_eq!(tar.len() % 512, 0);
    unpack(&guest, "copy", tar.clone()).await.unwrap();
    let list = guest.run("cd copy && find . -printf '%y %m %p %l\\n' | LC_ALL=C sort").await;
    let expected = guest
        .run(
            "cd src && find . \\( -name node_modules -o -path ./dist/z -o -name pipe \\) -prune -o \
             -printf '%y %m %p %l\\n' | LC_ALL=C sort",
        )
        .await;
    assert_eq!(list.text(), expected.text());
    assert_eq!(
        guest.run("stat -c %Y 'copy/sp ace'; cat copy/link").await.text(),
        "1000000000\ntext"
    );
    assert_eq!(guest.read("copy/sp ace").await.unwrap(), b"a\0b");
    assert_eq!(pack(&guest, "copy", &[]).await.len(), tar.len(), "once more gives the same");

    // Other programs read it as well.
    std::fs::write(guest.dir.path().join("a.tar"), &tar).unwrap();
    let theirs = guest.run("mkdir gnu && tar -C gnu -xf a.tar && diff -r copy gnu").await;
    assert_eq!(theirs.end, Some((0, false)), "{theirs:?}");
}

#[tokio::test]
async fn a_part_is_never_taken_for_the_whole() {
    let guest = Running::start().up().await;
    let make = "mkdir -p site/aaa site/deep && cd site && for n in $(seq 300); do echo $n > aaa/$n; done \
                && echo 1 > index.html && ln -s missing zzz && cd deep && for n in $(seq 300); do \
                mkdir d && cd d || exit 1; done";
    assert_eq!(guest.run(make).await.end, Some((0, false)));
    let archive = pack(&guest, "site", &[]).await;
    let last = Builder::new(Vec::new()).into_inner().unwrap();
    assert!(archive.ends_with(&last), "it has an end, so that the fault before it is read");
    let mut faults = vec![];
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            faults.push(text);
        }
    }
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains(&format!(" {TAR_FAULT}=`deep/d/d/")), "{faults:?}");
    assert!(faults[0].contains("more than 256 folders"), "{faults:?}");
}

#[tokio::test]
async fn archives_of_other_programs_are_unpacked() {
    let guest = Running::start().up().await;
    let name = "n".repeat(120);
    for format in ["gnu", "pax", "ustar"] {
        let long = if format == "ustar" { "short" } else { &name };
        let line = format!(
            "rm -rf s && mkdir -p s/d && echo 1 > s/d/{long} && ln s/d/{long} s/hard && ln -s d s/soft \
             && tar -C s --format={format} -cf t.tar ."
        );
        assert_eq!(guest.run(&line).await.end, Some((0, false)));
        let tar = guest.read("t.tar").await.unwrap();
        unpack(&guest, format, tar).await.unwrap();
        let same = guest.run(&format!("diff -r s {format} && stat -c %h {format}/hard")).await;
        assert_eq!(same.text(), "2", "{format}: {same:?}");
    }
}

#[tokio::test]
async fn no_archive_gets_out_of_its_folder() {
    use EntryType as E;
    let guest = Running::start().up().await;
    let outside = guest.dir.path().join("outside");
    let hostile: &[&[(E, &str, &str)]] = &[
        &[(E::Regular, "../outside/x", "x")],
        &[(E::Regular, "a/../../outside/x", "x")],
        &[(E::Regular, "/tmp/../x", "x")],
        &[(E::Symlink, "out", "../outside")],
        &[(E::Symlink, "out", "/etc")],
        &[(E::Symlink, "a/out", "../../outside")],
        &[(E::Link, "hard", "../outside/victim")],
        &[(E::Link, "hard", "/etc/passwd")],
        // Each link stays inside by its text, together they do not.
        &[(E::Symlink, "d/up", ".."), (E::Symlink, "d/up/up2", "..")],
        // Through a link that lies there already.
        &[(E::Regular, "trap/x", "x")],
        &[(E::Directory, "trap/x", "")],
        &[(E::Link, "hard", "trap/victim")],
        // Through a link of the same archive.
        &[(E::Symlink, "l", "sub"), (E::Regular, "l/x", "x")],
        &[(E::Symlink, "f", "target"), (E::Link, "g", "f")],
        &[(E::Char, "null", "")],
        &[(E::Fifo, "pipe", "")],
    ];
    for (number, entries) in hostile.iter().enumerate() {
        let root = guest.dir.path().join(format!("in{number}"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("victim"), "old").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("trap")).unwrap();
        let result = unpack(&guest, &format!("in{number}"), archive(entries)).await;
        assert!(matches!(result, Err(Error::Invalid { .. })), "{entries:?}: {result:?}");
        let names: Vec<_> =
            std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "{entries:?}");
    }
}

#[tokio::test]
async fn a_file_replaces_a_link_and_never_writes_through_it() {
    let guest = Running::start().up().await;
    let victim = guest.dir.path().join("victim");
    std::fs::write(&victim, "old").unwrap();
    std::fs::create_dir(guest.dir.path().join("in")).unwrap();
    std::os::unix::fs::symlink(&victim, guest.dir.path().join("in/file")).unwrap();
    unpack(&guest, "in", archive(&[(EntryType::Regular, "file", "new")])).await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "old");
    let info = guest.client.stat(&guest.endpoint, "in/file").await.unwrap();
    assert_eq!((info.size, info.mode), (3, 0o755), "and the set-user-id bit is not taken over");
}

#[tokio::test]
async fn cut_and_lying_archives_are_refused_without_growth() {
    let guest = Running::start().up().await;
    let whole = archive(&[(EntryType::Regular, "file", &"x".repeat(5000))]);
    for cut in [300, 512 + 100] {
        let result = unpack(&guest, "cut", whole[..cut].to_vec()).await;
        assert!(matches!(result, Err(Error::Invalid { .. })), "{cut}: {result:?}");
    }
    let result = unpack(&guest, "noise", vec![7; 4096]).await;
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");

    // A name of 64 MiB, sent in full: the answer must come although nobody reads the rest.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(64 << 20);
    header.set_path("name").unwrap();
    header.set_cksum();
    let head = Bytes::copy_from_slice(header.as_bytes());
    let rest = std::iter::repeat_n(Bytes::from(vec![b'n'; 1 << 20]), 64);
    let tar = stream::iter(std::iter::once(head).chain(rest).map(Ok)).boxed();
    let result = guest.client.write_tar(&guest.endpoint, "lie", tar).await;
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");

    // A file that says it is larger than anything we take.
    let mut header = Header::new_ustar();
    header.set_size(5 << 30);
    header.set_path("huge").unwrap();
    header.set_cksum();
    let result = unpack(&guest, "huge", header.as_bytes().to_vec()).await;
    assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    let peak = guest.peak_kib();
    assert!(peak < 24 << 10, "the guest grew to {peak} KiB");
}

#[tokio::test]
async fn too_many_entries_are_refused() {
    let guest = Running::start().up().await;
    // The same empty folder again and again is cheap to unpack.
    let one = archive(&[(EntryType::Directory, "d", "")]);
    let one = Bytes::copy_from_slice(&one[..512]);
    let many = stream::iter((0..200_001).map(move |_| Ok(one.clone()))).boxed();
    let result = guest.client.write_tar(&guest.endpoint, "many", many).await;
    assert!(
        matches!(&result, Err(Error::Invalid { reason }) if reason.contains("too large")),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_missing_folder_is_told() {
    let guest = Running::start().up().await;
    let missing = guest.client.read_tar(&guest.endpoint, "none", &[]).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    std::fs::write(guest.dir.path().join("file"), "x").unwrap();
    let file = guest.client.read_tar(&guest.endpoint, "file", &[]).await;
    assert!(matches!(file, Err(Error::Invalid { .. })));
    let mut log = String::new();
    std::fs::File::open(Path::new(&guest.dir.path().join(".log")))
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert_eq!(log, "");
}
