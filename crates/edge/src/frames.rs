//! Frames of the edge link, and blobs over the same socket.

use std::{io, path::Path, time::Duration};

use miosa_types::{
    Digest,
    link::{BlobHead, Hello, MAX_FRAME},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};

/// How long control may take for the next bytes of something it owes us.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Writes one frame.
pub(crate) async fn write<W, T>(to: &mut W, frame: &T) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    T: Serialize,
{
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    within(to.write_all(&bytes)).await
}

/// Reads one frame; waits for its first byte without limit. May not be dropped half way.
pub(crate) async fn read<R, T>(from: &mut R) -> io::Result<T>
where
    R: AsyncRead + Unpin,
    T: DeserializeOwned,
{
    let length = usize::try_from(from.read_u32().await?).map_err(io::Error::other)?;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
    }
    let mut body = vec![0; length];
    within(from.read_exact(&mut body)).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Asks control for one blob. `None` if control has none of that name. The bytes are not yet
/// verified.
pub(crate) async fn blob(socket: &Path, digest: Digest) -> io::Result<Option<(u64, UnixStream)>> {
    let mut stream = within(UnixStream::connect(socket)).await?;
    write(&mut stream, &Hello::Blob { digest }).await?;
    match within(read(&mut stream)).await? {
        BlobHead::Missing => Ok(None),
        BlobHead::Found { size } => Ok(Some((size, stream))),
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(READ_DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
