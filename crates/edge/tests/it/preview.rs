//! Ports of sandboxes: what a developer sees while the app is being written.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use miosa_edge::Limits;
use miosa_types::{
    Digest, Env, guest,
    link::{Access, Entry, Grant, Sandbox, Target},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    upstream::{Does, Upstream},
    world::{PATIENCE, World, ask, exchange, route, sandbox_id, settings, tenant},
};

fn entries(ip: Option<[u8; 4]>) -> Vec<Entry> {
    vec![
        settings(),
        route("slug.sandbox.apps.localhost", Target::Preview { sandbox: sandbox_id() }),
        sandbox(ip),
    ]
}

fn sandbox(ip: Option<[u8; 4]>) -> Entry {
    seen_by(ip, Access::default())
}

fn seen_by(ip: Option<[u8; 4]>, access: Access) -> Entry {
    let addr = ip.map(Into::into);
    Entry::Sandbox(Sandbox { sandbox: sandbox_id(), tenant: tenant(), addr, access })
}

fn get(port: u16, extra: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {port}-slug.sandbox.apps.localhost\r\n{extra}\r\n")
}

const LOCAL: Option<[u8; 4]> = Some([127, 0, 0, 1]);
const NAVIGATE: &str = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_port_is_reached_but_the_guests() {
    let app = Upstream::start(|got| Does::Answers(got.field("host").unwrap().into())).await;
    let world = World::new(entries(LOCAL)).await;
    let port = app.addr.port();
    let reply = ask(world.edge.http, &get(port, "")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body, format!("{port}-slug.sandbox.apps.localhost"));
    // Even if something listens there.
    let guest = Upstream::start_at(SocketAddr::from(([127, 0, 0, 1], guest::PORT)), |_| {
        Does::Answers("the guest".into())
    })
    .await;
    assert_eq!(ask(world.edge.http, &get(guest::PORT, "")).await.status, 404);
    assert_eq!(guest.count(), 0);
    for host in [
        "slug.sandbox.apps.localhost",
        "0-slug.sandbox.apps.localhost",
        "080-slug.sandbox.apps.localhost",
        "80-other.sandbox.apps.localhost",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(ask(world.edge.http, &request).await.status, 404, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_not_up_shows_a_page_and_others_wait_for_it() {
    let mut app = Upstream::dead(|_| Does::Answers("up".into())).await;
    let world = Arc::new(World::new(entries(None)).await);
    let port = app.addr.port();
    for ip in [None, LOCAL] {
        world.control.apply(vec![sandbox(ip)]).await;
        let page = ask(world.edge.http, &get(port, NAVIGATE)).await;
        assert_eq!((page.status, page.field("retry-after")), (503, Some("2")), "{ip:?}");
        assert!(page.body.contains("refresh"), "it reloads itself: {}", page.body);
    }
    let mut waiting = TcpStream::connect(world.edge.http).await.unwrap();
    waiting.write_all(get(port, "").as_bytes()).await.unwrap();
    app.revive().await;
    let reply = tokio::time::timeout(PATIENCE, crate::world::reply(&mut waiting, false));
    assert_eq!(reply.await.unwrap().unwrap().body, "up");
    app.kill().await;
    let limits = Limits { preview_hold: Duration::from_millis(150), ..Limits::default() };
    let world = World::with(entries(LOCAL), limits).await;
    assert_eq!(ask(world.edge.http, &get(port, "")).await.status, 503, "not for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_goes_through_and_ends_with_its_sandbox() {
    let app = Upstream::start(|_| Does::Echoes).await;
    let world = World::new(entries(LOCAL)).await;
    let mut stream = TcpStream::connect(world.edge.http).await.unwrap();
    let handshake = get(
        app.addr.port(),
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    );
    let reply = exchange(&mut stream, &handshake).await.unwrap();
    assert_eq!((reply.status, reply.field("upgrade")), (101, Some("websocket")));
    assert_eq!(reply.field("sec-websocket-accept"), Some("x"));
    for _ in 0..3 {
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
    world.control.apply(vec![sandbox(None)]).await;
    let end = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it ends");
    assert!(end.is_err());
}

/// The first event arrives while the stream is open: nothing waits for its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_not_kept_back() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    let app = Upstream::start(move |_| Does::Sends(head.into())).await;
    let world = World::new(entries(LOCAL)).await;
    let mut stream = TcpStream::connect(world.edge.http).await.unwrap();
    stream.write_all(get(app.addr.port(), "").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&seen).contains("data: 1") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{seen:?}");
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the event is here");
}

/// Everything private; `tokens` open it.
fn private(tokens: &[&str]) -> Entry {
    private_until(tokens, "2100-01-01T00:00:00Z".parse().unwrap())
}

fn private_until(tokens: &[&str], expires_at: Timestamp) -> Entry {
    let grant =
        |token: &&str| Grant { token: Digest::of(token.as_bytes()), port: None, expires_at };
    let grants = tokens.iter().map(grant).collect();
    let frame_ancestors = vec!["https://app.example.com".to_owned()];
    seen_by(LOCAL, Access { is_private: true, grants, frame_ancestors, ..Access::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_port_asks_for_a_token_and_keeps_it_to_itself() {
    let app = Upstream::start(|got| Does::Answers(got.head.clone())).await;
    let mut all = entries(LOCAL);
    all.push(private(&["pv_good"]));
    let world = World::new(all).await;
    let port = app.addr.port();
    let at =
        |path: &str, extra: &str| get(port, extra).replacen("GET /", &format!("GET {path}"), 1);

    for (path, extra, code) in [
        ("/", NAVIGATE, "private"),
        ("/?preview_token=pv_bad", NAVIGATE, "expired"),
        ("/", "Cookie: __Host-preview=pv_bad\r\n", "expired"),
        ("/", "X-Preview-Token: pv_bad\r\n", "expired"),
    ] {
        let reply = ask(world.edge.http, &at(path, extra)).await;
        assert_eq!(reply.status, 403, "{path} {extra}");
        assert!(reply.body.contains(code), "{path} {extra}: {}", reply.body);
    }
    assert_eq!(app.count(), 0, "nobody came through");

    let reply = ask(world.edge.http, &at("/a?x=1&preview_token=pv_good", NAVIGATE)).await;
    assert_eq!((reply.status, reply.field("location")), (303, Some("/a?x=1")));
    let cookie = reply.field("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-preview=pv_good; Path=/; Max-Age="), "{cookie}");
    for word in ["Secure", "HttpOnly", "SameSite=None", "Partitioned"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    for (path, extra) in [
        ("/?mt=pv_good&y=2", ""),
        ("/?y=2", "Cookie: a=1; __Host-preview=pv_good; b=2\r\n"),
        ("/?y=2", "X-Preview-Token: pv_good\r\n"),
    ] {
        let reply = ask(world.edge.http, &at(path, extra)).await;
        assert_eq!(reply.status, 200, "{path} {extra}");
        assert!(reply.body.starts_with("GET /?y=2 "), "{}", reply.body);
        assert!(!reply.body.contains("pv_good"), "the app saw it: {}", reply.body);
        assert_eq!(
            reply.field("content-security-policy"),
            Some("frame-ancestors https://app.example.com")
        );
    }
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";

/// An open stream of events; the first is here.
async fn stream(world: &World, port: u16, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.edge.http).await.unwrap();
    let asked = get(port, &format!("X-Preview-Token: {token}\r\n"));
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("data: 1") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "{seen:?}");
    }
    stream
}

async fn tunnel(world: &World, port: u16, token: &str) -> TcpStream {
    let mut tunnel = TcpStream::connect(world.edge.http).await.unwrap();
    let fields = format!(
        "X-Preview-Token: {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    );
    let reply = exchange(&mut tunnel, &get(port, &fields)).await.unwrap();
    assert_eq!(reply.status, 101);
    tunnel
}

/// Reads to the end.
async fn ends(stream: &mut TcpStream) {
    let rest = async { while stream.read_buf(&mut Vec::new()).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_taken_back_ends_what_it_opened() {
    let events = Upstream::start(|_| Does::Sends(EVENTS.into())).await;
    let echo = Upstream::start(|_| Does::Echoes).await;
    let mut all = entries(LOCAL);
    all.push(private(&["pv_one", "pv_two"]));
    let world = World::new(all).await;
    let mut events = stream(&world, events.addr.port(), "pv_one").await;
    let port = echo.addr.port();
    let (mut one, mut two) =
        (tunnel(&world, port, "pv_one").await, tunnel(&world, port, "pv_two").await);

    world.control.apply(vec![private(&["pv_two"])]).await;
    ends(&mut one).await;
    ends(&mut events).await;
    two.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    two.read_exact(&mut echoed).await.unwrap();
    let late = ask(world.edge.http, &get(port, "X-Preview-Token: pv_one\r\n")).await;
    assert_eq!(late.status, 403);
}

/// Control says nothing meanwhile: the edge looks at the clock itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_ends_what_it_opened() {
    let events = Upstream::start(|_| Does::Sends(EVENTS.into())).await;
    let echo = Upstream::start(|_| Does::Echoes).await;
    let world = World::new(entries(LOCAL)).await;
    let end = Env::system().now() + Duration::from_secs(3);
    world.control.apply(vec![private_until(&["pv_one"], end)]).await;
    let mut events = stream(&world, events.addr.port(), "pv_one").await;
    let mut one = tunnel(&world, echo.addr.port(), "pv_one").await;
    ends(&mut one).await;
    ends(&mut events).await;
    assert!(Env::system().now() >= end, "not before its time");
}
