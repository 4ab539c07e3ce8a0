//! From an archive that streams out of a sandbox to a blob, checked on the way.
//!
//! Promises: what is stored is the repacked archive, never the bytes as they came; a refused or
//! cut archive leaves no blob; memory does not grow with the archive.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream};
use tokio::{io::AsyncRead, task::JoinError};
use tokio_util::io::{ReaderStream, SyncIoBridge};

use miosa_types::manifest::BlobRef;

use crate::{
    archive::{self, Repack, Totals},
    store::{ArtifactStore, Error as StoreError},
};

/// Bytes that wait between the thread that repacks and the store.
const PIPE: usize = 1024 * 1024;

/// Room for headers and padding, per entry.
const ENTRY_OVERHEAD: u64 = 2048;

/// Repacks `archive` into a blob.
pub async fn store_archive<R>(
    store: &ArtifactStore,
    archive: R,
    options: Repack<'static>,
) -> Result<(BlobRef, Totals), archive::Error>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let (write, read) = tokio::io::duplex(PIPE);
    let (archive, write) = (SyncIoBridge::new(archive), SyncIoBridge::new(write));
    let worker = tokio::task::spawn_blocking(move || archive::repack(archive, write, options));

    let outcome = Arc::new(Mutex::new(None));
    let last = {
        let outcome = Arc::clone(&outcome);
        // The pipe also ends when the repacking failed; only its result tells the difference.
        stream::once(async move {
            let result = joined(worker.await);
            let failed = result.is_err();
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            failed.then(|| Err(io::Error::other("the archive was refused")))
        })
        .filter_map(std::future::ready)
    };
    let bytes = ReaderStream::with_capacity(read, PIPE / 4).chain(last);
    let limits = options.limits;
    let most = limits.total_bytes + limits.entries.saturating_mul(ENTRY_OVERHEAD);
    let stored = store.put_stream(bytes, most).await;
    let repacked = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (stored, repacked) {
        (_, Some(Err(error))) => Err(error),
        (Ok(blob), Some(Ok(totals))) => Ok((blob, totals)),
        (Err(source), _) => Err(archive::Error::Store { source }),
        (Ok(_), None) => Err(archive::Error::Store {
            source: StoreError::Source { source: io::ErrorKind::UnexpectedEof.into() },
        }),
    }
}

/// A worker that panicked or was cancelled is an I/O error.
pub(crate) fn joined<T>(
    result: Result<Result<T, archive::Error>, JoinError>,
) -> Result<T, archive::Error> {
    result.unwrap_or_else(|error| Err(archive::Error::Io { source: io::Error::other(error) }))
}
