//! What serving promises, from request to answer.

use std::{collections::BTreeMap, io};

use http::Request;
use http_body_util::BodyExt as _;
use miosa_types::Digest;
use proptest::prelude::*;

use super::*;

struct Site {
    _dir: tempfile::TempDir,
    blobs: BlobCache,
    manifest: SiteManifest,
}

impl Site {
    async fn new(files: &[(&str, &str)], spa: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobCache::open(dir.path()).unwrap();
        let mut manifest = SiteManifest { files: BTreeMap::new(), spa };
        for (path, text) in files {
            let put = async |bytes: Vec<u8>| {
                let blob = BlobRef { digest: Digest::of(&bytes), size: bytes.len() as u64 };
                blobs.ensure(blob.digest, async || Ok(io::Cursor::new(bytes))).await.unwrap();
                blob
            };
            let file = SiteFile {
                blob: put(text.as_bytes().to_vec()).await,
                content_type: "text/html; charset=utf-8".into(),
                brotli: Some(put(format!("br:{text}").into_bytes()).await),
                gzip: Some(put(format!("gz:{text}").into_bytes()).await),
            };
            manifest.files.insert((*path).to_owned(), file);
        }
        Self { _dir: dir, blobs, manifest }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        serve(&self.manifest, &self.blobs, &Branding::default(), &parts).await
    }

