//! Archives as they come out of sandboxes, friendly and hostile, against the whole crate.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod hostile;
mod site;

use std::io::Write as _;

use tar::{Builder, EntryType, Header};

/// One entry of an archive that a test makes; names are written raw, so that they may be wrong.
pub(crate) enum Item<'a> {
    File(&'a str, &'a [u8]),
    Folder(&'a str),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Other(&'a str, EntryType),
}

pub(crate) fn tar(items: &[Item<'_>]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for item in items {
        let (kind, name, target, body): (_, _, _, &[u8]) = match item {
            Item::File(name, body) => (EntryType::Regular, name, "", *body),
            Item::Folder(name) => (EntryType::Directory, name, "", &[]),
            Item::Symlink(name, target) => (EntryType::Symlink, name, *target, &[]),
            Item::HardLink(name, target) => (EntryType::Link, name, *target, &[]),
            Item::Other(name, kind) => (*kind, name, "", &[]),
        };
        let mut header = Header::new_gnu();
        let fields = header.as_gnu_mut().unwrap();
        (&mut fields.name[..]).write_all(name.as_bytes()).unwrap();
        (&mut fields.linkname[..]).write_all(target.as_bytes()).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(4242);
        header.set_gid(4242);
        header.set_mtime(1_700_000_000);
        header.set_size(body.len() as u64);
        header.set_cksum();
        archive.append(&header, body).unwrap();
    }
    archive.into_inner().unwrap()
}
