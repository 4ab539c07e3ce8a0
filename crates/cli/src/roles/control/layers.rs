//! The artifact store as the provider's source of layers.

use std::io;

use async_trait::async_trait;
use miosa_artifact::{ArtifactStore, Error};
use miosa_provider_oci::layers::LayerSource;
use miosa_types::Digest;
use tokio::io::AsyncRead;

/// Layers are blobs.
#[derive(Clone, Debug)]
pub(crate) struct FromArtifacts(ArtifactStore);

impl FromArtifacts {
    pub(crate) const fn new(artifacts: ArtifactStore) -> Self {
        Self(artifacts)
    }
}

#[async_trait]
impl LayerSource for FromArtifacts {
    async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        match self.0.reader(digest).await {
            Ok(reader) => Ok(Box::new(reader)),
            Err(error @ Error::NotFound { .. }) => {
                Err(io::Error::new(io::ErrorKind::NotFound, error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
