//! A provider on this machine for one test, removed again however the test ends.

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use miosa_provider::{
    Command, Confinement, Event, Exit, Key, Observed, Owner, Phase, Provider, Readiness, Root,
    WorkloadSpec,
};
use miosa_provider_oci::{LayerSource, OciConfig, OciProvider, template::Templates};
use miosa_types::{Digest, Env, InstallationId, Size, WorkloadId};
use tokio::{io::AsyncRead, runtime::Runtime, time::timeout};

pub(crate) const TEMPLATE: &str = "base";
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The artifacts of a test.
#[derive(Debug, Default)]
pub(crate) struct Artifacts(std::sync::Mutex<HashMap<Digest, Vec<u8>>>);

impl Artifacts {
    /// Makes one of files (path, content) that belong to the default user.
    pub(crate) fn add(&self, files: &[(&str, &str)]) -> Digest {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_uid(1000);
            header.set_gid(1000);
            archive.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let digest = Digest::of(&bytes);
        self.0.lock().unwrap().insert(digest, bytes);
        digest
    }
}

#[async_trait]
impl LayerSource for Artifacts {
    async fn open(&self, digest: Digest) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let bytes = self.0.lock().unwrap().get(&digest).cloned();
        Ok(Box::new(io::Cursor::new(bytes.ok_or(io::ErrorKind::NotFound)?)))
    }
}

pub(crate) struct Machine {
    pub(crate) env: Env,
    pub(crate) installation: InstallationId,
    pub(crate) folder: tempfile::TempDir,
    disk: Option<SmallDisk>,
    life: std::sync::Mutex<Option<Life>>,
    gateway: std::sync::OnceLock<Ipv4Addr>,
    pub(crate) artifacts: Arc<Artifacts>,
}

/// 800 MiB under the data folder, 512 of them in the pool.
struct SmallDisk;

impl SmallDisk {
    fn mount(folder: &Path) {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, c"size=800m").unwrap();
        let image = folder.join("pool.img");
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        let done = std::process::Command::new("mkfs.btrfs")
            .args(["-q", "-m", "single"])
            .arg(&image)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn unmount(folder: &Path) {
        rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// A provider and the runtime that all its tasks are on, so that both can die together.
struct Life {
    provider: Arc<OciProvider>,
    runtime: Runtime,
}

/// The template cache.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("MIOSA_CACHE_DIR").map_or_else(|| "/var/cache/miosa".into(), PathBuf::from)
}

/// Says aloud that a test is not run. With `MIOSA_TEST_MACHINE` set that is a failure: what the
/// machine lacks is to be installed then.
pub(crate) fn skip(why: &str) {
    let is_demanded = std::env::var_os("MIOSA_TEST_MACHINE").is_some();
    assert!(!is_demanded, "MIOSA_TEST_MACHINE is set, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// Why this machine cannot run the tests.
fn lacks() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let cache = cache();
    let found = Templates::open(&cache).map(|all| all.resolve(TEMPLATE).is_ok());
    if !found.unwrap_or(false) {
        let cache = cache.display();
        return Some(format!("no template `{TEMPLATE}` in {cache}: run `miosa template build`"));
    }
    (!Path::new("/usr/bin/crun").exists()).then(|| "no crun".into())
}

/// Runs a test with a provider of its own.
pub(crate) fn with_machine<F: Future<Output = ()>>(test: impl FnOnce(Arc<Machine>) -> F) {
    with_disk(None, test);
}

/// Runs a test with a provider whose pool is small and whose disk has no room to let it grow.
pub(crate) fn with_small_machine<F: Future<Output = ()>>(test: impl FnOnce(Arc<Machine>) -> F) {
    with_disk(Some(SmallDisk), test);
}

fn with_disk<F: Future<Output = ()>>(
    disk: Option<SmallDisk>,
    test: impl FnOnce(Arc<Machine>) -> F,
) {
    if let Some(why) = lacks() {
        return skip(&why);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let machine = Arc::new(Machine::on(disk, Env::system()).await);
        let work = test(machine.clone());
        let outcome = std::panic::AssertUnwindSafe(work).catch_unwind().await;
        machine.open().await;
        if let Err(panic) = outcome {
            // Removed all the same, but the first fault is the one to tell of.
            machine.provider().remove_everything().await.ok();
            std::panic::resume_unwind(panic);
        }
        machine.remove_everything().await;
    });
}

impl Machine {
    pub(crate) async fn new(env: Env) -> Self {
        Self::on(None, env).await
    }

