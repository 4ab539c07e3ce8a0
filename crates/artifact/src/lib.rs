//! Blobs by digest, and the manifests that name them.

/// Blobs by digest.
#[derive(Clone, Debug)]
pub struct ArtifactStore;
