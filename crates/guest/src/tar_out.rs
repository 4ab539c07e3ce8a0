//! `GET /tar`: a folder as a tar stream.
//!
//! Promises: POSIX pax, paths relative to the folder, in byte order; links are kept as links;
//! sockets, pipes and devices are left out. What changes while it is read gives at worst a file
//! with a torn content, never a torn archive. A part is never taken for the whole: what cannot be
//! read is told in the archive itself ([`TAR_FAULT`]); after a fault in the middle of a file the
//! stream breaks off, and nothing that looks like an end is written.

use std::{
    fs::{self, Metadata},
    io::{self, BufWriter, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};
use tokio::runtime::Handle;

use crate::{
    body::{self, Answer, BlockingWriter},
    error::{Error, words},
    state::{self, State},
    users::User,
};

/// Keyword of the record that tells a fault: `miosa_types::guest::TAR_FAULT`, of which this program
/// has no other need.
const TAR_FAULT: &str = "GUEST.fault";
/// Folders within folders; deeper ones are refused, because we recurse.
const MAX_DEPTH: usize = 256;

/// Streams the content of the folder.
pub(crate) async fn read(
    state: &State,
    user: &User,
    path: &str,
    exclude: Vec<String>,
) -> Result<Answer, Error> {
    let root = state.resolve(path, user);
    let named = path.to_owned();
    let checked = root.clone();
    let is_dir = state
        .on_files(user, move || {
            Ok(fs::metadata(&checked).map_err(|e| Error::io(&named, &e))?.is_dir())
        })
        .await?;
    if !is_dir {
        return Err(Error::invalid(format!("{path} is not a folder")));
    }
    let (tx, answer) = body::stream();
    let writer = BlockingWriter { tx: tx.clone(), runtime: Handle::current() };
    drop(state::run_as(user, move || {
        let writer = Gate { writer, is_shut: false };
        let mut archive = Builder::new(BufWriter::with_capacity(64 << 10, writer));
        let done = match add_folder(&mut archive, &root, Path::new(""), &exclude, 0) {
            Err(Fault::Unreadable(told)) => tell(&mut archive, &told),
            Err(Fault::Torn(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        if let Err(error) =
            done.and_then(|()| archive.finish()).and_then(|()| archive.get_mut().flush())
        {
            // Before the archive goes: it would write an end.
            archive.get_mut().get_mut().is_shut = true;
            let _ = tx.blocking_send(Err(error));
        }
        Ok(())
    })?);
    Ok(answer)
}

type Archive = Builder<BufWriter<Gate>>;

/// Lets nothing through any more once it is shut.
struct Gate {
    writer: BlockingWriter,
    is_shut: bool,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_shut { Err(io::ErrorKind::BrokenPipe.into()) } else { self.writer.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Why a walk ended early. Split by what the archive can still say.
enum Fault {
    /// Between two entries: something cannot be read. The text is for whoever owns the files.
    Unreadable(String),
    /// In the middle of an entry, or the reader is gone.
    Torn(io::Error),
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Fault::Unreadable(format!("`{}` cannot be read: {}", path.display(), words(error)))
}

/// Ends the archive with why it is not whole.
fn tell(archive: &mut Archive, text: &str) -> io::Result<()> {
    let record = pax_record(TAR_FAULT, text);
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_path("fault")?;
    header.set_size(record.len() as u64);
    header.set_cksum();
    archive.append(&header, record.as_bytes())
}

/// `LENGTH KEYWORD=VALUE\n`, where the length counts itself.
fn pax_record(keyword: &str, value: &str) -> String {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {keyword}={value}\n")
}

fn add_folder(
    archive: &mut Archive,
    root: &Path,
    inside: &Path,
    exclude: &[String],
    depth: usize,
) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        let most = format!("more than {MAX_DEPTH} folders lie within each other");
        return Err(unreadable(inside, &io::Error::other(most)));
    }
    let failed = |error| unreadable(inside, &error);
    let mut names = Vec::new();
    for item in fs::read_dir(root.join(inside)).map_err(failed)? {
        names.push(item.map_err(failed)?.file_name());
    }
    names.sort_unstable();
    for name in names {
        let path = inside.join(&name);
        if is_excluded(&path, exclude) {
            continue;
        }
        // What vanished meanwhile is not there.
        let Ok(found) = fs::symlink_metadata(root.join(&path)) else { continue };
        add(archive, root, &path, &found)?;
        if found.is_dir() {
            add_folder(archive, root, &path, exclude, depth + 1)?;
        }
    }
    Ok(())
}

/// Whether the path begins with one of `exclude`, or its last part equals one of them.
fn is_excluded(path: &Path, exclude: &[String]) -> bool {
    exclude.iter().any(|pattern| {
        let pattern = Path::new(pattern.trim_matches('/'));
        !pattern.as_os_str().is_empty()
            && (path.starts_with(pattern) || path.file_name() == Some(pattern.as_os_str()))
    })
}

fn add(archive: &mut Archive, root: &Path, path: &Path, found: &Metadata) -> Result<(), Fault> {
    let mut header = Header::new_ustar();
    header.set_mode(found.mode() & 0o777);
    header.set_uid(found.uid().into());
    header.set_gid(found.gid().into());
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    if found.is_dir() {
        header.set_entry_type(EntryType::Directory);
        return append(archive, header, path, None, io::empty());
    }
    if found.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(root.join(path)).map_err(|error| unreadable(path, &error))?;
        return append(archive, header, path, Some(&target), io::empty());
    }
    if !found.is_file() {
        return Ok(());
    }
    header.set_entry_type(EntryType::Regular);
    header.set_size(found.len());
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(root.join(path));
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(path, &error)),
    };
    // The length is promised by now: cut what grew, fill what shrank.
    append(archive, header, path, None, file.chain(io::repeat(0)).take(found.len()))
}

fn append(
    archive: &mut Archive,
    mut header: Header,
    path: &Path,
    link: Option<&Path>,
    content: impl Read,
) -> Result<(), Fault> {
    append_entry(archive, (&mut header, path, link), content).map_err(Fault::Torn)
}

fn append_entry(
    archive: &mut Archive,
    (header, path, link): (&mut Header, &Path, Option<&Path>),
    content: impl Read,
) -> io::Result<()> {
    let mut long: Vec<(&str, &[u8])> = Vec::new();
    if header.set_path(path).is_err() {
        long.push(("path", path.as_os_str().as_bytes()));
        header.set_path(short(path))?;
    }
    if let Some(link) = link
        && header.set_link_name_literal(link.as_os_str().as_bytes()).is_err()
    {
        long.push(("linkpath", link.as_os_str().as_bytes()));
        header.set_link_name_literal("long")?;
    }
    if !long.is_empty() {
        archive.append_pax_extensions(long)?;
    }
    header.set_cksum();
    archive.append(header, content)
}

/// Stands in the header where the true path, in the extension before it, is too long.
fn short(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    PathBuf::from(
        name.chars().filter(char::is_ascii_alphanumeric).take(40).collect::<String>() + "_",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusion_is_by_beginning_or_by_name() {
        let exclude = ["node_modules".to_owned(), "dist/cache/".to_owned(), String::new()];
        for (path, excluded) in [
            ("node_modules", true),
            ("a/node_modules", true),
            ("node_modules_old", false),
            ("dist/cache/x", true),
            ("dist/cached", false),
            ("src/dist/cache", false),
        ] {
            assert_eq!(is_excluded(Path::new(path), &exclude), excluded, "{path}");
        }
    }

    #[test]
    fn the_keyword_is_the_one_that_is_read() {
        assert_eq!(TAR_FAULT, miosa_types::guest::TAR_FAULT);
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for value in ["", "a", &"b".repeat(80), &"c".repeat(85), &"d".repeat(86), "ü"] {
            let record = pax_record("K", value);
            let length = record.split(' ').next().unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), record.len(), "{record:?}");
        }
    }
}
