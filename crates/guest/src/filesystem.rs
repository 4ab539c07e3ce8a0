//! The envd service `filesystem.Filesystem`: look, list, make, move, remove.
//!
//! Promises: everything happens with the rights of the user it is done for, on a thread, so that
//! a slow disk stops nobody else. Lists are bounded.
//! Source: E2B `packages/envd/spec/filesystem/filesystem.proto`. Watching is not offered.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    error::{Code, Error},
    state::State,
    time::rfc3339,
    users::{Accounts, User},
};

/// Entries of one list; a larger one is refused, its caller should ask for less depth.
const MAX_ENTRIES: usize = 50_000;

/// One path, and how deep to look.
#[derive(Debug, Deserialize)]
pub(crate) struct At {
    #[serde(default)]
    path: String,
    #[serde(default)]
    depth: u32,
}

/// Two paths.
#[derive(Debug, Deserialize)]
pub(crate) struct FromTo {
    source: String,
    destination: String,
}

/// Names of users and groups by number.
type Names<'a> = (HashMap<u32, &'a str>, HashMap<u32, &'a str>);

/// `EntryInfo`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    /// Proto-JSON writes 64-bit numbers as text.
    size: String,
    mode: u32,
    permissions: String,
    owner: String,
    group: String,
    modified_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<String>,
}

/// One entry; a link is described, not followed.
pub(crate) async fn stat(state: &State, user: User, at: At) -> Result<Value, Error> {
    let path = state.resolve(&at.path, &user);
    state.on_files(&user, move || entry_answer(&path)).await
}

/// Makes a folder and its parents.
pub(crate) async fn make_dir(state: &State, user: User, at: At) -> Result<Value, Error> {
    let path = state.resolve(&at.path, &user);
    state
        .on_files(&user, move || {
            let named = path.display().to_string();
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => {
                    return Err(Error::new(
                        Code::AlreadyExists,
                        format!("{named} is there already"),
                    ));
                }
                Ok(_) => return Err(Error::invalid(format!("{named} is not a folder"))),
                Err(_) => fs::create_dir_all(&path).map_err(|e| Error::io(&named, &e))?,
            }
            entry_answer(&path)
        })
        .await
}

/// Renames; makes the target's parents.
pub(crate) async fn rename(state: &State, user: User, request: FromTo) -> Result<Value, Error> {
    let from = state.resolve(&request.source, &user);
    let to = state.resolve(&request.destination, &user);
    state
        .on_files(&user, move || {
            let named = from.display().to_string();
            fs::symlink_metadata(&from).map_err(|e| Error::io(&named, &e))?;
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(|e| Error::io(&to.display().to_string(), &e))?;
            }
            fs::rename(&from, &to).map_err(|e| Error::io(&named, &e))?;
            entry_answer(&to)
        })
        .await
}

/// Removes a file or a folder with all it holds; well if it is not there.
pub(crate) async fn remove(state: &State, user: User, at: At) -> Result<Value, Error> {
    let path = state.resolve(&at.path, &user);
    state
        .on_files(&user, move || {
            // The standard library's removal follows no link on its way down.
            let removed = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(e) => Err(e),
            };
            match removed {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io(&path.display().to_string(), &e))
                }
                _ => Ok(json!({})),
            }
        })
        .await
}

/// Entries of a folder, sorted by path.
pub(crate) async fn list(state: &State, user: User, at: At) -> Result<Value, Error> {
    let path = state.resolve(&at.path, &user);
    state
        .on_files(&user, move || {
            let named = path.display().to_string();
            let found = fs::metadata(&path).map_err(|e| Error::io(&named, &e))?;
            if !found.is_dir() {
                return Err(Error::invalid(format!("{named} is not a folder")));
            }
            let accounts = Accounts::read();
            let mut entries = Vec::new();
            walk(&path, at.depth.max(1), &accounts.names(), &mut entries)
                .map_err(|e| Error::io(&named, &e))?;
            if entries.len() > MAX_ENTRIES {
                let text = format!("{named} holds more than {MAX_ENTRIES} entries");
                return Err(Error::new(Code::ResourceExhausted, text));
            }
            Ok(json!({ "entries": entries }))
        })
        .await
}

fn walk(folder: &Path, depth: u32, names: &Names<'_>, into: &mut Vec<Entry>) -> io::Result<()> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for item in fs::read_dir(folder)?.take(MAX_ENTRIES + 1) {
        paths.push(item?.path());
    }
    paths.sort_unstable();
    for path in paths {
        if into.len() > MAX_ENTRIES {
            return Ok(());
        }
        // What vanished meanwhile is not there.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        into.push(entry(&path, &found, names));
        if found.is_dir() && depth > 1 {
            match walk(&path, depth - 1, names, into) {
                // A folder the user may not read is listed without content.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
                    ) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn entry_answer(path: &Path) -> Result<Value, Error> {
    let found =
        fs::symlink_metadata(path).map_err(|e| Error::io(&path.display().to_string(), &e))?;
    Ok(json!({ "entry": entry(path, &found, &Accounts::read().names()) }))
}

fn entry(path: &Path, found: &Metadata, names: &Names<'_>) -> Entry {
    let name = |names: &HashMap<u32, &str>, id: u32| {
        names.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned())
    };
    let file_type = found.file_type();
    let kind = if file_type.is_file() {
        "FILE_TYPE_FILE"
    } else if file_type.is_dir() {
        "FILE_TYPE_DIRECTORY"
    } else if file_type.is_symlink() {
        "FILE_TYPE_SYMLINK"
    } else {
        "FILE_TYPE_UNSPECIFIED"
    };
    Entry {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        kind,
        path: path.to_string_lossy().into_owned(),
        size: found.len().to_string(),
        mode: found.mode() & 0o7777,
        permissions: permissions(found),
        owner: name(&names.0, found.uid()),
        group: name(&names.1, found.gid()),
        modified_time: rfc3339(found.mtime(), found.mtime_nsec()),
        symlink_target: file_type
            .is_symlink()
            .then(|| fs::read_link(path).ok())
            .flatten()
            .map(|target| target.to_string_lossy().into_owned()),
    }
}

/// As `ls -l` shows it.
fn permissions(found: &Metadata) -> String {
    let file_type = found.file_type();
    let first = match () {
        () if file_type.is_dir() => 'd',
        () if file_type.is_symlink() => 'l',
        () if file_type.is_fifo() => 'p',
        () if file_type.is_socket() => 's',
        () if file_type.is_char_device() => 'c',
        () if file_type.is_block_device() => 'b',
        () => '-',
    };
    let bits = (0..9).rev().zip("rwxrwxrwx".chars());
    std::iter::once(first)
        .chain(bits.map(|(bit, letter)| if found.mode() >> bit & 1 == 1 { letter } else { '-' }))
        .collect()
}
