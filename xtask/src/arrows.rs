//! Crate arrows point downward only (docs/ARCHITECTURE.md, design §4).
//!
//! Every edge between two crates of the workspace must be in [`ALLOWED`]; development
//! dependencies are free. Heavy dependencies must not reach the crates that promise to be without
//! them.

use std::{path::Path, process::Command};

use anyhow::Context as _;
use serde_json::Value;

/// Crate, and the crates of the workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("wire", &["types"]),
    ("store", &["types"]),
    ("artifact", &["types"]),
    ("provider", &["types"]),
    ("edge", &["types"]),
    ("guest", &[]),
    ("net", &["types"]),
    ("provider-oci", &["types", "provider"]),
    ("publish", &["types", "artifact", "provider"]),
    ("control", &["types", "store", "artifact", "provider", "publish"]),
    ("api", &["types", "wire", "store", "artifact", "provider", "publish", "control"]),
    ("client", &["types", "wire"]),
    ("testkit", &["types", "store", "artifact", "provider", "publish", "control", "wire", "api"]),
];

/// Crate, and packages that must not stand in its manifest.
const WITHOUT: &[(&str, &[&str])] = &[
    ("types", &["tokio", "hyper", "sqlx", "axum"]),
    ("control", &["axum", "hyper", "miosa-provider-oci", "miosa-net"]),
    ("edge", &["sqlx", "miosa-store", "miosa-control"]),
];

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    anyhow::ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        faults.extend(faults_of(package));
    }
    Ok(faults)
}

fn faults_of(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some(name) = name.strip_prefix("miosa-") else { return vec![] };
    let dependencies: Vec<&str> = package["dependencies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|dependency| dependency["kind"].is_null())
        .filter_map(|dependency| dependency["name"].as_str())
        .collect();
    let mut faults = Vec::new();
    if let Some((_, allowed)) = ALLOWED.iter().find(|(krate, _)| *krate == name) {
        for dependency in dependencies.iter().filter_map(|d| d.strip_prefix("miosa-")) {
            if !allowed.contains(&dependency) {
                faults.push(format!("crates/{name}: must not depend on {dependency}"));
            }
        }
    } else if name != "cli" {
        faults.push(format!("crates/{name}: add its arrows to xtask/src/arrows.rs"));
    }
    for (krate, banned) in WITHOUT {
        for dependency in dependencies.iter().filter(|d| *krate == name && banned.contains(d)) {
            faults.push(format!("crates/{name}: promises to be without {dependency}"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_arrow_upward_and_a_heavy_dependency_are_faults() {
        let package = |name: &str, dependencies: &[&str]| {
            let all: Vec<_> =
                dependencies.iter().map(|d| json!({ "name": d, "kind": null })).collect();
            faults_of(&json!({ "name": name, "dependencies": all }))
        };
        assert!(package("miosa-store", &["miosa-types", "sqlx"]).is_empty());
        assert_eq!(package("miosa-store", &["miosa-control"]).len(), 1);
        assert_eq!(package("miosa-control", &["axum"]).len(), 1);
        assert_eq!(package("miosa-new", &[]).len(), 1);
    }
}
