//! Which request may be sent again, and which must not.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use miosa_edge::Limits;
use miosa_types::link::Up;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    upstream::{Does, Upstream},
    world::{PATIENCE, World, served_by},
};

/// The first request meets `first`, the others are answered.
async fn app_that_first(first: Does) -> Upstream {
    Upstream::start(move |got| match got.number {
        1 => first.clone(),
        _ => Does::Answers(format!("answer {}", got.number)),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retry_matrix() {
    let nothing = || Does::SendsAndDies(vec![]);
    let half_head = || Does::SendsAndDies(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec());
    let half_body =
        || Does::SendsAndDies(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec());
    let half_chunked = || {
        let half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
        Does::SendsAndDies(half.to_vec())
    };
    let cases = [
        // what the app does, method, status, times executed
        (nothing(), "GET", 200, 2),
        (nothing(), "POST", 502, 1),
        (half_head(), "GET", 200, 2),
        (half_head(), "POST", 502, 1),
        (half_body(), "GET", 200, 2),
        (half_chunked(), "GET", 200, 2),
        (half_chunked(), "POST", 200, 1),
    ];
    for (does, method, status, executed) in cases {
        let app = app_that_first(does.clone()).await;
        let world = World::new(served_by(&[app.addr])).await;
        let reply = match method {
            "GET" => world.get("/").await,
            _ => world.post("/", "body").await,
        };
        assert_eq!(reply.status, status, "{method} {does:?}");
        assert_eq!(reply.is_whole, method == "GET" || status != 200, "{method} {does:?}");
        assert_eq!(app.count(), executed, "{method} {does:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_that_breaks_off_is_seen_to_break_off() {
    let long = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf".to_vec();
    let app = app_that_first(Does::SendsAndDies(long)).await;
    let world = World::new(served_by(&[app.addr])).await;
    let reply = world.get("/").await;
    assert_eq!((reply.status, reply.is_whole), (200, false));
    assert_eq!(app.count(), 1, "what has begun is not begun again");
}

/// A stream's first bytes come although nothing follows them: after the bound, or at once if it
/// says that it is a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_a_stream_is_late_by_the_bound_at_most() {
    let bound = Duration::from_millis(300);
    for (field, is_late) in [
        ("X-A: 1", true),
        ("Content-Type: text/event-stream", false),
        ("X-Accel-Buffering: no", false),
    ] {
        let app = Upstream::start(move |_| {
            let head = format!("HTTP/1.1 200 OK\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n");
            Does::Sends((head + "5\r\nfirst\r\n").into_bytes())
        })
        .await;
        let keep_back = if is_late { bound } else { 2 * PATIENCE };
        let limits = Limits { keep_back, ..Limits::default() };
        let world = World::with(served_by(&[app.addr]), limits).await;
        let mut stream = TcpStream::connect(world.edge.http).await.unwrap();
        let began = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"first\r\n") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut seen)).await;
            assert!(read.expect("it is not kept back").unwrap() > 0, "{field}");
        }
        assert!(!is_late || began.elapsed() >= bound, "{field}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deaths_are_enough() {
    let dying = || Upstream::start(|_| Does::SendsAndDies(vec![]));
    let (one, other) = (dying().await, dying().await);
    let world = World::new(served_by(&[one.addr, other.addr])).await;
    assert_eq!(world.get("/").await.status, 502);
    assert_eq!((one.count(), other.count()), (1, 1), "never a third victim");

    let alone = dying().await;
    let world = World::new(served_by(&[alone.addr])).await;
    assert_eq!(world.get("/").await.status, 502);
    assert_eq!(alone.count(), 3, "two extra tries and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_goes_elsewhere_with_any_method_and_is_reported() {
    let dead = Upstream::dead(|_| Does::Answers(String::new())).await;
    let alive =
        Upstream::start(|got| Does::Answers(String::from_utf8_lossy(&got.body).into())).await;
    let world = World::new(served_by(&[dead.addr, alive.addr])).await;
    for number in 0..10 {
        let reply = world.post("/", &format!("post {number}")).await;
        assert_eq!((reply.status, reply.body), (200, format!("post {number}")));
    }
    assert_eq!(alive.count(), 10);
    world.control.hears(|up| matches!(up, Up::Suspect { .. })).await;
}

/// The app closes its idle connection just when the next request comes: it must be sent again
/// over a new one, and never be executed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_over_connections_that_the_app_closes_are_executed_once() {
    static EXECUTED: AtomicUsize = AtomicUsize::new(0);
    let app = Upstream::start(|got| {
        if got.head.starts_with("POST") {
            EXECUTED.fetch_add(1, SeqCst);
        }
        Does::SendsAndDies(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())
    })
    .await;
    let world = World::new(served_by(&[app.addr])).await;
    for _ in 0..200 {
        assert_eq!(world.get("/").await.status, 200);
        assert_eq!(world.post("/", "x").await.status, 200);
    }
    assert_eq!(EXECUTED.load(SeqCst), 200);
}

/// What must not be sent twice goes over a connection whose peer was awake a moment ago; a GET may
/// use an older one, as it can be sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_takes_no_connection_that_was_idle_for_a_second() {
    let app = Upstream::start(|got| Does::Answers(got.connection.to_string())).await;
    let world = World::new(served_by(&[app.addr])).await;
    // Idleness is time: here it is what the test is about.
    let idle = || tokio::time::sleep(Duration::from_millis(1_100));
    assert_eq!(world.get("/").await.body, "1");
    idle().await;
    assert_eq!(world.get("/").await.body, "1", "a GET uses it, so it was kept");
    idle().await;
    assert_eq!(world.post("/", "x").await.body, "2", "a POST opens its own");
    // One that was just used is good enough; it goes back a moment after its answer.
    let mut last = "2".to_owned();
    let reused = async {
        loop {
            let next = world.post("/", "x").await.body;
            if next == std::mem::replace(&mut last, next.clone()) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reused).await.expect("a POST uses a young connection");
}
