//! From an accepted socket to an answered request.
//!
//! accept → TLS → HTTP/1.1 or HTTP/2 → identify → the API, or a route → its answer. A connection
//! is watched until it ends: in a shutdown every answer is the last of its connection, and idle
//! connections are closed only after some seconds, because a client may just be sending.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::Instant,
};

use crate::{
    body::Body,
    client_io::{ClientIo, ConnState},
    crowd::Seat,
    dispatch,
    drain::OpenGuard,
    shared::Phase,
    tls::{self, Certified, HandshakeError},
    visit::Worker,
};

/// One client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) peer: SocketAddr,
    /// The address that it came to.
    pub(crate) local: Option<IpAddr>,
    pub(crate) state: Arc<ConnState>,
    pub(crate) seat: Arc<Seat>,
    /// `None` on plain HTTP.
    pub(crate) tls: Option<ConnectionTls>,
}

/// What the handshake settled.
#[derive(Debug)]
pub(crate) struct ConnectionTls {
    pub(crate) certificate: Arc<Certified>,
    pub(crate) has_name: bool,
}

/// An accepted socket that was let in.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) peer: SocketAddr,
    pub(crate) state: Arc<ConnState>,
    pub(crate) seat: Arc<Seat>,
    pub(crate) guard: OpenGuard,
}

/// Serves one accepted socket until it is closed, or must make room.
pub(crate) async fn connection(
    worker: Arc<Worker>,
    stream: TcpStream,
    is_https: bool,
    entered: Entered,
) {
    let Entered { peer, state, seat, guard } = entered;
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().ok().map(|addr| addr.ip().to_canonical());
    let shared = worker.shared.clone();
    shared.metrics.connections.inc();
    let connection =
        Connection { worker, peer, local, state: state.clone(), seat: seat.clone(), tls: None };
    tokio::select! {
        () = seat.evicted(&state) => tracing::debug!(%peer, "an idle connection makes room"),
        () = talk(connection, stream, is_https) => {}
    }
    shared.metrics.connections.dec();
    drop(guard);
}

async fn talk(mut connection: Connection, stream: TcpStream, is_https: bool) {
    if !is_https {
        return http1(connection, stream).await;
    }
    let shared = connection.worker.shared.clone();
    match tls::accept(&shared.live, stream, shared.config.limits.handshake).await {
        Ok(accepted) => {
            connection.tls = Some(ConnectionTls {
                certificate: accepted.certificate,
                has_name: accepted.has_name,
            });
            if accepted.is_h2 {
                http2(connection, accepted.stream).await;
            } else {
                http1(connection, accepted.stream).await;
            }
        }
        Err(HandshakeError::UnknownName) => {
            shared.metrics.unknown_sni.inc();
        }
        Err(error) => tracing::debug!(%error, "no handshake"),
    }
}

async fn http1<S>(connection: Connection, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = connection.worker.shared.clone();
    let limits = &shared.config.limits;
    let state = connection.state.clone();
    let io = TokioIo::new(ClientIo::new(stream, state, false, limits));
    let connection = Arc::new(connection);
    let service = service_fn(move |request| answer(connection.clone(), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Also runs while the connection is idle; the limit of a head is `ClientIo`'s.
        .header_read_timeout(limits.idle)
        .max_headers(100)
        .max_header_size(32 * 1024)
        .max_buf_size(128 * 1024)
        .serve_connection(io, service)
        .with_upgrades();
    let mut phase = shared.phase.clone();
    let end = reaches(&mut phase, Phase::Closing);
    drive(serving, http1::UpgradeableConnection::graceful_shutdown, end).await;
}

async fn http2<S>(connection: Connection, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = connection.worker.shared.clone();
    let limits = &shared.config.limits;
    let state = connection.state.clone();
    let io = TokioIo::new(ClientIo::new(stream, state.clone(), true, limits));
    let connection = Arc::new(connection);
    let service = service_fn(move |request| answer(connection.clone(), request));
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_concurrent_streams(256)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(32 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(io, service);
    let mut phase = shared.phase.clone();
    let end = async {
        tokio::select! {
            // GOAWAY may be sent early: what is under way is still answered.
            () = reaches(&mut phase, Phase::LameDuck) => {}
            () = idle(&state, limits.idle) => {}
        }
    };
    drive(serving, http2::Connection::graceful_shutdown, end).await;
}

/// Serves until the connection ends; at `end` it is told to `stop` taking requests.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    serving: C,
    stop: impl Fn(Pin<&mut C>),
    end: impl Future<Output = ()>,
) {
    let (mut serving, mut end) = (pin!(serving), pin!(end));
    let mut is_told = false;
    loop {
        tokio::select! {
            result = serving.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = end.as_mut(), if !is_told => {
                is_told = true;
                stop(serving.as_mut());
            }
        }
    }
}

async fn reaches(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|phase| *phase >= wanted).await.is_err() {
        // The edge is gone; so will be this connection.
        std::future::pending::<()>().await;
    }
}

/// Ends when nothing was asked for `limit`; hyper has no such limit for HTTP/2.
async fn idle(state: &ConnState, limit: Duration) {
    let mut seen = state.seen();
    loop {
        tokio::time::sleep(limit).await;
        if state.is_idle() && state.seen() == seen {
            return;
        }
        seen = state.seen();
    }
}

async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let busy = connection.state.begin();
    let is_h1 = request.version() != Version::HTTP_2;
    let arrived = Instant::now();
    let (class, mut response) = dispatch::serve(&connection, request, arrived).await;
    let shared = &connection.worker.shared;
    shared.metrics.answered(class, response.status());
    if is_h1
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && *shared.phase.borrow() != Phase::Serving
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| body.with_guard(busy)))
}
