//! Bytes that somebody hostile sends, and what an app gets to see of its visitors.

use std::sync::{Arc, Mutex};

use miosa_edge::Limits;
use miosa_types::link::Target;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    upstream::{Does, Upstream},
    world::{PATIENCE, World, app_id, ask, reply, route, served_by},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_never_reach_an_app() {
    let app = Upstream::start(|_| Does::Answers("seen".into())).await;
    let world = World::new(served_by(&[app.addr])).await;
    let long =
        format!("GET / HTTP/1.1\r\nHost: app.test\r\nX-Long: {}\r\n\r\n", "a".repeat(65_536));
    let many = "X-Field: 1\r\n".repeat(150);
    let many = format!("GET / HTTP/1.1\r\nHost: app.test\r\n{many}\r\n");
    let cases: [(&str, &str, u16); 14] = [
        ("two hosts", "GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test\r\n\r\n", 400),
        ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
        ("a bad host", "GET / HTTP/1.1\r\nHost: app.test/x\r\n\r\n", 400),
        (
            "another host in the address",
            "GET http://b.test/ HTTP/1.1\r\nHost: app.test\r\n\r\n",
            400,
        ),
        ("CONNECT", "CONNECT app.test:80 HTTP/1.1\r\nHost: app.test:80\r\n\r\n", 405),
        (
            "length and chunks",
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "chunks and length",
            "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            400,
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: +5\r\n\r\nhello",
            400,
        ),
        (
            "an odd coding",
            "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "chunks in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("a NUL", "GET / HTTP/1.1\r\nHost: app.test\r\nX: a\0b\r\n\r\n", 400),
        ("a long head", &long, 431),
        ("many fields", &many, 431),
    ];
    for (name, request, status) in cases {
        let reply = ask(world.edge.http, request).await;
        assert_eq!(reply.status, status, "{name}: {reply:?}");
        assert_eq!(app.count(), 0, "{name} came through");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_believes_only_what_we_say() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = seen.clone();
    let app = Upstream::start(move |got| {
        sink.lock().unwrap().clone_from(&got.head);
        let answer = "HTTP/1.1 200 OK\r\nServer: secret\r\nKeep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-App: 1\r\nContent-Length: 0\r\n\r\n";
        Does::Sends(answer.into())
    })
    .await;
    let world = World::new(served_by(&[app.addr])).await;
    let request = "GET /path?q=1 HTTP/1.1\r\nHost: App.test:80\r\nX-Forwarded-For: 6.6.6.6\r\n\
                   X_Forwarded_For: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\n\
                   X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nConnection: close, X-Drop\r\n\
                   X-Drop: 1\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nProxy-Authorization: x\r\n\r\n";
    let reply = ask(world.edge.http, request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.field("x-app"), Some("1"));
    for hidden in ["server", "x-hop", "keep-alive"] {
        assert_eq!(reply.field(hidden), None, "{hidden}");
    }
    let seen = seen.lock().unwrap().to_lowercase();
    assert!(seen.starts_with("get /path?q=1 http/1.1\r\n"), "{seen}");
    for wanted in [
        "host: app.test:80",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: app.test:80",
    ] {
        assert!(seen.contains(&format!("\r\n{wanted}\r\n")), "{wanted} is missing in {seen}");
    }
    for gone in ["6.6.6.6", "x-drop", "upgrade", "expect", "proxy-authorization", "miosa"] {
        assert!(!seen.contains(gone), "{gone} came through: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_believes_a_proxy_that_is_trusted() {
    let app = Upstream::start(|got| Does::Answers(got.head.to_lowercase())).await;
    let world = World::behind_a_proxy(served_by(&[app.addr]), Limits::default()).await;
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                   X-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\r\n";
    let seen = ask(world.edge.http, request).await.body;
    for wanted in [
        "x-forwarded-for: 6.6.6.6, 127.0.0.1",
        "x-forwarded-proto: https",
        "forwarded: for=6.6.6.6, for=127.0.0.1;proto=http",
    ] {
        assert!(seen.contains(&format!("\r\n{wanted}\r\n")), "{wanted} is missing in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_nobody_asked_for_is_no_answer() {
    let app = Upstream::start(|_| Does::Echoes).await;
    let world = World::new(served_by(&[app.addr])).await;
    assert_eq!(world.get("/").await.status, 502);
    assert_eq!(world.post("/", "x").await.status, 502);
    assert_eq!(app.count(), 2, "it is not asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_sets_cookies_for_itself_and_its_tenant_only() {
    let app = Upstream::start(|_| {
        let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Domain=.clinic.apps.localhost\r\n\
                      Set-Cookie: b=1; Domain=.apps.localhost; Secure\r\n\
                      Set-Cookie: __Host-preview=pv_x\r\nContent-Length: 0\r\n\r\n";
        Does::Sends(answer.into())
    })
    .await;
    let mut entries = served_by(&[app.addr]);
    entries.push(route("shop.clinic.apps.localhost", Target::App { app: app_id() }));
    let world = World::new(entries).await;
    let request = "GET / HTTP/1.1\r\nHost: Shop.clinic.apps.localhost\r\n\r\n";
    let reply = ask(world.edge.http, request).await;
    let cookies: Vec<_> =
        reply.head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")).collect();
    assert_eq!(cookies, ["a=1; Domain=.clinic.apps.localhost", "b=1; Secure"]);
}

/// One byte at a time never ends; the limit counts from the first byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_head_is_cut_off_but_an_idle_connection_is_not() {
    let app = Upstream::start(|_| Does::Answers("ok".into())).await;
    let header = std::time::Duration::from_millis(200);
    let world = World::with(served_by(&[app.addr]), Limits { header, ..Limits::default() }).await;
    let mut slow = TcpStream::connect(world.edge.http).await.unwrap();
    let mut idle = TcpStream::connect(world.edge.http).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    let cut = tokio::time::timeout(PATIENCE, reply(&mut slow, false)).await.expect("it is cut off");
    assert!(cut.is_none(), "{cut:?}");
    // By now the other one has been silent for longer than a head may take.
    idle.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
    assert_eq!(reply(&mut idle, false).await.unwrap().status, 200);
}
