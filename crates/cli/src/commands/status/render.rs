//! The status as a page for a terminal. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::commands::table::table;

/// A certificate that ends sooner is pointed out: renewal should have happened long before.
const SOON_DAYS: i64 = 14;

/// Everything, the facts first, then tables.
pub(super) fn page(status: &Value, now: Timestamp) -> String {
    let mut page = String::new();
    for (name, text) in facts(status) {
        page += &format!("{name:<14}{text}\n");
    }
    for (title, rows) in [
        ("APPS", apps(status)),
        ("WARM POOL", pool(status)),
        ("CERTIFICATES", certificates(status, now)),
        ("WHAT FAILS", failures(status)),
    ] {
        if !rows.is_empty() {
            page += &format!("\n{title}\n{rows}");
        }
    }
    page
}

fn facts(status: &Value) -> Vec<(&'static str, String)> {
    let monitor = &status["monitor"];
    let steps = status["reconcilers"].as_object().into_iter().flatten();
    let failing: Vec<&str> =
        steps.filter(|(_, step)| !step["error"].is_null()).map(|(name, _)| name.as_str()).collect();
    let control = match (status["instances"].is_null(), failing.is_empty()) {
        (true, _) => "up, but the provider is not watched: what runs is unknown".to_owned(),
        (false, true) => "up".to_owned(),
        (false, false) => format!("up; failing: {}", failing.join(", ")),
    };
    let edges: Vec<&Value> = status["edges"].as_array().into_iter().flatten().collect();
    let leased = edges.iter().filter(|edge| edge["is_leased"] == true).count();
    let refused: usize = edges.iter().map(|edge| count(&edge["refused"])).sum();
    let edge = match (leased, refused) {
        (0, _) => "not linked".to_owned(),
        (_, 0) => format!("{leased} linked"),
        (_, refused) => format!("{leased} linked; {refused} entries refused"),
    };
    vec![
        ("release", format!("{} ({})", text(&status["version"]), text(&status["commit"]))),
        ("control", control),
        ("edge", edge),
        (
            "monitor",
            format!(
                "{} checks, {} suspects, marked_error {}, tracking_failures {}",
                text(&monitor["checks"]),
                text(&monitor["suspects"]),
                text(&monitor["marked_error"]),
                text(&status["tracking_failures"])
            ),
        ),
        ("healing", healing(&status["healing"])),
        ("instances", states(&status["instances"])),
        ("sandboxes", states(&status["sandboxes"])),
        ("restarts", text(&status["restarts"])),
        ("volumes", volumes(status)),
    ]
}

fn healing(healing: &Value) -> String {
    let number = |name: &str| healing[name].as_u64();
    let (Some(failures), Some(recoveries), Some(ms)) =
        (number("failures"), number("recoveries"), number("recovery_ms"))
    else {
        return "unknown".to_owned();
    };
    let mean = ms.checked_div(recoveries).map(|mean| format!(" in {mean} ms on average"));
    format!("{failures} failed, {recoveries} recovered{}", mean.unwrap_or_default())
}

fn volumes(status: &Value) -> String {
    let space = |of: &Value| {
        let total = of["total_bytes"].as_u64().filter(|total| *total > 0)?;
        Some((of["used_bytes"].as_u64()?, total, of["free_bytes"].as_u64()?))
    };
    let limits = text(&status["disk_limits"]);
    let pool =
        space(&status["volumes"]["pool"]).map_or("unknown".to_owned(), |(used, total, _)| {
            let part = used.saturating_mul(100) / total;
            format!("{part} % of {} used", gib(total))
        });
    let disk = space(&status["volumes"]["disk"])
        .map_or(String::new(), |(_, _, free)| format!(", {} of disk free", gib(free)));
    format!("{limits} limits, {pool}{disk}")
}

