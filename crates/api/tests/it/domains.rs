//! Domains of deployments over HTTP.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Platform, Tenant, request};

async fn deployment(platform: &Platform, tenant: &Tenant) -> String {
    let body = json!({ "name": "shop" });
    let made = platform.call(Method::POST, "/api/v1/deployments", &tenant.key, body).await;
    made.body["data"]["id"].as_str().unwrap().to_owned()
}

async fn add(platform: &Platform, key: &str, deployment: &str, domain: &str) -> Answer {
    let path = format!("/api/v1/deployments/{deployment}/domains");
    platform.call(Method::POST, &path, key, json!({ "domain": domain })).await
}

#[tokio::test]
async fn a_domain_is_added_shown_and_removed() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("clinic").await;
    let shop = deployment(&platform, &tenant).await;
    let made = add(&platform, &tenant.key, &shop, "WWW.smile.test").await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let data = &made.body["data"];
    let target = "shop.clinic.apps.localhost";
    assert_eq!(data["domain"], "www.smile.test");
    assert_eq!(data["status"], "pending");
    assert_eq!(data["verification_target"], target);
    let records = data["dns_records"].as_array().unwrap();
    assert_eq!(records[0], json!({"type": "CNAME", "name": "www.smile.test", "value": target}));
    assert_eq!(records[1]["name"], "_domain-proof.www.smile.test");
    assert_eq!(records[1]["value"].as_str().unwrap().len(), 40);
    assert_eq!(records[2], json!({"type": "A", "name": "www.smile.test", "value": "192.0.2.7"}));
    assert!(!made.text.to_lowercase().contains("miosa"), "nothing names the product: {made:?}");

    let id = data["id"].as_str().unwrap();
    let below = format!("/api/v1/deployments/{shop}/domains");
    for path in [format!("{below}/{id}"), "/api/v1/domains/www.smile.test".to_owned()] {
        assert_eq!(platform.get(&path, &tenant.key).await.body["data"], *data, "{path}");
    }
    for path in [below.as_str(), "/api/v1/domains", "/api/v1/custom-domains?status=pending"] {
        let listed = platform.get(path, &tenant.key).await;
        assert_eq!(listed.body["data"], json!([data]), "{path}");
    }
    let none = platform.get(&format!("{below}?status=active"), &tenant.key).await;
    assert_eq!(none.body["data"], json!([]));

    let path = format!("{below}/{id}/verify");
    let checked = platform.call(Method::POST, &path, &tenant.key, Value::Null).await;
    assert_eq!(checked.body["data"]["status"], "pending");
    assert_eq!(checked.body["data"]["error"], "nobody is there");
    assert_ne!(checked.body["data"]["next_check_at"], Value::Null);

    let path = format!("{below}/{id}");
    let gone = platform.call(Method::DELETE, &path, &tenant.key, Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(platform.get(&path, &tenant.key).await.body["error"]["code"], "NOT_FOUND");
    let again = add(&platform, &tenant.key, &shop, "www.smile.test").await;
    let record = &again.body["data"]["dns_records"][1];
    assert_eq!(record, &records[1], "the record in the DNS stays good");
    let path = "/api/v1/domains/www.smile.test";
    let gone = platform.call(Method::DELETE, path, &tenant.key, Value::Null).await;
    assert_eq!(gone.body["deleted"], true, "{gone:?}");
}

