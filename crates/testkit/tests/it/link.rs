//! The edge link on a real socket: blobs, and how fast a change arrives.

use std::time::Duration;

use miosa_control::publishing::Request;
use miosa_testkit::{Platform, eventually};
use miosa_types::{
    Digest,
    link::{BlobHead, Entry, Hello, Target},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{publish::SITE, recovery::running_app};

async fn ask(stream: &mut UnixStream, digest: Digest) -> Option<Vec<u8>> {
    let body = serde_json::to_vec(&Hello::Blob { digest }).unwrap();
    stream.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let length = stream.read_u32().await.unwrap();
    let mut head = vec![0; length as usize];
    stream.read_exact(&mut head).await.unwrap();
    match serde_json::from_slice(&head).unwrap() {
        BlobHead::Missing => None,
        BlobHead::Found { size } => {
            let mut blob = vec![0; usize::try_from(size).unwrap()];
            stream.read_exact(&mut blob).await.unwrap();
            Some(blob)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_fetches_manifests_chains_and_keys_by_digest() {
    let platform = Platform::start().await;
    let tenant = platform.tenant("clinic").await;
    let sandbox = platform.sandbox(tenant, SITE).await;
    let made = platform.publish(tenant, &sandbox, "shop", Request::default()).await.unwrap();
    platform.until_state(tenant, made.deployment.id, "running").await;
    let Some(Target::Static { manifest, .. }) = platform.edge.target("shop.clinic.localhost")
    else {
        panic!("a site");
    };
    let mut stream = UnixStream::connect(platform.socket()).await.unwrap();
    let blob = ask(&mut stream, manifest).await.unwrap();
    assert_eq!(Digest::of(&blob), manifest);
    assert_eq!(ask(&mut stream, Digest::of(b"nothing")).await, None);
    let mut names = vec![];
    for entry in platform.edge.table().0.into_values() {
        let Entry::Certificate(certificate) = entry else { continue };
        for digest in [certificate.chain, certificate.key] {
            let blob = ask(&mut stream, digest).await.unwrap();
            assert_eq!(Digest::of(&blob), digest);
        }
        names.extend(certificate.names);
    }
    for name in ["*.clinic.localhost", "*.sandbox.apps.localhost", "platform.localhost"] {
        assert!(names.iter().any(|have| have == name), "{name} is not among {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_the_link_ends_only_that_connection() {
    let platform = Platform::start().await;
    let (tenant, id, _) = running_app(&platform).await;
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{}", b"\0\0\0\x04null", b"\0\0"] {
        let mut stream = UnixStream::connect(platform.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = vec![];
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"");
    }
    assert_eq!(platform.shown(tenant, id).await.state, "running");
    assert_eq!(platform.edge.ready(id).len(), 1);
}

/// The budget is 50 ms on a quiet machine; this one may be busy, so the test only catches waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_leaves_the_edge_without_waiting_for_a_tick() {
    let platform = Platform::start().await;
    let (_, id, version) = running_app(&platform).await;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let dead = platform.replicas(version)[0].instance;
        let begin = tokio::time::Instant::now();
        platform.provider.exit(dead, 1);
        eventually("that it is unrouted", async || {
            (!platform.edge.ready(id).contains(&dead)).then_some(())
        })
        .await;
        best = best.min(begin.elapsed());
        eventually("the next one", async || {
            platform.clock.advance(Duration::from_secs(5));
            platform.provider.tick();
            let ready = platform.edge.ready(id);
            (ready.len() == 1 && ready[0] != dead).then_some(())
        })
        .await;
    }
    assert!(best < Duration::from_millis(500), "{best:?}");
    eprintln!("a dead replica left the edge within {best:?}");
}
