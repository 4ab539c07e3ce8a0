//! Requests that are refused: names, fields, paths, bodies; and that the caller sees why.

use std::time::Duration;

use http::{Method, StatusCode};
use miosa_api::serve;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Answer, Platform, Tenant};

const SANDBOXES: &str = "/api/v1/sandboxes?wait=false";

async fn post(platform: &Platform, tenant: &Tenant, path: &str, body: Value) -> Answer {
    platform.call(Method::POST, path, &tenant.key, body).await
}

fn refusal(answer: &Answer) -> (u16, &str, &str) {
    let text = |value: &'static str| answer.body["error"][value].as_str().unwrap_or_default();
    let field = answer.body["error"]["details"]["field"].as_str().unwrap_or_default();
    assert_eq!(answer.body["error"]["retryable"], false, "{answer:?}");
    (answer.status.as_u16(), text("code"), field)
}

#[tokio::test]
async fn a_name_with_hidden_characters_is_refused_everywhere() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let sandbox = post(&platform, &a, SANDBOXES, json!({})).await;
    let previews = format!("/api/v1/sandboxes/{}/previews", id(&sandbox));
    let deployment = post(&platform, &a, "/api/v1/deployments", json!({"name": "d"})).await;
    let deployment = format!("/api/v1/deployments/{}", id(&deployment));
    for bad in ["pay\u{202E}lap", "a\u{200B}b", "a\u{200D}b", "a\u{7}b", " "] {
        for (path, mut body) in [
            (SANDBOXES, json!({})),
            ("/api/v1/deployments", json!({})),
            ("/api/v1/workspaces", json!({})),
            ("/api/v1/projects", json!({})),
            ("/api/v1/api-keys", json!({})),
            (&previews, json!({"port": 3000})),
        ] {
            body["name"] = bad.into();
            let answer = post(&platform, &a, path, body).await;
            assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "name"), "{path} {bad:?}");
        }
        let body = json!({ "name": bad });
        let answer = platform.call(Method::PATCH, &deployment, &a.key, body.clone()).await;
        assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "name"), "{bad:?}");
        let tenants = "/api/v1/admin/tenants";
        let answer = platform.call(Method::POST, tenants, &platform.operator, body).await;
        assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "name"), "{bad:?}");
    }
    for (field, slug) in [("workspace_name", "workspace_slug"), ("project_name", "project_slug")] {
        let answer = post(&platform, &a, SANDBOXES, json!({field: "a\u{202E}", slug: "new"})).await;
        assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", field));
    }
    let fine = post(&platform, &a, SANDBOXES, json!({"name": "診療所 👩‍💻"})).await;
    assert_eq!(fine.status, StatusCode::CREATED, "{fine:?}");
}

fn id(answer: &Answer) -> String {
    answer.body["data"]["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[tokio::test]
async fn of_two_sandboxes_with_one_name_the_newest_is_found() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let first = id(&post(&platform, &a, SANDBOXES, json!({"name": "dev"})).await);
    platform.clock.advance(Duration::from_millis(1));
    let second = id(&post(&platform, &a, SANDBOXES, json!({"name": "dev"})).await);
    let by_name = "/api/v1/sandboxes/by-name/dev";
    assert_eq!(id(&platform.get(by_name, &a.key).await), second);
    let path = format!("/api/v1/sandboxes/{second}");
    platform.call(Method::DELETE, &path, &a.key, Value::Null).await;
    assert_eq!(id(&platform.get(by_name, &a.key).await), first);
}

#[tokio::test]
async fn a_field_without_effect_is_refused_by_name() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    for (field, value) in [
        ("services", json!([{"name": "db"}])),
        ("github_repo_url", json!("https://example.com/x.git")),
        ("setup_file", json!("echo hi")),
        ("readiness_probe", json!({"port": 3000})),
        ("auto_start", json!(false)),
    ] {
        let answer = post(&platform, &a, SANDBOXES, json!({ field: value })).await;
        assert_eq!(refusal(&answer), (422, "NOT_SUPPORTED", field));
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(field));
    }
    let body = json!({"services": [], "setup_file": null, "github_repo_url": "", "auto_start": true,
        "database": false, "readiness_probe": {}, "idle_timeout_sec": 60, "of_a_newer_sdk": 1});
    let sandbox = post(&platform, &a, SANDBOXES, body).await;
    let path = format!("/api/v1/sandboxes/{}", id(&sandbox));
    let body = json!({"slug": "another"});
    let answer = platform.call(Method::PATCH, &path, &a.key, body).await;
    assert_eq!(refusal(&answer), (422, "NOT_SUPPORTED", "slug"));

    for (call, value, code, field) in [
        ("expose", json!({"visibility": "private"}), "VALIDATION_ERROR", "visibility"),
        ("expose", json!({"visibility": 7}), "VALIDATION_ERROR", "visibility"),
        ("previews", json!({"port": 1, "visibility": "secret"}), "VALIDATION_ERROR", "visibility"),
        ("expose", json!({"ttl": -1}), "NOT_SUPPORTED", "ttl"),
        ("previews", json!({"port": 1, "ttl_seconds": "x"}), "NOT_SUPPORTED", "ttl_seconds"),
        ("previews", json!({"port": "x"}), "VALIDATION_ERROR", "port"),
    ] {
        let answer = post(&platform, &a, &format!("{path}/{call}"), value).await;
        assert_eq!(refusal(&answer), (422, code, field), "{call}");
    }
    for body in [json!({}), json!({"port": 3000, "visibility": "public", "ttl": null})] {
        let answer = post(&platform, &a, &format!("{path}/expose"), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let body = json!({"name": "x", "repo_url": "https://example.com/x.git"});
    let answer = post(&platform, &a, "/api/v1/deployments", body).await;
    assert_eq!(refusal(&answer), (422, "NOT_SUPPORTED", "repo_url"));
    let answer =
        post(&platform, &a, &format!("{path}/deploy"), json!({"domain": "a.example"})).await;
    assert_eq!(refusal(&answer), (422, "NOT_SUPPORTED", "domain"));
}

#[tokio::test]
async fn a_slug_is_taken_as_it_is_or_refused() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let sandbox = post(&platform, &a, SANDBOXES, json!({})).await;
    let deploy = format!("/api/v1/sandboxes/{}/deploy", id(&sandbox));
    for body in [
        json!({"slug": "v2--x"}),
        json!({"slug": "Shop"}),
        json!({"slug": "v2--x", "name": "Shop"}),
        json!({"slug": "shop", "name": "Another"}),
    ] {
        let answer = post(&platform, &a, &deploy, body.clone()).await;
        assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "slug"), "{body}");
        if body["name"].is_string() {
            let answer = post(&platform, &a, "/api/v1/deployments", body.clone()).await;
            assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "slug"), "{body}");
        }
    }
    let answer = post(&platform, &a, "/api/v1/deployments", json!({"name": "v2--x"})).await;
    assert_eq!(answer.body["data"]["slug"], "v2-x", "a name becomes a slug");
}