fn apps(status: &Value) -> String {
    let row = |app: &Value| {
        let version = match app["version"].as_u64() {
            Some(number) => format!("v{number} {}", text(&app["kind"])),
            None => "none yet".to_owned(),
        };
        let instances = match (text(&app["kind"]).as_str(), &app["instances"]) {
            // Files need no process.
            ("static", _) => "–".to_owned(),
            (_, seen) => states(seen),
        };
        let (tenant, name) = (text(&app["tenant"]), text(&app["name"]));
        let (host, state) = (text(&app["host"]), text(&app["state"]));
        [tenant, name, host, state, version, instances, text(&app["restarts"])]
    };
    let headings = ["TENANT", "NAME", "HOST", "STATE", "VERSION", "INSTANCES", "RESTARTS"];
    rows(&status["apps"], headings, row)
}

fn pool(status: &Value) -> String {
    rows(&status["pool"], ["TEMPLATE", "SIZE", "READY", "STARTING", "WANTED"], |slot| {
        ["template", "size", "ready", "starting", "wanted"].map(|field| text(&slot[field]))
    })
}

fn certificates(status: &Value, now: Timestamp) -> String {
    rows(&status["certificates"], ["NAMES", "EXPIRES", "LEFT"], |one| {
        let names: Vec<_> = one["names"].as_array().into_iter().flatten().map(text).collect();
        let end: Option<Timestamp> = one["not_after"].as_str().and_then(|end| end.parse().ok());
        let day = end.map_or("unknown".to_owned(), |end| end.strftime("%Y-%m-%d").to_string());
        [names.join(", "), day, end.map_or("unknown".to_owned(), |end| left(end, now))]
    })
}

fn left(end: Timestamp, now: Timestamp) -> String {
    match end.duration_since(now).as_hours() / 24 {
        _ if end <= now => "expired".to_owned(),
        days if days < SOON_DAYS => format!("{days} days, soon"),
        days => format!("{days} days"),
    }
}

