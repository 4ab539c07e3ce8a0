//! From a folder to an artifact.

use std::{sync::atomic::AtomicUsize, time::Duration};

use miosa_artifact::ArtifactStore;
use miosa_publish::{
    Artifact, BuildContext, BuildError, BuildLog, Built, Deadlines, Request, Run, SnapshotError,
    build, snapshot, source_excludes,
};
use miosa_types::{Digest, Secret, guest::Endpoint, manifest::SiteManifest};

use crate::folder_guest::FolderGuest;

struct Bench {
    _dir: tempfile::TempDir,
    store: ArtifactStore,
    endpoint: Endpoint,
    log: BuildLog,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path()).unwrap();
        let addr = "127.0.0.1:1".parse().unwrap();
        let endpoint = Endpoint { addr, token: Secret::new("t".into()) };
        Self { _dir: dir, store, endpoint, log: BuildLog::new() }
    }

    async fn save(&self, files: &[(&str, &str)]) -> Digest {
        let edit = FolderGuest::new(files);
        let saved = self.snapshot(&edit).await;
        saved.unwrap()
    }

    async fn snapshot(&self, edit: &FolderGuest) -> Result<Digest, SnapshotError> {
        let excludes = source_excludes();
        let root = "/workspace";
        snapshot(edit, &self.endpoint, &self.store, root, &excludes).await.map(|blob| blob.digest)
    }

    async fn build_in(
        &self,
        guest: &FolderGuest,
        source: Digest,
        request: &str,
    ) -> Result<Built, BuildError> {
        let request: Request = serde_json::from_str(request).unwrap();
        request.check().unwrap();
        let deadlines = Deadlines { build: Duration::from_secs(20), ..Deadlines::default() };
        let cx = BuildContext {
            guest,
            endpoint: &self.endpoint,
            artifacts: &self.store,
            request: &request,
            source,
            log: &self.log,
            deadlines,
        };
        build(&cx).await
    }

    async fn build(&self, files: &[(&str, &str)], request: &str) -> Result<Built, BuildError> {
        let source = self.save(files).await;
        self.build_in(&FolderGuest::new(&[]), source, request).await
    }

    async fn manifest(&self, built: &Built) -> SiteManifest {
        let Artifact::Site { manifest, .. } = &built.artifact else { panic!("{built:?}") };
        let json = self.store.get_bytes(*manifest, u64::MAX).await.unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// Names and texts of an app's layer.
    async fn layer(&self, built: &Built) -> Vec<(String, String)> {
        let Artifact::App { layer, .. } = &built.artifact else { panic!("{built:?}") };
        let bytes = self.store.get_bytes(layer.digest, u64::MAX).await.unwrap();
        let mut files = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            files.push((path, String::from_utf8_lossy(&text).into_owned()));
        }
        files
    }
}

fn failure(result: Result<Built, BuildError>) -> (String, Vec<String>) {
    match result {
        Err(BuildError::Failed { reason, log_tail }) => (reason, log_tail),
        other => panic!("not the app's failure: {other:?}"),
    }
}

#[tokio::test]
async fn plain_pages_become_a_site() {
    let bench = Bench::new();
    let files = [("index.html", "<h1>hi</h1>"), ("about.html", "x"), (".env", "SECRET=1")];
    let built = bench.build(&files, "{}").await.unwrap();
    assert_eq!(built.framework, "plain HTML");
    let manifest = bench.manifest(&built).await;
    assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["about.html", "index.html"]);
}

#[tokio::test]
async fn a_build_script_makes_the_site_and_sees_its_environment() {
    let bench = Bench::new();
    let files = [
        ("package.json", "{}"),
        ("src/page", "x"),
        ("make.sh", "mkdir -p web && echo \"$GREETING $NODE_ENV\" > web/index.html"),
    ];
    let request = r#"{"build_command":"sh make.sh","output_path":"web","env":{"GREETING":"moin"}}"#;
    let built = bench.build(&files, request).await.unwrap();
    let manifest = bench.manifest(&built).await;
    let page = manifest.files["index.html"].blob;
    assert_eq!(bench.store.get_bytes(page.digest, 99).await.unwrap(), "moin production\n");
    assert!(bench.log.text().contains("$ sh make.sh\n"));
}

#[tokio::test]
async fn an_app_becomes_a_layer_without_its_environment() {
    let bench = Bench::new();
    let server = "require('http').createServer(x).listen(process.env.PORT)";
    let request = r#"{"build_command":"mkdir -p node_modules/x && echo built > node_modules/x/y",
        "port":4000,"health_check_path":"/healthz","env":{"DATABASE_PASSWORD":"hunter2"}}"#;
    let built = bench.build(&[("server.js", server)], request).await.unwrap();
    let Artifact::App { run, .. } = &built.artifact else { panic!("{built:?}") };
    assert_eq!(run.run, Run::Shell("node server.js".into()));
    assert_eq!((run.port, run.health_check_path.as_deref()), (4000, Some("/healthz")));
    assert_eq!((run.env["PORT"].as_str(), run.cwd.as_str()), ("4000", "/workspace"));
    let layer = bench.layer(&built).await;
    let names: Vec<_> = layer.iter().map(|(name, _)| name.trim_end_matches('/')).collect();
    assert_eq!(names[0], "workspace");
    assert!(names.contains(&"workspace/server.js"), "{names:?}");
    assert!(names.contains(&"workspace/node_modules/x/y"), "what runs needs stays: {names:?}");
    assert!(names.iter().all(|name| name.starts_with("workspace")));
    assert!(layer.iter().all(|(_, text)| !text.contains("hunter2")));
    assert!(!bench.log.text().contains("hunter2"));
}

