//! The edge: takes every visitor's connection, and knows no database.
//!
//! It serves from a table that control sends over the edge link and that is kept on the edge's
//! own disk, so it starts and keeps serving with control dead. One runtime per listening socket,
//! each with its own upstream connections; what they share is read without locks.

mod access;
mod api;
mod app;
mod attempt;
mod balance;
mod blobs;
pub mod body;
mod client_io;
pub mod config;
mod cookies;
mod crowd;
mod dispatch;
mod drain;
mod files;
mod frames;
mod headers;
mod hold;
mod identify;
mod keep;
mod link;
mod load;
mod metrics;
mod pages;
mod peers;
mod pool;
mod preview;
pub mod privileges;
mod probe;
mod product;
mod replay;
mod scrub;
mod serve;
mod shard;
mod shared;
mod snapshot;
mod table;
mod tls;
mod tunnel;
mod upstream;
mod visit;
mod workers;

use std::{io, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use tokio::{net::UnixListener, sync::watch, task::JoinSet};

pub use body::Body;
pub use config::{EdgeConfig, Limits, Listeners, Network, NetworkError};

use crate::{
    blobs::BlobCache,
    crowd::Crowd,
    drain::Open,
    hold::Holds,
    link::Link,
    metrics::Metrics,
    shared::{Phase, Reports, Shared},
    table::Live,
    tls::Tls,
    workers::Workers,
};

/// How long a start waits for control's table before it serves the kept one.
const SETTLE: Duration = Duration::from_secs(1);

/// Why an edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its folder, its sockets or its threads: the operator must act.
    #[error("{what}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A running edge, as its owner sees it.
#[derive(Clone, Debug)]
pub struct Handle {
    metrics: Arc<Metrics>,
}

impl Handle {
    /// Counters in the text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.metrics.encode()
    }

    /// Gives the counters to everyone who connects to `listener`. Runs until it is dropped.
    pub async fn serve_metrics(self, listener: UnixListener) {
        metrics::serve(&self.metrics, listener).await;
    }
}

/// Serves until `shutdown` ends and what was open then is drained, at most `limits.drain`.
///
/// `ready` is called when control's table, or without control the kept one, is live and every
/// socket accepts. Runs the link on the
/// caller's runtime and each pair of sockets on a thread of its own.
pub async fn run(
    config: EdgeConfig,
    listeners: Listeners,
    ready: impl FnOnce(Handle) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let setup = |what| move |source| Error::Setup { what, source };
    prepare(&config).map_err(setup("prepare the edge's folder"))?;
    let blobs = BlobCache::open(&config.dir.join("blobs")).map_err(setup("open the blobs"))?;
    let tls = Tls::new().map_err(|error| Error::Setup {
        what: "make TLS ticket keys",
        source: io::Error::other(error),
    })?;
    let (reports, events) = Reports::new();
    let (phases, phase) = watch::channel(Phase::Serving);
    let limits = config.limits.clone();
    let edge = config.edge;
    let metrics = Arc::default();
    let shared = Arc::new(Shared {
        open: Open::default(),
        crowd: Arc::new(Crowd::new(limits.connections, &config.trusted_proxies, &metrics)),
        config,
        live: Live::default(),
        blobs,
        tls,
        holds: Holds::default(),
        reports,
        metrics,
        background: tokio::runtime::Handle::current(),
        phase,
    });
    let (mut link, settled) = Link::new(shared.clone(), events);
    link.restore().await;
    let mut background = JoinSet::new();
    background.spawn(link.run(edge));
    background.spawn(scrub::run(shared.clone()));
    // The kept table may be a moment old, and a route that is missing in it would be a 404 that
    // the generation before would not have given: control is asked first, if it is there.
    let _ = tokio::time::timeout(SETTLE, settled).await;
    let workers =
        Workers::start(&shared, listeners).map_err(setup("start serving on the sockets"))?;
    ready(Handle { metrics: shared.metrics.clone() });
    shutdown.await;
    drain(&shared, &phases).await;
    // Sockets that are still open end with their runtimes.
    tokio::task::spawn_blocking(move || workers.stop()).await.map_err(|error| Error::Setup {
        what: "stop the runtimes",
        source: io::Error::other(error),
    })
}

/// The folder holds keys: nobody else may look into it.
fn prepare(config: &EdgeConfig) -> io::Result<()> {
    fs_err::create_dir_all(&config.dir)?;
    fs_err::set_permissions(&config.dir, std::fs::Permissions::from_mode(0o700))
}

/// Lame duck first: keep-alive connections go on being served, and each answer is their last; a
/// connection closed under a client that is just sending would be a lost request.
async fn drain(shared: &Shared, phases: &watch::Sender<Phase>) {
    let limits = &shared.config.limits;
    tracing::info!(open = shared.open.count(), "draining");
    let _ = phases.send(Phase::LameDuck);
    let all = async {
        if tokio::time::timeout(limits.lame_duck, shared.open.empty()).await.is_err() {
            let _ = phases.send(Phase::Closing);
            shared.open.empty().await;
        }
    };
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        tracing::info!(open = shared.open.count(), "the drain has used up its time");
    }
}
