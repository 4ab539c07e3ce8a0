//! What holds for every call: request ids, the error envelope, bodies, health.

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::{Platform, request};

#[tokio::test]
async fn health_is_open_and_names_the_commit() {
    let platform = Platform::new().await;
    for path in ["/health", "/api/v1/health"] {
        let answer = platform.get(path, "").await;
        assert_eq!(answer.status, StatusCode::OK);
        let expected = json!({"status": "ok", "service": "miosa-compute", "version": "1.2.3",
            "commit": "abcdef"});
        assert_eq!(answer.body, expected);
    }
    // No watch of the provider is open: not ready, and when to ask again.
    let answer = platform.get("/health/ready", "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
    platform.state.control.observed.record(Some(miosa_provider::Event::Snapshot(vec![])));
    assert_eq!(platform.get("/health/ready", "").await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_error_has_the_envelope_and_the_request_id() {
    let platform = Platform::new().await;
    let key = platform.tenant("Acme").await.key;
    let path = "/api/v1/workspaces";
    let none = serde_json::Value::Null;
    for (method, path, body, status, code) in [
        (Method::GET, "/nowhere", none.clone(), 404, "NOT_FOUND"),
        (Method::GET, "/api/v1/nowhere", none.clone(), 404, "NOT_FOUND"),
        (Method::PUT, path, json!({}), 405, "METHOD_NOT_ALLOWED"),
        (Method::POST, path, json!({}), 422, "VALIDATION_ERROR"),
        (Method::POST, path, json!({"name": 5}), 422, "VALIDATION_ERROR"),
        (Method::GET, "/api/v1/workspaces/x", none.clone(), 400, "INVALID_ID"),
        (
            Method::GET,
            "/api/v1/workspaces/018f0000-0000-7000-8000-000000000000",
            none,
            404,
            "NOT_FOUND",
        ),
    ] {
        let answer = platform.call(method, path, &key, body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]["code"]), (status, &json!(code)));
        let id = answer.headers["x-request-id"].to_str().unwrap();
        assert!(id.starts_with("req_"), "{id}");
        assert_eq!(answer.body["error"]["request_id"], id);
        assert_eq!(answer.body["request_id"], id);
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let answer = platform.call(Method::POST, path, &key, json!({})).await;
    assert_eq!(answer.body["error"]["details"]["field"], "name");
    assert_eq!(answer.body["errors"][0]["field"], "name");
}

#[tokio::test]
async fn a_broken_body_is_400_and_a_huge_one_413() {
    let platform = Platform::new().await;
    let key = platform.tenant("Acme").await.key;
    let send = async |body: Vec<u8>| {
        platform
            .send(request(Method::POST, "/api/v1/workspaces", &key).body(body.into()).unwrap())
            .await
    };
    let answer = send(b"{".to_vec()).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["error"]["code"]),
        (400, &json!("INVALID_JSON"))
    );
    let answer = send(vec![b' '; miosa_api::MAX_BODY + 1]).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error"]["code"]), (413, &json!("TOO_LARGE")));
}

#[tokio::test]
async fn status_tells_what_is_known_only() {
    let platform = Platform::new().await;
    let answer = platform.get("/api/v1/admin/status", &platform.operator).await;
    let data = &answer.body["data"];
    assert_eq!((&data["commit"], &data["instances"]), (&json!("abcdef"), &json!(null)));
    platform.state.control.observed.record(Some(miosa_provider::Event::Snapshot(vec![])));
    let answer = platform.get("/api/v1/admin/status", &platform.operator).await;
    assert_eq!(answer.body["data"]["instances"], json!({}));
}
