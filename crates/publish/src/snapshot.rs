//! Saving the source of an app out of its sandbox.
//!
//! Promises: when it returns the source is durable and the sandbox may go; the archive was
//! checked while it came (no `..`, no link out, bounded), and a refused one leaves nothing.

use std::time::Duration;

use tokio_util::io::StreamReader;

use miosa_artifact::{
    ArtifactStore,
    archive::{Error as ArchiveError, Limits, Links, Repack},
    store_archive,
};
use miosa_types::{
    guest::{Endpoint, Error as GuestError, Guest},
    manifest::BlobRef,
};

use crate::WORKSPACE;

/// The longest that saving may take.
const DEADLINE: Duration = Duration::from_mins(2);

/// Owner of everything in a workspace, in every sandbox.
pub(crate) const OWNER: u32 = 1000;

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The folder is missing, hostile or too large: tell the person who publishes.
    #[error("{reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The disk for artifacts is full.
    #[error("no space is left for the source")]
    NoSpace,
    /// The sandbox or the store did not answer; nothing was saved.
    #[error("the source could not be read from the sandbox")]
    Unavailable {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is never part of a source: it is made anew by the build, or it is nobody's business.
pub fn source_excludes() -> Vec<String> {
    [
        "node_modules",
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        "__pycache__",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".next",
        ".nuxt",
        ".svelte-kit",
        ".turbo",
        ".parcel-cache",
        ".cache",
        ".DS_Store",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Saves the folder `root` (in or below [`WORKSPACE`]) as a blob: a tar of its content.
pub async fn snapshot(
    guest: &dyn Guest,
    endpoint: &Endpoint,
    artifacts: &ArtifactStore,
    root: &str,
    excludes: &[String],
) -> Result<BlobRef, SnapshotError> {
    let saving = async {
        let archive =
            guest.read_tar(endpoint, root, excludes).await.map_err(|error| match error {
                GuestError::NotFound { .. } => {
                    SnapshotError::Invalid { reason: format!("`{root}` does not exist") }
                }
                GuestError::Invalid { reason } => SnapshotError::Invalid { reason },
                other => unavailable(other),
            })?;
        let options = Repack {
            limits: Limits::SOURCE,
            links: Links::Inside { root: WORKSPACE },
            prefix: "",
            owner: OWNER,
        };
        let stored = store_archive(artifacts, StreamReader::new(archive), options).await;
        let (blob, totals) = stored.map_err(of_archive)?;
        if totals.files == 0 {
            artifacts.delete(blob.digest).await.map_err(unavailable)?;
            return Err(SnapshotError::Invalid { reason: format!("`{root}` contains no files") });
        }
        tracing::info!(digest = %blob.digest, bytes = blob.size, files = totals.files, "source saved");
        Ok(blob)
    };
    tokio::time::timeout(DEADLINE, saving).await.unwrap_or_else(|late| Err(unavailable(late)))
}

fn of_archive(error: ArchiveError) -> SnapshotError {
    match error {
        ArchiveError::Refused { reason } => SnapshotError::Invalid { reason },
        ArchiveError::Store { source: miosa_artifact::Error::NoSpace } => SnapshotError::NoSpace,
        other => unavailable(other),
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> SnapshotError {
    SnapshotError::Unavailable { source: Box::new(error) }
}
