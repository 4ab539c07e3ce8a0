//! The store itself, over a folder of this machine.
//!
//! Promises: writes go to a temporary name first and are renamed when they are complete and on
//! disk, so a crash leaves no half blob; whole reads are checked against the digest, and the
//! last read of a changed blob is an error instead of an end.

use std::{
    io,
    path::{Path as FsPath, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{
    GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    local::LocalFileSystem, path::Path,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use miosa_types::{Digest, guest::ByteStream, manifest::BlobRef};

/// How many bytes are written or read at once.
const CHUNK: usize = 1024 * 1024;

/// Folder of what is being written.
const INCOMING: &str = "incoming";

/// Numbers temporary names; they only have to differ within this process, which owns the folder.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Bytes of one blob.
pub type BlobReader = Pin<Box<dyn AsyncRead + Send>>;

/// Blobs by digest. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    files: Arc<LocalFileSystem>,
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No blob has that digest.
    #[error("artifact {digest} does not exist")]
    NotFound {
        /// Which.
        digest: Digest,
    },
    /// The bytes are not what they were: do not serve them, tell the operator.
    #[error("artifact {digest} is damaged")]
    Corrupt {
        /// Which.
        digest: Digest,
    },
    /// The disk is full or its quota is used up: collect garbage, refuse new publishes.
    #[error("no space is left for artifacts")]
    NoSpace,
    /// More bytes than the caller allowed.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// The bytes to store could not be read.
    #[error("what was to be stored could not be read")]
    Source {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk failed. What was asked may have happened or not; it is safe to ask again.
    #[error("artifact store failed to {action}")]
    Unavailable {
        /// What it was doing.
        action: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ArtifactStore {
    /// Opens or makes the store in `dir`, and removes what an earlier process began to write
    /// and never finished. One process owns a store at a time.
    pub fn open(dir: &FsPath) -> Result<Self, Error> {
        let incoming: PathBuf = dir.join(INCOMING);
        match fs_err::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unavailable("clear unfinished blobs", error));
            }
            _ => {}
        }
        fs_err::create_dir_all(&incoming).map_err(|error| unavailable("make its folder", error))?;
        let files = LocalFileSystem::new_with_prefix(dir)
            .map_err(|error| failed("open its folder", error))?
            .with_fsync(true);
        Ok(Self { files: Arc::new(files) })
    }

    /// Stores `bytes`. Storing what is there already costs one look.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobRef, Error> {
        let blob = BlobRef { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        match self.size(blob.digest).await {
            Ok(size) if size == blob.size => return Ok(blob),
            // A file of another length under this name is damaged; it is written anew.
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.files
            .put(&location(blob.digest), PutPayload::from(bytes))
            .await
            .map_err(|error| failed("write a blob", error))?;
        Ok(blob)
    }

    /// Stores a stream of unknown length, at most `limit` bytes. Nothing stays if it fails.
    pub async fn put_stream<S>(&self, bytes: S, limit: u64) -> Result<BlobRef, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let name = format!("{INCOMING}/{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let incoming = Path::from(name);
        let mut upload = self
            .files
            .put_multipart(&incoming)
            .await
            .map_err(|error| failed("begin a blob", error))?;
        let written = match write_parts(upload.as_mut(), bytes, limit).await {
            Ok(blob) => upload
                .complete()
                .await
                .map(|_| blob)
                .map_err(|error| failed("finish a blob", error)),
            Err(error) => {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "unfinished blob could not be removed");
                }
                Err(error)
            }
        };
        let blob = written?;
        self.files
            .rename(&incoming, &location(blob.digest))
            .await
            .map_err(|error| failed("name a blob", error))?;
        Ok(blob)
    }

    /// The bytes of a blob. Where they do not fit the digest the stream ends with an error of
    /// kind `InvalidData`, so whoever reads to the end knows.
    pub async fn get_stream(&self, digest: Digest) -> Result<ByteStream, Error> {
        let found = self
            .files
            .get(&location(digest))
            .await
            .map_err(|error| missing(digest, error, "open a blob"))?;
        let bytes: ByteStream = match found.payload {
            GetResultPayload::File(file, _) => {
                let file = tokio::fs::File::from_std(file);
                Box::pin(ReaderStream::with_capacity(file, CHUNK))
            }
            GetResultPayload::Stream(stream) => Box::pin(stream.map_err(io::Error::other)),
        };
        Ok(Box::pin(checked(bytes, digest)))
    }

    /// The bytes of a blob, checked, if they are at most `limit`.
    pub async fn get_bytes(&self, digest: Digest, limit: u64) -> Result<Bytes, Error> {
        if self.size(digest).await? > limit {
            return Err(Error::TooLarge { limit });
        }
        let bytes = self
            .files
            .get(&location(digest))
            .await
            .map_err(|error| missing(digest, error, "open a blob"))?
            .bytes()
            .await
            .map_err(|error| missing(digest, error, "read a blob"))?;
        if Digest::of(&bytes) != digest {
            return Err(Error::Corrupt { digest });
        }
        Ok(bytes)
    }

    /// [`ArtifactStore::get_stream`] as a reader.
    pub async fn reader(&self, digest: Digest) -> Result<BlobReader, Error> {
        Ok(Box::pin(StreamReader::new(self.get_stream(digest).await?)))
    }

    /// Length of a blob in bytes.
    pub async fn size(&self, digest: Digest) -> Result<u64, Error> {
        let head = self.files.head(&location(digest)).await;
        Ok(head.map_err(|error| missing(digest, error, "look up a blob"))?.size)
    }

    /// Whether a blob is there.
    pub async fn exists(&self, digest: Digest) -> Result<bool, Error> {
        match self.size(digest).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob. `Ok` if it is gone already. Whether anything still needs it is for the
    /// caller to know.
    pub async fn delete(&self, digest: Digest) -> Result<(), Error> {
        match self.files.delete(&location(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove a blob", error)),
        }
    }

    /// Every blob that is there, in no order. Files that are no blobs are left out.
    pub fn list(&self) -> Pin<Box<dyn Stream<Item = Result<BlobRef, Error>> + Send>> {
        let files = self.files.list(None);
        Box::pin(files.filter_map(|found| {
            let blob = match found {
                Ok(meta) if meta.location.as_ref().starts_with(INCOMING) => None,
                Ok(meta) => meta
                    .location
                    .filename()
                    .and_then(|name| name.parse().ok())
                    .map(|digest| Ok(BlobRef { digest, size: meta.size })),
                Err(error) => Some(Err(failed("list blobs", error))),
            };
            std::future::ready(blob)
        }))
    }
}

async fn write_parts<S>(
    upload: &mut dyn MultipartUpload,
    bytes: S,
    limit: u64,
) -> Result<BlobRef, Error>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
{
    let mut bytes = std::pin::pin!(bytes);
    let (mut hash, mut size, mut part) = (Sha256::new(), 0_u64, BytesMut::new());
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|source| Error::Source { source })?;
        size += chunk.len() as u64;
        if size > limit {
            return Err(Error::TooLarge { limit });
        }
        hash.update(&chunk);
        part.extend_from_slice(&chunk);
        if part.len() >= CHUNK {
            write_part(upload, part.split().freeze()).await?;
        }
    }
    if !part.is_empty() {
        write_part(upload, part.freeze()).await?;
    }
    Ok(BlobRef { digest: Digest::from_bytes(hash.finalize().into()), size })
}

async fn write_part(upload: &mut dyn MultipartUpload, part: Bytes) -> Result<(), Error> {
    let written = upload.put_part(PutPayload::from(part)).await;
    written.map_err(|error| failed("write a blob", error))
}

/// Passes `bytes` on and adds an error at the end if their digest is another one.
fn checked(
    bytes: ByteStream,
    digest: Digest,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some((bytes, Sha256::new())), move |state| async move {
        let (mut bytes, mut hash) = state?;
        match bytes.next().await {
            Some(Ok(chunk)) => {
                hash.update(&chunk);
                Some((Ok(chunk), Some((bytes, hash))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None if Digest::from_bytes(hash.finalize().into()) == digest => None,
            None => {
                let error = io::Error::new(io::ErrorKind::InvalidData, Error::Corrupt { digest });
                Some((Err(error), None))
            }
        }
    })
}

/// Blobs are spread over 256 folders by the first two digits of their digest.
fn location(digest: Digest) -> Path {
    let text = digest.to_string();
    Path::from(format!("{}/{text}", &text[..2]))
}

fn missing(digest: Digest, error: object_store::Error, action: &'static str) -> Error {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return Error::NotFound { digest };
    }
    failed(action, error)
}

fn failed(action: &'static str, error: object_store::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let kind = inner.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return Error::NoSpace;
        }
        cause = inner.source();
    }
    Error::Unavailable { action, source: Box::new(error) }
}

