//! Names, certificates and HTTP/2.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use miosa_types::link::{self, Entry, Target};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    control::Control,
    upstream::{Does, Upstream},
    world::{Edge, World, app_id, ask, exchange, route, served_by},
};

struct Pki {
    roots: RootCertStore,
}

impl Pki {
    /// Hands control a certificate for `names`.
    fn issue(control: &Control, names: &[&str]) -> (Self, Entry) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let entry = Entry::Certificate(link::Certificate {
            names,
            chain: control.blob(made.cert.pem()),
            key: control.blob(made.signing_key.serialize_pem()),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
        });
        (Self { roots }, entry)
    }

    async fn connect(
        &self,
        edge: &Edge,
        name: &str,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let stream = TcpStream::connect(edge.https).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

async fn world(app: &Upstream) -> (World, Pki) {
    let mut entries = served_by(&[app.addr]);
    let Entry::Settings(settings) = &mut entries[0] else { unreachable!() };
    settings.plain_http = false;
    let world = World::new(entries).await;
    let (pki, certificate) = Pki::issue(&world.control, &["app.test", "*.wild.test"]);
    let other = route("other.test", Target::App { app: app_id() });
    world.control.apply(vec![certificate, other]).await;
    (world, pki)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_names_are_served_and_unknown_ones_refused() {
    let app =
        Upstream::start(|got| Does::Answers(got.field("x-forwarded-proto").unwrap().into())).await;
    let (world, pki) = world(&app).await;
    let mut stream = pki.connect(&world.edge, "app.test", "http/1.1").await.unwrap();
    let get = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n";
    assert_eq!(exchange(&mut stream, get).await.unwrap().body, "https");
    // The connection is not for other hosts, even if they exist.
    let other = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
    assert_eq!(exchange(&mut stream, other).await.unwrap().status, 421);

    let error = pki.connect(&world.edge, "unknown.test", "http/1.1").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    assert!(pki.connect(&world.edge, "a.wild.test", "http/1.1").await.is_ok());
    assert!(pki.connect(&world.edge, "b.a.wild.test", "http/1.1").await.is_err());

    let redirect = ask(world.edge.http, "GET /a?b HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(redirect.status, 308);
    assert_eq!(redirect.field("location"), Some("https://app.test:8443/a?b"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_alert_is_on_the_wire() {
    let app = Upstream::start(|_| Does::Answers(String::new())).await;
    let (world, _) = world(&app).await;
    // A connection by address names no host, and there is no certificate of the base domain.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let address = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), address).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(world.edge.https).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70]);
}

/// HTTP/2 in, HTTP/1.1 out: one `Cookie`, a `Host`, a body of unknown length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_reaches_an_http1_app() {
    let app = Upstream::start(|got| {
        Does::Answers(format!(
            "{}|{}|{}",
            got.field("host").unwrap(),
            got.field("cookie").unwrap(),
            String::from_utf8_lossy(&got.body)
        ))
    })
    .await;
    let (world, pki) = world(&app).await;
    let stream = pki.connect(&world.edge, "app.test", "h2").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("https://app.test/x")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(bytes::Bytes::from("body")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "app.test|a=1; b=2|body");
    let misdirected = http::Request::get("https://other.test/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(misdirected).await.unwrap().status(), 421);
}
