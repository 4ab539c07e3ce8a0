//! `GET /tar`: a folder as a tar stream.
//!
//! Promises: POSIX pax, paths relative to the folder, in byte order; links are kept as links;
//! sockets, pipes and devices are left out. What changes while it is read gives at worst a file
//! with a torn content, never a torn archive.

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
    error::Error,
    state::{self, State},
    users::User,
};

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
        let mut archive = Builder::new(BufWriter::with_capacity(64 << 10, writer));
        let walked = add_folder(&mut archive, &root, Path::new(""), &exclude, 0)
            .and_then(|()| archive.into_inner()?.flush());
        if let Err(e) = walked {
            // The reader sees a broken stream, so it cannot take a part for the whole.
            let _ = tx.blocking_send(Err(e));
        }
        Ok(())
    })?);
    Ok(answer)
}

type Archive = Builder<BufWriter<BlockingWriter>>;

fn add_folder(
    archive: &mut Archive,
    root: &Path,
    inside: &Path,
    exclude: &[String],
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("folders are too deep"));
    }
    let mut names = Vec::new();
    for item in fs::read_dir(root.join(inside))? {
        names.push(item?.file_name());
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

fn add(archive: &mut Archive, root: &Path, path: &Path, found: &Metadata) -> io::Result<()> {
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
        let target = fs::read_link(root.join(path))?;
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
        Err(e) => return Err(e),
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
    archive.append(&header, content)
}

/// Stands in the header where the true path, in the extension before it, is too long.
fn short(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    PathBuf::from(
        name.chars().filter(char::is_ascii_alphanumeric).take(40).collect::<String>() + "_",
    )
}

#[cfg(test)]
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
