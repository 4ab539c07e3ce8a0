//! Every list of the description, in each style of paging: one that is added joins by itself.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    authorization::{Operation, Owned, operations},
    support::Platform,
};

const PARAMETERS: [&str; 5] = ["page", "page_size", "limit", "offset", "cursor"];

/// Rows that are made of each kind that a `POST` on the list's own path makes.
const ROWS: usize = 7;

/// A log, not a list: it only grows at its end, so it is read on from the last one seen (`after`).
const LOG: &str = "/api/v1/events";

/// The operations whose answer is a list.
async fn lists(platform: &Platform) -> Vec<Operation> {
    let document = platform.get("/api/v1/openapi.json", "").await.body;
    let is_list = |one: &Operation| {
        let mut schema = &one.json["responses"]["200"]["content"]["application/json"]["schema"];
        if let Some(target) = schema["$ref"].as_str() {
            schema = document.pointer(&target[1..]).unwrap();
        }
        one.method == Method::GET
            && one.path != LOG
            && schema["properties"]["data"]["type"] == "array"
    };
    operations(platform).await.into_iter().filter(is_list).collect()
}

fn ids(body: &Value) -> Vec<String> {
    let rows = body["data"].as_array().unwrap_or_else(|| panic!("{body}"));
    let id = |row: &Value| if row["id"].is_null() { &row["name"] } else { &row["id"] }.to_string();
    rows.iter().map(id).collect()
}

#[tokio::test]
async fn every_list_is_walked_in_each_style_without_a_gap_or_a_row_twice() {
    let platform = Platform::new().await;
    let a = platform.tenant("A").await;
    let owned = Owned::make(&platform, &a).await;
    let lists = lists(&platform).await;
    assert!(lists.len() >= 16, "{}", lists.len());
    let mut long = 0;
    for one in &lists {
        let declared = one.json["parameters"].as_array().into_iter().flatten();
        let declared: BTreeSet<_> = declared.filter_map(|given| given["name"].as_str()).collect();
        for name in PARAMETERS {
            assert!(declared.contains(name), "{} does not say that it takes {name}", one.path);
        }
        let path = owned.fill(&one.path);
        let is_operators = one.json["x-operator"] == true;
        let key = if is_operators { &platform.operator } else { &a.key };
        for n in 0..ROWS {
            let body = json!({ "name": format!("Row {n}"), "port": 4000 + n });
            let wait = if one.path.ends_with("/sandboxes") { "?wait=false" } else { "" };
            platform.call(Method::POST, &format!("{path}{wait}"), key, body).await;
        }
        let all = platform.get(&path, key).await;
        if all.status == StatusCode::CONFLICT {
            continue; // It asks a sandbox, and none runs here; the parameters are checked below.
        }
        assert_eq!(all.status, StatusCode::OK, "{path}: {all:?}");
        let all = ids(&all.body);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{path}: {all:?}");
        long += usize::from(all.len() >= ROWS);
        walk(&platform, &path, key, &all).await;
        refuse(&platform, &path, key).await;
    }
    assert!(long >= 7, "{long} lists had rows enough to be walked");
}

async fn walk(platform: &Platform, path: &str, key: &str, all: &[String]) {
    let get = async |query: String| {
        let answer = platform.get(&format!("{path}?{query}"), key).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}?{query}: {answer:?}");
        answer.body
    };
    let (mut by_cursor, mut cursor) = (Vec::new(), String::new());
    for _ in 0..=all.len() {
        let body = get(format!("limit=3&cursor={cursor}")).await;
        assert!(body["page"].is_null(), "{path}: nobody asked for a page");
        by_cursor.extend(ids(&body));
        body["next_cursor"].as_str().unwrap_or_default().clone_into(&mut cursor);
        if cursor.is_empty() {
            break;
        }
        assert_eq!(ids(&body).len(), 3, "{path}: a part before the last is full");
    }
    assert_eq!(by_cursor, all, "{path} by cursor");
    let mut by_offset = Vec::new();
    for offset in (0..=all.len()).step_by(3) {
        by_offset.extend(ids(&get(format!("limit=3&offset={offset}")).await));
    }
    assert_eq!(by_offset, all, "{path} by offset");
    let mut by_page = Vec::new();
    for page in 1..=all.len() / 3 + 1 {
        let body = get(format!("page={page}&page_size=3")).await;
        let expected = json!({ "page": page, "page_size": 3, "total": all.len() });
        assert_eq!(body["page"], expected, "{path}");
        by_page.extend(ids(&body));
    }
    assert_eq!(by_page, all, "{path} by page");
    let body = get("page=1".to_owned()).await;
    assert_eq!(body["page"]["page_size"], 20, "{path}");
}

async fn refuse(platform: &Platform, path: &str, key: &str) {
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("page=0", "page"),
        ("page_size=101", "page_size"),
        ("offset=-1", "offset"),
        ("cursor=%00nonsense", "cursor"),
        ("page=1&cursor=x", "cursor"),
    ] {
        let answer = platform.get(&format!("{path}?{query}"), key).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}?{query}: {answer:?}");
        assert_eq!(answer.body["errors"][0]["field"], field, "{path}?{query}");
    }
}
