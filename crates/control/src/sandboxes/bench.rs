//! Control over the in-memory provider, for tests of this crate: a database file of its own, a
//! guest that fails on request, a clock that is moved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use miosa_artifact::ArtifactStore;
use miosa_provider::fake::Fake;
use miosa_store::{Store, tenants::Tenant};
use miosa_types::{
    Digest, Env, Size, Slug, TenantId,
    dns::{self, Dns},
    env::ManualClock,
    guest::{
        ByteStream, Command, Endpoint, Error as GuestError, FileInfo, Guest, Init, ListeningPort,
        OutputStream,
    },
    host::Domains,
    probe::{Outcome, Probe, Target},
    size::Tier,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Config, PoolTarget, Reconciler as _, observe,
    reconcile::{leftovers::Leftovers, pool::Pool, sandboxes::Sandboxes},
    templates::Fixed,
};

/// Takes every `init`, but the next `failures`.
#[derive(Debug, Default)]
pub(crate) struct TestGuest {
    pub(crate) failures: AtomicU32,
    pub(crate) inits: std::sync::Mutex<Vec<(Endpoint, Init)>>,
}

fn away() -> GuestError {
    GuestError::Unavailable { source: "not in this test".into() }
}

#[async_trait]
impl Guest for TestGuest {
    async fn health(&self, _: &Endpoint, _: Duration) -> Result<(), GuestError> {
        Ok(())
    }
    async fn init(&self, guest: &Endpoint, init: &Init) -> Result<(), GuestError> {
        let fails = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() {
            return Err(away());
        }
        self.inits.lock().unwrap().push((guest.clone(), init.clone()));
        Ok(())
    }
    async fn start(&self, _: &Endpoint, _: &Command) -> Result<OutputStream, GuestError> {
        Err(away())
    }
    async fn send_stdin(&self, _: &Endpoint, _: u32, _: Bytes) -> Result<(), GuestError> {
        Err(away())
    }
    async fn close_stdin(&self, _: &Endpoint, _: u32) -> Result<(), GuestError> {
        Err(away())
    }
    async fn signal(&self, _: &Endpoint, _: u32, _: i32) -> Result<(), GuestError> {
        Err(away())
    }
    async fn read(&self, _: &Endpoint, _: &str) -> Result<ByteStream, GuestError> {
        Err(away())
    }
    async fn write(&self, _: &Endpoint, _: &str, _: ByteStream) -> Result<(), GuestError> {
        Err(away())
    }
    async fn list(&self, _: &Endpoint, _: &str, _: u32) -> Result<Vec<FileInfo>, GuestError> {
        Err(away())
    }
    async fn stat(&self, _: &Endpoint, _: &str) -> Result<FileInfo, GuestError> {
        Err(away())
    }
    async fn remove(&self, _: &Endpoint, _: &str) -> Result<(), GuestError> {
        Err(away())
    }
    async fn make_dir(&self, _: &Endpoint, _: &str) -> Result<(), GuestError> {
        Err(away())
    }
    async fn rename(&self, _: &Endpoint, _: &str, _: &str) -> Result<(), GuestError> {
        Err(away())
    }
    async fn read_tar(
        &self,
        _: &Endpoint,
        _: &str,
        _: &[String],
    ) -> Result<ByteStream, GuestError> {
        Err(away())
    }
    async fn write_tar(&self, _: &Endpoint, _: &str, _: ByteStream) -> Result<(), GuestError> {
        Err(away())
    }
    async fn ports(&self, _: &Endpoint) -> Result<Vec<ListeningPort>, GuestError> {
        Err(away())
    }
    async fn logs(&self, _: &Endpoint, _: u32) -> Result<Bytes, GuestError> {
        Err(away())
    }
}

#[derive(Debug)]
struct NoProbe;

#[async_trait]
impl Probe for NoProbe {
    async fn probe(&self, _: &Target) -> Outcome {
        Outcome::Refused
    }
}

