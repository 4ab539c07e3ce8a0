//! What all runtimes of one edge share.

use std::sync::Arc;

use miosa_types::{DeploymentId, link::Up};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    balance::Replica, blobs::BlobCache, config::EdgeConfig, crowd::Crowd, drain::Open, hold::Holds,
    metrics::Metrics, table::Live, tls::Tls,
};

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Business as usual.
    Serving,
    /// Nothing new is accepted; every answer is the last of its connection.
    LameDuck,
    /// Idle connections are closed.
    Closing,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EdgeConfig,
    pub(crate) live: Live,
    pub(crate) blobs: BlobCache,
    pub(crate) tls: Tls,
    pub(crate) holds: Holds,
    pub(crate) reports: Reports,
    pub(crate) metrics: Arc<Metrics>,
    /// Where tasks run that outlive a request.
    pub(crate) background: tokio::runtime::Handle,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) open: Open,
    pub(crate) crowd: Arc<Crowd>,
}

/// What the edge tells control. Nothing here waits: while control is away, news that it will
/// find out by itself are dropped.
#[derive(Debug)]
pub(crate) struct Reports {
    events: mpsc::Sender<Up>,
    /// Rung when the count of a draining replica changed.
    pub(crate) in_flight: Arc<Notify>,
}

impl Reports {
    /// Together with the end that the link reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Up>) {
        let (events, receiver) = mpsc::channel(256);
        (Self { events, in_flight: Arc::default() }, receiver)
    }

    /// A replica refused a connection or has not begun to answer in time. Told once until it
    /// answers again.
    pub(crate) fn suspect(&self, replica: &Replica) {
        if replica.suspect() {
            let _ = self.events.try_send(Up::Suspect { instance: replica.instance });
        }
    }

    /// Somebody asks for an app that is asleep.
    pub(crate) fn wake(&self, app: DeploymentId) {
        let _ = self.events.try_send(Up::Wake { app });
    }
}
