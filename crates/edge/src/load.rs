//! Loads what an entry needs before it can be served: the files of a site, a certificate.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use miosa_types::{
    Digest,
    link::{Certificate, Entry, Route, Target},
};
use tokio::{
    io::{AsyncReadExt, Take},
    net::UnixStream,
};

use crate::{blobs::BlobError, frames, shared::Shared, table::Loaded};

/// Blobs of one site that are fetched at once.
const AT_ONCE: usize = 8;

/// Longest PEM file in bytes.
const MAX_PEM: u64 = 256 * 1024;

/// Why an entry cannot be served yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// A blob that it needs could not be had.
    #[error("a blob that it needs is not here: {0}")]
    Blob(#[from] BlobError),
    /// What came is no certificate that can be used.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
}

/// Whether an entry must be loaded before it is live.
pub(crate) fn needs_blobs(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Certificate(_) | Entry::Route(Route { target: Target::Static { .. }, .. })
    )
}

/// Loads from this disk alone.
pub(crate) async fn from_disk(shared: &Shared, entry: Entry) -> Result<Loaded, LoadError> {
    load(shared, entry, false).await
}

/// Loads, and asks control for what is missing.
pub(crate) async fn from_control(shared: &Shared, entry: Entry) -> Result<Loaded, LoadError> {
    load(shared, entry, true).await
}

async fn load(shared: &Shared, entry: Entry, may_ask: bool) -> Result<Loaded, LoadError> {
    match entry {
        Entry::Certificate(of) => certificate(shared, of, may_ask).await,
        Entry::Route(route) => match route.target {
            Target::Static { manifest, .. } => site(shared, route, manifest, may_ask).await,
            _ => Ok(Loaded::Plain(Entry::Route(route))),
        },
        plain => Ok(Loaded::Plain(plain)),
    }
}

async fn site(
    shared: &Shared,
    route: Route,
    manifest: Digest,
    may_ask: bool,
) -> Result<Loaded, LoadError> {
    if may_ask {
        ensure(shared, manifest).await?;
    }
    let manifest = shared.blobs.manifest(manifest).await?;
    let blobs: BTreeMap<Digest, u64> = manifest.blobs();
    // Without control the files are not read at start: each is checked at its first use.
    if may_ask {
        stream::iter(blobs.into_keys().map(|digest| ensure(shared, digest)))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
    }
    Ok(Loaded::Site(route, manifest))
}

async fn certificate(shared: &Shared, of: Certificate, may_ask: bool) -> Result<Loaded, LoadError> {
    if may_ask {
        ensure(shared, of.chain).await?;
        ensure(shared, of.key).await?;
    }
    let chain = shared.blobs.bytes(of.chain, MAX_PEM).await?;
    let key = shared.blobs.bytes(of.key, MAX_PEM).await?;
    let certified = shared.tls.certified(&of, &chain, &key).map_err(LoadError::Certificate)?;
    Ok(Loaded::Certificate(of, Arc::new(certified)))
}

/// Every blob that the given entries need; `None` if that cannot be told.
pub(crate) async fn needed(
    shared: &Shared,
    entries: impl Iterator<Item = &Entry>,
) -> Option<BTreeSet<Digest>> {
    let mut needed = BTreeSet::new();
    for entry in entries {
        match entry {
            Entry::Certificate(of) => needed.extend([of.chain, of.key]),
            Entry::Route(Route { target: Target::Static { manifest, .. }, .. }) => {
                let site = shared.blobs.manifest(*manifest).await.ok()?;
                needed.insert(*manifest);
                needed.extend(site.blobs().into_keys());
            }
            _ => {}
        }
    }
    Some(needed)
}

async fn ensure(shared: &Shared, digest: Digest) -> Result<(), BlobError> {
    shared.blobs.ensure(digest, async || ask(shared, digest).await).await
}

/// Fetches a blob whether it is here or not.
pub(crate) async fn fetch(shared: &Shared, digest: Digest) -> Result<(), BlobError> {
    shared.blobs.bring(digest, async || ask(shared, digest).await).await
}

async fn ask(shared: &Shared, digest: Digest) -> io::Result<Take<UnixStream>> {
    match frames::blob(&shared.config.link_socket, digest).await? {
        Some((size, stream)) => Ok(stream.take(size)),
        None => Err(io::Error::new(io::ErrorKind::NotFound, Nowhere)),
    }
}

/// Control answered that it has no such blob; a socket that is not there is `NotFound` as well.
#[derive(Debug, thiserror::Error)]
#[error("control has no such blob")]
struct Nowhere;

/// Whether control itself does not have the blob.
pub(crate) fn is_nowhere(error: &BlobError) -> bool {
    let BlobError::Io { source, .. } = error else { return false };
    let Some(cause) = source.get_ref() else { return false };
    cause.is::<Nowhere>()
}
