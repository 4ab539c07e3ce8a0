//! `miosa edge`: the unprivileged process that faces visitors.
//!
//! Promises: before it takes a connection it has given up root, every capability and every file
//! but its own folder; it says that it is ready when it serves.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
};

use anyhow::Context as _;
use miosa_edge::{EdgeConfig, Limits, Listeners};
use miosa_types::{EdgeId, Env};
use tokio_util::sync::CancellationToken;

use super::{EDGE_USER, inherited};
use crate::settings::Settings;

/// Runs the edge until it is told to stop and has drained.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let listeners = Listeners {
        http: listeners("EDGE_LISTEN_HTTP", settings.http)?,
        https: listeners("EDGE_LISTEN_HTTPS", settings.https)?,
    };
    let ready = inherited::Readiness::take()?;
    prepare(&settings.edge_dir())?;
    // From here on by names relative to the data folder: the edge's user may enter that folder,
    // but perhaps not those above it, as when it lies in root's home.
    std::env::set_current_dir(&settings.data_dir)?;
    let relative = |path: PathBuf| match path.strip_prefix(&settings.data_dir) {
        Ok(below) => below.to_owned(),
        Err(_) => path.clone(),
    };
    let dir = relative(settings.edge_dir());
    let env = Env::system();
    let config = EdgeConfig {
        link_socket: relative(settings.link_socket()),
        api_socket: relative(settings.api_socket()),
        edge: edge_id(&dir, &env)?,
        dir,
        env,
        trusted_proxies: settings.trusted_proxies(),
        limits: Limits::default(),
    };
    // Bound before the rights to do so are gone; it gets its name once this edge serves.
    let metrics = MetricsSocket::bind(relative(settings.edge_metrics_socket()))?;
    if rustix::process::geteuid().is_root() {
        let confined = miosa_edge::privileges::confine(EDGE_USER, EDGE_USER, &config.dir)
            .context("the edge could not give up its rights")?;
        tracing::info!(?confined, "confined");
    }
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        super::watch_for_the_end(stop.clone(), inherited::lifeline()?)?;
        let ended = stop.cancelled_owned();
        let ready = |handle| {
            metrics.serve(handle);
            ready.announce();
        };
        miosa_edge::run(config, listeners, ready, ended).await.context("the edge")
    })
}

/// Where this edge tells its metrics. The name belongs to the edge that serves: one that is still
/// starting does not take it from the one before.
struct MetricsSocket {
    listener: std::os::unix::net::UnixListener,
    fresh: PathBuf,
    path: PathBuf,
}

impl MetricsSocket {
    fn bind(path: PathBuf) -> anyhow::Result<Self> {
        let fresh = path.with_extension("new");
        match fs_err::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&fresh)
            .with_context(|| format!("cannot listen on {}", fresh.display()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, fresh, path })
    }

    /// Inside the runtime. An edge that cannot be measured still serves.
    fn serve(self, handle: miosa_edge::Handle) {
        let named = fs_err::rename(&self.fresh, &self.path);
        match named.and_then(|()| tokio::net::UnixListener::from_std(self.listener)) {
            Ok(listener) => drop(tokio::spawn(handle.serve_metrics(listener))),
            Err(error) => tracing::warn!(%error, "the edge's metrics cannot be asked for"),
        }
    }
}

fn listeners(
    variable: &str,
    address: std::net::SocketAddr,
) -> anyhow::Result<Vec<std::net::TcpListener>> {
    if let Some(inherited) = inherited::listeners(variable)? {
        return Ok(inherited);
    }
    let own = std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    own.set_nonblocking(true)?;
    Ok(vec![own])
}

/// The edge's own folder belongs to the edge's user.
fn prepare(dir: &std::path::Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(dir)?;
    if rustix::process::geteuid().is_root() {
        chown(dir, Some(EDGE_USER), Some(EDGE_USER))?;
    }
    fs_err::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// Stable over restarts: kept in the edge's folder.
fn edge_id(dir: &std::path::Path, env: &Env) -> anyhow::Result<EdgeId> {
    let file = dir.join("id");
    if let Ok(text) = fs_err::read_to_string(&file)
        && let Ok(id) = text.trim().parse()
    {
        return Ok(id);
    }
    let id: EdgeId = env.id();
    fs_err::write(&file, id.to_string())?;
    Ok(id)
}
