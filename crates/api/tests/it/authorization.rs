//! Every operation of the API's description × (no key, a wrong key, another tenant's key, keys
//! without the scope, with it alone, that only read, the operator's). `openapi` asserts that the
//! description has every route of the router; the source is read beside it, so none can stay
//! unseen.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Platform, Tenant};

/// Stands in everything that tenant A owns and must never reach B.
const MARK: &str = "mark-of-tenant-a";

/// Name of tenant A's sandbox.
const NAME: &str = "shared";

/// An id that nobody has.
const NOBODY: &str = "018f0000-0000-7000-8000-000000000000";

/// Calls that change nothing, though they are no GETs.
const READS: [&str; 2] = ["statFile", "statFileOld"];

#[tokio::test]
async fn no_operation_opens_without_a_key_a_scope_or_to_another_tenant() {
    let platform = Platform::new().await;
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let owned = Owned::make(&platform, &a).await;
    assert_eq!(paths(&platform), paths_in_source(), "the router's text does not tell every route");
    let operations = operations(&platform).await;
    assert!(operations.len() > 80, "{}", operations.len());
    let keys = Keys::make(&platform, &b, &operations).await;
    for operation in &operations {
        operation.check(&platform, &owned, &keys).await;
    }
}

/// One operation of the description.
pub(crate) struct Operation {
    pub method: Method,
    /// Below the root.
    pub path: String,
    pub json: Value,
}

/// Every operation, from the description as it is served.
pub(crate) async fn operations(platform: &Platform) -> Vec<Operation> {
    let document = platform.get("/api/v1/openapi.json", "").await.body;
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, json) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let path = format!("{}{path}", document["servers"][0]["url"].as_str().unwrap());
            operations.push(Operation { method, path, json: json.clone() });
        }
    }
    operations
}

impl Operation {
    fn scope(&self) -> Option<&str> {
        self.json["security"][0]["key"][0].as_str()
    }

    async fn check(&self, platform: &Platform, owned: &Owned, keys: &Keys) {
        let at = format!("{} {}", self.method, self.path);
        let target = owned.fill(&self.path);
        let call = async |key: &str| -> Answer {
            // A body that no handler can act on: what is not refused before is refused by it.
            let answer = platform.call(self.method.clone(), &target, key, json!([])).await;
            let status = answer.status.as_str();
            assert!(self.json["responses"][status].is_object(), "{at} may not answer {answer:?}");
            answer
        };
        if self.json["security"] == json!([]) {
            // Before the platform is ready it may say that it is not.
            let nobody = platform.get(&target, "").await;
            assert!(self.json["responses"][nobody.status.as_str()].is_object(), "{at}");
            return;
        }
        assert_eq!(call("").await.status, StatusCode::UNAUTHORIZED, "{at} without a key");
        assert_eq!(
            call("msk_live_wrong").await.status,
            StatusCode::UNAUTHORIZED,
            "{at}: wrong key"
        );
        let is_admin = self.json["x-operator"] == true;
        let theirs = call(&keys.all).await;
        assert!(!theirs.text.contains(MARK), "{at} shows another tenant's data: {theirs:?}");
        assert!(!theirs.status.is_server_error(), "{at}: {theirs:?}");
        if self.path.contains('{') {
            assert!(theirs.status.is_client_error(), "{at} on another tenant's object: {theirs:?}");
        }
        assert_eq!(theirs.status == StatusCode::FORBIDDEN, is_admin, "{at}: {theirs:?}");
        self.check_scope(&at, is_admin, keys, &call).await;
        let operator = call(&platform.operator).await;
        assert_ne!(operator.status, StatusCode::UNAUTHORIZED, "{at} as the operator");
        // Of the platform as a whole the operator sees everything.
        let is_whole = is_admin || self.path.contains("tenant");
        assert!(!operator.text.contains(MARK) || is_whole, "{at}: acts for `default`");
    }

    async fn check_scope(
        &self,
        at: &str,
        is_admin: bool,
        keys: &Keys,
        call: &impl AsyncFn(&str) -> Answer,
    ) {
        let may_read = self.method == Method::GET
            || READS.contains(&self.json["operationId"].as_str().unwrap());
        let reader = call(&keys.reader).await;
        assert_eq!(
            reader.status == StatusCode::FORBIDDEN,
            is_admin || !may_read,
            "{at} with a key that only reads: {reader:?}"
        );
        let Some(scope) = self.scope() else { return };
        let (without, alone) = &keys.by_scope[scope];
        let refused = call(without).await;
        assert_eq!(refused.body["error"]["code"], "insufficient_scope", "{at} without {scope}");
        let allowed = call(alone).await;
        assert_ne!(allowed.status, StatusCode::FORBIDDEN, "{at} with {scope} alone: {allowed:?}");
    }
}

