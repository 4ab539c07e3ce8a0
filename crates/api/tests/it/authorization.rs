//! Every route × (no key, another tenant's key, the operator's). The routes are read from the
//! router itself, so a new one joins by being there; the source is read beside it, so none can
//! stay unseen.

use std::{collections::BTreeSet, path::Path};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Platform, Tenant};

/// Stands in everything that tenant A owns and must never reach B.
const MARK: &str = "mark-of-tenant-a";

/// Name of tenant A's sandbox.
const NAME: &str = "shared";

/// An id that nobody has.
const NOBODY: &str = "018f0000-0000-7000-8000-000000000000";

const METHODS: [Method; 5] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

#[tokio::test]
async fn no_route_opens_without_a_key_or_to_another_tenant() {
    let platform = Platform::new().await;
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let owned = Owned::make(&platform, &a).await;
    let paths = paths(&platform);
    assert_eq!(paths, paths_in_source(), "the router's text does not tell every route");
    for path in &paths {
        let target = owned.fill(path);
        for method in METHODS {
            check(&platform, (path, &target), method, &b).await;
        }
    }
}

async fn check(platform: &Platform, (path, target): (&str, &str), method: Method, b: &Tenant) {
    let at = format!("{method} {path}");
    let call = async |key: &str| -> Answer {
        // A body that no handler can act on: what is not refused before is refused by it.
        platform.call(method.clone(), target, key, json!([])).await
    };
    let nobody = call("").await;
    if path.trim_start_matches("/api/v1").starts_with("/health") {
        return;
    }
    if nobody.status == StatusCode::METHOD_NOT_ALLOWED {
        return;
    }
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED, "{at} without a key");
    assert_eq!(call("msk_live_wrong").await.status, StatusCode::UNAUTHORIZED, "{at}: wrong key");
    let theirs = call(&b.key).await;
    assert!(!theirs.text.contains(MARK), "{at} shows another tenant's data: {theirs:?}");
    assert!(!theirs.status.is_server_error(), "{at}: {theirs:?}");
    if path.contains('{') {
        assert!(theirs.status.is_client_error(), "{at} on another tenant's object: {theirs:?}");
    }
    if path.starts_with("/api/v1/admin/") {
        assert_eq!(theirs.status, StatusCode::FORBIDDEN, "{at}");
    }
    let operator = call(&platform.operator).await;
    assert_ne!(operator.status, StatusCode::UNAUTHORIZED, "{at} as the operator");
    // Of the platform as a whole the operator sees everything.
    let is_whole = path.starts_with("/api/v1/admin/") || path.contains("tenant");
    assert!(!operator.text.contains(MARK) || is_whole, "{at}: acts for `default`");
}

/// Objects of tenant A, by the name of the path's parameter.
struct Owned(Vec<(&'static str, String)>);

impl Owned {
    async fn make(platform: &Platform, a: &Tenant) -> Self {
        let post = async |path: &str, body: Value| -> String {
            let answer = platform.call(Method::POST, path, &a.key, body).await;
            assert!(answer.status.is_success(), "{path}: {answer:?}");
            answer.body["data"]["id"].as_str().unwrap().to_owned()
        };
        let named = || json!({ "name": MARK });
        // Its name is asked for below and comes back in the refusal, so it is not the mark.
        let body = json!({ "name": NAME, "metadata": { "of": MARK } });
        let sandbox = post("/api/v1/sandboxes?wait=false", body).await;
        let previews = format!("/api/v1/sandboxes/{sandbox}/previews");
        Self(vec![
            ("id", sandbox.clone()),
            ("sandbox", sandbox),
            ("deployment", post("/api/v1/deployments", named()).await),
            ("tenant", a.json["id"].as_str().unwrap().to_owned()),
            ("workspace", post("/api/v1/workspaces", named()).await),
            ("project", post("/api/v1/projects", named()).await),
            ("key", post("/api/v1/api-keys", named()).await),
            ("preview", post(&previews, json!({"port": 3000, "name": MARK})).await),
            // Nothing of these is A's: they are looked up below A's sandbox or deployment, or
            // are everybody's (`name`, a template's).
            ("version", NOBODY.to_owned()),
            ("instance", NOBODY.to_owned()),
            ("pid", "1".to_owned()),
            ("name", NAME.to_owned()),
            ("*path", "file".to_owned()),
        ])
    }

    /// The path with its parameters replaced.
    fn fill(&self, path: &str) -> String {
        let fill = |part: &str| -> String {
            let Some(name) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
                return part.to_owned();
            };
            let known = self.0.iter().find(|(known, _)| *known == name);
            known
                .unwrap_or_else(|| panic!("what does tenant A own as `{name}` ({path})?"))
                .1
                .clone()
        };
        path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }
}

/// The router's paths, from its `Debug` text; there is no other way to list them.
fn paths(platform: &Platform) -> BTreeSet<String> {
    let text = format!("{:?}", platform.router);
    let strings = text.split('"').skip(1).step_by(2);
    // The fallback is in there too, under `/` and a private name.
    let is_route = |text: &&str| text.starts_with('/') && *text != "/" && !text.contains("__");
    strings.filter(is_route).map(str::to_owned).collect()
}

/// The paths that the source of this crate mounts, without those of `/metrics`' own listener.
fn paths_in_source() -> BTreeSet<String> {
    let mut paths = BTreeSet::from(["/health", "/health/ready"].map(str::to_owned));
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("metrics.rs") {
                let text = std::fs::read_to_string(path).unwrap();
                let calls = text.split(".route(").skip(1);
                let literals = calls.map(|call| call.split('"').nth(1).unwrap());
                paths.extend(literals.map(|path| format!("/api/v1{path}")));
            }
        }
    }
    paths
}
