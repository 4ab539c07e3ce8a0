use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    authorization::{AT_ROOT, Owned, operations, paths},
    support::Platform,
};

const METHODS: [Method; 5] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

#[tokio::test]
async fn the_description_has_exactly_the_routes_and_methods_of_the_router() {
    let platform = Platform::new().await;
    let mut routed = BTreeSet::new();
    for path in paths(&platform).iter().filter(|path| !AT_ROOT.contains(&path.as_str())) {
        for method in METHODS {
            let answer = platform.call(method.clone(), path, "", json!(null)).await;
            if answer.status != StatusCode::METHOD_NOT_ALLOWED {
                routed.insert(format!("{method} {}", path.replace("{*", "{")));
            }
        }
    }
    let described = operations(&platform).await;
    let described: BTreeSet<_> =
        described.iter().map(|one| format!("{} {}", one.method, one.path)).collect();
    assert_eq!(described, routed, "left: crates/api/src/openapi/table, right: the router");
}

#[tokio::test]
async fn the_description_is_sound() {
    let platform = Platform::new().await;
    let document = platform.get("/api/v1/openapi.json", "").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let tags: Vec<_> =
        document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut targets = vec![];
    references(&document, &mut targets);
    assert!(targets.len() > 200, "{}", targets.len());
    for target in targets {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} is not there");
    }
    let mut ids = BTreeSet::new();
    for operation in operations(&platform).await {
        let id = operation.json["operationId"].as_str().unwrap().to_owned();
        assert!(ids.insert(id.clone()), "{id} is there twice");
        assert!(tags.contains(&&operation.json["tags"][0]), "{id}");
        let mut answers = operation.json["responses"].as_object().unwrap().keys();
        assert!(answers.any(|status| status.starts_with('2')), "{id} has no answer");
        let declared: BTreeSet<_> = (operation.json["parameters"].as_array().into_iter().flatten())
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap()))
            .collect();
        let in_path = operation.path.split('/').filter(|part| part.starts_with('{'));
        assert_eq!(declared, in_path.map(str::to_owned).collect(), "{id}");
    }
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_committed_description_is_the_one_that_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == miosa_api::openapi::text(), "stale; run `cargo xtask generate`");
}

#[tokio::test]
async fn what_is_read_has_the_described_form() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let owned = Owned::make(&platform, &a).await;
    let document = platform.get("/api/v1/openapi.json", "").await.body;
    let mut checked = 0;
    for one in operations(&platform).await {
        if one.method != Method::GET || one.path.ends_with("/stream") {
            continue;
        }
        let answer = platform.get(&owned.fill(&one.path), &a.key).await;
        let mut described = &one.json["responses"][answer.status.as_str()];
        if let Some(target) = described["$ref"].as_str() {
            described = document.pointer(&target[1..]).unwrap();
        }
        let schema = &described["content"]["application/json"]["schema"];
        if schema.is_object() {
            conforms(&document, schema, &answer.body, &one.path);
            checked += usize::from(answer.status.is_success());
        }
    }
    assert!(checked > 25, "{checked} answers were checked");
}

/// Fails unless `value` is what `schema` says, and has no field that it does not name.
fn conforms(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        return conforms(document, document.pointer(&target[1..]).unwrap(), value, at);
    }
    if let Some(kinds) = schema["oneOf"].as_array() {
        let of = |one: &&Value| (one["type"] == "null") == value.is_null();
        let one = kinds.iter().find(of).unwrap_or_else(|| panic!("{at}: {value} is none"));
        return conforms(document, one, value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let may_be = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|one| one == kind),
        Value::String(one) => one == kind,
        _ => true,
    };
    assert!(may_be, "{at} is {value}, not {}", schema["type"]);
    for item in value.as_array().into_iter().flatten() {
        conforms(document, &schema["items"], item, &format!("{at}[]"));
    }
    for needed in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(needed.as_str().unwrap()).is_some(), "{at} lacks {needed}");
    }
    let Some(fields) = schema["properties"].as_object() else { return };
    for (name, field) in value.as_object().into_iter().flatten() {
        let inner = fields.get(name).unwrap_or_else(|| panic!("{at}: `{name}` is not described"));
        conforms(document, inner, field, &format!("{at}.{name}"));
    }
}

#[tokio::test]
async fn the_page_is_open_and_may_load_nothing() {
    let platform = Platform::new().await;
    let answer = platform.get("/docs", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let policy = answer.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!answer.text.contains("<script") && !answer.text.contains("style=\""));
    let mut links =
        answer.text.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert!(links.all(|link| answer.text.contains(&format!("id=\"{link}\""))));
    for one in operations(&platform).await {
        let id = one.json["operationId"].as_str().unwrap();
        assert!(answer.text.contains(&format!("id=\"{id}\"")), "{id} is missing");
    }
}
