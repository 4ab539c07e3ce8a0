//! The tables as one OpenAPI 3.1 document.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::operation::{Access, Operation, Parameter, Shape, of};
use crate::{auth::TENANT_HEADER, product};

/// Version of the contract, not of the program: it changes when a caller has to know.
const VERSION: &str = "1.0.0";

const ABOUT: &str = "Every path begins with `/api/v1`. \
    An answer is `{\"data\": …}` unless its schema says otherwise. \
    Unknown fields of a request are ignored; fields that would change what happens and are not \
    supported are refused by name.";

/// Status of an error, its name in the document, what it means.
const ERRORS: [(u16, &str, &str); 11] = [
    (400, "BadRequest", "The request cannot be read, or an id in the path is none."),
    (401, "Unauthenticated", "There is no key, or it is not valid."),
    (403, "Forbidden", "The key may not do this: its scopes or its organization do not allow it."),
    (404, "NotFound", "There is no such object in this organization."),
    (409, "Conflict", "The state of the object does not allow it, or a name is taken."),
    (410, "Gone", "What was asked for was deleted for good."),
    (413, "TooLarge", "The body is larger than this call takes."),
    (422, "Invalid", "A field cannot be accepted; `errors` names it."),
    (429, "TooMany", "The key or the organization asks too often; ask again after `Retry-After`."),
    (502, "FilesAway", "The sandbox does not answer; asking again can help."),
    (503, "Busy", "No room, or a part is away; ask again after `Retry-After`."),
];

/// A parameter of a path: name, format, what it is.
const IN_PATH: [(&str, Option<&str>, &str); 11] = [
    ("deployment", None, "Id, slug or name of the deployment."),
    ("id", Some("uuid"), "Id of the sandbox."),
    ("instance", Some("uuid"), "Id of the instance."),
    ("key", Some("uuid"), "Id of the key, not the key."),
    ("path", None, "Absolute path without its first slash; it may hold more slashes."),
    ("preview", Some("uuid"), "Id of the preview."),
    ("project", Some("uuid"), "Id of the project."),
    ("sandbox", Some("uuid"), "Id of the sandbox."),
    ("tenant", None, "Id or slug of the organization."),
    ("version", Some("uuid"), "Id of the version; its release has the same."),
    ("workspace", Some("uuid"), "Id of the workspace."),
];

/// The document.
pub(super) fn build(operations: &[Operation]) -> Value {
    let mut schemas = BTreeMap::new();
    let mut paths = Map::new();
    let mut tags = Vec::new();
    note(&mut schemas, &of::<miosa_wire::envelope::ErrorEnvelope>());
    for one in operations {
        one.body.iter().for_each(|shape| note(&mut schemas, shape));
        one.answers.iter().for_each(|(_, shape)| note(&mut schemas, shape));
        let path = one.path.replace("{*", "{");
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[one.method.as_str().to_lowercase()] = describe(one);
        if tags.last() != Some(&one.tag) {
            tags.push(one.tag);
        }
    }
    let tags: Vec<_> = tags.into_iter().map(|name| json!({ "name": name })).collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": product::TITLE, "version": VERSION, "description": ABOUT },
        "servers": [{ "url": "/api/v1" }],
        "security": [{ "key": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": errors(),
            "parameters": headers(),
            "securitySchemes": { "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, as `Authorization: Bearer msk_…`.",
            } },
        },
    })
}

/// What utoipa calls the schema of a time, without saying that it is one.
const TIME: &str = "String";

/// Collects named schemas.
fn note(schemas: &mut BTreeMap<String, Value>, shape: &Shape) {
    for (name, schema) in &shape.parts {
        if name != TIME && !schemas.contains_key(name) {
            let mut schema = schema.clone();
            plain(&mut schema);
            schemas.insert(name.clone(), schema);
        }
    }
}

/// Takes out what helps no reader (links of the source code to itself, and that what is not given
/// is null), and says what is a time.
fn plain(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("[`") => {
            *text = text.replace("[`", "`").replace("`]", "`");
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::Object(map) => {
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            let is_time = |target: &Value| {
                target.as_str().is_some_and(|target| target.rsplit('/').next() == Some(TIME))
            };
            if map.get("$ref").is_some_and(is_time) {
                map.remove("$ref");
                map.insert("type".to_owned(), "string".into());
                map.insert("format".to_owned(), "date-time".into());
            }
            map.values_mut().for_each(plain);
        }
        _ => {}
    }
}

