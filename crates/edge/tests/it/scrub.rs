//! Damage on the disk that comes after a blob was checked.

use std::{os::unix::fs::FileExt as _, time::Duration};

use miosa_edge::Limits;
use miosa_types::Digest;

use crate::{
    lifecycle::site,
    world::{World, ask, served_by, until},
};

/// A file that was served already is damaged in place, and another one while control is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_damaged_after_its_use_is_fetched_anew() {
    let limits = Limits { scrub_every: Duration::from_millis(100), ..Limits::default() };
    let world = World::with(served_by(&[]), limits).await;
    let content = "sound".repeat(60_000);
    let entry = site(&world.control, "site.test", &content);
    world.control.apply(vec![entry]).await;
    let get = async || {
        let request = "GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
        ask(world.edge.http, request).await
    };
    assert!(get().await.body == content);
    let name = Digest::of(content.as_bytes()).to_string();
    let path = world.dir.path().join("edge/blobs").join(&name[..2]).join(&name);
    let damage = || {
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"X", 150_000).unwrap();
    };
    let is_sound = || std::fs::read(&path).is_ok_and(|bytes| bytes == content.as_bytes());
    damage();
    until("it is found and fetched anew", || {
        world.edge.metric("edge_blobs_damaged_total") == 1 && is_sound()
    })
    .await;
    assert!(get().await.body == content);
    assert!(world.edge.metric("edge_blobs_checked_total") > 0);

    world.control.stop().await;
    damage();
    until("it is removed", || !path.exists()).await;
    world.control.listen();
    until("it comes when control is back", is_sound).await;
    assert!(get().await.body == content);
}
