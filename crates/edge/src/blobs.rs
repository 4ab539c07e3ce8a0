//! The edge's own copies of blobs: files of sites, manifests, certificates.
//!
//! Promises: a blob is checked against its digest when it enters, again when it is first opened
//! after a start, and by a slow scrub (`scrub`), and a damaged one is removed so that it is fetched anew; it appears
//! under its name complete or not at all; what is kept in memory and open is bounded. Nothing
//! here needs control.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use miosa_types::{Digest, manifest::SiteManifest};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// Longest blob that is served from memory, in bytes.
const SMALL: u64 = 64 * 1024;

/// Longest manifest, in bytes.
const MANIFEST: u64 = 64 * 1024 * 1024;

/// What an open file costs in the cache, in bytes: 64 MiB are at most 256 of them.
const OPEN_FILE: u64 = 256 * 1024;

/// What is kept ready, in bytes, over all shards.
const MEMORY: u64 = 64 * 1024 * 1024;

/// Locks that share the load of all cores.
const SHARDS: usize = 16;

/// How many parsed manifests are kept.
const MANIFESTS: usize = 256;

/// Numbers temporary files. A second process on the same folder (an upgrade) has another pid.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct BlobCache {
    dir: PathBuf,
    shards: [Mutex<Recent>; SHARDS],
    verified: Mutex<HashSet<Digest>>,
    manifests: Mutex<HashMap<Digest, Arc<SiteManifest>>>,
}

/// The bytes of a blob, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) enum Blob {
    /// A small one.
    Memory(Bytes),
    /// A larger one.
    File { file: Arc<File>, size: u64 },
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// It is not here (any more): fetch it.
    #[error("blob {0} is not here")]
    Missing(Digest),
    /// What came was something else: report it, ask again later.
    #[error("blob {0} is damaged")]
    Corrupt(Digest),
    /// The disk or the sender failed.
    #[error("blob {digest} could not be read or written")]
    Io {
        digest: Digest,
        #[source]
        source: io::Error,
    },
}

impl Blob {
    /// Length in bytes.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

impl BlobCache {
    /// Opens or makes the cache in `dir` and removes what an earlier process left half written.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(dir)?;
        let incoming = dir.join("incoming");
        fs_err::create_dir_all(&incoming)?;
        for entry in fs_err::read_dir(&incoming)? {
            let path = entry?.path();
            // A file of a process that still runs (the older generation) is not ours to remove.
            let pid = path.file_name().and_then(|name| name.to_str()?.split('-').next());
            let alive = pid.is_some_and(|pid| Path::new("/proc").join(pid).exists());
            if !alive {
                let _ = fs_err::remove_file(path);
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            shards: std::array::from_fn(|_| Mutex::default()),
            verified: Mutex::default(),
            manifests: Mutex::default(),
        })
    }