/// Keys of tenant B.
struct Keys {
    all: String,
    /// Every scope to read.
    reader: String,
    /// Every scope but this one, and this one alone.
    by_scope: BTreeMap<String, (String, String)>,
}

impl Keys {
    async fn make(platform: &Platform, b: &Tenant, operations: &[Operation]) -> Self {
        let make = async |scopes: Vec<&str>| -> String {
            let body = json!({ "name": "key", "scopes": scopes });
            let answer = platform.call(Method::POST, "/api/v1/api-keys", &b.key, body).await;
            answer.body["data"]["key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
        };
        let scopes: BTreeSet<&str> = operations.iter().filter_map(Operation::scope).collect();
        assert!(scopes.contains("sandboxes:read") && scopes.len() > 7, "{scopes:?}");
        let mut by_scope = BTreeMap::new();
        for &scope in &scopes {
            // Who may write may make new things too.
            let gives = |have: &str| have == scope || scope.replace("create", "write") == have;
            let others = scopes.iter().copied().filter(|have| !gives(have)).collect();
            by_scope.insert(scope.to_owned(), (make(others).await, make(vec![scope]).await));
        }
        let reads = scopes.iter().copied().filter(|scope| scope.ends_with(":read")).collect();
        Self { all: b.key.clone(), reader: make(reads).await, by_scope }
    }
}

/// Objects of tenant A, by the name of the path's parameter.
pub(crate) struct Owned(Vec<(&'static str, String)>);

impl Owned {
    pub(crate) async fn make(platform: &Platform, a: &Tenant) -> Self {
        let post = async |path: &str, body: Value| -> String {
            let answer = platform.call(Method::POST, path, &a.key, body).await;
            assert!(answer.status.is_success(), "{path}: {answer:?}");
            answer.body["data"]["id"].as_str().unwrap().to_owned()
        };
        let named = || json!({ "name": MARK });
        // Its name is asked for below and comes back in the refusal, so it is not the mark.
        let body = json!({ "name": NAME, "metadata": { "of": MARK } });
        let sandbox = post("/api/v1/sandboxes?wait=false", body).await;
        let deployment = post("/api/v1/deployments", named()).await;
        // Now there is an event that tells its name.
        post(&format!("/api/v1/deployments/{deployment}/stop"), json!({})).await;
        let domains = format!("/api/v1/deployments/{deployment}/domains");
        let domain = format!("{MARK}.test");
        let previews = format!("/api/v1/sandboxes/{sandbox}/previews");
        Self(vec![
            ("id", sandbox.clone()),
            ("sandbox", sandbox),
            ("domain", post(&domains, json!({ "domain": domain })).await),
            ("deployment", deployment),
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
            ("path", "file".to_owned()),
        ])
    }

    /// The path with its parameters replaced.
    pub(crate) fn fill(&self, path: &str) -> String {
        let fill = |part: &str| -> String {
            let Some(name) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
                return part.to_owned();
            };
            let name = name.trim_start_matches('*');
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
pub(crate) fn paths(platform: &Platform) -> BTreeSet<String> {
    let text = format!("{:?}", platform.router);
    let strings = text.split('"').skip(1).step_by(2);
    // The fallback is in there too, under `/` and a private name.
    let is_route = |text: &&str| text.starts_with('/') && *text != "/" && !text.contains("__");
    strings.filter(is_route).map(str::to_owned).collect()
}

/// Routes beside the API: they have no line in its description.
pub(crate) const AT_ROOT: [&str; 3] = ["/health", "/health/ready", "/docs"];

/// The paths that the source of this crate mounts, without those of `/metrics`' own listener.
fn paths_in_source() -> BTreeSet<String> {
    let mut paths = BTreeSet::from(AT_ROOT.map(str::to_owned));
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
                let below = literals.map(|path| format!("/api/v1{path}"));
                paths.extend(below.filter(|path| path != "/api/v1/docs"));
            }
        }
    }
    paths
}
