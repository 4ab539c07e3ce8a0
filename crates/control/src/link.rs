//! Serves the edge link on a Unix socket (`miosa_types::link`): snapshots, deltas and blobs down,
//! acknowledgements and reports up.
//!
//! Promises: a change of the table is on its way to every edge at once, without polling; an edge
//! that does not read is cut off after [`WRITE_DEADLINE`] instead of filling memory; an edge that
//! is behind gets what it missed or a snapshot.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use miosa_artifact::ArtifactStore;
use miosa_types::{
    Digest,
    link::{BlobHead, Down, Hello, MAX_FRAME, Position, Up},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use crate::edges::{Edges, Next, encode};

/// How long an edge may take to read one batch of frames, or one piece of a blob.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Control shows that it is there this often.
const BEAT: Duration = Duration::from_secs(3);
/// Connections at once; more wait in the accept queue.
const MAX_CONNECTIONS: usize = 512;
/// Bytes of a blob sent at once.
const PIECE: usize = 256 * 1024;
/// Longest first frame: a [`Hello`].
const MAX_HELLO: usize = 4096;
/// Longest frame of an edge.
const MAX_UP: usize = 64 * 1024;

/// Where the link is served, and for whom.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Path of the socket.
    pub path: PathBuf,
    /// User and group that edges run as, if it is not ours.
    pub owner: Option<(u32, u32)>,
}

/// The parts of control that the link shows to edges. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    /// Tables and acknowledgements.
    pub edges: Edges,
    /// Files of sites and manifests.
    pub artifacts: ArtifactStore,
}

/// Binds the socket; one that an earlier process left is replaced in one step.
pub fn bind(socket: &Socket) -> io::Result<UnixListener> {
    let folder = socket.path.parent().unwrap_or(Path::new("/"));
    fs_err::create_dir_all(folder)?;
    let fresh = folder.join(format!(".new-{}.sock", std::process::id()));
    match fs_err::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs_err::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    if let Some((user, group)) = socket.owner {
        std::os::unix::fs::chown(&fresh, Some(user), Some(group))?;
    }
    fs_err::rename(&fresh, &socket.path)?;
    Ok(listener)
}

/// Serves edges until `stop`.
pub async fn serve(listener: UnixListener, link: Link, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an edge");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (link, stop) = (link.clone(), stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                outcome = connection(stream, link) => if let Err(error) = outcome {
                    tracing::debug!(%error, "the connection of an edge ended");
                }
            }
        });
    }
}

async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(stream: UnixStream, link: Link) -> io::Result<()> {
    let (mut from_edge, mut to_edge) = stream.into_split();
    let hello = within(WRITE_DEADLINE, read_frame(&mut from_edge, MAX_HELLO)).await?;
    match hello {
        Some(Hello::Link { edge, at }) => {
            let id = link.edges.opened(edge);
            tracing::info!(%edge, "an edge is linked");
            let outcome = tokio::select! {
                outcome = tell(&link.edges, to_edge, at) => outcome,
                outcome = listen(&link.edges, from_edge, id) => outcome,
            };
            link.edges.closed(id);
            tracing::info!(%edge, "an edge is not linked any more");
            outcome
        }
        Some(Hello::Blob { digest }) => {
            let mut wanted = Some(digest);
            while let Some(digest) = wanted {
                send_blob(&link, &mut to_edge, digest).await?;
                wanted = match read_frame(&mut from_edge, MAX_HELLO).await? {
                    Some(Hello::Blob { digest }) => Some(digest),
                    Some(Hello::Link { .. }) => return Err(io::Error::other("link after blob")),
                    None => None,
                };
            }
            Ok(())
        }
        None => Ok(()),
    }
}

/// Keeps the edge at the newest position.
async fn tell(
    edges: &Edges,
    mut to_edge: OwnedWriteHalf,
    mut sent: Option<Position>,
) -> io::Result<()> {
    let mut positions = edges.positions();
    loop {
        positions.borrow_and_update();
        if let Next::Frames(frames, at) = edges.next(sent) {
            for frame in frames {
                within(WRITE_DEADLINE, to_edge.write_all(&frame)).await?;
            }
            sent = Some(at);
            continue;
        }
        match tokio::time::timeout(BEAT, positions.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => within(WRITE_DEADLINE, to_edge.write_all(&encode(&Down::Beat))).await?,
        }
    }
}

/// Takes in what the edge reports.
async fn listen(edges: &Edges, mut from_edge: OwnedReadHalf, id: u64) -> io::Result<()> {
    while let Some(frame) = read_frame::<Up>(&mut from_edge, MAX_UP).await? {
        edges.heard(id, frame);
    }
    Ok(())
}

async fn send_blob(link: &Link, to_edge: &mut OwnedWriteHalf, digest: Digest) -> io::Result<()> {
    if let Some(bytes) = link.edges.material(digest) {
        let head = encode(&BlobHead::Found { size: bytes.len() as u64 });
        within(WRITE_DEADLINE, to_edge.write_all(&head)).await?;
        return within(WRITE_DEADLINE, to_edge.write_all(&bytes)).await;
    }
    let size = match link.artifacts.size(digest).await {
        Ok(size) => size,
        Err(error) => {
            tracing::warn!(%digest, %error, "an edge asks for a blob that cannot be had");
            return within(WRITE_DEADLINE, to_edge.write_all(&encode(&BlobHead::Missing))).await;
        }
    };
    let mut blob = link.artifacts.reader(digest).await.map_err(io::Error::other)?;
    within(WRITE_DEADLINE, to_edge.write_all(&encode(&BlobHead::Found { size }))).await?;
    let mut piece = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let read = blob.read(&mut piece).await?;
        // A short or damaged blob ends the connection: the edge checks the digest and refuses it.
        let read = if read == 0 { return Err(io::ErrorKind::UnexpectedEof.into()) } else { read };
        within(WRITE_DEADLINE, to_edge.write_all(&piece[..read])).await?;
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

/// One frame, or `None` when the other side closed between frames.
async fn read_frame<T: DeserializeOwned>(
    from: &mut OwnedReadHalf,
    limit: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > limit.min(MAX_FRAME) {
        return Err(io::Error::other(format!("a frame of {length} bytes is too long")));
    }
    let mut body = vec![0; length];
    within(WRITE_DEADLINE, from.read_exact(&mut body)).await?;
    serde_json::from_slice(&body).map(Some).map_err(io::Error::other)
}

async fn within<T>(deadline: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