    /// Makes sure that a blob is here, intact. `fetch` is called only if it is not.
    pub(crate) async fn ensure<F, R>(&self, digest: Digest, fetch: F) -> Result<(), BlobError>
    where
        F: AsyncFnOnce() -> io::Result<R>,
        R: AsyncRead + Unpin,
    {
        match self.get(digest).await {
            Ok(_) => return Ok(()),
            Err(BlobError::Missing(_) | BlobError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        self.bring(digest, fetch).await
    }

    /// Puts a blob here, whatever is here already.
    pub(crate) async fn bring<F, R>(&self, digest: Digest, fetch: F) -> Result<(), BlobError>
    where
        F: AsyncFnOnce() -> io::Result<R>,
        R: AsyncRead + Unpin,
    {
        let io = |source| BlobError::Io { digest, source };
        let from = fetch().await.map_err(io)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let incoming = self.dir.join(format!("incoming/{}-{number}", std::process::id()));
        let written = match write_checked(&incoming, from).await {
            Ok(found) if found == digest => self.name(&incoming, digest).map_err(io),
            Ok(_) => Err(BlobError::Corrupt(digest)),
            Err(source) => Err(io(source)),
        };
        match &written {
            Ok(()) => {
                self.close(digest);
                lock(&self.verified).insert(digest);
            }
            Err(_) => drop(fs_err::remove_file(&incoming)),
        }
        written
    }

    /// A blob. At its first use after a start its bytes are checked.
    pub(crate) async fn get(&self, digest: Digest) -> Result<Blob, BlobError> {
        if let Some(blob) = self.shard(digest).get(digest) {
            return Ok(blob);
        }
        let path = self.path(digest);
        let is_verified = lock(&self.verified).contains(&digest);
        let work = tokio::task::spawn_blocking(move || load(&path, digest, is_verified));
        let loaded = work
            .await
            .unwrap_or_else(|error| Err(BlobError::Io { digest, source: io::Error::other(error) }));
        if let Err(BlobError::Corrupt(_)) = &loaded {
            tracing::error!(%digest, "a blob on the edge's disk is damaged; it is removed");
            self.discard(digest);
        }
        let blob = loaded?;
        lock(&self.verified).insert(digest);
        self.shard(digest).put(digest, blob.clone());
        Ok(blob)
    }

    /// A blob that holds a manifest, parsed.
    pub(crate) async fn manifest(&self, digest: Digest) -> Result<Arc<SiteManifest>, BlobError> {
        if let Some(manifest) = lock(&self.manifests).get(&digest) {
            return Ok(Arc::clone(manifest));
        }
        let bytes = self.bytes(digest, MANIFEST).await?;
        let manifest: SiteManifest = serde_json::from_slice(&bytes)
            .map_err(|error| BlobError::Io { digest, source: error.into() })?;
        let manifest = Arc::new(manifest);
        let mut manifests = lock(&self.manifests);
        if manifests.len() >= MANIFESTS {
            // Any will do: they come back at the price of one read.
            let victim = manifests.keys().next().copied();
            victim.and_then(|victim| manifests.remove(&victim));
        }
        manifests.insert(digest, Arc::clone(&manifest));
        Ok(manifest)
    }

    /// All bytes of a blob, at most `limit`.
    pub(crate) async fn bytes(&self, digest: Digest, limit: u64) -> Result<Bytes, BlobError> {
        let io = |source| BlobError::Io { digest, source };
        match self.get(digest).await? {
            Blob::Memory(bytes) => Ok(bytes),
            Blob::File { size, .. } if size > limit => {
                Err(io(io::Error::new(io::ErrorKind::FileTooLarge, "larger than allowed")))
            }
            Blob::File { file, size } => {
                let length = usize::try_from(size).map_err(|e| io(io::Error::other(e)))?;
                let work = tokio::task::spawn_blocking(move || {
                    use std::os::unix::fs::FileExt as _;
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, 0).map(|()| Bytes::from(bytes))
                });
                work.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(io)
            }
        }
    }

    /// Removes a blob whose file is damaged. Its bytes in memory, if they are, were checked.
    pub(crate) fn discard(&self, digest: Digest) {
        lock(&self.verified).remove(&digest);
        self.close(digest);
        let _ = fs_err::remove_file(self.path(digest));
    }

    /// Uses an open file no longer.
    fn close(&self, digest: Digest) {
        let mut shard = self.shard(digest);
        if matches!(shard.get(digest), Some(Blob::File { .. })) {
            shard.remove(digest);
        }
    }

    /// Every blob that is here.
    pub(crate) fn all(&self) -> io::Result<Vec<Digest>> {
        let mut all = Vec::new();
        for folder in fs_err::read_dir(&self.dir)? {
            let folder = folder?;
            if folder.file_name() == "incoming" || !folder.file_type()?.is_dir() {
                continue;
            }
            for entry in fs_err::read_dir(folder.path())? {
                let entry = entry?;
                let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                all.push(digest);
            }
        }
        Ok(all)
    }

    /// Removes every blob that is not in `live`. Answers that are under way keep their file.
    pub(crate) fn retain(&self, live: &BTreeSet<Digest>) -> io::Result<u64> {
        let mut removed = 0;
        lock(&self.manifests).retain(|digest, _| live.contains(digest));
        for digest in self.all()?.into_iter().filter(|digest| !live.contains(digest)) {
            self.shard(digest).remove(digest);
            lock(&self.verified).remove(&digest);
            fs_err::remove_file(self.path(digest))?;
            removed += 1;
        }
        Ok(removed)
    }

    fn shard(&self, digest: Digest) -> MutexGuard<'_, Recent> {
        lock(&self.shards[usize::from(digest.bytes()[31]) % SHARDS])
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn name(&self, incoming: &Path, digest: Digest) -> io::Result<()> {
        let path = self.path(digest);
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        fs_err::rename(incoming, path)
    }
}

/// Blobs that were used lately, within a bound.
#[derive(Debug, Default)]
struct Recent {
    blobs: HashMap<Digest, (Blob, u64)>,
    order: BTreeMap<u64, Digest>,
    cost: u64,
    clock: u64,
}

impl Recent {
    fn get(&mut self, digest: Digest) -> Option<Blob> {
        let (blob, used) = self.blobs.get_mut(&digest)?;
        self.clock += 1;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, digest);
        Some(blob.clone())
    }

