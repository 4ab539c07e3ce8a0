//! `miosa status`: the proof of the mission on a live system.

use serde_json::Value;

use super::{Target, block_on, tenant::client};
use crate::logging::result;

/// Arguments of the command.
pub(crate) type Arguments = Target;

pub(crate) fn run(target: &Arguments) -> anyhow::Result<()> {
    let status: Value = block_on(async { Ok(client(target)?.get("/api/v1/admin/status").await?) })?;
    let data = &status["data"];
    if target.json {
        result(&data.to_string());
    } else {
        result(render(data, 0).trim_end());
    }
    Ok(())
}

/// Indented `name: value` lines; short lists stay on their line.
fn render(value: &Value, depth: usize) -> String {
    let pad = "  ".repeat(depth);
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = name.replace('_', " ");
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text += &format!("{pad}{name}:\n{}", render(value, depth + 1));
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                text += &format!("{pad}{name}:\n");
                for item in items {
                    let lines = render(item, depth + 2);
                    text += &format!("{pad}  -{}", &lines[(depth + 1) * 2 + 1..]);
                }
            }
            other => text += &format!("{pad}{name}: {}\n", plain(other)),
        }
    }
    text
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Object(_) => "none".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_reads_like_a_page() {
        let status = json!({
            "commit": "abc",
            "instances": {"healthy": 2},
            "pool": [{"size": "xs", "ready": 1}, {"size": "small", "ready": 2}],
            "last_error": null,
        });
        let lines = [
            "commit: abc",
            "instances:",
            "  healthy: 2",
            "last error: –",
            "pool:",
            "  - ready: 1",
            "    size: xs",
            "  - ready: 2",
            "    size: small",
        ];
        assert_eq!(render(&status, 0).lines().collect::<Vec<_>>(), lines);
    }
}
