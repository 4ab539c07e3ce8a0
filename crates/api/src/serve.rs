//! Serves the API on a Unix socket (for edges) and `/metrics` on the admin listener.
//!
//! Promises: on `stop` no new connection is taken, requests under way are finished within
//! `drain`, idle connections are closed at once; a peer that never finishes its header is cut.

use std::{io, path::PathBuf, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use crate::{AppState, metrics, router};

/// Connections at a time, for each listener.
const MAX_CONNECTIONS: usize = 4096;

/// From accept to the end of the first request's header, and between two requests.
const HEADER: Duration = Duration::from_secs(30);

/// Pause after a failed accept (out of descriptors): trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the whole API on `listener` until `stop`.
pub async fn unix(
    listener: UnixListener,
    state: AppState,
    stop: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    let app = router(state);
    serve(listener, app, stop, drain).await
}

/// Serves `/metrics` and `/health` on `listener` until `stop`. `edge` is the socket on which this
/// machine's edge tells its metrics.
pub async fn admin(
    listener: TcpListener,
    state: AppState,
    edge: PathBuf,
    stop: CancellationToken,
) -> io::Result<()> {
    let app = metrics::router(state, edge);
    serve(listener, app, stop, Duration::from_secs(1)).await
}

/// Where connections come from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

async fn serve(
    listener: impl Accept,
    app: Router,
    stop: CancellationToken,
    drain: Duration,
) -> io::Result<()> {
    let graceful = GracefulShutdown::new();
    let room = std::sync::Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = room.clone().acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = listener.next() => stream,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(app.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
    Ok(())
}
