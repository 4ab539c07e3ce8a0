//! Unpacking an archive that a tenant's build made, as root.
//!
//! What is refused: a path with `..` or from `/`, a path through a link, devices, pipes and
//! sockets, a link that leads out of the root, too many or too large entries. An absolute link
//! target is fine: it is followed inside the workload only, where `/` is the workload's root.
//! Set-id bits are dropped.

use std::{
    ffi::OsStr,
    fs::{File, FileTimes},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use miosa_types::Digest;
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use tar::{Entry, EntryType, Header};

use super::Error;

/// A large app with its packages has 100,000 files.
const MOST_ENTRIES: u64 = 1_000_000;
/// Unit: bytes, unpacked.
const MOST_BYTES: u64 = 16 << 30;
/// Ids inside a user namespace.
const IDS: u64 = 65_536;

/// Unpacks `reader` into the new folder `target` and checks that all of it has `digest`.
pub(super) fn unpack(reader: impl Read, digest: Digest, target: &Path) -> Result<(), Error> {
    fs_err::create_dir(target)?;
    let root: OwnedFd = File::open(target)?.into();
    let mut archive = tar::Archive::new(Hashing { inner: reader, hash: Sha256::new() });
    let mut unpacker = Unpacker { root, entries: 0, bytes: 0 };
    // What is wrong with a damaged archive is that it is damaged, so the digest speaks first.
    let result = unpacker.all(&mut archive);
    let mut rest = archive.into_inner();
    io::copy(&mut (&mut rest).take(MOST_BYTES), &mut io::sink())?;
    let got = Digest::from_bytes(rest.hash.finalize().into());
    if got != digest {
        return Err(Error::Corrupt { wanted: digest, got });
    }
    result?;
    // A folder with the final name must never hold files that a crash left empty.
    rustix::fs::syncfs(&unpacker.root).map_err(io::Error::from)?;
    Ok(())
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

struct Unpacker {
    root: OwnedFd,
    entries: u64,
    bytes: u64,
}

impl Unpacker {
    fn all<R: Read>(&mut self, archive: &mut tar::Archive<R>) -> Result<(), Error> {
        for entry in archive.entries()? {
            self.one(&mut entry?)?;
        }
        Ok(())
    }

    fn one<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<(), Error> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size());
        if self.entries > MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(Error::Refused(format!(
                "more than {MOST_ENTRIES} entries or {MOST_BYTES} bytes"
            )));
        }
        let path = entry.path()?.into_owned();
        let parts = components(&path)?;
        let owner = Owner::of(entry.header(), &path)?;
        let Some((name, parents)) = parts.split_last() else {
            // The root itself: its owner and mode are the template's.
            return Ok(());
        };
        let parent = self.parent(parents, owner, &path)?;
        match entry.header().entry_type() {
            EntryType::Directory => folder(&parent, name, owner, &path),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&parent, name, &path)?;
                file(&parent, name, owner, entry)
            }
            EntryType::Symlink => {
                let target = link_target(entry)?;
                check_link(&target, parents.len(), &path)?;
                clear(&parent, name, &path)?;
                rustix::fs::symlinkat(&target, &parent, *name).map_err(io::Error::from)?;
                owner.give(&parent, name)
            }
            EntryType::Link => self.hard_link(&parent, name, &link_target(entry)?, &path),
            // Comments on the whole archive.
            EntryType::XGlobalHeader => Ok(()),
            other => Err(refuse(&path, &format!("is of a kind that is not allowed: {other:?}"))),
        }
    }

    /// The folder that an entry goes into; what the archive left out is made, owned like the
    /// entry. No link on the way is followed.
    fn parent(&self, parents: &[&OsStr], owner: Owner, path: &Path) -> Result<OwnedFd, Error> {
        let whole: PathBuf = parents.iter().collect();
        if whole.as_os_str().is_empty() {
            return Ok(self.root.try_clone()?);
        }
        match open_folder(&self.root, &whole) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(blocked(error, path)),
        }
        let mut folder = self.root.try_clone()?;
        for part in parents {
            folder = match open_folder(&folder, Path::new(part)) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&folder, *part, mode).map_err(io::Error::from)?;
                    owner.give(&folder, part)?;
                    open_folder(&folder, Path::new(part)).map_err(|e| blocked(e, path))?
                }
                Err(error) => return Err(blocked(error, path)),
            };
        }
        Ok(folder)
    }

    fn hard_link(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        target: &Path,
        path: &Path,
    ) -> Result<(), Error> {
        let parts = components(target)?;
        let Some((last, parents)) = parts.split_last() else {
            return Err(refuse(path, "is a link to the root"));
        };
        let whole: PathBuf = parents.iter().collect();
        let from = if whole.as_os_str().is_empty() {
            self.root.try_clone()?
        } else {
            open_folder(&self.root, &whole).map_err(|e| blocked(e, path))?
        };
        clear(parent, name, path)?;
        rustix::fs::linkat(&from, *last, parent, name, AtFlags::empty()).map_err(|error| {
            refuse(path, &format!("is a link to a file that is not there ({error})"))
        })
    }
}

