//! Reading tar archives that may be hostile.
//!
//! Everything that leaves a sandbox as a tar goes through here before it is stored: [`walk`]
//! checks each entry, [`repack`] writes it anew. Promises: paths are relative, plain and unique
//! enough to be unpacked (no `..`, no absolute path, nothing below a link); links stay inside
//! where that is asked for; devices, pipes and sparse files are refused; count and sizes are
//! bounded before anything is read into memory. So a repacked archive can be unpacked by a
//! plain tar reader without harm.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use miosa_types::guest::TAR_FAULT;
use tar::{EntryType, Header};

/// Most bytes that may follow an archive's end mark: programs fill up their last block.
const MAX_REST: u64 = 1 << 20;
/// Most bytes that are read of a global header.
const MAX_GLOBAL: u64 = 64 << 10;
/// Most characters of the fault that it tells.
const MAX_FAULT: usize = 400;

/// Bounds of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most entries, folders included.
    pub entries: u64,
    /// Most bytes of one file.
    pub file_bytes: u64,
    /// Most bytes of all files.
    pub total_bytes: u64,
}

const GIB: u64 = 1024 * 1024 * 1024;

impl Limits {
    /// A source snapshot.
    pub const SOURCE: Self = Self { entries: 100_000, file_bytes: GIB / 2, total_bytes: 2 * GIB };
    /// A built app with its dependencies.
    pub const APP: Self = Self { entries: 1_000_000, file_bytes: 2 * GIB, total_bytes: 8 * GIB };
    /// The files of a site.
    pub const SITE: Self =
        Self { entries: 100_000, file_bytes: 100 * 1024 * 1024, total_bytes: 2 * GIB };
}

/// What links may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Symbolic links must stay below the archive's root, of which `root` is the absolute name
    /// inside the sandbox.
    Inside {
        /// Absolute path, as in `/workspace`; empty: every absolute link is refused.
        root: &'static str,
    },
    /// Symbolic links may point anywhere: they are resolved only inside the container.
    Anywhere,
}

/// One entry that passed the checks.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Relative, without `.` and `..`. Empty for the root folder itself.
    pub path: &'a Path,
    /// What it is.
    pub kind: Kind<'a>,
    /// Permission bits, set-id bits removed.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified_s: u64,
}

/// Content of an entry.
pub enum Kind<'a> {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// The bytes.
        body: &'a mut dyn Read,
    },
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: &'a Path,
    },
    /// Another name of a file that came before.
    HardLink {
        /// Path of that file, relative to the root.
        target: &'a Path,
    },
}

impl std::fmt::Debug for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Folder => "Folder",
            Self::File { .. } => "File",
            Self::Symlink { .. } => "Symlink",
            Self::HardLink { .. } => "HardLink",
        })
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files, links included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is hostile, damaged or too large. The text is for the person who sent it.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The archive could not be read or its copy not be written.
    #[error("archive could not be copied")]
    Io {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store did not take it.
    #[error("archive could not be stored")]
    Store {
        /// Why.
        #[source]
        source: crate::Error,
    },
}

impl Error {
    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }
}