fn unavailable(action: &'static str, error: io::Error) -> Error {
    Error::Unavailable { action, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ArtifactStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn chunks(parts: &[&'static str]) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let parts: Vec<_> =
            parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
        stream::iter(parts)
    }

    #[tokio::test]
    async fn a_blob_is_named_by_its_bytes_however_it_came() {
        let (_dir, store) = store();
        let whole = store.put(Bytes::from_static(b"hello world")).await.unwrap();
        let streamed = store.put_stream(chunks(&["hello", " ", "world"]), 11).await.unwrap();
        assert_eq!(whole, streamed);
        assert_eq!(store.get_bytes(whole.digest, 11).await.unwrap(), "hello world");
        assert_eq!(store.size(whole.digest).await.unwrap(), 11);
        let listed: Vec<_> = store.list().try_collect().await.unwrap();
        assert_eq!(listed, [whole]);
        store.delete(whole.digest).await.unwrap();
        store.delete(whole.digest).await.unwrap();
        assert!(!store.exists(whole.digest).await.unwrap());
        let gone = store.get_bytes(whole.digest, 11).await.unwrap_err();
        assert!(matches!(gone, Error::NotFound { .. }));
    }

    #[tokio::test]
    async fn a_failed_stream_leaves_nothing() {
        let (dir, store) = store();
        let error = store.put_stream(chunks(&["hello", "world"]), 9).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { limit: 9 }));
        let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(io::Error::other("cut"))]);
        let error = store.put_stream(broken, 9).await.unwrap_err();
        assert!(matches!(error, Error::Source { .. }));
        assert_eq!(fs_err::read_dir(dir.path().join(INCOMING)).unwrap().count(), 0);
        assert_eq!(store.list().count().await, 0);
    }

    #[tokio::test]
    async fn changed_bytes_are_noticed() {
        let (dir, store) = store();
        let blob = store.put(Bytes::from(vec![7; 3 * CHUNK])).await.unwrap();
        let name = blob.digest.to_string();
        let path = dir.path().join(&name[..2]).join(&name);
        let mut bytes = fs_err::read(&path).unwrap();
        bytes[2 * CHUNK] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        let error = store.get_bytes(blob.digest, u64::MAX).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }));
        let read: Vec<_> = store.get_stream(blob.digest).await.unwrap().collect().await;
        assert_eq!(read.last().unwrap().as_ref().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn what_was_half_written_goes_at_the_next_open() {
        let (dir, _store) = store();
        fs_err::write(dir.path().join(INCOMING).join("9#1"), "half").unwrap();
        let store = ArtifactStore::open(dir.path()).unwrap();
        assert_eq!(fs_err::read_dir(dir.path().join(INCOMING)).unwrap().count(), 0);
        assert_eq!(store.list().count().await, 0);
    }
}