#[derive(Debug)]
struct NoDns;

#[async_trait]
impl Dns for NoDns {
    async fn texts(&self, _: &str, _: Duration) -> Result<Vec<String>, dns::Failed> {
        Ok(vec![])
    }
    async fn alias(&self, _: &str, _: Duration) -> Result<Option<String>, dns::Failed> {
        Ok(None)
    }
    async fn addresses(&self, _: &str, _: Duration) -> Result<Vec<std::net::IpAddr>, dns::Failed> {
        Ok(vec![])
    }
}

pub(crate) struct Bench {
    pub(crate) control: Arc<Control>,
    pub(crate) fake: Arc<Fake>,
    pub(crate) guest: Arc<TestGuest>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) tenant: TenantId,
    pub(crate) place: Place,
    pub(crate) leftovers: Leftovers,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How long a test waits for a state before it fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn template(content: &[u8]) -> Template {
    Template {
        name: "box".into(),
        aliases: vec!["base".into()],
        digest: Digest::of(content),
        description: String::new(),
        workdir: "/workspace".into(),
        preview_port: Some(3000),
        install_command: None,
        start_command: None,
        runtimes: vec![],
    }
}

/// A platform that keeps `pool` warm slots of these sizes.
pub(crate) async fn bench(pool: &[(Size, u32)]) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap());
    let env = Env::fixed(clock.clone(), 1);
    let fake = Arc::new(Fake::new(env.clone()));
    let guest = Arc::new(TestGuest::default());
    let pool = pool.iter().map(|(size, count)| PoolTarget {
        template: "box".into(),
        size: *size,
        count: *count,
    });
    let control = Arc::new(Control {
        store: Store::open_sqlite(&folder.path().join("db")).await.unwrap(),
        provider: fake.clone(),
        guest: guest.clone(),
        probe: Arc::new(NoProbe),
        dns: Arc::new(NoDns),
        edges: crate::edges::Edges::new(1),
        suspects: crate::monitor::Suspects::default(),
        healing: crate::healing::Healing::default(),
        templates: Arc::new(Fixed(vec![template(b"one")])),
        in_hand: InHand::default(),
        pool: crate::pool::Stats::default(),
        artifacts: ArtifactStore::open(&folder.path().join("artifacts")).unwrap(),
        env,
        config: Config {
            domains: Domains {
                base: "base.localhost".into(),
                apps: "apps.localhost".into(),
                https_port: 8443,
            },
            addresses: vec![],
            data_dir: folder.path().to_owned(),
            pool: pool.collect(),
            plain_http: false,
            default_template: "box".into(),
        },
        observed: crate::Observations::default(),
        wakes: crate::Wakes::default(),
    });
    let stop = CancellationToken::new();
    let (observed, wakes) = (control.observed.clone(), control.wakes.clone());
    tokio::spawn(observe::follow(fake.clone(), observed, wakes, stop.clone()));
    control.observed.wait_for(SOON, |seen| seen.replicas().map(drop)).await.unwrap();
    let (tenant, place) = tenant(&control, "a").await;
    let leftovers = Leftovers::new(control.clone());
    Bench { control, fake, guest, clock, tenant, place, leftovers, stop, _folder: folder }
}