fn folder(parent: &OwnedFd, name: &OsStr, owner: Owner, path: &Path) -> Result<(), Error> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    let folder = open_folder(parent, Path::new(name)).map_err(|e| blocked(e, path))?;
    owner.give(parent, name)?;
    rustix::fs::fchmod(&folder, owner.mode).map_err(io::Error::from)?;
    Ok(())
}

fn open_folder(at: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)
}

/// Makes room for an entry that comes again: the last one counts, as tar has it.
fn clear(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(refuse(path, "is a folder and a file")),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

fn file<R: Read>(
    parent: &OwnedFd,
    name: &OsStr,
    owner: Owner,
    entry: &mut Entry<'_, R>,
) -> Result<(), Error> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
        .map_err(io::Error::from)?;
    let mut file = File::from(fd);
    io::copy(entry, &mut file)?;
    owner.give(parent, name)?;
    rustix::fs::fchmod(&file, owner.mode).map_err(io::Error::from)?;
    // Web servers make entity tags from it.
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime()?);
    file.set_times(FileTimes::new().set_modified(modified))?;
    Ok(())
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> Result<PathBuf, Error> {
    entry
        .link_name()?
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| Error::Refused("a link without a target".to_owned()))
}

/// The parts of a path below the root.
fn components(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(refuse(path, "has `..` in its path")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(refuse(path, "has a path from `/`"));
            }
        }
    }
    Ok(parts)
}

/// A symbolic link may not climb above the root that it lies `depth` folders below.
fn check_link(target: &Path, depth: usize, path: &Path) -> Result<(), Error> {
    let mut depth = if target.is_absolute() { 0 } else { depth };
    for component in target.components() {
        depth = match component {
            Component::ParentDir => {
                depth.checked_sub(1).ok_or_else(|| refuse(path, "is a link that leads out"))?
            }
            Component::Normal(_) => depth + 1,
            _ => depth,
        };
    }
    Ok(())
}

/// Owner and mode of an entry.
#[derive(Clone, Copy)]
struct Owner {
    uid: Uid,
    gid: Gid,
    mode: Mode,
}

impl Owner {
    fn of(header: &Header, path: &Path) -> Result<Self, Error> {
        let id = |id: u64| {
            let fits = (id < IDS).then(|| u32::try_from(id).ok()).flatten();
            fits.ok_or_else(|| refuse(path, "has an owner above 65535"))
        };
        Ok(Self {
            uid: Uid::from_raw(id(header.uid()?)?),
            gid: Gid::from_raw(id(header.gid()?)?),
            mode: Mode::from_raw_mode(header.mode()? & 0o777),
        })
    }

    fn give(self, parent: &OwnedFd, name: &OsStr) -> Result<(), Error> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(parent, name, Some(self.uid), Some(self.gid), flags) {
            // Only root can give files away; without root no workload runs either.
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
            other => Ok(other.map_err(io::Error::from)?),
        }
    }
}

fn blocked(error: Errno, path: &Path) -> Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            refuse(path, "has a path through a link or file")
        }
        other => Error::Io(other.into()),
    }
}

fn refuse(path: &Path, why: &str) -> Error {
    let shown: String = path.to_string_lossy().chars().take(200).collect();
    Error::Refused(format!("`{shown}` {why}"))
}
