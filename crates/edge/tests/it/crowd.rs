//! More connections than there is room for.

use std::time::Duration;

use miosa_edge::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixListener},
};

use crate::{
    upstream::{Does, Upstream},
    world::{PATIENCE, World, exchange, served_by, settings, until},
};

/// Addresses fill their shares, and together all there is, with connections on which nothing
/// happens: they lose the oldest of them, and whoever comes later is answered, also from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_keep_others_out() {
    let limits = Limits { connections: 80, ..Limits::default() };
    let world = World::with(vec![settings()], limits).await;
    let api = UnixListener::bind(world.dir.path().join("api.sock")).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut control, _) = api.accept().await.unwrap();
            assert!(control.read(&mut [0; 4096]).await.unwrap() > 0);
            control.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let open = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        socket.connect(world.edge.http).await.unwrap()
    };
    let mut all = Vec::new();
    for last in [1, 2, 3, 4, 5] {
        for _ in 0..40 {
            all.push(open(last).await);
        }
    }
    for last in [1, 9] {
        let mut stream = open(last).await;
        let health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let reply = exchange(&mut stream, health).await.expect("it is let in");
        assert_eq!(reply.status, 200, "{reply:?}");
        all.push(stream);
    }
    let metric = |name| world.edge.metric(name);
    until("what was evicted is closed", || {
        metric("edge_connections") + metric("edge_connections_evicted_total") == all.len()
    })
    .await;
    assert!((70..=80).contains(&metric("edge_connections")), "{}", metric("edge_connections"));
    assert_eq!(metric("edge_connections_refused_total"), 0);
    serving.abort();
}

/// What is busy stays, and an address that is busy on its whole share gets no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connections_are_bounded_by_address() {
    let app = Upstream::start(|_| Does::Hangs).await;
    let limits = Limits { connections: 8, ..Limits::default() };
    let world = World::with(served_by(&[app.addr]), limits).await;
    let get = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(world.edge.http).await.unwrap();
        stream.write_all(get).await.unwrap();
        busy.push(stream);
    }
    until("they are under way", || app.count() == 2).await;
    let mut third = TcpStream::connect(world.edge.http).await.unwrap();
    assert!(exchange(&mut third, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await.is_none());
    assert_eq!(world.edge.metric("edge_connections_refused_total"), 1);
    assert_eq!(world.edge.metric("edge_connections"), 2);
}

/// Who says nothing at all is not waited for as long as one who has asked before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_must_ask_soon() {
    let app = Upstream::start(|_| Does::Answers("ok".into())).await;
    let fresh = Duration::from_millis(300);
    let world = World::with(
        served_by(&[app.addr]),
        Limits { fresh, handshake: fresh, ..Limits::default() },
    )
    .await;
    let mut silent = TcpStream::connect(world.edge.http).await.unwrap();
    let mut asked = TcpStream::connect(world.edge.http).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(exchange(&mut asked, request).await.unwrap().status, 200);
    let mut handshake = TcpStream::connect(world.edge.https).await.unwrap();
    for stream in [&mut silent, &mut handshake] {
        let end = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        assert!(end.expect("it is closed").is_err());
    }
    assert_eq!(exchange(&mut asked, request).await.unwrap().status, 200, "it has asked");
}