#[tokio::test]
async fn what_cannot_be_had_is_told_apart() {
    let platform = Platform::new().await;
    let (tenant, other) = (platform.tenant("clinic").await, platform.tenant("rival").await);
    let (shop, theirs) =
        (deployment(&platform, &tenant).await, deployment(&platform, &other).await);
    let (invalid, conflict) = (StatusCode::UNPROCESSABLE_ENTITY, StatusCode::CONFLICT);
    for (domain, status, code) in [
        ("", invalid, "VALIDATION_ERROR"),
        ("smile", invalid, "VALIDATION_ERROR"),
        ("*.smile.test", invalid, "VALIDATION_ERROR"),
        ("192.0.2.1", invalid, "VALIDATION_ERROR"),
        ("https://smile.test/", invalid, "VALIDATION_ERROR"),
        ("sm\u{202e}ile.test", invalid, "VALIDATION_ERROR"),
        ("xn--a.test", invalid, "VALIDATION_ERROR"),
        (&format!("{}test", "a.".repeat(120)), invalid, "VALIDATION_ERROR"),
        ("x.miosa.localhost", invalid, "DOMAIN_RESERVED"),
        ("apps.localhost", invalid, "DOMAIN_RESERVED"),
        ("3000-x.sandbox.apps.localhost", invalid, "DOMAIN_RESERVED"),
        ("shop.clinic.apps.localhost", invalid, "DOMAIN_RESERVED"),
        ("shop.rival.apps.localhost", invalid, "DOMAIN_RESERVED"),
    ] {
        let refused = add(&platform, &tenant.key, &shop, domain).await;
        assert_eq!(refused.status, status, "{domain}: {refused:?}");
        assert_eq!(refused.body["error"]["code"], code, "{domain}");
    }
    let missing = add(&platform, &tenant.key, &theirs, "smile.test").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "another tenant's deployment");

    // What nobody proved can be claimed twice, but not by one tenant.
    assert_eq!(add(&platform, &tenant.key, &shop, "smile.test").await.status, StatusCode::CREATED);
    let twice = add(&platform, &tenant.key, &shop, "smile.test").await;
    assert_eq!((twice.status, &twice.body["error"]["code"]), (conflict, &json!("DOMAIN_TAKEN")));
    assert_eq!(add(&platform, &other.key, &theirs, "smile.test").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn the_operator_needs_no_proof_and_keeps_others_out() {
    let platform = Platform::new().await;
    let (tenant, other) = (platform.tenant("clinic").await, platform.tenant("rival").await);
    let (shop, theirs) =
        (deployment(&platform, &tenant).await, deployment(&platform, &other).await);
    let path = format!("/api/v1/deployments/{shop}/domains");
    let body = json!({ "domain": "smile.test" }).to_string();
    let as_operator = request(Method::POST, &path, &platform.operator)
        .header("x-miosa-tenant", "clinic")
        .body(body.into())
        .unwrap();
    let made = platform.send(as_operator).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(made.body["data"]["status"], "verified");
    assert!(
        made.body["data"]["dns_records"].as_array().unwrap().iter().all(|r| r["type"] != "TXT")
    );
    let refused = add(&platform, &other.key, &theirs, "smile.test").await;
    assert_eq!(refused.body["error"]["code"], "DOMAIN_TAKEN", "{refused:?}");

    // Nor can a tenant get it as a domain of its own.
    let body = json!({ "name": "late", "deployment_domain": "smile.test" });
    let late = platform.call(Method::POST, "/api/v1/admin/tenants", &platform.operator, body).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{late:?}");
}

#[tokio::test]
async fn the_same_key_adds_one_domain() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("clinic").await;
    let shop = deployment(&platform, &tenant).await;
    let path = format!("/api/v1/deployments/{shop}/domains");
    let call = async || {
        let body = json!({ "domain": "smile.test" }).to_string();
        let request = request(Method::POST, &path, &tenant.key).header("idempotency-key", "k");
        platform.send(request.body(body.into()).unwrap()).await
    };
    let (first, second) = (call().await, call().await);
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!((second.status, &second.text), (first.status, &first.text));
}

#[tokio::test]
async fn a_name_in_another_script_is_shown_as_the_dns_has_it() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("clinic").await;
    let shop = deployment(&platform, &tenant).await;
    let made = add(&platform, &tenant.key, &shop, "Bücher.test").await;
    assert_eq!(made.body["data"]["fqdn"], "xn--bcher-kva.test", "{made:?}");
}

