//! `Idempotency-Key`.

use std::time::Duration;

use http::{Method, StatusCode};
use miosa_store::idempotency::{self, Claim};
use miosa_types::TenantId;
use serde_json::{Value, json};

use crate::support::{Answer, Platform, Tenant, request};

async fn post(platform: &Platform, key: &str, idempotency: &str, body: Value) -> Answer {
    post_to(platform, "/api/v1/projects", key, idempotency, body).await
}

async fn post_to(
    platform: &Platform,
    path: &str,
    key: &str,
    idempotency: &str,
    body: Value,
) -> Answer {
    let request = request(Method::POST, path, key)
        .header("idempotency-key", idempotency)
        .body(body.to_string().into())
        .unwrap();
    platform.send(request).await
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_another_payload_is_refused() {
    let platform = Platform::new().await;
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let first = post(&platform, &a.key, "k", json!({"name": "one"})).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let again = post(&platform, &a.key, "k", json!({"name": "one"})).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.headers["content-type"], "application/json");
    assert_ne!(again.headers["x-request-id"], first.headers["x-request-id"]);

    let other = post(&platform, &a.key, "k", json!({"name": "two"})).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.body["error"]["code"], "IDEMPOTENCY_PAYLOAD_MISMATCH");

    let rival = post(&platform, &b.key, "k", json!({"name": "two"})).await;
    assert_eq!(rival.status, StatusCode::CREATED, "keys are the tenant's own");

    platform.clock.advance(Duration::from_secs(24 * 3600 + 1));
    let later = post(&platform, &a.key, "k", json!({"name": "two"})).await;
    assert_eq!(later.status, StatusCode::CREATED, "a day later the key is forgotten");
}

#[tokio::test]
async fn many_at_once_make_one_object() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let calls = (0..8).map(|_| post(&platform, &a.key, "k", json!({"name": "one"})));
    let answers = futures_util::future::join_all(calls).await;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        assert_eq!(answer.body["data"]["id"], answers[0].body["data"]["id"]);
    }
    let list = platform.get("/api/v1/projects", &a.key).await;
    assert_eq!(list.body["total"], 1, "{list:?}");
}

#[tokio::test]
async fn a_refusal_is_repeated_too() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let first = post(&platform, &a.key, "k", json!({})).await;
    let again = post(&platform, &a.key, "k", json!({})).await;
    assert_eq!(first.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(first.body, again.body);
}

/// As if the process had been killed after it made the object and before it kept the answer.
async fn break_off(platform: &Platform, tenant: &Tenant, key: &str) {
    let control = &platform.state.control;
    let id: TenantId = tenant.json["id"].as_str().unwrap().parse().unwrap();
    let now = control.env.now();
    let mut db = control.store.conn().await.unwrap();
    let stored = idempotency::find(&mut db, id, key, now - Duration::from_mins(1)).await.unwrap();
    let stored = stored.expect("the key has a row");
    let made = stored.made.expect("it names what was made");
    let claim = Claim { key: key.to_owned(), fingerprint: stored.fingerprint, made: None };
    idempotency::claim(&mut db, id, Some(&claim), made, now).await.unwrap();
}

#[tokio::test]
async fn a_repeat_after_a_crash_goes_on_with_what_was_made() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    for (path, list, body) in [
        ("/api/v1/sandboxes?wait=false", "/api/v1/sandboxes", json!({"name": "one"})),
        ("/api/v1/deployments", "/api/v1/deployments", json!({"name": "one"})),
    ] {
        let first = post_to(&platform, path, &a.key, path, body.clone()).await;
        assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
        break_off(&platform, &a, path).await;
        let again = post_to(&platform, path, &a.key, path, body).await;
        assert_eq!(again.status, StatusCode::CREATED, "{again:?}");
        assert!(!again.headers.contains_key("idempotency-replayed"), "it ran: {again:?}");
        assert_eq!(again.body["data"]["id"], first.body["data"]["id"]);
        let all = platform.get(list, &a.key).await;
        assert_eq!(all.body["data"].as_array().unwrap().len(), 1, "{all:?}");

        let other = post_to(&platform, path, &a.key, path, json!({"name": "two"})).await;
        assert_eq!(other.body["error"]["code"], "IDEMPOTENCY_PAYLOAD_MISMATCH", "{other:?}");
    }
}

#[tokio::test]
async fn a_command_that_may_have_run_is_not_run_again() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let sandbox =
        platform.call(Method::POST, "/api/v1/sandboxes?wait=false", &a.key, json!({})).await;
    let sandbox = sandbox.body["data"]["id"].as_str().unwrap().to_owned();
    let tenant: TenantId = a.json["id"].as_str().unwrap().parse().unwrap();
    for of in ["exec", "exec/stream", "commands", "processes"] {
        let path = format!("/api/v1/sandboxes/{sandbox}/{of}");
        let body = json!({"command": "id"});
        // Nothing ran: the sandbox is not there yet. So it may be tried again.
        for _ in 0..2 {
            let early = post_to(&platform, &path, &a.key, of, body.clone()).await;
            assert_ne!(early.body["error"]["code"], "OUTCOME_UNKNOWN", "{of}: {early:?}");
            assert!(!early.status.is_success(), "{of}: {early:?}");
        }
        // As if the process had been killed while the command ran.
        // Below the version of the API a handler sees its own part of the path.
        let fingerprint = fingerprint(path.strip_prefix("/api/v1").unwrap(), &body);
        let key = format!("killed-{of}");
        let claim = Claim { key: key.clone(), fingerprint, made: None };
        let control = &platform.state.control;
        let mut db = control.store.conn().await.unwrap();
        idempotency::begin(&mut db, tenant, &claim, control.env.now()).await.unwrap();
        drop(db);
        let again = post_to(&platform, &path, &a.key, &key, body.clone()).await;
        assert_eq!(again.status, StatusCode::CONFLICT, "{of}: {again:?}");
        assert_eq!(again.body["error"]["code"], "OUTCOME_UNKNOWN", "{of}: {again:?}");
        assert_eq!(again.body["error"]["retryable"], false);
    }
}

/// What a request is known by: SHA-256 of method, path and body.
fn fingerprint(path: &str, body: &Value) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for part in ["POST", path] {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(body.to_string());
    hex::encode(hash.finalize())
}
