//! Too many requests: who is refused, how, and until when.

use std::time::Duration;

use http::{Method, StatusCode};
use miosa_api::limits::Rates;
use serde_json::json;

use crate::support::Platform;

const WHO: &str = "/api/v1/whoami";

/// A key of `owner` with a rate of its own.
async fn limited(platform: &Platform, owner: &str, rpm: u32) -> String {
    let body = json!({ "name": "k", "rate_limit_rpm": rpm });
    let answer = platform.call(Method::POST, "/api/v1/api-keys", owner, body).await;
    assert_eq!(answer.body["data"]["rate_limit_rpm"], rpm, "{answer:?}");
    answer.body["data"]["key"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_ask_again() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("A").await;
    let key = limited(&platform, &tenant.key, 6).await;
    for _ in 0..6 {
        assert_eq!(platform.get(WHO, &key).await.status, StatusCode::OK);
    }
    let refused = platform.get(WHO, &key).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers["retry-after"], "10");
    let error = &refused.body["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert_eq!((&error["retry_after"], &error["retry_after_ms"]), (&json!(10), &json!(10_000)));
    assert_eq!(error["retryable"], true);
    assert_eq!(error["details"], json!({ "limited": "key", "rate_limit_rpm": 6 }));
    assert_eq!(refused.body["request_id"], refused.headers["x-request-id"].to_str().unwrap());
    // Others of the tenant go on, and what needs no key is not counted.
    assert_eq!(platform.get(WHO, &tenant.key).await.status, StatusCode::OK);
    assert_eq!(platform.get("/api/v1/health", &key).await.status, StatusCode::OK);
    platform.clock.advance(Duration::from_secs(10));
    assert_eq!(platform.get(WHO, &key).await.status, StatusCode::OK);
    assert_eq!(platform.get(WHO, &key).await.status, StatusCode::TOO_MANY_REQUESTS);
    // Without a scope it is counted all the same.
    let operators = platform.get("/api/v1/admin/status", &key).await;
    assert_eq!(operators.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(platform.state.limits.refused(), 3);
}

#[tokio::test]
async fn a_tenant_has_a_limit_over_all_its_keys_and_the_operator_none() {
    let mut platform = Platform::new().await;
    let state = platform.state.clone().with_rates(Rates::per_minute(0, 20));
    platform.router = miosa_api::router(state);
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let second = limited(&platform, &a.key, 1000).await;
    for n in 1..20 {
        let key = if n % 2 == 0 { &a.key } else { &second };
        assert_eq!(platform.get(WHO, key).await.status, StatusCode::OK, "{n}");
    }
    for key in [&a.key, &second] {
        let refused = platform.get(WHO, key).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.body["error"]["details"]["limited"], "organization");
    }
    assert_eq!(platform.get(WHO, &b.key).await.status, StatusCode::OK);
    for _ in 0..40 {
        let request = crate::support::request(Method::GET, WHO, &platform.operator);
        let slug = a.json["slug"].as_str().unwrap();
        let request = request.header("x-miosa-tenant", slug).body(axum::body::Body::empty());
        assert_eq!(platform.send(request.unwrap()).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_key_cannot_make_one_that_may_ask_more_often() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("A").await;
    let key = limited(&platform, &tenant.key, 50).await;
    for (by, wanted, got) in [
        (&key, json!(51), None),
        (&key, json!(0), None),
        (&tenant.key, json!(2_000_000), None),
        (&key, json!(49), Some(49)),
        (&key, json!(null), Some(50)),
        (&tenant.key, json!(null), Some(6000)),
        (&platform.operator, json!(9000), Some(9000)),
    ] {
        let body = json!({ "name": "k", "rate_limit_rpm": wanted });
        let answer = platform.call(Method::POST, "/api/v1/api-keys", by, body).await;
        if let Some(rpm) = got {
            assert_eq!(answer.body["data"]["rate_limit_rpm"], rpm, "{answer:?}");
        } else {
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{wanted}");
            assert_eq!(answer.body["errors"][0]["field"], "rate_limit_rpm");
        }
    }
}
