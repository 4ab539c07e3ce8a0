//! Requests that wait for their app, and those that must not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use miosa_edge::Limits;
use miosa_types::link::{Availability, Key, Target, Up};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    upstream::{Does, Upstream},
    world::{
        PATIENCE, World, app, app_id, ask, exchange, replica, route, served_by, tenant, until,
    },
};

fn starting() -> Availability {
    Availability::Starting { since: "2026-06-01T12:00:00Z".parse().unwrap() }
}

fn echo() -> impl Fn(&crate::upstream::Got) -> Does + Send + Sync {
    |got| {
        Does::Answers(format!(
            "{}|{}",
            got.head.lines().next().unwrap(),
            String::from_utf8_lossy(&got.body)
        ))
    }
}

fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// Waits until the edge says that so many requests wait.
async fn holding(world: &World, count: usize) {
    let wanted = format!("edge_holding {count}\n");
    until("requests are held", || world.edge.handle.metrics().contains(&wanted)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_method_waits_for_the_start_and_is_sent_once() {
    let upstream = Upstream::start(echo()).await;
    let mut entries = served_by(&[]);
    entries[2] = app(starting(), vec![]);
    let world = Arc::new(World::new(entries).await);
    let mut clients = JoinSet::new();
    for number in 0..40 {
        let world = world.clone();
        clients.spawn(async move {
            let reply = if number % 2 == 0 {
                world.get("/get").await
            } else {
                world.post("/post", &number.to_string()).await
            };
            assert_eq!(reply.status, 200, "{reply:?}");
        });
    }
    holding(&world, 40).await;
    assert_eq!(upstream.count(), 0);
    world.control.apply(vec![app(Availability::Ready, vec![replica(1, upstream.addr)])]).await;
    while let Some(result) = clients.join_next().await {
        result.unwrap();
    }
    assert_eq!(upstream.count(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_has_bounds_and_people_get_a_page() {
    let limits =
        Limits { held_per_app: 4, navigation_hold: Duration::from_millis(50), ..Limits::default() };
    let mut entries = served_by(&[]);
    entries[2] = app(starting(), vec![]);
    entries.push(miosa_types::link::Entry::Brand(miosa_types::link::Brand {
        owner: tenant().into(),
        branding: miosa_types::Branding { name: Some("ClinicIQ".into()), ..Default::default() },
    }));
    let world = Arc::new(World::with(entries, limits).await);
    let page = ask(
        world.edge.http,
        "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n\r\n",
    )
    .await;
    assert_eq!((page.status, page.field("retry-after")), (503, Some("2")));
    assert_eq!(page.field("cache-control"), Some("no-store"));
    assert!(page.body.contains("ClinicIQ"), "{}", page.body);
    let said = format!("{}{}", page.head, page.body).to_lowercase();
    assert!(!said.contains("miosa") && page.field("server").is_none(), "{said}");

    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        let world = world.clone();
        waiting.spawn(async move { world.get("/").await.status });
    }
    holding(&world, 2).await;
    let refused = world.get("/").await;
    assert_eq!(refused.status, 503, "more than half for one client");
    assert!(refused.field("retry-after").is_some());
    // Control gives up: those who wait learn it at once.
    world.control.change(vec![app(Availability::Failed, vec![])], &[]);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), 503);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_will_not_come_is_not_waited_for_and_who_sleeps_is_woken() {
    let far = "2126-01-01T00:00:00Z".parse().unwrap();
    for availability in
        [Availability::Stopped, Availability::Failed, Availability::Backoff { until: far }]
    {
        let mut entries = served_by(&[]);
        entries[2] = app(availability.clone(), vec![]);
        let world = World::new(entries).await;
        assert_eq!(world.get("/").await.status, 503, "{availability:?}");
        assert!(!world.edge.handle.metrics().contains("edge_held_total 1"), "{availability:?}");
    }
    let upstream = Upstream::start(echo()).await;
    let mut entries = served_by(&[]);
    entries[2] = app(Availability::Asleep, vec![]);
    let world = Arc::new(World::new(entries).await);
    let sleeper = world.clone();
    let request = tokio::spawn(async move { sleeper.get("/").await });
    world.control.hears(|up| matches!(up, Up::Wake { .. })).await;
    world.control.apply(vec![app(Availability::Ready, vec![replica(1, upstream.addr)])]).await;
    assert_eq!(request.await.unwrap().status, 200);
}

/// 32 clients on kept connections; the only replica dies and comes back on the same address. No
/// GET fails, and control says nothing to the edge all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_dies_under_load_and_no_get_fails() {
    let mut upstream = Upstream::start(|_| Does::Answers("marker".into())).await;
    let world = World::new(served_by(&[upstream.addr])).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        let (stop, done, addr) = (stop.clone(), done.clone(), world.edge.http);
        clients.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            while !stop.load(SeqCst) {
                let request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
                let reply = exchange(&mut stream, request).await.expect("the connection stays");
                assert_eq!((reply.status, reply.body.as_str()), (200, "marker"));
                done.fetch_add(1, SeqCst);
            }
        });
    }
    let more = async |count: usize| {
        let wanted = done.load(SeqCst) + count;
        let wait = async {
            while done.load(SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("requests are answered");
    };
    for _ in 0..3 {
        more(200).await;
        upstream.kill().await;
        holding(&world, 32).await;
        upstream.revive().await;
    }
    more(200).await;
    stop.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// More requests are under way than a retry budget has: a process that dies takes none with it,
/// whatever their number, and they are sent once more and not oftener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_under_hundreds_of_requests_fails_none_of_them() {
    const CLIENTS: usize = 450;
    let is_stuck = Arc::new(AtomicBool::new(true));
    let stuck = is_stuck.clone();
    let mut upstream = Upstream::start(move |_| {
        if stuck.load(SeqCst) { Does::Hangs } else { Does::Answers("marker".into()) }
    })
    .await;
    let world = Arc::new(World::new(served_by(&[upstream.addr])).await);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let world = world.clone();
        clients.spawn(async move { world.get("/").await });
    }
    until("they are under way", || upstream.count() == CLIENTS).await;
    upstream.kill().await;
    holding(&world, CLIENTS).await;
    is_stuck.store(false, SeqCst);
    upstream.revive().await;
    let replies = clients.join_all().await;
    let failed = replies.iter().filter(|reply| reply.body != "marker").count();
    assert_eq!((failed, upstream.count()), (0, 2 * CLIENTS));
    let metrics = world.edge.handle.metrics();
    assert!(metrics.contains("edge_ejections_total 1\n"), "{metrics}");
}