fn describe(one: &Operation) -> Value {
    let mut item = json!({
        "operationId": one.id,
        "summary": one.summary,
        "tags": [one.tag],
        "responses": responses(one),
    });
    let parameters = parameters(one);
    if !parameters.is_empty() {
        item["parameters"] = parameters.into();
    }
    if let Some(body) = &one.body {
        item["requestBody"] = json!({ "content": content([body]) });
    }
    match one.access {
        Access::Open => item["security"] = json!([]),
        Access::AnyKey => item["description"] = "Every valid key may.".into(),
        Access::Operator => {
            item["description"] = "Only the operator's key may.".into();
            item["x-operator"] = true.into();
        }
        Access::Scope(scope) => {
            item["description"] = format!("Needs the scope `{scope}`.").into();
            // OpenAPI 3.1 has roles for every scheme: a bearer key's are its scopes.
            item["security"] = json!([{ "key": [scope] }]);
        }
    }
    item
}

fn parameters(one: &Operation) -> Vec<Value> {
    let in_path = one.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?.trim_start_matches('*');
        let known = IN_PATH.iter().find(|(known, ..)| *known == name);
        let (format, description) = match known {
            Some((_, format, description)) => (*format, *description),
            None => (None, if name == "pid" { "Number of the process." } else { "Name." }),
        };
        let mut schema = json!({ "type": if name == "pid" { "integer" } else { "string" } });
        if let Some(format) = format {
            schema["format"] = format.into();
        }
        Some(json!({ "name": name, "in": "path", "required": true, "schema": schema,
            "description": description }))
    });
    let paging = if one.is_paged { crate::paging::PARAMETERS } else { &[] };
    let in_query = one.query.iter().chain(paging).map(|(name, kind, description): &Parameter| {
        let needed = description.ends_with(" Required.");
        json!({ "name": name, "in": "query", "required": needed, "schema": { "type": kind },
            "description": description.trim_end_matches(" Required.") })
    });
    let names = match one.access {
        Access::Open => &[][..],
        _ if one.method == http::Method::POST => &["Organization", "IdempotencyKey"],
        _ => &["Organization"],
    };
    let headers =
        names.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") }));
    in_path.chain(in_query).chain(headers).collect()
}

fn headers() -> Value {
    json!({
        "Organization": {
            "name": TENANT_HEADER, "in": "header", "schema": { "type": "string" },
            "description": "Id or slug of the organization that the operator's key acts for.",
        },
        "IdempotencyKey": {
            "name": "idempotency-key", "in": "header", "schema": { "type": "string" },
            "description": "Any text: the same request with it again, within 24 hours, does \
                nothing new and gets the first answer.",
        },
    })
}

fn content<'a>(shapes: impl IntoIterator<Item = &'a Shape>) -> Value {
    let media = |shape: &Shape| (shape.media.to_owned(), json!({ "schema": shape.schema }));
    shapes.into_iter().map(media).collect::<Map<_, _>>().into()
}

fn responses(one: &Operation) -> Value {
    let mut responses = Map::new();
    for (status, _) in &one.answers {
        let shapes =
            one.answers.iter().filter(|(of, shape)| of == status && !shape.media.is_empty());
        let word = match status {
            201 => "Made.",
            204 => "Done; there is no body.",
            _ => "Done.",
        };
        let mut response = json!({ "description": word });
        let content = content(shapes.map(|(_, shape)| shape));
        if content != json!({}) {
            response["content"] = content;
        }
        responses.insert(status.to_string(), response);
    }
    for status in one.errors() {
        if let Some((_, name, _)) = ERRORS.iter().find(|(of, ..)| *of == status) {
            let to = format!("#/components/responses/{name}");
            responses.insert(status.to_string(), json!({ "$ref": to }));
        }
    }
    responses.insert("default".to_owned(), json!({ "$ref": "#/components/responses/Failed" }));
    responses.into()
}

fn errors() -> Value {
    let failed = (0, "Failed", "A fault of the platform; `request_id` names it in its log.");
    let one = |(_, name, description): (u16, &str, &str)| {
        let schema = json!({ "$ref": "#/components/schemas/ErrorEnvelope" });
        let content = json!({ "application/json": { "schema": schema } });
        (name.to_owned(), json!({ "description": description, "content": content }))
    };
    ERRORS.into_iter().chain([failed]).map(one).collect::<Map<_, _>>().into()
}
