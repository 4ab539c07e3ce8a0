//! Documented fields that this platform does not implement.
//!
//! Promises: what a caller relies on is refused rather than ignored; a value that asks for
//! nothing (null, false, 0, empty) or for what is the case anyway passes, and so does a field that
//! no document names, because SDKs are older and newer than the platform. `idle_timeout_sec`
//! passes too: SDKs send it by themselves, and a sandbox that lives longer breaks nothing.

use serde_json::{Map, Value};

use crate::Error;

/// A field, and the texts in it that ask for what is the case anyway.
pub(crate) type Field = (&'static str, &'static [&'static str]);

/// `POST /sandboxes`.
pub(crate) const CREATE_SANDBOX: [Field; 17] = [
    ("agent_profile_id", &[]),
    ("agent_runtime_profile_id", &[]),
    ("allow_provision", &[]),
    ("compute_placement_request", &[]),
    ("database", &[]),
    ("entrypoint", &[]),
    ("env_id", &[]),
    ("environment", &[]),
    ("environment_id", &[]),
    ("github_branch", &[]),
    ("github_clone_path", &[]),
    ("github_repo_url", &[]),
    ("readiness_probe", &[]),
    ("region", &["auto", "local"]),
    ("runtime_profile", &["auto", "standard"]),
    ("services", &[]),
    ("setup_file", &[]),
];

/// `PATCH /sandboxes/:id`.
pub(crate) const UPDATE_SANDBOX: [Field; 1] = [("slug", &[])];

/// `POST …/expose` and `POST …/previews`.
pub(crate) const PREVIEW: [Field; 4] =
    [("expires_at", &[]), ("expires_in", &[]), ("ttl", &[]), ("ttl_seconds", &[])];

/// `POST /deployments`.
pub(crate) const CREATE_DEPLOYMENT: [Field; 7] = [
    ("auto_deploy", &[]),
    ("branch", &[]),
    ("compute_placement_request", &[]),
    ("database", &[]),
    ("repo_url", &[]),
    ("runtime_image", &[]),
    ("source_type", &["sandbox"]),
];

/// `POST …/domains` and `POST /custom-domains`.
pub(crate) const DOMAIN: [Field; 2] = [("computer_id", &[]), ("target_type", &["deployment"])];

/// `POST /deployments/:id/publish`, `POST /sandboxes/:id/deploy` and `…/publish`.
pub(crate) const PUBLISH: [Field; 7] = [
    ("custom_domain", &[]),
    ("data_services", &[]),
    ("database", &[]),
    ("deployment_type", &["auto", "dynamic", "miosa-deploy", "miosa_deploy", "static"]),
    ("domain", &[]),
    ("environment", &["production"]),
    ("resources", &[]),
];

/// Refuses the first of `fields` that asks for something.
pub(crate) fn refuse(body: &Map<String, Value>, fields: &[Field]) -> Result<(), Error> {
    let asks = |(field, fine): &&Field| {
        body.get(*field).is_some_and(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Bool(true) => true,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty() && !fine.contains(&text.as_str()),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        })
    };
    fields.iter().find(asks).map_or(Ok(()), |&(field, _)| Err(not_supported(field)))
}

/// A field that has no effect here.
pub(crate) fn not_supported(field: &'static str) -> Error {
    let message = format!("`{field}` is not supported here; leave it out");
    Error::Refused { code: "NOT_SUPPORTED", field, message }
}

/// The fields of a body; none if it is no object, which is refused where it is parsed.
pub(crate) fn fields(body: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    body.as_object().unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_asks_for_something_is_refused_and_nothing_else() {
        for (field, value, is_fine) in [
            ("services", json!([]), true),
            ("services", json!([{"name": "db"}]), false),
            ("database", json!(false), true),
            ("database", json!(true), false),
            ("database", json!({}), true),
            ("setup_file", json!(null), true),
            ("setup_file", json!(""), true),
            ("setup_file", json!("setup.sh"), false),
            ("allow_provision", json!(0), true),
            ("allow_provision", json!(0.0), true),
            ("allow_provision", json!(1800), false),
            ("region", json!("local"), true),
            ("region", json!("eu-west"), false),
            ("of_a_newer_sdk", json!("x"), true),
        ] {
            let body = json!({ field: value });
            match refuse(fields(&body), &CREATE_SANDBOX) {
                Ok(()) => assert!(is_fine, "{body}"),
                Err(Error::Refused { field: named, .. }) => assert!(!is_fine && named == field),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