    /// Status, and body or location.
    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.ask("GET", path, &[]).await;
        let status = response.status().as_u16();
        if let Some(location) = response.headers().get("location") {
            return (status, location.to_str().unwrap().to_owned());
        }
        (status, text(response).await)
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

const SITE: [(&str, &str); 3] =
    [("index.html", "home"), ("file.html", "file"), ("folder/index.html", "folder")];

#[tokio::test]
async fn clean_addresses_as_cloudflares_auto_trailing_slash() {
    let site = Site::new(&SITE, false).await;
    for (path, status, wanted) in [
        ("/file", 200, "file"),
        ("/file.html", 307, "/file"),
        ("/file/", 307, "/file"),
        ("/file/index", 307, "/file"),
        ("/file/index.html", 307, "/file"),
        ("/folder", 307, "/folder/"),
        ("/folder.html", 307, "/folder"),
        ("/folder/", 200, "folder"),
        ("/folder/index", 307, "/folder"),
        ("/folder/index.html", 307, "/folder"),
        // Beyond the table.
        ("/", 200, "home"),
        ("/index", 307, "/"),
        ("/index.html?a=b%20c", 307, "/?a=b%20c"),
        ("/file?x=1", 200, "file"),
        ("/%66ile", 200, "file"),
        ("/file%2Ehtml", 307, "/file"),
    ] {
        assert_eq!(site.get(path).await, (status, wanted.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn a_clean_address_that_means_another_file_is_no_redirect() {
    let files = [("a", "bare"), ("a.html", "page"), ("b.html", "page b"), ("b/index.html", "in b")];
    let site = Site::new(&files, false).await;
    assert_eq!(site.get("/a").await, (200, "bare".into()));
    assert_eq!(site.get("/a.html").await, (200, "page".into()));
    assert_eq!(site.get("/b").await, (200, "page b".into()));
    assert_eq!(site.get("/b/").await, (200, "in b".into()));
    assert_eq!(site.get("/b/index.html").await, (200, "in b".into()));
}

#[tokio::test]
async fn the_fallback_of_a_single_page_app_is_not_for_files() {
    let site = Site::new(&SITE, true).await;
    for (path, status) in [
        ("/patients/42", 200),
        ("/patients/", 200),
        ("/missing.js", 404),
        ("/assets/old-1234.css", 404),
        ("/favicon.ico", 404),
        ("/%ff", 404),
    ] {
        let (seen, body) = site.get(path).await;
        assert_eq!(seen, status, "{path}");
        assert_eq!(body == "home", status == 200, "{path}");
    }
    assert_eq!(site.get("/file").await.1, "file", "a clean address comes before the fallback");
}

#[tokio::test]
async fn the_nearest_page_says_that_there_is_nothing() {
    let files = [("404.html", "top"), ("docs/404.html", "docs"), ("docs/a/x.html", "x")];
    let site = Site::new(&files, false).await;
    for (path, wanted) in
        [("/no", "top"), ("/docs/no", "docs"), ("/docs/a/no.css", "docs"), ("/other/no", "top")]
    {
        assert_eq!(site.get(path).await, (404, wanted.to_owned()), "{path}");
    }
    let response = site.ask("GET", "/no", &[("range", "bytes=0-0")]).await;
    assert_eq!(response.status(), 404);
    assert!(!response.headers().contains_key("etag"));
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let site = Site::new(&SITE, true).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let response = site.ask(method, "/file", &[]).await;
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["allow"], "GET, HEAD");
    }
    let get = site.ask("GET", "/file", &[]).await;
    let head = site.ask("HEAD", "/file", &[]).await;
    assert_eq!(head.headers(), get.headers());
    assert_eq!(head.headers()["content-length"], "4");
    assert_eq!(text(head).await, "");
}

#[tokio::test]
async fn validators_differ_per_encoding_and_are_honoured() {
    let site = Site::new(&SITE, true).await;
    let mut etags = Vec::new();
    for (accept, encoding, wanted) in [
        ("identity", None, "file"),
        ("gzip", Some("gzip"), "gz:file"),
        ("br", Some("br"), "br:file"),
    ] {
        let response = site.ask("GET", "/file", &[("accept-encoding", accept)]).await;
        let seen = response.headers().get("content-encoding");
        assert_eq!(seen.map(|value| value.to_str().unwrap()), encoding);
        assert_eq!(response.headers()["vary"], "Accept-Encoding");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        etags.push(response.headers()["etag"].to_str().unwrap().to_owned());
        assert_eq!(text(response).await, wanted);
    }
    assert!(etags[0] != etags[1] && etags[1] != etags[2] && etags[0] != etags[2]);
    let (plain, weak) = (etags[0].as_str(), format!("W/{}", etags[0]));
    let list = format!("\"a\", {plain}");
    for (name, value, status) in [
        ("if-none-match", plain, 304),
        ("if-none-match", weak.as_str(), 304),
        ("if-none-match", list.as_str(), 304),
        ("if-none-match", "*", 304),
        ("if-none-match", etags[1].as_str(), 200),
        ("if-match", plain, 200),
        ("if-match", "*", 200),
        ("if-match", "\"other\"", 412),
        ("if-match", weak.as_str(), 412),
    ] {
        let response = site.ask("GET", "/file", &[(name, value)]).await;
        assert_eq!(response.status(), status, "{name}: {value}");
        if status == 304 {
            assert_eq!(response.headers()["etag"], plain);
            assert!(response.headers().contains_key("cache-control"));
            assert_eq!(text(response).await, "");
        }
    }
}

#[tokio::test]
async fn parts_of_small_and_large_files() {
    let large = "0123456789abcdef,".repeat(10_000);
    let site = Site::new(&[("s.txt", "0123456789"), ("l.txt", &large)], false).await;
    for (path, content) in [("/s.txt", "0123456789"), ("/l.txt", large.as_str())] {
        let response = site.ask("GET", path, &[("range", "bytes=2-5")]).await;
        assert_eq!(response.status(), 206);
        let wanted = format!("bytes 2-5/{}", content.len());
        assert_eq!(response.headers()["content-range"], wanted.as_str());
        assert_eq!(response.headers()["content-length"], "4");
        let etag = response.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(text(response).await, &content[2..=5]);

        let ask = async |headers: &[(&str, &str)]| site.ask("GET", path, headers).await;
        let tail = ask(&[("range", "bytes=-3")]).await;
        assert_eq!(text(tail).await, &content[content.len() - 3..]);
        let fresh = ask(&[("range", "bytes=0-0"), ("if-range", &etag)]).await;
        assert_eq!(fresh.status(), 206);
        let stale = ask(&[("range", "bytes=0-0"), ("if-range", "\"old\"")]).await;
        assert_eq!((stale.status().as_u16(), text(stale).await.len()), (200, content.len()));
        let several = ask(&[("range", "bytes=0-1,4-5")]).await;
        assert_eq!(several.status(), 200);
        let outside = ask(&[("range", "bytes=9999999-")]).await;
        assert_eq!(outside.status(), 416);
        let wanted = format!("bytes */{}", content.len());
        assert_eq!(outside.headers()["content-range"], wanted.as_str());
        let head = site.ask("HEAD", path, &[("range", "bytes=0-0")]).await;
        assert_eq!(head.status(), 200, "a range has no meaning for HEAD");
    }
}

#[tokio::test]
async fn a_damaged_variant_does_not_hide_the_file() {
    let site = Site::new(&SITE, false).await;
    let brotli = site.manifest.files["file.html"].brotli.unwrap().digest;
    let live = site.manifest.blobs().into_keys().filter(|digest| *digest != brotli).collect();
    assert_eq!(site.blobs.retain(&live).unwrap(), 1);
    let response = site.ask("GET", "/file", &[("accept-encoding", "br")]).await;
    assert!(!response.headers().contains_key("content-encoding"));
    assert_eq!(text(response).await, "file");
    site.blobs.retain(&std::collections::BTreeSet::new()).unwrap();
    assert_eq!(site.ask("GET", "/file", &[]).await.status(), 503);
}

#[test]
fn only_names_with_a_hash_are_kept_for_ever() {
    for (path, wanted) in [
        ("assets/index-B8fk3_Qz.js", true),
        ("assets/index-BsgK3vJ2.css", true),
        ("assets/index-CpQ-x3Kd.js", true),
        ("static/js/main.4f9c2d1a.chunk.js.map", true),
        ("_next/static/chunks/0b1c2d3e4f5a6b7c.js", true),
        ("_astro/hoisted.BkXqTn3A.js", true),
        ("index-B8fk3_Qz.js", false),
        ("assets/app.js", false),
        ("assets/my-component.js", false),
        ("assets/icon-DarkMode.svg", false),
        ("assets/photo-20240101.jpg", false),
        ("assets/device-iPhone15.png", false),
        ("assets/page-B8fk3_Qz.html", false),
        ("index.html", false),
    ] {
        assert_eq!(path::is_hashed(path), wanted, "{path}");
    }
}

proptest! {
    /// Whatever the path: an answer, from the manifest only, and a redirect only to a path of
    /// this host that leads to a file.
    #[test]
    fn paths_never_lead_out(path in "/(\\.\\./|//|%2e%2e/|file|folder|index|\\.html|%00|%ff|\\\\|[a-z]/){0,6}") {
        let file = SiteFile {
            blob: BlobRef { digest: Digest::of(b""), size: 0 },
            content_type: String::new(),
            brotli: None,
            gzip: None,
        };
        let files = SITE.iter().map(|(path, _)| ((*path).to_owned(), file.clone())).collect();
        let manifest = SiteManifest { files, spa: false };
        match path::find(&manifest, &path) {
            Found::File { path, .. } => prop_assert!(manifest.files.contains_key(path)),
            Found::Redirect { to } => {
                prop_assert!(to.starts_with('/') && !to.starts_with("//") && !to.contains(".."));
                let is_lost = matches!(path::find(&manifest, &to), Found::Nothing { .. });
                prop_assert!(!is_lost, "{to}");
            }
            Found::Nothing { page } => prop_assert!(page.is_none()),
        }
    }
}
