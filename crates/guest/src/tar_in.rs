//! `POST /tar`: unpacks a tar stream into a folder.
//!
//! Promises: nothing is made outside that folder, whatever the archive says and whatever links
//! lie in the folder already: every name is walked from the folder's own descriptor, one part at
//! a time, and a link on the way ends the call. Names with `..`, absolute names, links that lead
//! out and devices are refused. Bytes, entries and the memory for long names are bounded. What
//! was unpacked before a refusal stays.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
};

use hyper::body::Incoming;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps},
    io::Errno,
};
use serde_json::{Value, json};
use tar::{Archive, EntryType, PaxExtensions};

use crate::{
    body::BlockingReader,
    error::{Code, Error},
    state::State,
    users::User,
};

/// Entries of one archive.
const MAX_ENTRIES: u64 = 200_000;
/// Bytes of all its files.
const MAX_BYTES: u64 = 4 << 30;
/// Bytes of the extension records before one entry.
const MAX_EXTENSION: u64 = 64 << 10;

/// Unpacks with the rights of the user; makes the folder if it is missing.
pub(crate) async fn write(
    state: &State,
    user: &User,
    path: &str,
    content: Incoming,
) -> Result<Value, Error> {
    let root = state.resolve(path, user);
    let reader = BlockingReader::spawn(content);
    let entries = state.on_files(user, move || unpack(&root, reader)).await?;
    Ok(json!({ "entries": entries }))
}

fn unpack(root: &Path, mut reader: impl Read) -> Result<u64, Error> {
    let named = root.display().to_string();
    fs::create_dir_all(root).map_err(|e| Error::io(&named, &e))?;
    let mut target = Target::open(root).map_err(|e| Error::io(&named, &e.into()))?;
    let count = unpack_entries(&mut target, &mut Archive::new(&mut reader))?;
    // The padding behind the end mark, so that the sender is not cut off.
    io::copy(&mut reader, &mut io::sink()).map_err(|e| broken(&e))?;
    Ok(count)
}

fn unpack_entries(target: &mut Target, archive: &mut Archive<impl Read>) -> Result<u64, Error> {
    let (mut count, mut bytes) = (0, 0_u64);
    let mut long = Extension::default();
    for entry in archive.entries().map_err(|e| broken(&e))?.raw(true) {
        let mut entry = entry.map_err(|e| broken(&e))?;
        count += 1;
        bytes = bytes.saturating_add(entry.size());
        if count > MAX_ENTRIES || bytes > MAX_BYTES {
            return Err(Error::invalid("the archive is too large"));
        }
        let kind = entry.header().entry_type();
        if long.take(kind, &mut entry)? {
            continue;
        }
        let names = std::mem::take(&mut long);
        let path = match names.path {
            Some(path) => path,
            None => bytes_path(&entry.path_bytes()),
        };
        let link = match names.link {
            Some(link) => Some(link),
            None => entry.link_name_bytes().map(|name| bytes_path(&name)),
        };
        let path = inside(&path).ok_or_else(|| {
            Error::invalid(format!("'{}' leads out of the folder", path.display()))
        })?;
        if path.as_os_str().is_empty() {
            continue;
        }
        let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
        let done = match kind {
            EntryType::Regular | EntryType::Continuous => {
                let mtime = entry.header().mtime().unwrap_or(0);
                target.file(&path, mode, mtime, &mut entry)
            }
            EntryType::Directory => target.folder(&path, mode),
            EntryType::Symlink => target.symlink(&path, &link.unwrap_or_default()),
            EntryType::Link => target.hard_link(&path, &link.unwrap_or_default()),
            _ => Err(Error::invalid("it is neither file nor folder nor link")),
        };
        done.map_err(|e| Error::new(e.code, format!("{}: {}", path.display(), e.message)))?;
    }
    Ok(count)
}

/// Names too long for a header, told by records before it.
#[derive(Debug, Default)]
struct Extension {
    path: Option<PathBuf>,
    link: Option<PathBuf>,
}