/// Calls `visit` for each entry, in order. `visit` need not read a file's body.
///
/// The reader is read to its end: what comes after the archive's end mark is thrown away, and an
/// error there is one of the whole, which may have been cut.
pub fn walk<R, F>(archive: R, limits: Limits, links: Links, mut visit: F) -> Result<Totals, Error>
where
    R: Read,
    F: FnMut(Entry<'_>) -> Result<(), Error>,
{
    let mut archive = tar::Archive::new(archive);
    let totals = walk_entries(&mut archive, limits, links, &mut visit)?;
    let rest = io::copy(&mut archive.into_inner().take(MAX_REST + 1), &mut io::sink());
    if rest.map_err(unreadable)? > MAX_REST {
        return Err(Error::refused("something else follows the archive"));
    }
    Ok(totals)
}

fn walk_entries<R, F>(
    archive: &mut tar::Archive<R>,
    limits: Limits,
    links: Links,
    visit: &mut F,
) -> Result<Totals, Error>
where
    R: Read,
    F: FnMut(Entry<'_>) -> Result<(), Error>,
{
    let mut checks = Checks::new(limits, links);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let header = entry.header();
        let entry_type = header.entry_type();
        if matches!(entry_type, EntryType::XGlobalHeader) {
            told_fault(&mut entry)?;
            continue;
        }
        let mode = header.mode().map_err(unreadable)? & 0o1777;
        let modified_s = header.mtime().unwrap_or(0);
        let path = checks.path(&entry.path_bytes(), entry_type)?;
        let target = entry.link_name_bytes().map(|bytes| path_of(&bytes).to_owned());
        let size = entry.size();
        let mut body = Exact { body: &mut entry, left: size };
        let kind = match entry_type {
            EntryType::Directory => Kind::Folder,
            EntryType::Regular | EntryType::Continuous => {
                checks.file(&path, size)?;
                Kind::File { size, body: &mut body }
            }
            EntryType::Symlink => {
                Kind::Symlink { target: checks.symlink(&path, target.as_deref())? }
            }
            EntryType::Link => Kind::HardLink { target: checks.hard_link(&path, target.as_ref())? },
            _ => {
                let path = path.display();
                return Err(Error::refused(format!(
                    "`{path}` is neither a file, a folder nor a link"
                )));
            }
        };
        visit(Entry { path: &path, kind, mode, modified_s })?;
    }
    Ok(checks.totals)
}

/// An error if a global header tells that the archive is not whole.
fn told_fault(entry: &mut impl Read) -> Result<(), Error> {
    let mut bytes = Vec::new();
    entry.take(MAX_GLOBAL).read_to_end(&mut bytes).map_err(unreadable)?;
    for record in tar::PaxExtensions::new(&bytes).flatten() {
        if record.key() == Ok(TAR_FAULT) {
            let text = String::from_utf8_lossy(record.value_bytes());
            let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_FAULT).collect();
            return Err(Error::refused(text));
        }
    }
    Ok(())
}

/// A body that is never shorter than it was announced: the tar reader takes the end of a cut
/// stream for the end of the file.
struct Exact<B> {
    body: B,
    left: u64,
}

impl<B: Read> Read for Exact<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// How [`repack`] writes.
#[derive(Clone, Copy, Debug)]
pub struct Repack<'a> {
    /// Bounds of what is read.
    pub limits: Limits,
    /// What links may do.
    pub links: Links,
    /// Put before every path; `""`: nothing.
    pub prefix: &'a str,
    /// Owner and group of everything.
    pub owner: u32,
}

/// Copies an archive entry by entry, checked and normalised: owner, permission bits and nothing
/// else of the metadata survive.
pub fn repack<R: Read, W: Write>(
    archive: R,
    copy: W,
    options: Repack<'_>,
) -> Result<Totals, Error> {
    let mut copy = tar::Builder::new(copy);
    let prefix = Path::new(options.prefix);
    if !options.prefix.is_empty() {
        let mut header = header_of(EntryType::Directory, 0o755, 0, options.owner);
        copy.append_data(&mut header, prefix, io::empty()).map_err(unwritten)?;
    }
    let totals = walk(archive, options.limits, options.links, |entry| {
        if entry.path.as_os_str().is_empty() {
            return Ok(());
        }
        let path = prefix.join(entry.path);
        let header = |kind| header_of(kind, entry.mode, entry.modified_s, options.owner);
        match entry.kind {
            Kind::Folder => copy.append_data(&mut header(EntryType::Directory), path, io::empty()),
            Kind::File { size, body } => {
                let mut header = header(EntryType::Regular);
                header.set_size(size);
                copy.append_data(&mut header, path, body)
            }
            Kind::Symlink { target } => {
                copy.append_link(&mut header(EntryType::Symlink), path, target)
            }
            Kind::HardLink { target } => {
                copy.append_link(&mut header(EntryType::Link), path, prefix.join(target))
            }
        }
        .map_err(unwritten)
    })?;
    copy.into_inner().and_then(|mut copy| copy.flush()).map_err(unwritten)?;
    Ok(totals)
}

fn header_of(kind: EntryType, mode: u32, modified_s: u64, owner: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(modified_s);
    header.set_uid(owner.into());
    header.set_gid(owner.into());
    header.set_size(0);
    header
}