/// Adds a tenant with a workspace and a project.
pub(crate) async fn tenant(control: &Control, slug: &str) -> (TenantId, Place) {
    use miosa_store::{projects, tenants, workspaces};
    let (env, now) = (&control.env, control.env.now());
    let slug = Slug::parse(slug).unwrap();
    let tenant = Tenant {
        id: env.id(),
        name: slug.to_string(),
        slug: slug.clone(),
        deployment_domain: format!("{slug}.apps.localhost"),
        preview_domain: None,
        console_domain: None,
        branding: None,
        settings: serde_json::Map::new(),
        generation: 1,
        created_at: now,
        updated_at: now,
    };
    let workspace = workspaces::Workspace {
        id: env.id(),
        tenant: tenant.id,
        name: "w".into(),
        slug: slug.clone(),
        description: None,
        external_workspace_id: None,
        branding: None,
        metadata: serde_json::Map::new(),
        created_at: now,
        updated_at: now,
    };
    let project = projects::Project {
        id: env.id(),
        tenant: tenant.id,
        workspace: workspace.id,
        name: "p".into(),
        slug,
        description: None,
        external_project_id: None,
        metadata: serde_json::Map::new(),
        created_at: now,
        updated_at: now,
    };
    let mut db = control.store.conn().await.unwrap();
    tenants::insert(&mut db, &tenant).await.unwrap();
    workspaces::insert(&mut db, &workspace).await.unwrap();
    projects::insert(&mut db, &project).await.unwrap();
    (tenant.id, Place { workspace: workspace.id, project: project.id })
}

impl Bench {
    pub(crate) fn new_sandbox(&self, tier: Tier) -> New {
        New {
            place: self.place,
            name: None,
            slug: None,
            template: None,
            size: tier.size(),
            env: [("A".to_owned(), "b".to_owned())].into(),
            metadata: serde_json::Map::new(),
            tags: vec![],
            external: External::default(),
            timeout_s: 3600,
            is_always_on: false,
            is_persistent: true,
        }
    }

    pub(crate) async fn create(&self, tier: Tier) -> Result<Sandbox, Error> {
        create(&self.control, self.tenant, self.new_sandbox(tier), None, SOON).await
    }

    /// One step of each reconciler, then waits until no sandbox is in hand and what the provider
    /// shows has been taken in.
    pub(crate) async fn round(&self) {
        // A step may fail by an injected fault; the next round repeats it.
        let _ = Sandboxes(self.control.clone()).step().await;
        let _ = Pool::new(self.control.clone()).step().await;
        let _ = self.leftovers.step().await;
        self.settle().await;
    }

    pub(crate) async fn settle(&self) {
        let same = |seen: &crate::Observations| {
            let sorted = |mut all: Vec<miosa_provider::Observed>| {
                all.sort_by_key(|one| one.instance);
                all
            };
            let is_same = sorted(seen.replicas()?) == sorted(self.fake.observed());
            (is_same && self.control.in_hand.count() == 0).then_some(())
        };
        let deadline = tokio::time::Instant::now() + SOON;
        while same(&self.control.observed).is_none() {
            assert!(tokio::time::Instant::now() < deadline, "it does not settle");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Rounds until nothing changes any more.
    pub(crate) async fn converge(&self) {
        for _ in 0..12 {
            self.round().await;
            self.fake.tick();
        }
    }

    pub(crate) async fn get(&self, id: SandboxId) -> Sandbox {
        get(&self.control, self.tenant, id).await.unwrap()
    }

    /// Workloads at the provider that belong to nobody's row.
    pub(crate) async fn leaked(&self) -> Vec<miosa_types::WorkloadId> {
        let mut db = self.control.store.conn().await.unwrap();
        let rows = rows::unfinished(&mut db, None, 1000).await.unwrap();
        let slots = pool_slots::free(&mut db, 1000).await.unwrap();
        let wanted: std::collections::BTreeSet<_> = rows
            .iter()
            .filter(|row| matches!(row.state(), State::Creating | State::Running))
            .map(|row| row.workload)
            .chain(slots.iter().map(|slot| slot.workload))
            .collect();
        let seen = self.fake.observed().into_iter().map(|one| one.key.workload);
        seen.filter(|workload| !wanted.contains(workload)).collect()
    }
}

/// A row that was just made and is not in the database.
pub(crate) fn bench_row(bench: &Bench) -> Sandbox {
    let new = bench.new_sandbox(Tier::Xs);
    row(&bench.control.env, bench.tenant, new, &template(b"one")).unwrap()
}