impl Extension {
    /// Reads the record if the entry is one.
    fn take(
        &mut self,
        kind: EntryType,
        entry: &mut tar::Entry<'_, impl Read>,
    ) -> Result<bool, Error> {
        let is_long = kind.is_gnu_longname() || kind.is_gnu_longlink();
        if !is_long && !kind.is_pax_local_extensions() && !kind.is_pax_global_extensions() {
            return Ok(false);
        }
        if entry.size() > MAX_EXTENSION {
            return Err(Error::invalid("the archive has a record that is too long"));
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(|e| broken(&e))?;
        if is_long {
            let name = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let slot = if kind.is_gnu_longname() { &mut self.path } else { &mut self.link };
            *slot = Some(bytes_path(name));
        } else if kind.is_pax_local_extensions() {
            for record in PaxExtensions::new(&text) {
                let record = record.map_err(|e| broken(&e))?;
                match record.key_bytes() {
                    b"path" => self.path = Some(bytes_path(record.value_bytes())),
                    b"linkpath" => self.link = Some(bytes_path(record.value_bytes())),
                    // Needed above 8 GiB only, and it would change where the next entry begins.
                    b"size" => {
                        return Err(Error::invalid("the archive has a file that is too large"));
                    }
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// The path without `.`; `None` if it is absolute or has a `..`.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Whether a link at `path` to `target` stays in the folder `root`, by its text.
fn stays_inside(path: &Path, target: &Path, root: &Path) -> bool {
    let (mut depth, target) = match target.strip_prefix(root) {
        Ok(below) if target.is_absolute() => (0, below),
        _ => (path.components().count().saturating_sub(1), target),
    };
    target.components().all(|part| match part {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if depth > 0 => {
            depth -= 1;
            true
        }
        Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
    })
}

/// The folder that is unpacked into, and the last one that was written to within it: archives
/// keep the files of a folder together.
#[derive(Debug)]
struct Target {
    root: OwnedFd,
    path: PathBuf,
    last: Option<(PathBuf, OwnedFd)>,
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Target {
    fn open(root: &Path) -> Result<Self, Errno> {
        let follow = FOLDER.difference(OFlags::NOFOLLOW);
        let folder = rustix::fs::openat(CWD, root, follow, Mode::empty())?;
        Ok(Self { root: folder, path: root.to_owned(), last: None })
    }

    /// The folder that holds `path`, made where missing, and the last part of `path`.
    fn parent<'a>(&mut self, path: &'a Path) -> Result<(&OwnedFd, &'a Path), Error> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let name = Path::new(path.file_name().unwrap_or_default());
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            let mut folder = self.root.try_clone().map_err(|e| Error::io("the folder", &e))?;
            for part in parent.components() {
                folder = enter(&folder, Path::new(part.as_os_str()))?;
            }
            self.last = Some((parent.to_owned(), folder));
        }
        let folder = self.last.as_ref().map_or(&self.root, |(_, folder)| folder);
        Ok((folder, name))
    }

    fn file(
        &mut self,
        path: &Path,
        mode: u32,
        mtime: u64,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        let (folder, name) = self.parent(path)?;
        clear(folder, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(mode)).map_err(failed)?;
        let mut file = File::from(file);
        io::copy(content, &mut file).map_err(|e| Error::io("the file", &e))?;
        let at = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(0), tv_nsec: 0 };
        rustix::fs::futimens(&file, &Timestamps { last_access: at, last_modification: at })
            .map_err(failed)
    }

    fn folder(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        let (folder, name) = self.parent(path)?;
        if kind_of(folder, name)?.is_some_and(|kind| kind != rustix::fs::FileType::Directory) {
            clear(folder, name)?;
        }
        // The owner must be able to unpack into it.
        let made = enter(folder, name)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(mode | 0o700)).map_err(failed)
    }

    fn symlink(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        if target.as_os_str().is_empty() || !stays_inside(path, target, &self.path) {
            return Err(Error::invalid(format!(
                "the link to '{}' leads out of the folder",
                target.display()
            )));
        }
        let (folder, name) = self.parent(path)?;
        clear(folder, name)?;
        rustix::fs::symlinkat(target, folder, name).map_err(failed)
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let clean = inside(target)
            .filter(|clean| !clean.as_os_str().is_empty())
            .ok_or_else(|| Error::invalid("the link leads out of the folder"))?;
        let (folder, source_name) = self.parent(&clean)?;
        if kind_of(folder, source_name)? != Some(rustix::fs::FileType::RegularFile) {
            return Err(Error::invalid("the link is not to a file of the archive"));
        }
        let source = folder.try_clone().map_err(|e| Error::io("the folder", &e))?;
        if clean == path {
            return Ok(());
        }
        let (folder, name) = self.parent(path)?;
        clear(folder, name)?;
        rustix::fs::linkat(&source, source_name, folder, name, AtFlags::empty()).map_err(failed)
    }
}

/// Opens a folder within another without following a link; makes it if it is missing.
fn enter(folder: &OwnedFd, name: &Path) -> Result<OwnedFd, Error> {
    match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
            rustix::fs::openat(folder, name, FOLDER, Mode::empty()).map_err(failed)
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Error::invalid(format!("'{}' on the way is not a folder", name.display())))
        }
        other => other.map_err(failed),
    }
}

fn kind_of(folder: &OwnedFd, name: &Path) -> Result<Option<rustix::fs::FileType>, Error> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(rustix::fs::FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Makes room for a new entry: what is there is unlinked, not written through.
fn clear(folder: &OwnedFd, name: &Path) -> Result<(), Error> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Err(Error::invalid("a folder is in its place")),
        Err(e) => Err(failed(e)),
    }
}

fn failed(errno: Errno) -> Error {
    Error::io("unpacking", &errno.into())
}

fn broken(error: &io::Error) -> Error {
    let error = Error::io("the archive", error);
    // A name that is not there, and whatever else the parser says, is the archive's fault.
    Error::new(Code::InvalidArgument, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for (path, clean) in
            [("a/./b", Some("a/b")), ("./", Some("")), ("/a", None), ("a/../b", None), ("..", None)]
        {
            assert_eq!(inside(Path::new(path)).as_deref(), clean.map(Path::new), "{path}");
        }
    }

    #[test]
    fn links_stay_inside() {
        for (path, target, ok) in [
            ("a", "b", true),
            ("bin/tool", "../lib/tool", true),
            ("bin/tool", "../../etc/passwd", false),
            ("a", "/etc/passwd", false),
            ("a", "..", false),
            ("a/b/c", "../../x", true),
            ("a", "b/../../x", false),
            ("a/b", "/workspace/x/../y", true),
            ("a/b", "/workspace/../etc/passwd", false),
            ("a/b", "/workspaces/x", false),
        ] {
            let stays = stays_inside(Path::new(path), Path::new(target), Path::new("/workspace"));
            assert_eq!(stays, ok, "{path} -> {target}");
        }
    }
}
