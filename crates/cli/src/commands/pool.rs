//! `miosa pool list|set`, on a running platform.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{Target, block_on, client, table::table, text};
use crate::logging::result;

const PATH: &str = "/api/v1/admin/pool";

/// What to do with the warm pool.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what the pool keeps, has and did.
    #[command(after_help = "Example:\n  miosa pool list --json")]
    List(Target),
    /// Keep so many warm sandboxes of a template and size. Outlives restarts.
    #[command(after_help = "Examples:\n  \
        miosa pool set miosa-sandbox small 4\n  \
        miosa pool set miosa-sandbox xs 0\n  \
        miosa pool set --from-configuration")]
    Set(Set),
}

/// Arguments of `set`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Set {
    /// Name of the template.
    #[arg(required_unless_present = "from_configuration")]
    template: Option<String>,
    /// Size: xs, small, medium, large or xl.
    #[arg(required_unless_present = "from_configuration")]
    size: Option<String>,
    /// How many; 0 keeps none.
    #[arg(required_unless_present = "from_configuration")]
    count: Option<u32>,
    /// Forget what was set: what the configuration file says counts again.
    #[arg(long, conflicts_with = "template")]
    from_configuration: bool,
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(command: &Command) -> anyhow::Result<()> {
    let (answer, is_json): (Value, bool) = match command {
        Command::List(target) => {
            (block_on(async { Ok(client(target)?.get(PATH).await?) })?, target.json)
        }
        Command::Set(arguments) => (block_on(set(arguments))?, arguments.target.json),
    };
    let data = &answer["data"];
    result(&if is_json { data.to_string() } else { page(data) });
    Ok(())
}

async fn set(arguments: &Set) -> anyhow::Result<Value> {
    let client = client(&arguments.target)?;
    let targets = match (&arguments.template, &arguments.size, arguments.count) {
        (Some(template), Some(size), Some(count)) => {
            let now: Value = client.get(PATH).await?;
            with(
                &now["data"]["targets"],
                &json!({
                    "template": template, "size": size, "count": count,
                }),
            )
        }
        _ => Value::Null,
    };
    Ok(client.call(Method::PUT, PATH, Some(&json!({ "targets": targets }))).await?)
}

/// The targets that there are, with one changed or added.
fn with(targets: &Value, changed: &Value) -> Value {
    let mut all: Vec<Value> = vec![];
    for one in targets.as_array().into_iter().flatten() {
        // A size that is no tier can only come from the file of an older version.
        if one["size"] == "custom" || is_same(one, changed) {
            continue;
        }
        all.push(json!({
            "template": one["template"], "size": one["size"], "count": one["wanted"],
        }));
    }
    if changed["count"] != 0 {
        all.push(changed.clone());
    }
    all.into()
}

fn is_same(one: &Value, other: &Value) -> bool {
    one["template"] == other["template"] && one["size"] == other["size"]
}

fn page(data: &Value) -> String {
    let fields = ["template", "size", "ready", "starting", "wanted"];
    let row = |one: &Value| fields.map(|field| text(&one[field]));
    let rows: Vec<_> = data["targets"].as_array().into_iter().flatten().map(row).collect();
    let percent = match data["hit_percent"].as_u64() {
        Some(percent) => format!("{percent} % hits"),
        None => "no sandbox yet".to_owned(),
    };
    let mean = |of: &Value| match of["mean_ms"].as_u64() {
        Some(ms) => format!("{ms} ms"),
        None => "none".to_owned(),
    };
    format!(
        "{}\n{percent} ({} of {}), wait warm {}, cold {}; {} refills failed; set by the {}",
        table(["TEMPLATE", "SIZE", "READY", "STARTING", "WANTED"], &rows),
        text(&data["hits"]),
        data["hits"].as_u64().unwrap_or(0) + data["misses"].as_u64().unwrap_or(0),
        mean(&data["warm"]),
        mean(&data["cold"]),
        text(&data["refill_failures"]),
        text(&data["source"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_is_changed_and_the_others_are_kept() {
        let now = json!([
            { "template": "t", "size": "xs", "wanted": 1, "ready": 1, "starting": 0 },
            { "template": "t", "size": "small", "wanted": 2, "ready": 0, "starting": 1 },
        ]);
        let of = |size: &str, count: u32| json!({ "template": "t", "size": size, "count": count });
        assert_eq!(with(&now, &of("xs", 5)), json!([of("small", 2), of("xs", 5)]));
        assert_eq!(with(&now, &of("small", 0)), json!([of("xs", 1)]));
        assert_eq!(with(&json!([]), &of("large", 1)), json!([of("large", 1)]));
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let data = json!({
            "source": "configuration", "hits": 3, "misses": 1, "hit_percent": 75,
            "refill_failures": 0, "warm": { "count": 3, "mean_ms": 9 },
            "cold": { "count": 0, "mean_ms": null },
            "targets": [{ "template": "t", "size": "xs", "wanted": 1, "ready": null,
                          "starting": null }],
        });
        let page = page(&data);
        assert!(page.contains("75 % hits (3 of 4), wait warm 9 ms, cold none;"), "{page}");
        assert!(!page.contains(" 0  "), "{page}");
    }
}