/// What has been seen of the archive so far.
struct Checks {
    limits: Limits,
    links: Links,
    entries: u64,
    totals: Totals,
    symlinks: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Checks {
    const fn new(limits: Limits, links: Links) -> Self {
        Self {
            limits,
            links,
            entries: 0,
            totals: Totals { files: 0, bytes: 0 },
            symlinks: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    fn path(&mut self, bytes: &[u8], kind: EntryType) -> Result<PathBuf, Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(Error::refused(format!("more than {most} files and folders")));
        }
        let path = clean(bytes)?;
        if path.as_os_str().is_empty() && kind != EntryType::Directory {
            return Err(Error::refused("an entry has no name"));
        }
        // `lib -> /etc`, then `lib/passwd`: the second would be written through the first.
        if let Some(link) = path.ancestors().skip(1).find(|above| self.symlinks.contains(*above)) {
            let (path, link) = (path.display(), link.display());
            return Err(Error::refused(format!("`{path}` lies behind the link `{link}`")));
        }
        // A second entry of the same name must not go through the first one if that is a link.
        if self.symlinks.remove(&path) && kind == EntryType::Directory {
            let path = path.display();
            return Err(Error::refused(format!("`{path}` is a link and a folder at once")));
        }
        if kind != EntryType::Directory {
            self.totals.files += 1;
        }
        Ok(path)
    }

    fn file(&mut self, path: &Path, size: u64) -> Result<(), Error> {
        if size > self.limits.file_bytes {
            let (path, most) = (path.display(), mib(self.limits.file_bytes));
            return Err(Error::refused(format!("`{path}` is larger than {most} MiB")));
        }
        self.totals.bytes += size;
        if self.totals.bytes > self.limits.total_bytes {
            let most = mib(self.limits.total_bytes);
            return Err(Error::refused(format!("the files are larger than {most} MiB in total")));
        }
        self.files.insert(path.to_owned());
        Ok(())
    }

    fn symlink<'t>(&mut self, path: &Path, target: Option<&'t Path>) -> Result<&'t Path, Error> {
        let Some(target) = target.filter(|target| !target.as_os_str().is_empty()) else {
            let path = path.display();
            return Err(Error::refused(format!("the link `{path}` points nowhere")));
        };
        if let Links::Inside { root } = self.links
            && !stays_inside(path, target, Path::new(root))
        {
            let (path, target) = (path.display(), target.display());
            return Err(Error::refused(format!("the link `{path}` points out, to `{target}`")));
        }
        self.files.remove(path);
        self.symlinks.insert(path.to_owned());
        Ok(target)
    }

    fn hard_link<'t>(
        &mut self,
        path: &Path,
        target: Option<&'t PathBuf>,
    ) -> Result<&'t Path, Error> {
        let target = target.map_or(Path::new(""), PathBuf::as_path);
        let clean_target = clean(target.as_os_str().as_encoded_bytes())?;
        if !self.files.contains(&clean_target) {
            let (path, target) = (path.display(), target.display());
            return Err(Error::refused(format!(
                "the link `{path}` points to `{target}`, which is no file of the archive"
            )));
        }
        self.files.insert(path.to_owned());
        Ok(target.strip_prefix("./").unwrap_or(target))
    }
}

/// Follows `target` from the folder of `path` as text: whether it ever leaves the root.
fn stays_inside(path: &Path, target: &Path, root: &Path) -> bool {
    let (mut depth, target) = if target.is_absolute() {
        match target.strip_prefix(root) {
            Ok(below) => (0, below),
            Err(_) => return false,
        }
    } else {
        (path.components().count() - 1, target)
    };
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    true
}

/// The path without `.`, if it is relative and never goes up.
fn clean(bytes: &[u8]) -> Result<PathBuf, Error> {
    let path = path_of(bytes);
    let refused = |why| {
        let path = path.display();
        Err(Error::refused(format!("the path `{path}` {why}")))
    };
    if bytes.contains(&0) {
        return refused("contains a zero byte");
    }
    if bytes.len() > 4096 {
        return refused("is longer than 4096 bytes");
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refused("contains `..`"),
            Component::RootDir | Component::Prefix(_) => return refused("is absolute"),
        }
    }
    Ok(clean)
}

fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

const fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

fn unwritten(source: io::Error) -> Error {
    Error::Io { source }
}

/// A malformed header comes as `Other` or `InvalidData`; a cut stream as `UnexpectedEof`. Both
/// are the sender's; anything else is the way in.
fn unreadable(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::refused(format!("the archive is damaged: {source}"))
        }
        _ => Error::Io { source },
    }
}
