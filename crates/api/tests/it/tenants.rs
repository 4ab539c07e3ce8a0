//! Tenants, their brand, domains, keys, workspaces and projects.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Platform, request};

const TENANTS: &str = "/api/v1/admin/tenants";

#[tokio::test]
async fn the_operator_makes_tenants_whose_keys_work() {
    let platform = Platform::new().await;
    let body = json!({"name": "ClinicIQ", "deployment_domain": "cliniciq.localhost",
        "preview_domain": "cliniciq.localhost"});
    let made = platform.call(Method::POST, TENANTS, &platform.operator, body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let tenant = &made.body["data"]["tenant"];
    assert_eq!((&tenant["slug"], &tenant["name"]), (&json!("cliniciq"), &json!("ClinicIQ")));
    let key = made.body["data"]["api_key"].as_str().unwrap();
    let current = platform.get("/api/v1/platform/tenants/current", key).await;
    assert_eq!(current.body["data"], *tenant);
    let list = platform.get("/api/v1/platform/tenants", key).await;
    assert_eq!(list.body["data"].as_array().unwrap().len(), 1, "a tenant sees itself only");
    let me = platform.get("/api/v1/whoami", key).await;
    assert_eq!(me.body["data"]["organization"]["id"], tenant["id"]);
    assert_eq!(me.body["data"]["scopes"], json!(["*"]));

    let refused = platform.call(Method::POST, TENANTS, key, json!({"name": "Me"})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn names_and_domains_mean_one_tenant() {
    let platform = Platform::new().await;
    platform.tenant("Acme").await;
    for (body, status) in [
        (json!({"name": "acme"}), 409),
        (json!({"name": "!"}), 422),
        (json!({"name": "Console"}), 422),
        (json!({"name": "E2B"}), 422),
        (json!({"name": "B", "deployment_domain": "acme.apps.localhost"}), 422),
        (json!({"name": "B", "deployment_domain": "localhost"}), 422),
        (json!({"name": "B", "console_domain": "x.miosa.localhost"}), 422),
        (json!({"name": "B", "deployment_domain": "b.test"}), 201),
        (json!({"name": "C", "deployment_domain": "b.test"}), 409),
        (json!({"name": "C", "preview_domain": "x.b.test"}), 409),
        (json!({"name": "C", "console_domain": "test.b"}), 201),
    ] {
        let answer = platform.call(Method::POST, TENANTS, &platform.operator, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body} {answer:?}");
    }
}

#[tokio::test]
async fn the_operator_acts_for_a_tenant_by_header_and_nobody_else_does() {
    let platform = Platform::new().await;
    let (a, b) = (platform.tenant("A").await, platform.tenant("B").await);
    let as_tenant = async |key: &str, name: &str| {
        let request = request(Method::GET, "/api/v1/platform/tenants/current", key)
            .header("x-miosa-tenant", name)
            .body(String::new().into())
            .unwrap();
        platform.send(request).await
    };
    let id = |tenant: &Value| tenant["id"].as_str().unwrap().to_owned();
    for name in ["a".to_owned(), id(&a.json)] {
        let answer = as_tenant(&platform.operator, &name).await;
        assert_eq!(answer.body["data"]["id"], a.json["id"]);
        assert_eq!(as_tenant(&a.key, &name).await.status, StatusCode::OK);
        assert_eq!(as_tenant(&b.key, &name).await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(as_tenant(&platform.operator, "none").await.status, StatusCode::NOT_FOUND);
    let own = platform.get("/api/v1/platform/tenants/current", &platform.operator).await;
    assert_eq!(own.body["data"]["slug"], "default");
}

#[tokio::test]
async fn branding_is_replaced_as_a_whole_and_answers_with_one_key() {
    let platform = Platform::new().await;
    let key = platform.tenant("A").await.key;
    let path = "/api/v1/tenant/branding";
    assert_eq!(platform.get(path, &key).await.body, json!({"branding": null}));
    let put = async |brand: Value| {
        platform.call(Method::PUT, path, &key, json!({"branding": brand})).await
    };
    let answer = put(json!({"product_name": "Clinic", "primary_color": "#123456"})).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body.as_object().unwrap().len(), 1);
    let brand = &answer.body["branding"];
    assert_eq!((&brand["name"], &brand["product_name"]), (&json!("Clinic"), &json!("Clinic")));
    let answer = put(json!({"name": "Clinic"})).await;
    assert_eq!(answer.body["branding"]["primary_color"], json!(null), "a full replace");

    let answer = put(json!({"primary_color": "red; }"})).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.body["error"]["message"].as_str().unwrap().contains("primary_color"));
    assert_eq!(platform.get(path, &key).await.body["branding"]["name"], "Clinic");

    let gone = platform.call(Method::DELETE, path, &key, Value::Null).await;
    assert_eq!(gone.body, json!({"branding": null}));
}

#[tokio::test]
async fn a_workspace_has_a_brand_of_its_own() {
    let platform = Platform::new().await;
    let (key, other) = (platform.tenant("A").await.key, platform.tenant("B").await.key);
    let made = platform.call(Method::POST, "/api/v1/workspaces", &key, json!({"name": "W"})).await;
    let path = format!("/api/v1/workspaces/{}/branding", made.body["data"]["id"].as_str().unwrap());
    assert_eq!(platform.get(&path, &key).await.body, json!({"branding": null}));
    let put = async |key: &str, brand: Value| {
        platform.call(Method::PUT, &path, key, json!({"branding": brand})).await
    };
    assert_eq!(put(&key, json!({"name": "Dental"})).await.body["branding"]["name"], "Dental");
    assert_eq!(put(&key, json!({"primary_color": "red"})).await.status.as_u16(), 422);
    assert_eq!(put(&key, json!({"colour": "red"})).await.status.as_u16(), 422);
    assert_eq!(put(&other, json!({"name": "Stolen"})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(platform.get(&path, &other).await.status, StatusCode::NOT_FOUND);
    assert_eq!(platform.get(&path, &key).await.body["branding"]["name"], "Dental");
    let gone = platform.call(Method::DELETE, &path, &key, Value::Null).await;
    assert_eq!(gone.body, json!({"branding": null}));
}

#[tokio::test]
async fn a_tenants_own_domain_waits_for_the_operator() {
    let platform = Platform::new().await;
    let key = platform.tenant("A").await.key;
    let path = "/api/v1/tenant/preview-domain";
    let put = json!({"preview_domain": "a.test"});
    let answer = platform.call(Method::PUT, path, &key, put).await;
    assert_eq!(answer.body["data"]["status"], "pending_dns");
    assert_eq!(answer.body["data"]["dns_instructions"]["name"], "*.sandbox.a.test");
    let verify = format!("{path}/verify");
    let answer = platform.call(Method::POST, &verify, &key, json!({})).await;
    assert_eq!(answer.body["data"]["verified"], false);
    let request = request(Method::POST, &verify, &platform.operator)
        .header("x-miosa-tenant", "a")
        .body(String::new().into())
        .unwrap();
    let answer = platform.send(request).await;
    assert_eq!(answer.body["data"]["verified"], true, "{answer:?}");
    assert_eq!(platform.get(path, &key).await.body["data"]["status"], "configured");
    let gone = platform.call(Method::DELETE, path, &key, Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(platform.get(path, &key).await.body["data"]["status"], "not_configured");
}

#[tokio::test]
async fn settings_merge_and_the_operators_domain_counts_at_once() {
    let platform = Platform::new().await;
    let key = platform.tenant("A").await.key;
    let path = "/api/v1/settings";
    platform.call(Method::PUT, path, &key, json!({"theme": "dark"})).await;
    let as_operator = request(Method::PUT, path, &platform.operator)
        .header("x-miosa-tenant", "a")
        .body(json!({"deployment_domain": "A.test", "x": 1}).to_string().into())
        .unwrap();
    let answer = platform.send(as_operator).await;
    let data = &answer.body["data"];
    assert_eq!((&data["theme"], &data["x"]), (&json!("dark"), &json!(1)));
    assert_eq!(data["deployment_domain"], "a.test");
    let own = platform.call(Method::PUT, path, &key, json!({"deployment_domain": "b.test"})).await;
    assert_eq!(own.body["data"]["deployment_domain"], "a.test");
    assert_eq!(own.body["data"]["pending_deployment_domain"], "b.test");
}

#[tokio::test]
async fn keys_are_shown_once_limited_and_revoked() {
    let platform = Platform::new().await;
    let key = platform.tenant("A").await.key;
    let path = "/api/v1/api-keys";
    let body = json!({"name": "ci", "scopes": ["sandboxes:read"]});
    let made = platform.call(Method::POST, path, &key, body).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let (data, limited) = (&made.body["data"], made.body["data"]["key"].as_str().unwrap());
    assert_eq!(data["token"], limited);
    assert!(limited.starts_with(data["key_prefix"].as_str().unwrap()));
    let list = platform.get(path, &key).await;
    assert!(!list.text.contains(limited), "a key is shown once");
    assert_eq!(platform.get("/api/v1/whoami", limited).await.status, StatusCode::OK);
    let more = platform.call(Method::POST, path, limited, json!({"name": "x"})).await;
    assert_eq!(more.body["error"]["code"], "insufficient_scope");
    let one = format!("{path}/{}", data["id"].as_str().unwrap());
    for _ in 0..2 {
        let gone = platform.call(Method::DELETE, &one, &key, Value::Null).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT);
    }
    let refused = platform.get("/api/v1/whoami", limited).await;
    assert_eq!(refused.body["error"]["code"], "invalid_token");
}

#[tokio::test]
async fn workspaces_are_reused_by_external_id_and_names_are_unique() {
    let platform = Platform::new().await;
    let key = platform.tenant("A").await.key;
    let post =
        async |body: Value| platform.call(Method::POST, "/api/v1/workspaces", &key, body).await;
    let body = json!({"name": "Dr. Smith", "external_workspace_id": "x1"});
    let first = post(body.clone()).await;
    assert_eq!((first.status, &first.body["reused"]), (StatusCode::CREATED, &Value::Null));
    let again = post(body).await;
    assert_eq!((again.status, &again.body["reused"]), (StatusCode::OK, &json!(true)));
    let same = post(json!({"name": "Dr. Smith"})).await;
    assert_eq!(same.body["error"]["code"], "WORKSPACE_NAME_EXISTS");
    assert_eq!(same.body["error"]["existing"]["id"], first.body["data"]["id"]);
    let twin = post(json!({"name": "Dr. Smith", "allow_duplicate_name": true})).await;
    assert_eq!(twin.status, StatusCode::CREATED);
    assert_ne!(twin.body["data"]["slug"], first.body["data"]["slug"]);

    let project = json!({"name": "Site", "external_workspace_id": "x1"});
    let project = platform.call(Method::POST, "/api/v1/projects", &key, project).await;
    assert_eq!(project.body["data"]["workspace_id"], first.body["data"]["id"]);
    let one = format!("/api/v1/workspaces/{}", first.body["data"]["id"].as_str().unwrap());
    let used = platform.call(Method::DELETE, &one, &key, Value::Null).await;
    assert_eq!(used.status, StatusCode::CONFLICT);
    let renamed = platform.call(Method::PATCH, &one, &key, json!({"name": "Dr. S"})).await;
    assert_eq!(renamed.body["data"]["name"], "Dr. S");
    assert_eq!(renamed.body["data"]["slug"], first.body["data"]["slug"]);
}