/// Reasons, one a line: of reconcilers, apps and edges.
fn failures(status: &Value) -> String {
    let mut lines = Vec::new();
    for (name, step) in status["reconcilers"].as_object().into_iter().flatten() {
        if let Some(error) = step["error"].as_str() {
            lines.push(["reconciler".into(), name.clone(), first_line(error)]);
        } else if let Some(failed) = step["report"]["failed"].as_u64().filter(|count| *count > 0) {
            lines.push(["reconciler".into(), name.clone(), format!("{failed} objects failed")]);
        }
    }
    for app in status["apps"].as_array().into_iter().flatten() {
        if let Some(failure) = app["failure"].as_str() {
            lines.push(["app".into(), text(&app["host"]), first_line(failure)]);
        }
    }
    for edge in status["edges"].as_array().into_iter().flatten() {
        for (entry, why) in edge["refused"].as_object().into_iter().flatten() {
            lines.push(["edge".into(), entry.clone(), first_line(&text(why))]);
        }
    }
    if lines.is_empty() { String::new() } else { table(["WHAT", "NAME", "WHY"], &lines) }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// A table of the objects in `list`; nothing if there is none.
fn rows<const N: usize>(
    list: &Value,
    headings: [&str; N],
    row: impl Fn(&Value) -> [String; N],
) -> String {
    if list.is_null() {
        return "unknown\n".to_owned();
    }
    let rows: Vec<_> = list.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() { String::new() } else { table(headings, &rows) }
}

/// `2 healthy, 1 starting`.
fn states(counts: &Value) -> String {
    match counts.as_object() {
        None => "unknown".to_owned(),
        Some(counts) if counts.is_empty() => "none".to_owned(),
        Some(counts) => {
            let words: Vec<_> =
                counts.iter().map(|(state, count)| format!("{} {state}", text(count))).collect();
            words.join(", ")
        }
    }
}

fn count(of: &Value) -> usize {
    of.as_object().map_or(0, Map::len)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn gib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 30;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Value {
        json!({
            "version": "0.1.0", "commit": "abcdef", "disk_limits": "hard",
            "instances": {"healthy": 2}, "sandboxes": {}, "restarts": 3,
            "monitor": {"checks": 2, "suspects": 0, "marked_error": 1}, "tracking_failures": 4,
            "healing": {"failures": 3, "recoveries": 2, "recovery_ms": 801},
            "reconcilers": {
                "builds": {"at": "2026-01-01T00:00:00Z", "report": {"failed": 0}, "error": null},
                "routes": {"at": "2026-01-01T00:00:00Z", "report": {"failed": 1}, "error": "no disk\nmore"},
            },
            "edges": [{"edge": "e", "is_leased": true, "applied_seq": 7, "refused": {}}],
            "apps": [
                {"name": "Booking", "tenant": "cliniciq", "host": "booking.cliniciq.localhost",
                 "state": "running", "kind": "dynamic", "version": 2, "failure": null,
                 "instances": {"healthy": 1}, "restarts": 3},
                {"name": "Site", "tenant": "cliniciq", "host": "site.cliniciq.localhost",
                 "state": "failed", "kind": null, "version": null, "failure": "npm: no such script",
                 "instances": {}, "restarts": 0},
            ],
            "pool": [{"template": "t", "size": "xs", "wanted": 2, "ready": 1, "starting": 1}],
            "certificates": [{"names": ["a.b", "*.b"], "not_after": "2026-01-11T00:00:00Z"}],
            "volumes": {
                "pool": {"total_bytes": 8_u64 << 30, "used_bytes": 2_u64 << 30, "free_bytes": 1},
                "disk": {"total_bytes": 1_u64 << 40, "used_bytes": 0, "free_bytes": 3_u64 << 29},
            },
        })
    }

    #[test]
    fn a_status_reads_like_a_page() {
        let page = page(&status(), "2026-01-01T00:00:00Z".parse().unwrap());
        let wanted = "\
release       0.1.0 (abcdef)
control       up; failing: routes
edge          1 linked
monitor       2 checks, 0 suspects, marked_error 1, tracking_failures 4
healing       3 failed, 2 recovered in 400 ms on average
instances     2 healthy
sandboxes     none
restarts      3
volumes       hard limits, 25 % of 8.0 GiB used, 1.5 GiB of disk free

APPS
TENANT    NAME     HOST                        STATE    VERSION     INSTANCES  RESTARTS
cliniciq  Booking  booking.cliniciq.localhost  running  v2 dynamic  1 healthy  3
cliniciq  Site     site.cliniciq.localhost     failed   none yet    none       0

WARM POOL
TEMPLATE  SIZE  READY  STARTING  WANTED
t         xs    1      1         2

CERTIFICATES
NAMES     EXPIRES     LEFT
a.b, *.b  2026-01-11  10 days, soon

WHAT FAILS
WHAT        NAME                     WHY
reconciler  routes                   no disk
app         site.cliniciq.localhost  npm: no such script
";
        assert_eq!(page, wanted);
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let mut unknown = status();
        for field in ["instances", "sandboxes", "pool", "restarts"] {
            unknown[field] = Value::Null;
        }
        unknown["edges"] = json!([]);
        let page = page(&unknown, Timestamp::UNIX_EPOCH);
        for line in [
            "control       up, but the provider is not watched: what runs is unknown",
            "edge          not linked",
            "instances     unknown",
            "restarts      unknown",
            "WARM POOL\nunknown",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }

    #[test]
    fn a_certificate_at_its_end_is_pointed_out() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (end, wanted) in [
            ("2025-12-31T00:00:00Z", "expired"),
            ("2026-01-01T01:00:00Z", "0 days, soon"),
            ("2026-03-31T00:00:00Z", "89 days"),
        ] {
            assert_eq!(left(end.parse().unwrap(), now), wanted, "{end}");
        }
    }
}
