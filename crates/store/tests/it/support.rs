//! The bench of a test: a fresh, empty database of either kind, and rows to begin with.
//!
//! PostgreSQL is a real server that the test process starts, on a Unix socket in a folder of its
//! own; each test has a database of its own there.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use miosa_store::{
    Store,
    deployments::{Deployment, External},
    projects::Project,
    sandboxes,
    sandboxes::Sandbox,
    tenants::Tenant,
    versions::Version,
    workspaces::Workspace,
};
use miosa_types::{
    Digest, Env, Slug, deployment::VersionState, env::ManualClock, id::Kind, size::Tier,
};
use serde_json::{Map, Value, json};
use sqlx::{Any, Connection as _, pool::PoolConnection};
use tempfile::TempDir;

/// Makes two tests of each function: one for each kind of database.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::support::Place::sqlite().bench().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                if let Some(place) = $crate::support::Place::postgres(name).await {
                    super::$test(place.bench().await).await;
                }
            })*
        }
    };
}
pub(crate) use on_both;

/// An empty database.
pub(crate) struct Place {
    pub(crate) url: String,
    _keep: Keep,
}

/// What ends with the test.
#[expect(dead_code, reason = "dropped last, never read")]
enum Keep {
    Folder(TempDir),
    Server(Arc<Server>),
}

/// A database with the schema of today.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) env: Env,
    clock: Arc<ManualClock>,
    pub(crate) place: Place,
}

/// A running PostgreSQL; stopped and removed on drop.
struct Server {
    folder: String,
    databases: AtomicU32,
    script: Child,
}

impl Server {
    /// The server of this process; the reason why there is none.
    fn shared() -> Result<Arc<Self>, String> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let mut script = Command::new("sh")
            .args(["-c", include_str!("postgres.sh")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A signal to the tests must not hit it: it ends after them.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let output = script.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        if let Some(why) = line.trim().strip_prefix("missing: ") {
            script.wait().expect("it has ended");
            return Err(why.to_owned());
        }
        assert!(line.starts_with('/'), "PostgreSQL does not start; see above");
        let folder = line.trim().to_owned();
        let server = Arc::new(Self { folder, databases: AtomicU32::new(0), script });
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        // A test that panics shall show its own fault, not this one.
        let _ = self.script.wait();
    }
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("db").display());
        Self { url, _keep: Keep::Folder(folder) }
    }

    /// `None` on a machine without PostgreSQL, unless the environment demands it.
    pub(crate) async fn postgres(test: &str) -> Option<Self> {
        let server = match Server::shared() {
            Ok(server) => server,
            Err(why) => {
                let is_demanded = std::env::var_os("MIOSA_TEST_POSTGRES").is_some();
                assert!(!is_demanded, "MIOSA_TEST_POSTGRES is set, but {why}");
                eprintln!("SKIPPED {test}: {why}");
                return None;
            }
        };
        let name = format!("test{}", server.databases.fetch_add(1, Ordering::Relaxed));
        sqlx::any::install_default_drivers();
        let mut db = sqlx::AnyConnection::connect(&server.url("postgres")).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("create database {name}"));
        sqlx::raw_sql(sql).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
        Some(Self { url: server.url(&name), _keep: Keep::Server(server) })
    }

    /// Brings it to the schema of today.
    pub(crate) async fn bench(self) -> Bench {
        let store = Store::open(&self.url).await.unwrap();
        let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
        Bench { store, env: Env::fixed(clock.clone(), 1), clock, place: self }
    }
}

impl Bench {
    pub(crate) async fn conn(&self) -> PoolConnection<Any> {
        self.store.conn().await.unwrap()
    }

    /// A later time than any before.
    pub(crate) fn tick(&self) -> Timestamp {
        self.clock.advance(Duration::from_millis(1));
        self.env.now()
    }

    /// An id that is newer than any before.
    pub(crate) fn id<K: Kind>(&self) -> miosa_types::id::Id<K> {
        self.tick();
        self.env.id()
    }

    /// A tenant that is in no database yet.
    pub(crate) fn new_tenant(&self, slug: &str) -> Tenant {
        let id = self.id();
        Tenant {
            id,
            name: format!("Tenant {slug}"),
            slug: Slug::parse(slug).unwrap(),
            deployment_domain: format!("{slug}.apps.localhost"),
            preview_domain: None,
            console_domain: None,
            branding: None,
            settings: object(&json!({"limit": 3})),
            generation: 1,
            created_at: self.env.now(),
            updated_at: self.env.now(),
        }
    }

