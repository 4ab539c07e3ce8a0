//! The description as a page for people.
//!
//! Promises: one file without a script, a picture or a font from elsewhere; its policy lets a
//! browser load nothing; everything on it comes from the document.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// A page and the policy to send with it.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) html: String,
    pub(super) policy: String,
}

/// Renders the document.
pub(super) fn render(document: &Value) -> Page {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let title = escape(text(&document["info"]["title"]));
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><div class=\"page\">"
    );
    html.push_str(&navigation(document));
    html.push_str("<main>");
    html.push_str(&introduction(document));
    for tag in list(&document["tags"]) {
        html.push_str(&section(document, text(&tag["name"])));
    }
    html.push_str("<h2 id=\"schemas\">Schemas</h2>");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        let _ = write!(html, "<h3 id=\"schema-{name}\"><code>{name}</code></h3>");
        html.push_str(&fields(document, schema));
    }
    html.push_str("</main></div></body></html>\n");
    Page { html, policy }
}

fn navigation(document: &Value) -> String {
    let mut html = String::from(
        "<nav aria-label=\"Sections\"><ul><li><a href=\"#sign-in\">Sign in</a></li>\
         <li><a href=\"#errors\">Errors</a></li>",
    );
    for tag in list(&document["tags"]) {
        let name = text(&tag["name"]);
        let _ = write!(html, "<li><a href=\"#{}\">{}</a></li>", anchor(name), escape(name));
    }
    html.push_str("<li><a href=\"#schemas\">Schemas</a></li></ul></nav>");
    html
}

fn introduction(document: &Value) -> String {
    let (info, components) = (&document["info"], &document["components"]);
    let base = text(&document["servers"][0]["url"]);
    let mut html = format!(
        "<h1>{}</h1><p class=\"quiet\">Version {} · <a href=\"{base}/openapi.json\">OpenAPI \
         document</a></p><p>{}</p><h2 id=\"sign-in\">Sign in</h2><p>{}</p>\
         <pre>curl -H \"Authorization: Bearer $API_KEY\" https://HOST{base}/whoami</pre>\
         <p>A key has scopes, and each call below names the one that it needs. <code>*</code> is \
         all of them, <code>sandboxes:*</code> all of one area, and <code>write</code> includes \
         <code>create</code>.</p><table>",
        escape(text(&info["title"])),
        escape(text(&info["version"])),
        prose(text(&info["description"])),
        prose(text(&components["securitySchemes"]["key"]["description"])),
    );
    for (_, header) in entries(&components["parameters"]) {
        html.push_str(&row(text(&header["name"]), "header", text(&header["description"])));
    }
    html.push_str("</table><h2 id=\"errors\">Errors</h2><p>Every error has the same form, ");
    let _ = write!(html, "{}.</p><table>", reference("#/components/schemas/ErrorEnvelope"));
    // By status: the document names them, and a call that can fail so refers to the name.
    for (status, name) in statuses(document) {
        let response = &components["responses"][name];
        html.push_str(&row(&status, "", text(&response["description"])));
    }
    html.push_str("</table>");
    html
}

/// Every status of an error, with the name of its response.
fn statuses(document: &Value) -> std::collections::BTreeMap<String, &str> {
    let operations = entries(&document["paths"]).flat_map(|(_, item)| entries(item));
    operations
        .flat_map(|(_, operation)| entries(&operation["responses"]))
        .filter_map(|(status, response)| {
            let name = response["$ref"].as_str()?.rsplit('/').next()?;
            Some((if status == "default" { "5xx" } else { status }.to_owned(), name))
        })
        .collect()
}

fn section(document: &Value, tag: &str) -> String {
    let mut html = format!("<h2 id=\"{}\">{}</h2>", anchor(tag), escape(tag));
    for (path, item) in entries(&document["paths"]) {
        for method in METHODS {
            if item[method]["tags"][0] == tag {
                html.push_str(&operation(document, path, method, &item[method]));
            }
        }
    }
    html
}

fn operation(document: &Value, path: &str, method: &str, operation: &Value) -> String {
    let mut html = format!(
        "<details><summary><span class=\"method {method}\">{}</span>\
         <span class=\"path\">{}</span> <span class=\"quiet\">{}</span></summary>\
         <div id=\"{}\"><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        prose(text(&operation["summary"])),
        text(&operation["operationId"]),
        prose(operation["description"].as_str().unwrap_or("No key is needed.")),
    );
    let own: Vec<_> =
        list(&operation["parameters"]).filter(|parameter| parameter["name"].is_string()).collect();
    if !own.is_empty() {
        html.push_str("<h4>Parameters</h4><table>");
        for parameter in own {
            let needed = if parameter["required"] == true { "" } else { ", optional" };
            let kind =
                format!("{}, {}{needed}", text(&parameter["in"]), kind(&parameter["schema"]));
            html.push_str(&row(text(&parameter["name"]), &kind, text(&parameter["description"])));
        }
        html.push_str("</table>");
    }
    for (media, body) in entries(&operation["requestBody"]["content"]) {
        let _ = write!(html, "<h4>Body <span class=\"quiet\">{media}</span></h4>");
        html.push_str(&fields(document, &body["schema"]));
    }
    html.push_str("<h4>Answers</h4><table>");
    for (status, response) in entries(&operation["responses"]) {
        html.push_str(&answer(status, response));
    }
    html.push_str("</table></div></details>");
    html
}

