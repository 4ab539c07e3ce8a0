//! From an output folder to a manifest.

use std::io::Cursor;

use miosa_artifact::{
    ArtifactStore,
    archive::Error,
    site::{Options, store_site},
};
use miosa_types::{Digest, manifest::SiteManifest};

use crate::{Item, tar};

/// The folder lives as long as the first part.
async fn store(
    items: &[Item<'_>],
) -> ((tempfile::TempDir, ArtifactStore), Result<(Digest, SiteManifest), Error>) {
    let dir = tempfile::tempdir().unwrap();
    let store = ArtifactStore::open(dir.path()).unwrap();
    let stored = store_site(&store, Cursor::new(tar(items)), Options::default()).await;
    ((dir, store), stored)
}

#[tokio::test]
async fn a_site_is_stored_with_types_and_variants_and_without_secrets() {
    let script = "console.log('appointments');\n".repeat(100);
    let items = [
        Item::Folder("./"),
        Item::File("./index.html", b"<h1>hi</h1>"),
        Item::File("assets/app.js", script.as_bytes()),
        Item::File("photo.jpg", &[7; 5000]),
        Item::File(".env.production", b"KEY=1"),
        Item::File("sub/.env", b"KEY=1"),
        Item::File(".git/config", b"x"),
        Item::File(".well-known/security.txt", b"Contact: x"),
        Item::Symlink("latest.js", "assets/app.js"),
    ];
    let ((_dir, store), stored) = store(&items).await;
    let (digest, manifest) = stored.unwrap();
    let names: Vec<_> = manifest.files.keys().map(String::as_str).collect();
    let wanted =
        [".well-known/security.txt", "assets/app.js", "index.html", "latest.js", "photo.jpg"];
    assert_eq!(names, wanted);
    assert!(manifest.spa);
    let app = &manifest.files["assets/app.js"];
    assert_eq!(app.content_type, "text/javascript; charset=utf-8");
    assert!(app.brotli.unwrap().size < app.blob.size && app.gzip.unwrap().size < app.blob.size);
    assert_eq!(manifest.files["latest.js"], *app);
    assert!(manifest.files["photo.jpg"].brotli.is_none());
    for (blob, size) in manifest.blobs() {
        assert_eq!(store.get_bytes(blob, size).await.unwrap().len() as u64, size);
    }
    let json = store.get_bytes(digest, u64::MAX).await.unwrap();
    assert_eq!(serde_json::from_slice::<SiteManifest>(&json).unwrap(), manifest);
}

#[tokio::test]
async fn the_same_folder_has_the_same_digest_in_any_order() {
    let (a, b) = (Item::File("a.html", b"a"), Item::File("b.html", b"b"));
    let (_, one) = store(&[a, b]).await;
    let (a, b) = (Item::File("a.html", b"a"), Item::File("b.html", b"b"));
    let (_, two) = store(&[b, a]).await;
    assert_eq!(one.unwrap().0, two.unwrap().0);
}

#[tokio::test]
async fn a_page_for_what_is_missing_switches_the_fallback_off() {
    let (_, stored) = store(&[Item::File("index.html", b"a"), Item::File("404.html", b"b")]).await;
    assert!(!stored.unwrap().1.spa);
    let (_, stored) = store(&[Item::File("a.html", b"a")]).await;
    assert!(!stored.unwrap().1.spa, "there is nothing to fall back to");
}

#[tokio::test]
async fn what_cannot_be_a_site_is_refused() {
    let cases: [(&[Item<'_>], &str); 6] = [
        (&[Item::File("a", b"x"), Item::Symlink("b", "/etc/passwd")], "points out"),
        (&[Item::File("../x", b"x")], "contains `..`"),
        (&[Item::File("a", b"x"), Item::Symlink("b", "../../etc/passwd")], "points out"),
        (&[Item::File("a", b"x"), Item::Symlink("b", "c")], "no published file"),
        (&[Item::File(".env", b"x")], "no files"),
        (&[Item::Symlink("a", "b"), Item::Symlink("b", "a")], "no published file"),
    ];
    for (items, wanted) in cases {
        match store(items).await.1 {
            Err(Error::Refused { reason }) => assert!(reason.contains(wanted), "{reason}"),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}