#[tokio::test]
async fn what_a_tenant_stores_has_a_bound() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let sandbox = id(&post(&platform, &a, SANDBOXES, json!({})).await);
    let body = json!({"name": "x", "metadata": {"a": "x".repeat(64 * 1024)}});
    for path in [
        SANDBOXES,
        "/api/v1/deployments",
        "/api/v1/workspaces",
        "/api/v1/projects",
        &format!("/api/v1/sandboxes/{sandbox}/deploy"),
    ] {
        let answer = post(&platform, &a, path, body.clone()).await;
        assert_eq!(refusal(&answer), (422, "VALIDATION_ERROR", "metadata"), "{path}");
    }
}

#[tokio::test]
async fn refusals_have_the_codes_of_the_contract() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let answer = post(&platform, &a, SANDBOXES, json!({"template_id": "cobol"})).await;
    assert_eq!(refusal(&answer), (404, "TEMPLATE_NOT_FOUND", ""));
    assert_eq!(answer.body["error"]["message"], "template `cobol` does not exist");
    let answer = platform.get("/api/v1/sandbox-templates/cobol", &a.key).await;
    assert_eq!(refusal(&answer), (404, "TEMPLATE_NOT_FOUND", ""));
    let sandbox =
        format!("/api/v1/sandboxes/{}", id(&post(&platform, &a, SANDBOXES, json!({})).await));
    let write = json!({"path": "../../etc/passwd", "content": "x"});
    let answer = post(&platform, &a, &format!("{sandbox}/fs/write"), write).await;
    assert_eq!(refusal(&answer), (400, "INVALID_PATH", ""));
    let answer = platform.get(&format!("{sandbox}/fs/download"), &a.key).await;
    assert_eq!(refusal(&answer), (400, "MISSING_PARAM", ""));
    assert_eq!(answer.body["error"]["message"], "the query parameter `path` is missing");
    let request = crate::support::request(Method::GET, "/api/v1/whoami", &platform.operator)
        .header("x-miosa-tenant", "nobody");
    let answer = platform.send(request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(refusal(&answer), (404, "ORG_NOT_FOUND", ""));
}

/// Sends a request in one go over a real connection, then reads its answer.
async fn exchange(socket: &std::path::Path, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn a_caller_that_sends_too_much_sees_the_answer() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = CancellationToken::new();
    let drain = Duration::from_secs(1);
    let server = tokio::spawn(serve::unix(listener, platform.state.clone(), stop.clone(), drain));
    let body = vec![b' '; 40 * 1024 * 1024];
    for (key, more, status, code) in [
        (a.key.as_str(), "", 413, "TOO_LARGE"),
        (a.key.as_str(), "idempotency-key: k\r\n", 413, "TOO_LARGE"),
        ("msk_live_wrong", "", 401, "invalid_token"),
    ] {
        let head = format!(
            "POST /api/v1/workspaces HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
             connection: close\r\n{more}content-length: {}\r\n\r\n",
            body.len(),
        );
        let answer = exchange(&socket, &head, &body).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(code), "{answer}");
    }
    // A caller that asks first is told before it sends anything.
    let head = "POST /api/v1/workspaces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                expect: 100-continue\r\ncontent-length: 41943040\r\n\r\n";
    let answer = exchange(&socket, head, b"").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    stop.cancel();
    server.await.unwrap().unwrap();
}

/// A token for a port opens that port, one without a port all.
#[tokio::test]
async fn a_preview_token_is_bound_to_the_port_that_it_was_asked_for() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let sandbox = post(&platform, &a, SANDBOXES, json!({})).await;
    let path = format!("/api/v1/sandboxes/{}/preview-token", id(&sandbox));
    for body in [json!({"port": 4000}), json!({})] {
        let answer = post(&platform, &a, &path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    }
    let control = &platform.state.control;
    let mut db = control.store.conn().await.unwrap();
    let live = miosa_store::preview_tokens::live(&mut db, control.env.now()).await.unwrap();
    let mut ports: Vec<_> = live.iter().map(|token| token.port).collect();
    ports.sort();
    assert_eq!(ports, [None, Some(4000)]);
}
