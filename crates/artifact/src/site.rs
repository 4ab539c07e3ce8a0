//! From the tar of an output folder to the blobs and the manifest of a static version.
//!
//! Promises: hostile entries refuse the whole site with a sentence for its owner; secrets that
//! are often left in an output folder (`.env*`, `.git`) are never published; the manifest is
//! stored last, so where it exists all its blobs do; the same folder gives the same digest.

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    io::AsyncRead,
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::io::SyncIoBridge;

use miosa_types::{
    Digest,
    manifest::{SiteFile, SiteManifest},
};

use crate::{
    archive::{self, Entry, Error, Kind, Limits, Links},
    compress,
    intake::joined,
    store::ArtifactStore,
};

/// How much a site may take while it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bounds of the folder.
    pub limits: Limits,
    /// Files that are compressed at the same time.
    pub workers: usize,
    /// Most MiB of files in memory at once; at least the largest file allowed.
    pub memory_mib: u32,
}

impl Default for Options {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { limits: Limits::SITE, workers, memory_mib: 128 }
    }
}

/// A file on its way from the reader to the workers.
struct Found {
    path: String,
    bytes: Vec<u8>,
    /// Its share of the memory, given back when it is stored.
    room: OwnedSemaphorePermit,
}

/// Stores all files of `archive` (paths relative to the output folder) and their manifest.
pub async fn store_site<R>(
    store: &ArtifactStore,
    archive: R,
    options: Options,
) -> Result<(Digest, SiteManifest), Error>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let (send, mut found) = mpsc::channel(1);
    let archive = SyncIoBridge::new(archive);
    let reader = tokio::task::spawn_blocking(move || read_files(archive, options, &send));
    let mut files = BTreeMap::new();
    let mut workers = JoinSet::new();
    while let Some(file) = found.recv().await {
        if workers.len() >= options.workers.max(1) {
            take(&mut files, workers.join_next().await)?;
        }
        workers.spawn(store_file(store.clone(), file));
    }
    let links = joined(reader.await)?;
    while let Some(stored) = workers.join_next().await {
        take(&mut files, Some(stored))?;
    }
    resolve(&links, &mut files)?;
    if files.is_empty() {
        return Err(Error::refused("the output folder contains no files to publish"));
    }
    let spa = files.contains_key("index.html") && !files.contains_key("404.html");
    let manifest = SiteManifest { files, spa };
    let json = serde_json::to_vec(&manifest).map_err(|e| Error::Io { source: e.into() })?;
    let blob = store.put(json.into()).await.map_err(|source| Error::Store { source })?;
    Ok((blob.digest, manifest))
}

type Stored = Result<(String, SiteFile), Error>;

fn take(
    files: &mut BTreeMap<String, SiteFile>,
    stored: Option<Result<Stored, tokio::task::JoinError>>,
) -> Result<(), Error> {
    if let Some(stored) = stored {
        let (path, file) = joined(stored)?;
        files.insert(path, file);
    }
    Ok(())
}

/// Reads every file into memory, as long as there is room, and returns the links.
fn read_files<R: io::Read>(
    archive: R,
    options: Options,
    send: &mpsc::Sender<Found>,
) -> Result<Vec<(String, String)>, Error> {
    let room = Arc::new(Semaphore::new(options.memory_mib as usize));
    let mut links = Vec::new();
    archive::walk(archive, options.limits, Links::Inside { root: "" }, |entry| {
        let Entry { path, kind, .. } = entry;
        let path = name_of(path)?;
        if is_hidden(&path) {
            return Ok(());
        }
        match kind {
            Kind::Folder => {}
            Kind::File { size, body } => {
                let mib = u32::try_from(size / (1024 * 1024) + 1).unwrap_or(u32::MAX);
                let share = Arc::clone(&room).acquire_many_owned(mib.min(options.memory_mib));
                let room = Handle::current()
                    .block_on(share)
                    .expect("the semaphore is never closed while this function holds it");
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes).map_err(|source| Error::Io { source })?;
                send.blocking_send(Found { path, bytes, room })
                    .map_err(|_| Error::Io { source: io::ErrorKind::BrokenPipe.into() })?;
            }
            Kind::Symlink { target } => {
                let folder = Path::new(&path).parent().unwrap_or(Path::new(""));
                links.push((path.clone(), name_of(&plain(&folder.join(target)))?));
            }
            Kind::HardLink { target } => links.push((path, name_of(&plain(target))?)),
        }
        Ok(())
    })?;
    Ok(links)
}

/// Never published, wherever it lies.
fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| {
        matches!(part, ".git" | ".svn" | ".hg" | ".DS_Store" | "node_modules")
            || part.starts_with(".env")
    })
}

async fn store_file(store: ArtifactStore, file: Found) -> Stored {
    let Found { path, bytes, room } = file;
    let work = move || {
        let bytes = Bytes::from(bytes);
        let content_type = compress::content_type(&path, &bytes);
        let variants = compress::variants(&content_type, &bytes);
        (path, bytes, content_type, variants)
    };
    let compressed = tokio::task::spawn_blocking(work).await;
    let (path, bytes, content_type, variants) =
        compressed.map_err(|error| Error::Io { source: io::Error::other(error) })?;
    let put = async |bytes: Bytes| store.put(bytes).await.map_err(|source| Error::Store { source });
    let blob = put(bytes).await?;
    let mut stored = SiteFile { blob, content_type, brotli: None, gzip: None };
    if let Some(bytes) = variants.brotli {
        stored.brotli = Some(put(bytes.into()).await?);
    }
    if let Some(bytes) = variants.gzip {
        stored.gzip = Some(put(bytes.into()).await?);
    }
    drop(room);
    Ok((path, stored))
}

/// A link to a file becomes that file under a second name.
fn resolve(
    links: &[(String, String)],
    files: &mut BTreeMap<String, SiteFile>,
) -> Result<(), Error> {
    let targets: BTreeMap<&str, &str> =
        links.iter().map(|(path, target)| (path.as_str(), target.as_str())).collect();
    for (path, target) in links {
        let mut last = target.as_str();
        // Bounded: a circle of links ends here.
        for _ in 0..16 {
            match targets.get(last) {
                Some(next) => last = next,
                None => break,
            }
        }
        let Some(file) = files.get(last).cloned() else {
            return Err(Error::refused(format!(
                "the link `{path}` points to `{target}`, which is no published file"
            )));
        };
        files.insert(path.clone(), file);
    }
    Ok(())
}

/// Removes `.` and `..` as text; [`archive::walk`] has made sure that this never leaves the root.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::RootDir => plain.clear(),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

fn name_of(path: &Path) -> Result<String, Error> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::refused(format!("the file name `{}` is not UTF-8", path.display())))
}