    async fn on(disk: Option<SmallDisk>, env: Env) -> Self {
        let folder = tempfile::Builder::new().prefix("provider-").tempdir_in("/var/tmp").unwrap();
        if disk.is_some() {
            SmallDisk::mount(folder.path());
        }
        let machine = Self {
            installation: env.id(),
            env,
            folder,
            disk,
            life: std::sync::Mutex::new(None),
            gateway: std::sync::OnceLock::new(),
            artifacts: Arc::default(),
        };
        machine.open().await;
        machine
    }

    /// Another installation in the data folder of this one, which is not open any more.
    pub(crate) async fn become_another(self) -> Self {
        std::fs::create_dir_all(self.folder.path()).unwrap();
        let machine = Self {
            installation: self.env.id(),
            life: std::sync::Mutex::new(None),
            gateway: std::sync::OnceLock::new(),
            ..self
        };
        machine.open().await;
        machine
    }

    /// Opens the provider if it is not open.
    pub(crate) async fn open(&self) {
        if self.life.lock().unwrap().is_some() {
            return;
        }
        let config = OciConfig {
            installation: self.installation,
            data_dir: self.folder.path().to_owned(),
            templates: Templates::open(&cache()).unwrap(),
            env: self.env.clone(),
            layers: self.artifacts.clone(),
            trust_host_ca: true,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let provider = runtime.spawn(OciProvider::open(config)).await.unwrap().unwrap();
        *self.life.lock().unwrap() = Some(Life { provider, runtime });
        self.gateway();
    }

    /// Drops the provider as the death of its process would: nothing is cleaned up.
    pub(crate) async fn die(&self) {
        let Life { provider, runtime } = self.life.lock().unwrap().take().unwrap();
        drop(provider);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE)).await.unwrap();
    }

    /// Removes everything, and checks that nothing is left.
    pub(crate) async fn remove_everything(&self) {
        self.provider().remove_everything().await.unwrap();
        self.die().await;
        if self.disk.is_some() {
            SmallDisk::unmount(self.folder.path());
        }
        self.assert_nothing_is_left();
    }

    pub(crate) fn provider(&self) -> Arc<OciProvider> {
        self.life.lock().unwrap().as_ref().expect("open").provider.clone()
    }

