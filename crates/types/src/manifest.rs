//! What a published version consists of. Stored as a blob itself, so a version is one digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Content of a static version: every file by its path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteManifest {
    /// Path without a leading slash, as in the build's output (`assets/app.js`), to its content.
    pub files: BTreeMap<String, SiteFile>,
    /// Whether an unknown path without a file extension is answered by `index.html` (RFC-less
    /// custom of single-page apps). False where a top-level `404.html` exists.
    pub spa: bool,
}

/// One file of a static version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteFile {
    /// The file as it is.
    pub blob: BlobRef,
    /// Value of `Content-Type`.
    pub content_type: String,
    /// `Content-Encoding: br`, if it saves bytes.
    pub brotli: Option<BlobRef>,
    /// `Content-Encoding: gzip`, if it saves bytes.
    pub gzip: Option<BlobRef>,
}

/// A blob and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its name in the artifact store.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

impl SiteManifest {
    /// Every blob that must be present before a route to this version goes live, without
    /// repetition.
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        let of = |file: &SiteFile| [Some(file.blob), file.brotli, file.gzip];
        self.files.values().flat_map(of).flatten().map(|blob| (blob.digest, blob.size)).collect()
    }

    /// Sum of the plain files, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|file| file.blob.size).sum()
    }
}