#[tokio::test]
async fn a_lock_file_that_does_not_fit_is_worked_around_and_said() {
    if std::process::Command::new("npm").arg("--version").output().is_err() {
        eprintln!("skipped: npm is not installed");
        return;
    }
    let bench = Bench::new();
    // The lock file knows a package that package.json does not, and the other way round; the
    // package is a folder, so no registry is asked.
    let package = r#"{"name":"a","version":"1.0.0","scripts":{"build":"mkdir dist && cp p dist/index.html"},
        "dependencies":{"local":"file:./local"}}"#;
    let lock = r#"{"name":"a","version":"1.0.0","lockfileVersion":3,"packages":{"":{"name":"a","version":"1.0.0"}}}"#;
    let files = [
        ("package.json", package),
        ("package-lock.json", lock),
        ("local/package.json", r#"{"name":"local","version":"1.0.0"}"#),
        ("p", "page"),
    ];
    let built = bench.build(&files, "{}").await.unwrap();
    assert!(bench.manifest(&built).await.files.contains_key("index.html"));
    assert!(bench.log.text().contains("`npm ci` failed, most likely because"));
}

#[tokio::test]
async fn failures_of_the_app_say_what_happened() {
    let bench = Bench::new();
    let page = [("index.html", "x")];
    for (request, wanted) in [
        (r#"{"build_command":"echo one; echo two >&2; exit 3"}"#, "failed with exit code 3"),
        (r#"{"build_command":"no-such-program"}"#, "a command was not found"),
        (
            r#"{"output_path":"dist"}"#,
            "looked for `/workspace/dist`; /workspace contains index.html",
        ),
        (
            r#"{"build_command":"ln -s /etc dist","output_path":"dist"}"#,
            "there is no output folder",
        ),
        (r#"{"build_command":"ln -s /etc/passwd x"}"#, "points out"),
        (r#"{"kind":"dynamic"}"#, "not recognised"),
    ] {
        let (reason, _) = failure(bench.build(&page, request).await);
        assert!(reason.contains(wanted), "{reason}");
    }
    let (_, tail) = failure(bench.build(&page, r#"{"build_command":"echo last; exit 1"}"#).await);
    assert!(tail.iter().any(|line| line == "last"), "{tail:?}");
}

#[tokio::test]
async fn an_endless_build_is_ended() {
    let bench = Bench::new();
    let source = bench.save(&[("index.html", "x")]).await;
    let request: Request = serde_json::from_str(r#"{"build_command":"sleep 1000"}"#).unwrap();
    let deadlines = Deadlines { build: Duration::from_millis(100), ..Deadlines::default() };
    let guest = FolderGuest::new(&[]);
    let cx = BuildContext {
        guest: &guest,
        endpoint: &bench.endpoint,
        artifacts: &bench.store,
        request: &request,
        source,
        log: &bench.log,
        deadlines,
    };
    let (reason, _) = failure(build(&cx).await);
    assert!(reason.contains("took longer than"), "{reason}");
}

/// At whatever call the sandbox dies, it is the platform's failure, never the app's.
#[tokio::test]
async fn a_sandbox_that_dies_is_nobodys_fault() {
    let bench = Bench::new();
    let source = bench.save(&[("index.html", "x")]).await;
    let request = r#"{"build_command":"true"}"#;
    let mut deaths = 0;
    loop {
        let mut guest = FolderGuest::new(&[]);
        guest.dies_after = Some(AtomicUsize::new(deaths));
        match bench.build_in(&guest, source, request).await {
            Err(BuildError::Unavailable { .. }) => deaths += 1,
            Ok(_) => break,
            other => panic!("after {deaths} calls: {other:?}"),
        }
    }
    assert!(deaths >= 4, "unpack, build, look, collect: {deaths}");
}

#[tokio::test]
async fn a_snapshot_leaves_out_what_is_made_anew_and_refuses_links_out() {
    let bench = Bench::new();
    let edit = FolderGuest::new(&[
        ("a.js", "x"),
        ("node_modules/b/c.js", "x"),
        ("sub/node_modules/b.js", "x"),
        (".git/HEAD", "x"),
        (".gitignore", "x"),
        (".npmrc", "x"),
    ]);
    let source = bench.snapshot(&edit).await.unwrap();
    let bytes = bench.store.get_bytes(source, u64::MAX).await.unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, [".gitignore", ".npmrc", "a.js", "sub"]);

    std::os::unix::fs::symlink("/etc/passwd", edit.dir.path().join("out")).unwrap();
    match bench.snapshot(&edit).await {
        Err(SnapshotError::Invalid { reason }) => {
            assert_eq!(reason, "the link `out` points out, to `/etc/passwd`");
        }
        other => panic!("{other:?}"),
    }
    let empty = bench.snapshot(&FolderGuest::new(&[])).await;
    assert!(matches!(empty, Err(SnapshotError::Invalid { .. })));
}