#[tokio::test]
async fn the_redirect_of_a_pair_can_be_set_and_never_leads_in_circles() {
    let platform = Platform::new().await;
    let tenant = platform.tenant("clinic").await;
    let shop = deployment(&platform, &tenant).await;
    let path = format!("/api/v1/deployments/{shop}/domains");
    let add = async |domain: &str, policy: &str| {
        let body = json!({ "domain": domain, "redirect_policy": policy });
        platform.call(Method::POST, &path, &tenant.key, body).await
    };
    let set = async |domain: &str, policy: &str| {
        let path = format!("{path}/{domain}");
        let body = json!({ "redirect_policy": policy });
        platform.call(Method::PATCH, &path, &tenant.key, body).await
    };
    let refused = add("smile.test", "sideways").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    assert_eq!(refused.body["error"]["details"]["field"], "redirect_policy");
    let made = add("smile.test", "apex_to_www").await;
    assert_eq!(made.body["data"]["redirect_policy"], "apex_to_www", "{made:?}");
    let told = made.body["data"]["instructions"].as_str().unwrap();
    assert!(told.contains("once `www.smile.test` is added"), "{told}");

    let circle = add("www.smile.test", "www_to_apex").await;
    assert_eq!(circle.body["error"]["code"], "REDIRECT_CONFLICT", "{circle:?}");
    assert_eq!(add("www.smile.test", "none").await.status, StatusCode::CREATED);
    let circle = set("www.smile.test", "www_to_apex").await;
    assert_eq!(circle.status, StatusCode::CONFLICT, "{circle:?}");
    assert_eq!(set("smile.test", "none").await.status, StatusCode::OK);
    let turned = set("www.smile.test", "www_to_apex").await;
    assert_eq!(turned.body["data"]["redirect_policy"], "www_to_apex", "{turned:?}");
    let read = platform.get(&format!("{path}/www.smile.test"), &tenant.key).await;
    assert_eq!(read.body["data"], turned.body["data"]);
}

#[tokio::test]
async fn a_domain_is_added_by_name_and_moved_to_another_deployment() {
    let platform = Platform::new().await;
    let (tenant, other) = (platform.tenant("clinic").await, platform.tenant("rival").await);
    let (shop, theirs) =
        (deployment(&platform, &tenant).await, deployment(&platform, &other).await);
    let post = async |path: &str, body: Value| {
        platform.call(Method::POST, &format!("/api/v1{path}"), &tenant.key, body).await
    };
    let homeless = post("/domains", json!({ "domain": "one.test" })).await;
    assert_eq!(homeless.body["error"]["details"]["field"], "deployment_id", "{homeless:?}");
    let one = post("/domains", json!({ "domain": "one.test", "deployment_id": shop })).await;
    assert_eq!(one.status, StatusCode::CREATED, "{one:?}");
    let body = json!({ "fqdn": "two.test", "target_type": "deployment", "target_id": shop });
    let two = post("/custom-domains", body).await;
    assert_eq!(two.status, StatusCode::CREATED, "{two:?}");
    let body = json!({ "domain": "three.test", "target_type": "computer", "target_id": shop });
    let computer = post("/custom-domains", body).await;
    assert_eq!(computer.body["error"]["code"], "NOT_SUPPORTED", "{computer:?}");

    let blog = post("/deployments", json!({ "name": "blog" })).await.body["data"]["id"].clone();
    let moved = post("/domains/one.test/assign", json!({ "deployment_id": blog })).await;
    assert_eq!(moved.body["data"]["deployment_id"], blog, "{moved:?}");
    let target = "blog.clinic.apps.localhost";
    assert_eq!(moved.body["data"]["verification_target"], target, "{moved:?}");
    let crossed = post("/domains/one.test/assign", json!({ "deployment_id": theirs })).await;
    assert_eq!(crossed.status, StatusCode::NOT_FOUND, "{crossed:?}");

    let path = format!("/api/v1/deployments/{shop}/domains");
    let listed = platform.get(&path, &tenant.key).await.body["data"].clone();
    assert_eq!(listed, json!([two.body["data"]]));
    let id = two.body["data"]["id"].as_str().unwrap();
    let path = format!("/api/v1/custom-domains/{id}");
    let gone = platform.call(Method::DELETE, &path, &tenant.key, Value::Null).await;
    assert_eq!(gone.body, json!({ "id": id, "domain": "two.test", "deleted": true }));
}
