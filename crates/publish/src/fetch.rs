//! Reading the names and a few texts out of a stored source.
//!
//! Promises: memory is bounded whatever the source holds.

use std::collections::BTreeMap;

use tokio_util::io::SyncIoBridge;

use miosa_artifact::{
    ArtifactStore,
    archive::{self, Error, Kind, Limits, Links},
};
use miosa_types::Digest;

use crate::detect::{Listing, wanted};

/// Longest text read, in bytes; longer files are not entry files that people wrote.
const MAX_TEXT: u64 = 256 * 1024;

/// Most bytes of texts in total.
const MAX_TEXTS: u64 = 16 * 1024 * 1024;

/// Lists a stored source.
pub(crate) async fn listing(store: &ArtifactStore, source: Digest) -> Result<Listing, Error> {
    let reader = store.reader(source).await.map_err(|source| Error::Store { source })?;
    let reader = SyncIoBridge::new(reader);
    let work = tokio::task::spawn_blocking(move || read(reader));
    work.await.unwrap_or_else(|error| Err(Error::Io { source: std::io::Error::other(error) }))
}

fn read(archive: impl std::io::Read) -> Result<Listing, Error> {
    let mut files = BTreeMap::new();
    let mut left = MAX_TEXTS;
    archive::walk(archive, Limits::SOURCE, Links::Anywhere, |entry| {
        let Some(path) = entry.path.to_str() else { return Ok(()) };
        match entry.kind {
            Kind::Folder => return Ok(()),
            Kind::File { size, body } if wanted(path) && size <= MAX_TEXT.min(left) => {
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes).map_err(|source| Error::Io { source })?;
                left -= size;
                files.insert(path.to_owned(), String::from_utf8(bytes).ok());
            }
            _ => {
                files.insert(path.to_owned(), None);
            }
        }
        Ok(())
    })?;
    Ok(Listing(files))
}
