//! How long control takes for many deployments that it finds in the database and that nothing
//! serves yet, and what a step costs once all is done. `script/bench control` runs it.
//!
//! It measures and fails only if the platform does not get there: numbers of a busy machine are
//! no verdict. The provider is in memory and ready at once; database and edge link are real.

#![expect(clippy::unwrap_used, reason = "a measurement may end where its setup fails")]

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use miosa_control::{
    Reconciler,
    publishing::Request,
    reconcile::{deployments::Deployments, routes::Routes},
};
use miosa_store::{Store, deployments, deployments::Deployment, versions, versions::Version};
use miosa_testkit::Platform;
use miosa_types::{
    EdgeId, Slug,
    link::{Down, Entry, Hello, ReplicaState, Up},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::Instant,
};

/// Longest wait for one size.
const PATIENCE: Duration = Duration::from_mins(5);

/// Idle steps that are timed.
const STEPS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; script/bench control runs it"]
async fn deployments_from_cold() {
    for count in [1_000, 10_000] {
        measure(count).await;
    }
}

async fn measure(count: usize) {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, &[("server.js", "require('http')")]).await;
    let request = Request {
        run_command: Some("node server.js".into()),
        port: Some(3000),
        build_command: Some(String::new()),
        ..Request::default()
    };
    let made = platform.publish(tenant, &sandbox, "first", request).await.unwrap();
    let first = platform.until_state(tenant, made.deployment.id, "running").await;
    let version = platform.version(tenant, made.deployment.id, made.version.id).await;
    let store = platform.control().store.clone();
    platform.kill_control();
    platform.edge.close();
    copy(&platform, &store, &first.deployment, &version, count).await;

    let began = Instant::now();
    let serving = tokio::spawn(edge(platform.socket(), platform.env.id(), count + 1, began));
    platform.start_control().await;
    let served = tokio::time::timeout(PATIENCE, serving).await;
    let mut served = served.expect("all are served in time").unwrap();
    print(&format!("{count} deployments from cold"), &mut served);
    settled(&store).await;
    print(&format!("{count}: all of it written down"), &mut [began.elapsed()]);

    let control = platform.control();
    let reconcilers: [(&str, Box<dyn Reconciler>); 2] = [
        ("deployments", Box::new(Deployments::new(control.clone()))),
        ("routes", Box::new(Routes::new(control.clone()))),
    ];
    for (name, reconciler) in reconcilers {
        // The first step of a new reconciler reads what later ones remember.
        reconciler.step().await.unwrap();
        let mut took = Vec::new();
        for _ in 0..STEPS {
            let began = Instant::now();
            let report = reconciler.step().await.unwrap();
            took.push(began.elapsed());
            assert_eq!(report.failed, 0, "{report:?}");
        }
        print(&format!("{count}: idle step of {name}"), &mut took);
    }
}

/// Waits until control has noted for each deployment that it is served.
async fn settled(store: &Store) {
    let began = Instant::now();
    loop {
        let mut db = store.conn().await.unwrap();
        let all = deployments::all(&mut db).await.unwrap();
        if all.iter().all(|deployment| deployment.serving_version.is_some()) {
            return;
        }
        drop(db);
        assert!(began.elapsed() < PATIENCE, "it is never written down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One line of JSON for `script/bench`.
fn print(what: &str, took: &mut [Duration]) {
    took.sort();
    let at = |percent: usize| {
        let rank = (took.len() * percent).div_ceil(100).max(1) - 1;
        (took[rank].as_secs_f64() * 100_000.0).round() / 100.0
    };
    let row = json!({
        "what": what, "count": took.len(),
        "p50_ms": at(50), "p95_ms": at(95), "p99_ms": at(99), "max_ms": at(100),
    });
    #[expect(clippy::print_stdout, reason = "the script reads this line")]
    {
        println!("{row}");
    }
}

/// Writes `count` deployments like `like`, active but served by nobody.
async fn copy(
    platform: &Platform,
    store: &Store,
    like: &Deployment,
    version: &Version,
    count: usize,
) {
    let now = platform.env.now();
    let built = versions::Built {
        kind: version.kind.unwrap(),
        artifact: version.artifact.unwrap(),
        run: version.run.clone(),
    };
    let mut tx = store.begin().await.unwrap();
    for number in 0..count {
        let mut deployment = like.clone();
        deployment.id = platform.env.id();
        deployment.name = format!("app-{number}");
        deployment.slug = Slug::parse(&deployment.name).unwrap();
        deployment.serving_version = None;
        deployment.generation = 1;
        let mut version = version.clone();
        version.id = platform.env.id();
        version.deployment = deployment.id;
        version.workload = platform.env.id();
        deployments::insert(&mut tx, &deployment).await.unwrap();
        versions::insert(&mut tx, &version).await.unwrap();
        versions::set_ready(&mut tx, version.id, &built, now).await.unwrap();
        deployment.active_version = Some(version.id);
        deployments::update(&mut tx, &deployment, now).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// An edge that acknowledges everything and keeps nothing; ends when `count` apps had a replica
/// that takes requests, with the time at which each of them first had.
async fn edge(socket: PathBuf, id: EdgeId, count: usize, began: Instant) -> Vec<Duration> {
    let mut stream = loop {
        if let Ok(stream) = UnixStream::connect(&socket).await {
            break stream;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    write(&mut stream, &Hello::Link { edge: id, at: None }).await;
    let (mut seen, mut served, mut seq) = (BTreeSet::new(), Vec::new(), 0);
    while served.len() < count {
        let length = stream.read_u32().await.unwrap();
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await.unwrap();
        let entries = match serde_json::from_slice(&body).unwrap() {
            Down::Snapshot { at, entries } => {
                seq = at.seq;
                entries
            }
            Down::Delta { seq: next, upserts, .. } => {
                seq = next;
                upserts
            }
            Down::Beat => vec![],
        };
        for entry in entries {
            let Entry::App(app) = entry else { continue };
            let is_ready = app.replicas.iter().any(|replica| replica.state == ReplicaState::Ready);
            if is_ready && seen.insert(app.app) {
                served.push(began.elapsed());
            }
        }
        write(&mut stream, &Up::Applied { seq }).await;
    }
    // The link stays, as an edge's does.
    tokio::spawn(async move {
        let mut rest = Vec::new();
        while stream.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {
            rest.clear();
        }
    });
    served
}

async fn write(stream: &mut UnixStream, frame: &impl serde::Serialize) {
    let body = serde_json::to_vec(frame).unwrap();
    stream.write_u32(u32::try_from(body.len()).unwrap()).await.unwrap();
    stream.write_all(&body).await.unwrap();
}