    /// The host's address on the workloads' network.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        *self.gateway.get_or_init(|| {
            let subnet = self.provider().status().subnet;
            let base: Ipv4Addr = subnet.split('/').next().unwrap().parse().unwrap();
            Ipv4Addr::from(u32::from(base) + 1)
        })
    }

    /// A replica that listens on the loopback address only, and obeys [`tell`].
    pub(crate) fn server(&self) -> WorkloadSpec {
        let script = include_str!("server.py");
        self.workload(&["python3", "-u", "-c", script], Readiness::Tcp { port: 3000 })
    }

    pub(crate) fn workload(&self, argv: &[&str], readiness: Readiness) -> WorkloadSpec {
        let workload: WorkloadId = self.env.id();
        WorkloadSpec {
            key: Key { workload, revision: 1 },
            owner: Owner::Version(self.env.id()),
            root: Root { template: TEMPLATE.into(), layer: None },
            size: Size { memory_mib: 256, cpu_millis: 1000, disk_mib: 128 },
            replicas: 1,
            restart: true,
            confinement: Confinement::Runtime,
            command: Some(Command {
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                cwd: "/workspace".into(),
                env: [("PORT".to_owned(), "3000".to_owned())].into(),
            }),
            readiness,
            hostname: "app".into(),
        }
    }

    /// A sandbox: the guest alone.
    pub(crate) fn sandbox(&self) -> WorkloadSpec {
        WorkloadSpec {
            command: None,
            owner: Owner::Sandbox(self.env.id()),
            confinement: Confinement::Sandbox,
            restart: false,
            ..self.workload(&["-"], Readiness::Guest)
        }
    }

    /// Runs a shell script in a workload of its own, and removes that.
    pub(crate) async fn script(&self, text: &str, confinement: Confinement) -> Exit {
        let spec = WorkloadSpec {
            confinement,
            restart: false,
            ..self.workload(&["bash", "-c", text], Readiness::Guest)
        };
        self.run(spec).await
    }

    /// Applies a workload that ends by itself, and removes it.
    pub(crate) async fn run(&self, spec: WorkloadSpec) -> Exit {
        self.provider().apply(&spec).await.unwrap();
        let ended = self
            .until(spec.key.workload, |own| match own {
                [one] if matches!(one.phase, Phase::Exited { .. }) => Some(one.clone()),
                _ => None,
            })
            .await;
        self.remove(spec.key).await;
        ended.last_exit.unwrap()
    }

    /// Applies a workload and waits until its only replica is ready.
    pub(crate) async fn start(&self, spec: &WorkloadSpec) -> Observed {
        self.provider().apply(spec).await.unwrap();
        self.ready(spec.key.workload).await
    }

    pub(crate) async fn ready(&self, workload: WorkloadId) -> Observed {
        self.until(workload, |own| match own {
            [one] if one.phase.ready().is_some() => Some(one.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn remove(&self, key: Key) {
        self.provider().delete(key, 0).await.unwrap();
        self.until(key.workload, |own| own.is_empty().then_some(())).await;
    }

    /// Follows the watch until `look` finds something among a workload's replicas.
    pub(crate) async fn until<T>(
        &self,
        workload: WorkloadId,
        look: impl Fn(&[Observed]) -> Option<T>,
    ) -> T {
        let mut events = self.provider().watch().await.unwrap();
        let mut known: Vec<Observed> = Vec::new();
        let search = async {
            loop {
                match events.next().await.expect("the watch goes on") {
                    Event::Snapshot(all) => known = all,
                    Event::Upsert(one) => {
                        known.retain(|other| other.instance != one.instance);
                        known.push(*one);
                    }
                    Event::Gone(instance) => known.retain(|one| one.instance != instance),
                }
                known.retain(|one| one.key.workload == workload);
                if let Some(found) = look(&known) {
                    return found;
                }
            }
        };
        let found = timeout(DEADLINE, search).await.ok();
        found.unwrap_or_else(|| panic!("waited in vain; seen: {known:#?}"))
    }

    /// The packet filter table.
    pub(crate) fn table(&self) -> String {
        format!("wl_{}", self.installation.simple())
    }

    /// Looks for host objects that carry the installation's id.
    pub(crate) fn assert_nothing_is_left(&self) {
        let folder = self.folder.path().to_str().unwrap();
        let gateway = *self.gateway.get().unwrap();
        // A leaf of the routing trie: its inner nodes show prefixes that others share.
        let address = format!("|-- {gateway}\n");
        Self::assert_nothing_is_left_of(self.installation, &[folder, &address]);
    }

    /// Looks for host objects that carry an installation's id or one of these words.
    pub(crate) fn assert_nothing_is_left_of(installation: InstallationId, words: &[&str]) {
        let id = installation.simple();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let short = &id[22..];
        for (what, seen) in [
            ("mount", read("/proc/self/mountinfo")),
            ("links and routes", read("/proc/net/dev") + &read("/proc/net/fib_trie")),
            ("packet filter", output("nft", &["list", "tables"])),
            ("loop device", output("losetup", &["-a"])),
        ] {
            for name in [id.as_str(), short].iter().chain(words) {
                assert!(!seen.contains(name), "{what} left: {name} in {seen}");
            }
        }
        for parent in ["/run/workloads", "/sys/fs/cgroup/memory/workloads"] {
            let Ok(entries) = std::fs::read_dir(parent) else { continue };
            let left = entries.flatten().any(|e| e.file_name().to_string_lossy().contains(&id));
            assert!(!left, "left in {parent}");
        }
    }
}

pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Sends a line to a server of [`Machine::server`] and reads its answer.
pub(crate) async fn tell(replica: &Observed, line: &str) -> io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let addr = replica.phase.ready().expect("ready");
    let talk = async {
        let mut stream = tokio::net::TcpStream::connect(addr).await?;
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(DEADLINE, talk).await?
}