    /// A tenant with one workspace and one project, all of that slug.
    pub(crate) async fn home(&self, slug: &str) -> Home {
        let tenant = self.new_tenant(slug);
        let workspace = self.new_workspace(&tenant, slug);
        let project = self.new_project(&workspace, slug);
        let mut db = self.conn().await;
        miosa_store::tenants::insert(&mut db, &tenant).await.unwrap();
        miosa_store::workspaces::insert(&mut db, &workspace).await.unwrap();
        miosa_store::projects::insert(&mut db, &project).await.unwrap();
        Home { tenant, workspace, project }
    }

    pub(crate) fn new_workspace(&self, tenant: &Tenant, slug: &str) -> Workspace {
        let id = self.id();
        Workspace {
            id,
            tenant: tenant.id,
            name: format!("Workspace {slug}"),
            slug: Slug::parse(slug).unwrap(),
            description: Some("what it is for".into()),
            external_workspace_id: Some(format!("w-{slug}")),
            branding: None,
            metadata: object(&json!({"a": [1, "ü"]})),
            created_at: self.env.now(),
            updated_at: self.env.now(),
        }
    }

    pub(crate) fn new_project(&self, workspace: &Workspace, slug: &str) -> Project {
        let id = self.id();
        Project {
            id,
            tenant: workspace.tenant,
            workspace: workspace.id,
            name: format!("Project {slug}"),
            slug: Slug::parse(slug).unwrap(),
            description: None,
            external_project_id: Some(format!("p-{slug}")),
            metadata: Map::new(),
            created_at: self.env.now(),
            updated_at: self.env.now(),
        }
    }

    /// A sandbox that is in no database yet.
    pub(crate) fn new_sandbox(&self, home: &Home) -> Sandbox {
        let now = self.tick();
        Sandbox {
            id: self.env.id(),
            tenant: home.tenant.id,
            workspace: home.workspace.id,
            project: home.project.id,
            name: Some("dev".into()),
            slug: Slug::parse(&self.env.slug(12)).unwrap(),
            preview_domain: "apps.localhost".into(),
            template: "t".into(),
            template_digest: Digest::of(b"t"),
            size: Tier::Small.size(),
            workload: self.env.id(),
            revision: 1,
            boot_path: sandboxes::BootPath::Cold,
            env: [("A".to_owned(), "b".to_owned())].into(),
            metadata: Map::new(),
            tags: vec!["a_b%\"".into()],
            external: sandboxes::External { user: Some("u1".into()), ..Default::default() },
            timeout_s: 60,
            is_always_on: false,
            is_persistent: true,
            expires_at: Some(now + Duration::from_mins(1)),
            desired: sandboxes::Desired::Running,
            ready_at: None,
            ended_at: None,
            end_reason: None,
            generation: 1,
            created_at: now,
            updated_at: now,
            destroyed_at: None,
        }
    }

    /// A deployment that is in no database yet.
    pub(crate) fn new_deployment(&self, home: &Home, slug: &str) -> Deployment {
        let id = self.id();
        Deployment {
            id,
            tenant: home.tenant.id,
            workspace: home.workspace.id,
            project: home.project.id,
            name: format!("App {slug}"),
            slug: Slug::parse(slug).unwrap(),
            deployment_domain: home.tenant.deployment_domain.clone(),
            settings: object(&json!({"port": 3000})),
            metadata: Map::new(),
            external: External::default(),
            replicas: 1,
            hold_s: 30,
            active_version: None,
            is_stopped: false,
            serving_version: None,
            failure: None,
            generation: 1,
            created_at: self.env.now(),
            updated_at: self.env.now(),
            deleted_at: None,
        }
    }

    /// A version that is in no database yet.
    pub(crate) fn new_version(&self, of: &Deployment, number: u32) -> Version {
        let id = self.id();
        Version {
            id,
            tenant: of.tenant,
            deployment: of.id,
            number,
            kind: None,
            state: VersionState::Building,
            source_sandbox: None,
            source: Some(Digest::of(b"source")),
            request: json!({"build_command": "npm run build"}),
            artifact: None,
            run: None,
            template: "t".into(),
            size: Tier::Xs.size(),
            workload: self.env.id(),
            revision: 1,
            is_promoted_when_ready: true,
            failure: None,
            created_at: self.env.now(),
            updated_at: self.env.now(),
            ready_at: None,
            promoted_at: None,
            served_at: None,
            archived_at: None,
        }
    }
}

/// A tenant and where its things go.
pub(crate) struct Home {
    pub(crate) tenant: Tenant,
    pub(crate) workspace: Workspace,
    pub(crate) project: Project,
}

/// The fields of a JSON object.
pub(crate) fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}
