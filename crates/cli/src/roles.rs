//! What the two children do, and what both need: the pipe to the supervisor, readiness, signals.

pub(crate) mod control;
pub(crate) mod edge;
pub(crate) mod inherited;

use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// User and group of the edge: no account, no files but its own.
pub(crate) const EDGE_USER: u32 = 60_999;

/// Says what to do when a command needs root.
pub(crate) fn require_root(command: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "`miosa {command}` must run as root (sandboxes need namespaces, mounts and network devices); use sudo"
    );
    Ok(())
}

/// Cancels `stop` on SIGTERM, SIGINT, or when the supervisor is gone.
pub(crate) fn watch_for_the_end(
    stop: CancellationToken,
    lifeline: Option<tokio::net::unix::pipe::Receiver>,
) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let orphaned = async {
            match lifeline {
                // Nobody writes; reading returns only at the end.
                Some(mut pipe) => drop(pipe.read_u8().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = orphaned => tracing::warn!("the supervisor is gone"),
        }
        stop.cancel();
    });
    Ok(())
}