fn answer(status: &str, response: &Value) -> String {
    // Errors all have one form, which is told once.
    let Some(description) = response["description"].as_str() else { return String::new() };
    let mut html = String::new();
    for (media, body) in entries(&response["content"]) {
        let about = body["schema"]["description"].as_str().map(prose).unwrap_or_default();
        let kind = kind(&body["schema"]);
        let media = if media == "application/json" { String::new() } else { escape(media) };
        let _ = write!(
            html,
            "<tr><th>{status}</th><td class=\"type\">{media}</td><td>{kind} {about}</td></tr>"
        );
    }
    if html.is_empty() { row(status, "", description) } else { html }
}

/// The fields of a schema, of the one it refers to, or what it is instead.
fn fields(document: &Value, schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or_default();
        return fields(document, &document["components"]["schemas"][name]);
    }
    let mut html = String::new();
    if let Some(about) = schema["description"].as_str() {
        let _ = write!(html, "<p>{}</p>", prose(about));
    }
    for part in list(&schema["allOf"]) {
        html.push_str(&fields(document, part));
    }
    if !schema["properties"].is_object() {
        if schema["allOf"].is_null() {
            let _ = write!(html, "<p>{}</p>", kind(schema));
        }
        return html;
    }
    html.push_str("<table>");
    for (name, field) in entries(&schema["properties"]) {
        let needed =
            if list(&schema["required"]).any(|one| one == name) { ", required" } else { "" };
        let kind = format!("{}{needed}", kind(field));
        html.push_str(&row(name, &kind, about(field)));
    }
    html.push_str("</table>");
    html
}

/// What a field is for; of one that may be null that stands beside the other choice.
fn about(field: &Value) -> &str {
    let choices = list(&field["oneOf"]).chain([field]);
    choices.map(|choice| text(&choice["description"])).find(|text| !text.is_empty()).unwrap_or("")
}

/// A schema in a few words, as HTML.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        return reference(target);
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if schema[key].is_array() {
            let join = if key == "allOf" { " and " } else { " or " };
            return list(&schema[key]).map(kind).collect::<Vec<_>>().join(join);
        }
    }
    if let Value::Array(words) = &schema["enum"] {
        return words.iter().map(|word| escape(text(word))).collect::<Vec<_>>().join(", ");
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        Value::String(kind) => kind.clone(),
        _ => return "anything".to_owned(),
    };
    if schema["items"].is_object() {
        return kinds.replacen("array", &format!("array of {}", kind(&schema["items"])), 1);
    }
    if let Some(data) = schema["properties"].as_object().and_then(|fields| fields.get("data")) {
        return format!("<code>data</code>: {}", kind(data));
    }
    match schema["format"].as_str() {
        Some(format @ ("uuid" | "date-time")) => format!("{kinds}, {format}"),
        _ => escape(&kinds),
    }
}

fn reference(target: &str) -> String {
    let name = target.rsplit('/').next().unwrap_or_default();
    format!("<a href=\"#schema-{name}\">{name}</a>")
}

/// `kind` is HTML already.
fn row(name: &str, kind: &str, about: &str) -> String {
    let (name, about) = (escape(name), prose(about));
    if kind.is_empty() {
        return format!("<tr><th><code>{name}</code></th><td colspan=\"2\">{about}</td></tr>");
    }
    format!("<tr><th><code>{name}</code></th><td class=\"type\">{kind}</td><td>{about}</td></tr>")
}

/// Escaped text, with what stands between back-ticks as code.
fn prose(text: &str) -> String {
    let parts = text.split('`').map(escape).enumerate();
    parts
        .map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn anchor(tag: &str) -> String {
    tag.to_lowercase().replace(' ', "-")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_code_is_marked() {
        assert_eq!(prose("a `<b>` & \"c\""), "a <code>&lt;b&gt;</code> &amp; &quot;c&quot;");
        assert_eq!(kind(&serde_json::json!({ "type": ["string", "null"] })), "string or null");
        let list = serde_json::json!({ "type": ["array", "null"], "items": { "type": "string" } });
        assert_eq!(kind(&list), "array of string or null");
    }
}
