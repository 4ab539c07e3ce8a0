//! Every operation on an object, with a body that its owner could send: a stranger is told that
//! there is no such object, and what is there stays as it was.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    authorization::{Operation, Owned, operations},
    support::{Answer, Platform},
};

/// Parameters for which tenant A owns nothing, so that its calls find nothing either.
const UNOWNED: [&str; 4] = ["{version}", "{instance}", "{pid}", "{name}"];

/// A body that is in order, so that nothing but the look-up can refuse the call.
fn body(operation: &Operation, owned: &Owned) -> Value {
    let command = json!({ "command": "id" });
    let path = json!({ "path": "/workspace/file" });
    let publish = json!({ "name": "taken", "source_sandbox_id": owned.fill("{sandbox}") });
    match operation.json["operationId"].as_str().unwrap() {
        "changeDeployment"
        | "changeProject"
        | "changeSandbox"
        | "changeWorkspace"
        | "createDeploymentInProject"
        | "nameOrganization" => json!({ "name": "taken" }),
        "addDomainToDeployment" => json!({ "domain": "taken.test" }),
        "changeDomain" => json!({ "redirect_policy": "none" }),
        "assignDomain" => json!({ "deployment_id": owned.fill("{deployment}") }),
        "publish" | "deploySandbox" | "publishSandbox" => publish,
        "runCommand" | "exec" | "execStream" | "startProcess" => command,
        "exposePort" | "createPreview" => json!({ "port": 3001 }),
        "writeFile" => json!({ "path": "/workspace/file", "content": "x" }),
        "writeFileOld" => json!({ "path": "/workspace/file", "content": "eA==" }),
        "writeFiles" | "writeFilesOld" => {
            json!({ "files": [{ "path": "/workspace/file", "content": "x" }] })
        }
        "statFile" | "statFileOld" | "makeFolder" | "removeFile" => path,
        "moveFile" => json!({ "from": "/workspace/file", "to": "/workspace/other" }),
        "tagSandbox" => json!({ "tags": ["taken"] }),
        "replaceWorkspaceBranding" => json!({ "branding": { "name": "Taken" } }),
        "rollBack" | "extendSandbox" | "createPreviewToken" | "sharePreview" | "startTemplate"
        | "uploadFile" | "uploadFilePost" => json!({}),
        other => {
            let takes = &operation.json["requestBody"];
            assert!(takes.is_null(), "what body is in order for `{other}`? {takes}");
            Value::Null
        }
    }
}

async fn call(platform: &Platform, operation: &Operation, owned: &Owned, key: &str) -> Answer {
    // Some take a path of a file in the query; the others do not look at it.
    let target = format!("{}?path=/workspace/file", owned.fill(&operation.path));
    platform.call(operation.method.clone(), &target, key, body(operation, owned)).await
}

/// What tenant A sees of what it owns.
async fn seen(platform: &Platform, owned: &Owned, key: &str) -> Vec<String> {
    let mut seen = Vec::new();
    for path in [
        "/sandboxes/{sandbox}",
        "/sandboxes/{sandbox}/previews",
        "/deployments/{deployment}",
        "/deployments/{deployment}/domains",
        "/projects/{project}",
        "/workspaces/{workspace}",
        "/workspaces/{workspace}/branding",
        "/api-keys/{key}",
        "/tenants/{tenant}",
    ] {
        let answer = platform.get(&owned.fill(&format!("/api/v1{path}")), key).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        seen.push(answer.text);
    }
    seen
}

#[tokio::test]
async fn a_stranger_finds_nothing_and_changes_nothing() {
    let platform = Platform::new().await;
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let owned = Owned::make(&platform, &a).await;
    let mut operations = operations(&platform).await;
    operations.retain(|one| {
        one.path.contains('{')
            && one.json["security"] != json!([])
            && one.json["x-operator"] != true
    });
    assert!(operations.len() > 60, "{}", operations.len());
    let before = seen(&platform, &owned, &a.key).await;
    for operation in &operations {
        let at = format!("{} {}", operation.method, operation.path);
        let answer = call(&platform, operation, &owned, &b.key).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{at}: {answer:?}");
    }
    assert_eq!(seen(&platform, &owned, &a.key).await, before);

    // The same calls find it for its owner: what is below goes first, and what makes and changes
    // before what removes.
    operations.sort_by_key(|one| (one.method == Method::DELETE, usize::MAX - one.path.len()));
    let mut gone = BTreeSet::new();
    for operation in &operations {
        let at = format!("{} {}", operation.method, operation.path);
        let last = operation.path.rsplit('/').next().unwrap();
        // An object that has several paths is removed by the first of them.
        let is_gone =
            operation.method == Method::DELETE && last.starts_with('{') && !gone.insert(last);
        if is_gone || UNOWNED.iter().any(|part| operation.path.contains(part)) {
            continue;
        }
        let answer = call(&platform, operation, &owned, &a.key).await;
        assert_ne!(answer.status, StatusCode::NOT_FOUND, "{at}: {answer:?}");
        assert_ne!(answer.status, StatusCode::FORBIDDEN, "{at}: {answer:?}");
    }
}
