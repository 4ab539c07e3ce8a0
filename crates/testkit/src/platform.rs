//! The platform under test.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use miosa_artifact::ArtifactStore;
use miosa_control::{
    Config, Control, Observations, PoolTarget, Wakes,
    assembly::{self, Options},
    deployments::{self, Shown},
    driver::Steps,
    edges::Edges,
    link::Socket,
    monitor::Suspects,
    publishing::{Publish, Published, Request, Target},
    sandboxes::{self, InHand, New, Place, Sandbox},
    templates::{Fixed, Template},
};
use miosa_provider::{Observed, Owner, fake::Fake};
use miosa_store::{
    Store,
    projects::{self, Project},
    tenants,
    versions::Version,
    workspaces::{self, Workspace},
};
use miosa_types::{
    DeploymentId, Digest, EdgeId, Env, ProjectId, Size, Slug, TenantId, VersionId, WorkspaceId,
    deployment::VersionState, env::ManualClock, guest::Endpoint, host::Domains, size::Tier,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{FakeDns, FakeEdge, FakeGuest, FakeProbe, eventually};

/// The only template.
const TEMPLATE: &str = "base";
/// Where visitors reach the edge.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A whole platform. Dropping it ends it.
#[derive(Debug)]
pub struct Platform {
    /// What runs workloads.
    pub provider: Arc<Fake>,
    /// What is inside them.
    pub guest: Arc<FakeGuest>,
    /// What apps answer.
    pub probe: Arc<FakeProbe>,
    /// Records of names.
    pub dns: Arc<FakeDns>,
    /// The time.
    pub clock: Arc<ManualClock>,
    /// Ids and randomness.
    pub env: Env,
    /// Who visitors ask.
    pub edge: FakeEdge,
    running: RwLock<Option<Running>>,
    pool: u32,
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Running {
    control: Arc<Control>,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

/// A tenant with one project.
#[derive(Clone, Copy, Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its project.
    pub project: ProjectId,
}

impl Platform {
    /// Starts one in an empty folder.
    ///
    /// # Panics
    /// If the machine does not let it.
    pub async fn start() -> Self {
        Self::start_with_pool(0).await
    }

    /// Starts one in an empty folder that keeps that many warm slots.
    ///
    /// # Panics
    /// If the machine does not let it.
    pub async fn start_with_pool(pool: u32) -> Self {
        let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().expect("a time"));
        let env = Env::fixed(clock.clone(), 7);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let edge_id: EdgeId = env.id();
        let edge = FakeEdge::dial(socket(folder.path()), edge_id);
        let platform = Self {
            provider: Arc::new(Fake::new(env.clone())),
            guest: Arc::default(),
            probe: Arc::default(),
            dns: Arc::default(),
            clock,
            env,
            edge,
            running: RwLock::new(None),
            pool,
            folder,
        };
        platform.start_control().await;
        platform
    }

    /// Ends control without a word, as `kill -9` does.
    pub fn kill_control(&self) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Starts control on what is there.
    ///
    /// # Panics
    /// If the machine does not let it.
    pub async fn start_control(&self) {
        let data_dir = self.folder.path();
        let database = data_dir.join("platform.db");
        let store = Store::open_sqlite(&database).await.expect("a database");
        let epoch = u64::from(self.env.uuid().as_fields().0);
        let control = Arc::new(Control {
            store,
            provider: self.provider.clone(),
            guest: self.guest.clone(),
            probe: self.probe.clone(),
            dns: self.dns.clone(),
            edges: Edges::new(epoch),
            suspects: Suspects::default(),
            healing: miosa_control::healing::Healing::default(),
            templates: Arc::new(Fixed(vec![template()])),
            in_hand: InHand::default(),
            pool: miosa_control::pool::Stats::default(),
            artifacts: ArtifactStore::open(&data_dir.join("artifacts")).expect("a store"),
            env: self.env.clone(),
            config: config(data_dir, self.pool),
            observed: Observations::default(),
            wakes: Wakes::default(),
        });
        let stop = CancellationToken::new();
        let options = Options {
            link: Socket { path: socket(data_dir), owner: None },
            steps: Steps::default(),
        };
        let task = tokio::spawn(assembly::run(control.clone(), options, stop.clone()));
        *self.running.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { control, stop, task });
    }

    /// Where edges dial in.
    pub fn socket(&self) -> std::path::PathBuf {
        socket(self.folder.path())
    }

    /// The control that runs.
    ///
    /// # Panics
    /// If it was killed.
    pub fn control(&self) -> Arc<Control> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().expect("control runs").control.clone()
    }

    /// Moves the clock and lets everyone look at it.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.provider.tick();
        let wakes = &self.control().wakes;
        wakes.observed();
        wakes.domains.notify_one();
    }

    /// Adds a tenant whose apps are below `<name>.localhost`.
    ///
    /// # Panics
    /// If it exists.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let now = self.env.now();
        let slug = Slug::parse(name).expect("a slug");
        let tenant = tenants::Tenant {
            id: self.env.id(),
            name: name.to_owned(),
            slug: slug.clone(),
            deployment_domain: format!("{name}.localhost"),
            preview_domain: None,
            console_domain: None,
            branding: None,
            settings: serde_json::Map::new(),
            generation: 1,
            created_at: now,
            updated_at: now,
        };
        let workspace = Workspace {
            id: self.env.id(),
            tenant: tenant.id,
            name: name.to_owned(),
            slug,
            description: None,
            external_workspace_id: None,
            branding: None,
            metadata: serde_json::Map::new(),
            created_at: now,
            updated_at: now,
        };
        let store = self.control().store.clone();
        let mut db = store.conn().await.expect("a connection");
        tenants::insert(&mut db, &tenant).await.expect("a new tenant");
        workspaces::insert(&mut db, &workspace).await.expect("a new workspace");
        drop(db);
        let project = self.project(tenant.id, workspace.id, "first").await;
        Tenant { id: tenant.id, workspace: workspace.id, project }
    }

    /// Adds a project.
    ///
    /// # Panics
    /// If it exists.
    pub async fn project(&self, tenant: TenantId, place: WorkspaceId, name: &str) -> ProjectId {
        let now = self.env.now();
        let project = Project {
            id: self.env.id(),
            tenant,
            workspace: place,
            name: name.to_owned(),
            slug: Slug::parse(name).expect("a slug"),
            description: None,
            external_project_id: None,
            metadata: serde_json::Map::new(),
            created_at: now,
            updated_at: now,
        };
        let store = self.control().store.clone();
        let mut db = store.conn().await.expect("a connection");
        projects::insert(&mut db, &project).await.expect("a new project");
        project.id
    }

    /// A running sandbox with `files` in its workspace.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn sandbox(&self, tenant: Tenant, files: &[(&str, &str)]) -> Sandbox {
        let new = New {
            place: Place { workspace: tenant.workspace, project: tenant.project },
            name: None,
            slug: None,
            template: None,
            size: size(),
            env: BTreeMap::new(),
            metadata: serde_json::Map::new(),
            tags: vec![],
            external: sandboxes::External::default(),
            timeout_s: 3600,
            is_always_on: false,
            is_persistent: false,
        };
        let control = self.control();
        let wait = Duration::from_secs(10);
        let made =
            sandboxes::create(&control, tenant.id, new, None, wait).await.expect("a sandbox");
        let endpoint = self.endpoint(tenant, &made).await;
        for (path, text) in files {
            self.guest.put(&endpoint, &format!("/workspace/{path}"), text);
        }
        made
    }

    async fn endpoint(&self, tenant: Tenant, sandbox: &Sandbox) -> Endpoint {
        eventually("a running sandbox", async || {
            let control = self.control();
            sandboxes::enter(&control, tenant.id, sandbox.id).await.ok().map(|(_, way)| way)
        })
        .await
    }

    /// Publishes a sandbox.
    pub async fn publish(
        &self,
        tenant: Tenant,
        sandbox: &Sandbox,
        name: &str,
        request: Request,
    ) -> Result<Published, deployments::Error> {
        let publish = self.order(sandbox, name, request);
        miosa_control::publishing::publish(&self.control(), tenant.id, publish).await
    }

    /// What [`Platform::publish`] asks for.
    pub fn order(&self, sandbox: &Sandbox, name: &str, request: Request) -> Publish {
        Publish {
            sandbox: sandbox.id,
            target: Target::Named(name.to_owned()),
            request,
            source_path: None,
            is_promoted_when_ready: true,
            metadata: serde_json::Map::new(),
            external: deployments::External::default(),
            claim: None,
        }
    }

    /// A deployment as its owner sees it.
    ///
    /// # Panics
    /// If it does not exist.
    pub async fn shown(&self, tenant: Tenant, id: DeploymentId) -> Shown {
        let control = self.control();
        let row = deployments::get(&control, tenant.id, &id.to_string()).await;
        deployments::show(&control, row.expect("it exists")).await.expect("it can be read")
    }

    /// A version.
    ///
    /// # Panics
    /// If it does not exist.
    pub async fn version(&self, tenant: Tenant, of: DeploymentId, id: VersionId) -> Version {
        let control = self.control();
        let found = deployments::get_version(&control, tenant.id, &of.to_string(), id).await;
        found.expect("it exists").1
    }

    /// Waits until a deployment is in a state.
    pub async fn until_state(&self, tenant: Tenant, id: DeploymentId, state: &str) -> Shown {
        eventually(format!("a deployment that is {state}"), async || {
            let shown = self.shown(tenant, id).await;
            (shown.state == state).then_some(shown)
        })
        .await
    }

    /// Waits until a version is in a state.
    pub async fn until_version(&self, tenant: Tenant, made: &Version, state: VersionState) {
        eventually(format!("version {} that is {}", made.number, state.as_str()), async || {
            let version = self.version(tenant, made.deployment, made.id).await;
            (version.state == state).then_some(())
        })
        .await;
    }

    /// Replicas of a version as the provider has them.
    pub fn replicas(&self, version: VersionId) -> Vec<Observed> {
        let of = |o: &Observed| o.owner == Owner::Version(version);
        self.provider.observed().into_iter().filter(of).collect()
    }
}

/// The size of every sandbox.
fn size() -> Size {
    Tier::Xs.size()
}

fn socket(folder: &Path) -> std::path::PathBuf {
    folder.join("link.sock")
}

fn config(data_dir: &Path, pool: u32) -> Config {
    let pool = PoolTarget { template: TEMPLATE.into(), size: size(), count: pool };
    Config {
        domains: Domains {
            base: "platform.localhost".into(),
            apps: "apps.localhost".into(),
            https_port: 8443,
        },
        addresses: vec![ADDRESS],
        data_dir: data_dir.to_owned(),
        pool: vec![pool],
        plain_http: false,
        default_template: TEMPLATE.into(),
    }
}

fn template() -> Template {
    Template {
        name: TEMPLATE.into(),
        aliases: vec![],
        digest: Digest::of(b"template"),
        description: "for tests".into(),
        workdir: "/workspace".into(),
        preview_port: None,
        install_command: None,
        start_command: None,
        runtimes: vec![],
    }
}
