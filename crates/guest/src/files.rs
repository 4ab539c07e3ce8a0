//! `GET` and `POST /files`: one file's bytes, streamed.
//!
//! Promises: a file has its old content until all bytes of the new one are there (they go to a
//! temporary name beside it, which is then renamed); a broken upload leaves nothing behind. At
//! most one chunk of a file is in memory.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    body::{self, Answer, Sender},
    error::{Code, Error},
    state::State,
    users::User,
};

/// Read or written at once.
const CHUNK: usize = 128 << 10;

/// A file's content and its length.
pub(crate) async fn read(state: &State, user: &User, path: &str) -> Result<(u64, Answer), Error> {
    let resolved = state.resolve(path, user);
    let named = path.to_owned();
    let (file, length) = state
        .on_files(user, move || {
            // Opening a pipe or a device could block for ever, so it must not.
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(&resolved)
                .map_err(|e| Error::io(&named, &e))?;
            let found = file.metadata().map_err(|e| Error::io(&named, &e))?;
            if !found.is_file() {
                return Err(Error::invalid(format!("{named} is not a regular file")));
            }
            Ok((file, found.len()))
        })
        .await?;
    let (tx, answer) = body::stream();
    tokio::spawn(copy_out(file, length, tx));
    Ok((length, answer))
}

/// Sends exactly `left` bytes: the length was promised. A file that became shorter ends with an
/// error.
async fn copy_out(mut file: File, mut left: u64, tx: Sender) {
    while left > 0 {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = BytesMut::zeroed(CHUNK.min(usize::try_from(left).unwrap_or(CHUNK)));
            let n = file.read(&mut chunk)?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            chunk.truncate(n);
            Ok((file, chunk.freeze()))
        });
        match read.await {
            Ok(Ok((same, chunk))) => {
                file = same;
                left -= chunk.len() as u64;
                if !body::send(&tx, chunk).await {
                    return;
                }
            }
            Ok(Err(e)) => return drop(tx.send(Err(e)).await),
            // The runtime is ending.
            Err(_) => return,
        }
    }
}

/// Replaces a file's content.
pub(crate) async fn write(
    state: &State,
    user: &User,
    path: &str,
    mut content: Incoming,
) -> Result<Value, Error> {
    let written = receive(state, user, path, &mut content).await;
    if written.is_err() {
        body::discard(content);
    }
    written
}

async fn receive(
    state: &State,
    user: &User,
    path: &str,
    content: &mut Incoming,
) -> Result<Value, Error> {
    let target = state.resolve(path, user);
    let mut upload = state.on_files(user, move || Upload::begin(&target)).await?;
    let mut chunk = BytesMut::new();
    loop {
        let piece = body::next(content).await?;
        chunk.extend_from_slice(piece.as_deref().unwrap_or_default());
        let is_last = piece.is_none();
        if chunk.len() >= CHUNK || is_last && !chunk.is_empty() {
            let full: Bytes = chunk.split().freeze();
            upload = state.on_files(user, move || upload.append(&full)).await?;
        }
        if is_last {
            break;
        }
    }
    let target = state.on_files(user, move || upload.finish()).await?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    Ok(json!([{ "name": name, "type": "file", "path": target.to_string_lossy() }]))
}

/// A file that is being received.
#[derive(Debug)]
struct Upload {
    file: File,
    temporary: Temporary,
    target: PathBuf,
}

/// Removed unless it was renamed.
#[derive(Debug)]
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Runs with the guest's own rights; the name is one only we make.
            let _ = fs::remove_file(path);
        }
    }
}

impl Upload {
    fn begin(path: &Path) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let named = path.display().to_string();
        // A link stays, and what it points to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mode = match fs::metadata(&target) {
            Ok(found) if found.is_file() => Some(found.permissions().mode() & 0o777),
            Ok(_) => return Err(Error::invalid(format!("{named} is not a regular file"))),
            Err(_) => None,
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Error::invalid(format!("{named} names no file")));
        };
        fs::create_dir_all(parent).map_err(|e| Error::io(&named, &e))?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The name must stay below 255 bytes, however long the file's own is.
        let stem: String = name.to_string_lossy().chars().take(40).collect();
        let temporary = parent.join(format!(".{stem}.{}-{number}.part", std::process::id()));
        // Left by an earlier run, if it is there at all.
        let _ = fs::remove_file(&temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| Error::io(&named, &e))?;
        let temporary = Temporary(Some(temporary));
        if let Some(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode))
                .map_err(|e| Error::io(&named, &e))?;
        }
        Ok(Self { file, temporary, target })
    }

    fn append(mut self, bytes: &[u8]) -> Result<Self, Error> {
        match self.file.write_all(bytes) {
            Ok(()) => Ok(self),
            Err(e) => Err(no_space_or(&self.target, &e)),
        }
    }

    fn finish(mut self) -> Result<PathBuf, Error> {
        if let Some(temporary) = &self.temporary.0 {
            fs::rename(temporary, &self.target).map_err(|e| no_space_or(&self.target, &e))?;
        }
        self.temporary.0 = None;
        Ok(self.target)
    }
}

fn no_space_or(path: &Path, error: &std::io::Error) -> Error {
    let error = Error::io(&path.display().to_string(), error);
    if error.code == Code::ResourceExhausted {
        return Error::new(Code::ResourceExhausted, "no space is left on the disk");
    }
    error
}