    fn put(&mut self, digest: Digest, blob: Blob) {
        self.remove(digest);
        self.clock += 1;
        self.cost += cost(&blob);
        self.blobs.insert(digest, (blob, self.clock));
        self.order.insert(self.clock, digest);
        while self.cost > MEMORY / SHARDS as u64 {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            self.remove(*oldest);
        }
    }

    fn remove(&mut self, digest: Digest) {
        if let Some((blob, used)) = self.blobs.remove(&digest) {
            self.order.remove(&used);
            self.cost -= cost(&blob);
        }
    }
}

/// Bookkeeping included, so that many empty files do not cost nothing.
const fn cost(blob: &Blob) -> u64 {
    match blob {
        Blob::Memory(bytes) => bytes.len() as u64 + 256,
        Blob::File { .. } => OPEN_FILE,
    }
}

fn load(path: &Path, digest: Digest, is_verified: bool) -> Result<Blob, BlobError> {
    let io = |source| BlobError::Io { digest, source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BlobError::Missing(digest));
        }
        Err(error) => return Err(io(error)),
    };
    let size = file.metadata().map_err(io)?.len();
    if size <= SMALL {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if Digest::of(&bytes) != digest {
            return Err(BlobError::Corrupt(digest));
        }
        return Ok(Blob::Memory(bytes.into()));
    }
    if !is_verified {
        let mut hash = Sha256::new();
        io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(io)?;
        if Digest::from_bytes(hash.finalize().into()) != digest {
            return Err(BlobError::Corrupt(digest));
        }
    }
    Ok(Blob::File { file: Arc::new(file), size })
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn write_checked(path: &Path, mut from: impl AsyncRead + Unpin) -> io::Result<Digest> {
    let mut to = tokio::fs::File::create(path).await?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        to.write_all(&buffer[..read]).await?;
    }
    to.flush().await?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(cache: &BlobCache, bytes: &'static [u8]) -> Digest {
        let digest = Digest::of(bytes);
        cache.ensure(digest, async || Ok(bytes)).await.unwrap();
        digest
    }

    #[tokio::test]
    async fn a_blob_enters_once_and_only_if_it_is_the_right_one() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path()).unwrap();
        let digest = put(&cache, b"hello").await;
        let never = async || -> io::Result<&[u8]> { Err(io::Error::other("asked again")) };
        cache.ensure(digest, never).await.unwrap();
        let other = Digest::of(b"other");
        let error = cache.ensure(other, async || Ok(&b"hello"[..])).await.unwrap_err();
        assert!(matches!(error, BlobError::Corrupt(_)));
        assert!(matches!(cache.get(other).await, Err(BlobError::Missing(_))));
        assert_eq!(fs_err::read_dir(dir.path().join("incoming")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn damage_on_the_disk_is_found_at_the_first_use_after_a_start() {
        for size in [100, 300_000] {
            let dir = tempfile::tempdir().unwrap();
            let bytes: &'static [u8] = vec![7; size].leak();
            let digest = put(&BlobCache::open(dir.path()).unwrap(), bytes).await;
            let cache = BlobCache::open(dir.path()).unwrap();
            let mut damaged = bytes.to_vec();
            damaged[size / 2] ^= 1;
            fs_err::write(cache.path(digest), damaged).unwrap();
            assert!(matches!(cache.get(digest).await, Err(BlobError::Corrupt(_))));
            assert!(matches!(cache.get(digest).await, Err(BlobError::Missing(_))));
            cache.ensure(digest, async || Ok(bytes)).await.unwrap();
            assert_eq!(cache.get(digest).await.unwrap().size(), size as u64);
        }
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut recent = Recent::default();
        let digest = |number: u32| Digest::of(&number.to_le_bytes());
        recent.put(digest(0), Blob::Memory(Bytes::from(vec![0; 60_000])));
        for number in 1..100 {
            recent.put(digest(number), Blob::Memory(Bytes::from(vec![0; 60_000])));
            assert!(recent.get(digest(0)).is_some(), "it is used all the time");
        }
        assert!(recent.cost <= MEMORY / SHARDS as u64);
        assert!(recent.get(digest(1)).is_none() && recent.get(digest(99)).is_some());
        assert_eq!(recent.blobs.len(), recent.order.len());
    }

    #[tokio::test]
    async fn only_what_is_live_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = BlobCache::open(dir.path()).unwrap();
        let (keep, drop) = (put(&cache, b"keep").await, put(&cache, b"drop").await);
        assert_eq!(cache.retain(&BTreeSet::from([keep])).unwrap(), 1);
        assert!(cache.get(keep).await.is_ok());
        assert!(matches!(cache.get(drop).await, Err(BlobError::Missing(_))));
    }
}