/// Behind a proxy that is trusted, its visitors share the queue and not the proxy's part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_behind_a_trusted_proxy_are_told_apart() {
    let mut entries = served_by(&[]);
    entries[2] = app(starting(), vec![]);
    let limits = Limits { held_per_app: 4, ..Limits::default() };
    let world = World::behind_a_proxy(entries, limits).await;
    let visit = |number: usize| {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 1.1.1.1, 8.8.8.{number}\r\n\r\n"
        );
        let http = world.edge.http;
        async move { ask(http, &request).await }
    };
    let mut waiting = JoinSet::new();
    for number in [1, 1, 2] {
        waiting.spawn(visit(number));
    }
    holding(&world, 3).await;
    assert_eq!(visit(1).await.status, 503, "more than half for one visitor");
    waiting.spawn(visit(3));
    holding(&world, 4).await;
    let upstream = Upstream::start(echo()).await;
    world.control.apply(vec![app(Availability::Ready, vec![replica(1, upstream.addr)])]).await;
    for reply in waiting.join_all().await {
        assert_eq!(reply.status, 200);
    }
}

/// A replica that hangs is reported; when control takes it away, a GET that waits for it goes to
/// another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_replica_is_reported_and_left() {
    let hung = Upstream::start(|_| Does::Hangs).await;
    let good = Upstream::start(|_| Does::Answers("good".into())).await;
    let limits = Limits { suspect: Duration::from_millis(50), ..Limits::default() };
    let world = Arc::new(World::with(served_by(&[hung.addr]), limits).await);
    let client = world.clone();
    let request = tokio::spawn(async move { client.get("/").await });
    world.control.hears(|up| matches!(up, Up::Suspect { .. })).await;
    world.control.change(vec![app(Availability::Ready, vec![replica(5, good.addr)])], &[]);
    let reply = request.await.unwrap();
    assert_eq!((reply.status, reply.body.as_str()), (200, "good"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_changes_hands_takes_its_waiting_requests_and_nobody_else_s() {
    let upstream = Upstream::start(echo()).await;
    let mut entries = served_by(&[]);
    entries[2] = app(starting(), vec![]);
    let target = Target::App { app: app_id() };
    entries.extend([route("brought.test", target.clone()), route("gone.test", target.clone())]);
    let world = World::new(entries).await;
    let visit = |host: &str| {
        let (http, request) = (world.edge.http, get(host));
        tokio::spawn(async move { ask(http, &request).await })
    };
    let [brought, gone, own] = ["brought.test", "gone.test", "app.test"].map(visit);
    holding(&world, 3).await;
    let to = "other.test".to_owned();
    let redirect = route("brought.test", Target::Redirect { to });
    let seq = world.control.change(vec![redirect], &[Key::Route("gone.test".into())]);
    world.control.applied(seq).await;
    let reply = brought.await.unwrap();
    assert_eq!(reply.status, 308, "{reply:?}");
    assert_eq!(gone.await.unwrap().status, 404);

    // The app answers at its other hosts as before, and again at one that comes back.
    world.control.apply(vec![app(Availability::Ready, vec![replica(1, upstream.addr)])]).await;
    assert_eq!(own.await.unwrap().status, 200);
    assert_eq!(world.get("/again").await.status, 200);
    world.control.apply(vec![route("brought.test", target)]).await;
    assert_eq!(ask(world.edge.http, &get("brought.test")).await.status, 200);
}
