//! Control dies, the edge restarts, entries that are not complete: serving goes on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use miosa_edge::{Limits, Listeners};
use miosa_types::{
    Digest, VersionId,
    link::{Availability, Key, ReplicaState, Target, Up},
    manifest::{BlobRef, SiteFile, SiteManifest},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixListener},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    control::Control,
    upstream::{Does, Upstream},
    world::{
        Edge, PATIENCE, World, app, app_id, ask, exchange, replica, reply, route, served_by,
        settings,
    },
};

pub(crate) fn site(control: &Control, host: &str, content: &str) -> miosa_types::link::Entry {
    let blob = BlobRef { digest: control.blob(content), size: content.len() as u64 };
    site_of(control, host, blob)
}

fn site_of(control: &Control, host: &str, blob: BlobRef) -> miosa_types::link::Entry {
    let file = SiteFile { blob, content_type: "text/html".into(), brotli: None, gzip: None };
    let manifest =
        SiteManifest { files: BTreeMap::from([("index.html".into(), file)]), spa: false };
    let manifest = control.blob(serde_json::to_vec(&manifest).unwrap());
    let version = VersionId::from_uuid(Uuid::from_u128(5));
    route(host, Target::Static { version, manifest })
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_control_dead_at_start_the_kept_table_serves() {
    let upstream = Upstream::start(|_| Does::Answers("dynamic".into())).await;
    let world = World::new(served_by(&[upstream.addr])).await;
    let entry = site(&world.control, "site.test", "static");
    world.control.apply(vec![entry]).await;
    let table = world.dir.path().join("edge/table");
    let saved = async {
        while !std::fs::read_to_string(&table).is_ok_and(|text| text.contains("site.test")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, saved).await.expect("the table is kept");
    world.control.stop().await;
    assert_eq!(world.get("/").await.body, "dynamic", "control is dead");
    let (dir, control) = (world.dir, world.control);
    world.edge.shut_down().await.unwrap().unwrap();

    let edge = Edge::start(dir.path(), control.path(), Limits::default()).await;
    assert_eq!(ask(edge.http, &get("app.test")).await.body, "dynamic");
    assert_eq!(ask(edge.http, &get("site.test")).await.body, "static");
    // What control dropped meanwhile goes when it is back.
    control.change(vec![], &[Key::Route("site.test".into())]);
    control.listen();
    let gone = async {
        while ask(edge.http, &get("site.test")).await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the new table is taken over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_goes_live_when_it_is_complete_and_holds_nobody_up() {
    let upstream = Upstream::start(|_| Does::Answers("ok".into())).await;
    let world = World::new(served_by(&[])).await;
    let old = site(&world.control, "site.test", "old");
    world.control.apply(vec![old]).await;
    let missing = BlobRef { digest: Digest::of(b"new"), size: 3 };
    let incomplete = site_of(&world.control, "site.test", missing);
    let seq = world
        .control
        .change(vec![incomplete, app(Availability::Ready, vec![replica(1, upstream.addr)])], &[]);
    world.control.hears(|up| matches!(up, Up::NotApplied { key: Key::Route(_), .. })).await;
    assert_eq!(world.get("/").await.body, "ok", "the other entry is live");
    assert_eq!(ask(world.edge.http, &get("site.test")).await.body, "old");
    let too_early = |up: &Up| matches!(up, Up::Applied { seq: said } if *said >= seq);
    assert!(!world.control.heard().iter().any(too_early));
    world.control.blob("new");
    world.control.applied(seq).await;
    assert_eq!(ask(world.edge.http, &get("site.test")).await.body, "new");
}

/// A first publish turns out to be files: who waited for an app gets them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_app_gets_the_site_that_takes_its_host() {
    let starting = Availability::Starting { since: "2026-06-01T12:00:00Z".parse().unwrap() };
    let mut entries = served_by(&[]);
    entries[2] = app(starting, vec![]);
    let world = Arc::new(World::new(entries).await);
    let waiting = || {
        let world = world.clone();
        tokio::spawn(async move { world.get("/").await })
    };
    let (first, second) = (waiting(), waiting());
    let held = async {
        while !world.edge.handle.metrics().contains("edge_holding 2\n") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("both are held");
    let entry = site(&world.control, "app.test", "files");
    world.control.apply(vec![entry]).await;
    for one in [first, second] {
        let reply = tokio::time::timeout(PATIENCE, one).await.expect("it is answered").unwrap();
        assert_eq!((reply.status, reply.body.as_str()), (200, "files"));
    }
    world.control.change(vec![], &[Key::App(app_id())]);
    assert_eq!(world.get("/").await.body, "files");
    // The same host, an app again.
    let upstream = Upstream::start(|_| Does::Answers("app".into())).await;
    world.control.apply(served_by(&[upstream.addr])).await;
    assert_eq!(world.get("/").await.body, "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_replica_gets_nothing_new_and_its_count_is_told() {
    let old = Upstream::start(|_| Does::Hangs).await;
    let new = Upstream::start(|_| Does::Answers("new".into())).await;
    let world = World::new(served_by(&[old.addr])).await;
    let mut client = TcpStream::connect(world.edge.http).await.unwrap();
    client.write_all(get("app.test").as_bytes()).await.unwrap();
    let arrived = async {
        while old.count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.expect("the request is under way");
    let mut draining = replica(0, old.addr);
    draining.state = ReplicaState::Draining;
    let replicas = vec![draining, replica(1, new.addr)];
    world.control.apply(vec![app(Availability::Ready, replicas)]).await;
    let count =
        |wanted| move |up: &Up| matches!(up, Up::InFlight { count, .. } if *count == wanted);
    world.control.hears(count(1)).await;
    assert_eq!(world.get("/").await.body, "new");
    drop(client);
    world.control.hears(count(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_calls_wait_for_control_and_a_post_is_not_lost() {
    let limits = Limits { api_hold: Duration::from_millis(300), ..Limits::default() };
    let world = World::with(vec![settings()], limits).await;
    let host = world.edge.http;
    let away = ask(host, &format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert_eq!(away.status, 503);
    assert!(away.field("retry-after").is_some());
    assert!(away.body.contains(r#""error""#), "{}", away.body);

    let world = World::new(vec![settings()]).await;
    let mut client = TcpStream::connect(world.edge.http).await.unwrap();
    let post = "POST /api/v1/x HTTP/1.1\r\nHost: base.localhost\r\nContent-Length: 4\r\n\r\nbody";
    client.write_all(post.as_bytes()).await.unwrap();
    let api = UnixListener::bind(world.dir.path().join("api.sock")).unwrap();
    let (mut first, _) = api.accept().await.unwrap();
    let mut got = vec![0; 4096];
    let read = first.read(&mut got).await.unwrap();
    let text = String::from_utf8_lossy(&got[..read]).into_owned();
    assert!(text.starts_with("POST /api/v1/x HTTP/1.1"), "{text}");
    first.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(reply(&mut client, false).await.unwrap().status, 201);

    // Control dies with a GET in its hands: the next one answers it.
    client.write_all(b"GET /api/v1/y HTTP/1.1\r\nHost: console.clinic.test\r\n\r\n").await.unwrap();
    let (mut second, _) = api.accept().await.unwrap();
    assert!(second.read(&mut got).await.unwrap() > 0);
    drop(second);
    let (mut third, _) = api.accept().await.unwrap();
    assert!(third.read(&mut got).await.unwrap() > 0);
    third.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(reply(&mut client, false).await.unwrap().status, 200);
}

/// Control accepts and says nothing: questions are answered in time, what changes something waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_to_a_control_that_hangs_end_and_other_calls_wait() {
    let limit = Duration::from_millis(100);
    let limits = Limits { api_health: limit, api_question: limit, ..Limits::default() };
    let world = World::with(vec![settings()], limits).await;
    let api = UnixListener::bind(world.dir.path().join("api.sock")).unwrap();
    let call = async |line: &str, fields: &str| {
        let mut client = TcpStream::connect(world.edge.http).await.unwrap();
        let head = format!("{line} HTTP/1.1\r\nHost: base.localhost\r\n{fields}\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (mut taken, _) = api.accept().await.unwrap();
        assert!(taken.read(&mut [0; 4096]).await.unwrap() > 0);
        (client, taken)
    };
    let (mut exec, mut exec_taken) = call("POST /api/v1/x", "Content-Length: 0\r\n").await;
    let (mut events, mut events_taken) =
        call("GET /api/v1/x", "Accept: text/event-stream\r\n").await;
    for path in ["/health", "/health/ready", "/api/v1/x"] {
        let (mut client, _taken) = call(&format!("GET {path}"), "").await;
        let answer = tokio::time::timeout(PATIENCE, reply(&mut client, false)).await;
        let answer = answer.expect("it ends").unwrap();
        assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{path}");
        assert!(answer.body.contains(r#""error""#), "{path}: {}", answer.body);
    }
    // Both have waited for longer than the limit by now.
    for (client, taken) in [(&mut exec, &mut exec_taken), (&mut events, &mut events_taken)] {
        taken.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(reply(client, false).await.unwrap().status, 200);
    }
}

/// A connection that is idle when the shutdown begins may just be used: it is still served, and
/// told that this was the last time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_served_once_more_in_a_shutdown() {
    let upstream = Upstream::start(|_| Does::Answers("ok".into())).await;
    let world = World::new(served_by(&[upstream.addr])).await;
    let http = world.edge.http;
    let mut kept = TcpStream::connect(http).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(exchange(&mut kept, request).await.unwrap().field("connection"), None);
    let mut last = TcpStream::connect(http).await.unwrap();
    let ended = world.edge.shut_down();
    let told = async {
        loop {
            let reply = exchange(&mut last, request).await.expect("it is served");
            if reply.field("connection") == Some("close") {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the shutdown begins");
    let reply = exchange(&mut kept, request).await.expect("it is still served");
    assert_eq!((reply.status, reply.field("connection")), (200, Some("close")));
    tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap().unwrap();
}

/// Two generations on one listening socket, kept connections and POSTs: nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_drops_nothing() {
    let upstream = Upstream::start(|got| Does::Answers(format!("{}", got.body.len()))).await;
    let dir = tempfile::tempdir().unwrap();
    let control = Control::new(dir.path(), served_by(&[upstream.addr]));
    control.listen();
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let https = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = || Listeners {
        http: vec![http.try_clone().unwrap()],
        https: vec![https.try_clone().unwrap()],
    };
    let limits = Limits { lame_duck: Duration::from_secs(1), ..Limits::default() };
    let old =
        Edge::start_on(dir.path(), control.path(), (limits.clone(), vec![]), listeners()).await;
    control.applied(1).await;
    let (stop, addr) = (Arc::new(AtomicBool::new(false)), old.http);
    let mut clients = JoinSet::new();
    for number in 0..16 {
        let stop = stop.clone();
        clients.spawn(async move {
            let mut answered = 0;
            let mut stream = TcpStream::connect(addr).await.unwrap();
            while !stop.load(SeqCst) {
                let request = match number % 2 {
                    0 => "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 4\r\n\r\nbody",
                    _ => "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n",
                };
                let reply = exchange(&mut stream, request).await.expect("no request is dropped");
                assert_eq!(reply.status, 200);
                answered += 1;
                if reply.field("connection") == Some("close") {
                    stream = TcpStream::connect(addr).await.unwrap();
                }
            }
            answered
        });
    }
    let new = Edge::start_on(dir.path(), control.path(), (limits, vec![]), listeners()).await;
    tokio::time::timeout(PATIENCE, old.shut_down()).await.unwrap().unwrap().unwrap();
    let before = upstream.count();
    let more = async {
        while upstream.count() < before + 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, more).await.expect("the new generation serves");
    stop.store(true, SeqCst);
    while let Some(answered) = clients.join_next().await {
        assert!(answered.unwrap() > 0);
    }
    new.shut_down().await.unwrap().unwrap();
}
