//! `miosa control`: the root process with API, database, reconcilers and provider.
//!
//! Promises: it says that it is ready when template, provider, database and API are usable; on
//! SIGTERM, or when the supervisor is gone, it ends within seconds and leaves workloads running.

use std::{
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use miosa_api::{AppState, Build};
use miosa_artifact::ArtifactStore;
use miosa_control::{Control, assembly, driver::Steps, edges::Edges, link, monitor::Suspects};
use miosa_provider_oci::{OciConfig, OciProvider, template::Templates};
use miosa_store::Store;
use miosa_types::Env;
use tokio_util::sync::CancellationToken;

use super::{EDGE_USER, inherited};
use crate::{bootstrap, commands::template::progress_line, settings::Settings};

mod catalogue;
mod layers;

/// Which program this is.
pub(crate) const BUILD: Build =
    Build { version: env!("CARGO_PKG_VERSION"), commit: env!("MIOSA_COMMIT") };

/// How long API calls under way may take after the end was asked for.
const API_DRAIN: Duration = Duration::from_secs(5);

/// How long control waits for an edge before it says that it is ready without one.
const EDGE_PATIENCE: Duration = Duration::from_secs(4);

/// Runs control until it is told to stop.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(settings))
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    super::watch_for_the_end(stop.clone(), inherited::lifeline()?)?;
    let ready = inherited::Readiness::take()?;
    let admin = inherited::listeners("CONTROL_LISTEN_ADMIN")?.and_then(|mut all| all.pop());
    let admin = match admin {
        Some(listener) => listener,
        None => std::net::TcpListener::bind(settings.admin).context("--admin")?,
    };
    admin.set_nonblocking(true)?;

    make_run_dir(&settings.run_dir())?;
    let control = open(settings).await?;
    let steps = Steps::default();
    let options =
        assembly::Options { link: for_edge(settings.link_socket()), steps: steps.clone() };
    let api_socket = link::bind(&for_edge(settings.api_socket()))?;
    let state = AppState::new(control.clone(), steps, BUILD).with_rates(settings.rates());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(miosa_api::serve::unix(api_socket, state.clone(), stop.clone(), API_DRAIN));
    let admin = tokio::net::TcpListener::from_std(admin)?;
    tasks.spawn(miosa_api::serve::admin(
        admin,
        state,
        settings.edge_metrics_socket(),
        stop.clone(),
    ));
    tasks.spawn(assembly::run(control.clone(), options, stop.clone()));
    // Off the start's path: it waits for processes to die.
    let sweep = tokio::spawn(sweep_foreign());
    wait_for_an_edge(&control.edges).await;
    ready.announce();
    tracing::info!(commit = BUILD.commit, "control serves");
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of control ended")??;
        // One part that is gone without being told to is the end of all: a new control is better.
        stop.cancel();
    }
    // Safe to cut at any point: the next start goes on where it ended.
    sweep.abort();
    Ok(())
}

/// Removes what installations left on this host whose data folder is gone.
async fn sweep_foreign() {
    match miosa_provider_oci::sweep_foreign().await {
        Ok(swept) => {
            for installation in swept {
                tracing::info!(%installation, "removed what a lost installation left");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "what a lost installation left could not be removed");
        }
    }
}

/// Waits until an edge serves the first table, so that "ready" means that hosts answer. Control
/// that runs alone has no edge yet and is ready without one.
async fn wait_for_an_edge(edges: &Edges) {
    let mut reports = edges.reports();
    let served = async {
        loop {
            reports.borrow_and_update();
            let serves =
                |edge: &miosa_control::edges::EdgeStatus| edge.is_leased && edge.applied_seq > 0;
            if edges.status().iter().any(serves) || reports.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(EDGE_PATIENCE, served).await.is_err() {
        tracing::info!("no edge is linked yet");
    }
}

async fn open(settings: &Settings) -> anyhow::Result<Arc<Control>> {
    let env = Env::system();
    make_private(&settings.database_dir())?;
    make_private(&settings.artifacts_dir())?;
    let store = match &settings.database {
        Some(url) => Store::open(url.expose()).await,
        None => Store::open_sqlite(&settings.database_file()).await,
    };
    let store = store.context("the database")?;
    let domains = settings.domains();
    let installation = bootstrap::run(&store, &env, settings).await?;
    let artifacts = ArtifactStore::open(&settings.artifacts_dir())?;
    let templates = open_templates(settings).await?;
    let provider = open_provider(settings, installation, &env, &artifacts, &templates).await?;
    let epoch = u64::try_from(env.now().as_millisecond()).unwrap_or(0);
    let control = Control {
        store,
        provider,
        guest: Arc::new(miosa_net::guest::HttpGuest::new()),
        probe: Arc::new(miosa_net::probe::HttpProbe::new()),
        dns: Arc::new(miosa_net::dns::Resolver::new(settings.file.domains.resolver)),
        templates: Arc::new(catalogue::Installed::new(
            templates,
            settings.file.sandbox.default_template.clone(),
        )),
        edges: Edges::new(epoch),
        suspects: Suspects::default(),
        healing: miosa_control::healing::Healing::default(),
        in_hand: miosa_control::sandboxes::InHand::default(),
        pool: miosa_control::pool::Stats::default(),
        artifacts,
        env,
        config: miosa_control::Config {
            domains,
            addresses: settings.file.domains.addresses.clone(),
            data_dir: settings.data_dir.clone(),
            pool: settings.pool(),
            plain_http: settings.file.edge.plain_http,
            default_template: settings.file.sandbox.default_template.clone(),
        },
        observed: miosa_control::Observations::default(),
        wakes: miosa_control::Wakes::default(),
    };
    Ok(Arc::new(control))
}

/// Opens the provider of this machine.
async fn open_provider(
    settings: &Settings,
    installation: miosa_types::InstallationId,
    env: &Env,
    artifacts: &ArtifactStore,
    templates: &Templates,
) -> anyhow::Result<Arc<OciProvider>> {
    let config = OciConfig {
        installation,
        data_dir: settings.data_dir.clone(),
        templates: templates.clone(),
        env: env.clone(),
        layers: Arc::new(layers::FromArtifacts::new(artifacts.clone())),
        trust_host_ca: settings.file.sandbox.trust_host_ca,
    };
    OciProvider::open(config).await.context("this machine cannot run sandboxes; see `doctor`")
}

/// Opens the cache; builds the default template if it is not there.
async fn open_templates(settings: &Settings) -> anyhow::Result<Templates> {
    let cache = settings.cache_dir.clone();
    tokio::task::spawn_blocking(move || {
        let templates = Templates::open(&cache)?;
        templates.build_default(&progress_line)?;
        anyhow::Ok(templates)
    })
    .await
    .context("the template's builder ended")?
    .context("the default template could not be built")
}

/// A folder that only root may enter.
fn make_private(dir: &Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(dir)?;
    fs_err::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

/// `DIR/run`: only root and the edge may pass.
fn make_run_dir(dir: &Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(dir)?;
    chown(dir, None, Some(EDGE_USER))?;
    fs_err::set_permissions(dir, std::fs::Permissions::from_mode(0o710))?;
    Ok(())
}

/// A Unix socket that the edge's user may connect to.
const fn for_edge(path: PathBuf) -> link::Socket {
    link::Socket { path, owner: Some((EDGE_USER, EDGE_USER)) }
}
