//! One thread and one single-threaded runtime per pair of listening sockets.
//!
//! Nothing moves between them: a connection lives and dies where it was accepted, with its own
//! idle upstream connections. The supervisor's `SO_REUSEPORT` sockets spread the load.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch, task::JoinSet};

use crate::{
    client_io::ConnState,
    config::Listeners,
    pool::Pool,
    serve::{self, Entered},
    shared::{Phase, Shared},
    visit::Worker,
};

/// How often idle upstream connections are looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// Connections taken from a queue after the shutdown began: a bound, since new ones may come all
/// the time.
const MAX_LAST: usize = 1024;

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(crate) struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Workers {
    /// Starts all threads; when it returns their sockets accept.
    pub(crate) fn start(shared: &Arc<Shared>, listeners: Listeners) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let count = listeners.http.len().max(listeners.https.len());
        let (mut http, mut https) = (listeners.http.into_iter(), listeners.https.into_iter());
        let mut threads = Vec::new();
        for number in 0..count {
            let sockets = (http.next(), https.next());
            for socket in [&sockets.0, &sockets.1].into_iter().flatten() {
                socket.set_nonblocking(true)?;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, mut stopped) = (shared.clone(), stopped.clone());
            let thread =
                std::thread::Builder::new().name(format!("edge-{number}")).spawn(move || {
                    runtime.spawn(run(shared, sockets));
                    // An error means that the sender is gone: stop as well.
                    let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
                    runtime.shutdown_timeout(Duration::from_millis(100));
                })?;
            threads.push(thread);
        }
        Ok(Self { threads, stop })
    }

    /// Ends all threads and what is still open on them. Blocks.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a runtime of the edge panicked");
            }
        }
    }
}

async fn run(shared: Arc<Shared>, (http, https): (Option<TcpListener>, Option<TcpListener>)) {
    let pool = Arc::new(Pool::new(shared.config.limits.upstream_idle));
    let worker = Arc::new(Worker { shared, pool: pool.clone() });
    let mut tasks = JoinSet::new();
    for (socket, is_https) in [(http, false), (https, true)] {
        if let Some(socket) = socket {
            tasks.spawn(accept(worker.clone(), socket, is_https));
        }
    }
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            pool.sweep();
        }
    });
    while tasks.join_next().await.is_some() {}
}

async fn accept(worker: Arc<Worker>, socket: TcpListener, is_https: bool) {
    let listener = socket.try_clone().and_then(tokio::net::TcpListener::from_std);
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a listening socket cannot be used");
            return;
        }
    };
    let mut phase = worker.shared.phase.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(&worker, stream, peer, is_https),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The next generation, if there is one, accepts on the same socket. Those who wait already
    // are taken here, so that they are served even if there is none. The socket itself is asked:
    // the reactor may not know of them yet.
    for _ in 0..MAX_LAST {
        let Ok((stream, peer)) = socket.accept() else { return };
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        match stream {
            Ok(stream) => serve(&worker, stream, peer, is_https),
            Err(error) => tracing::debug!(%error, "an accepted socket cannot be used"),
        }
    }
}

fn serve(worker: &Arc<Worker>, stream: TcpStream, peer: SocketAddr, is_https: bool) {
    let shared = &worker.shared;
    let state = Arc::new(ConnState::counted_in(&shared.metrics.traffic));
    // Beyond the bounds the socket is closed at once: it costs nothing.
    if let Some(seat) = shared.crowd.enter(peer.ip(), &state) {
        let entered = Entered { peer, state, seat: Arc::new(seat), guard: shared.open.enter() };
        tokio::spawn(serve::connection(worker.clone(), stream, is_https, entered));
    }
}
