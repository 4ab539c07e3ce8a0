//! Artifact layers: immutable trees that lie over a template, unpacked once per host.
//!
//! Promises: a folder that [`Layers::ensure`] returns holds exactly what the digest names, whole,
//! also after a crash; the archive cannot reach outside of it, and is bounded. Concurrent calls
//! for one digest unpack once.

mod unpack;

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use miosa_types::Digest;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

/// Where artifacts come from.
#[async_trait]
pub trait LayerSource: fmt::Debug + Send + Sync {
    /// The tar of that digest; its paths are relative to `/`. `NotFound` if there is none.
    async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>>;
}

/// Why a layer is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not acceptable; the same one never will be.
    #[error("layer refused: {0}")]
    Refused(String),
    /// The bytes are not those that the digest names: fetch them anew.
    #[error("layer {wanted} is corrupt: its digest is {got}")]
    Corrupt {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// Source or disk failed; may pass.
    #[error("layer: {0}")]
    Io(#[from] io::Error),
}

const HALF_MADE: &str = ".new-";
const HALF_GONE: &str = ".old-";

/// The unpacked layers of an installation.
#[derive(Debug)]
pub struct Layers {
    folder: PathBuf,
    source: Arc<dyn LayerSource>,
    /// One lock per digest that is being unpacked.
    running: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl Layers {
    /// Opens `folder`, made if absent, and removes what a crash left there.
    pub fn open(folder: &Path, source: Arc<dyn LayerSource>) -> io::Result<Self> {
        fs_err::create_dir_all(folder)?;
        // Tenants' files with their modes: for nobody on the host but root.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(folder, private)?;
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(HALF_MADE) || name.starts_with(HALF_GONE) {
                fs_err::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), source, running: Mutex::default() })
    }

    /// The folder of a layer, unpacked now if it is not there.
    pub async fn ensure(&self, digest: Digest) -> Result<PathBuf, Error> {
        let path = self.folder.join(digest.to_string());
        if path.exists() {
            return Ok(path);
        }
        let lock = self.lock(digest);
        let _guard = lock.lock().await;
        if path.exists() {
            return Ok(path);
        }
        let reader = self.source.open(digest).await?;
        let draft = self.folder.join(format!("{HALF_MADE}{digest}"));
        let (from, to) = (draft.clone(), path.clone());
        let handle = tokio::runtime::Handle::current();
        let work = move || -> Result<(), Error> {
            let _ = fs_err::remove_dir_all(&from);
            let reader = SyncIoBridge::new_with_handle(reader, handle);
            match unpack::unpack(reader, digest, &from) {
                Ok(()) => Ok(fs_err::rename(&from, &to)?),
                Err(error) => {
                    let _ = fs_err::remove_dir_all(&from);
                    Err(error)
                }
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        Ok(path)
    }

    /// Removes a layer; `Ok` if there is none. Roots that are mounted over it keep working only
    /// until then: ask first what runs.
    pub fn remove(&self, digest: Digest) -> io::Result<()> {
        let gone = self.folder.join(format!("{HALF_GONE}{digest}"));
        match fs_err::rename(self.folder.join(digest.to_string()), &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs_err::remove_dir_all(&gone),
        }
    }

    /// The layers that are there.
    pub fn list(&self) -> io::Result<Vec<Digest>> {
        let entries = fs_err::read_dir(&self.folder)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let digest = |name: std::ffi::OsString| name.to_str()?.parse().ok();
        Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().filter_map(digest).collect())
    }

    fn lock(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = running.get(&digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        running.insert(digest, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests;
