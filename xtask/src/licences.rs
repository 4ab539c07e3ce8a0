//! What the binary is built from may be shipped: licences, banned packages, sources.
//!
//! Reads `deny.toml`, the file of cargo-deny, so that cargo-deny understands it as well; this
//! check needs no tool that takes longer to build than the platform. What is really built is
//! asked of `cargo tree`: `cargo metadata` also lists packages that no enabled feature wants.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::Context as _;
use spdx::{Expression, ParseMode};
use toml::{Table, Value};

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let rules = Rules::read(&fs_err::read_to_string(root.join("deny.toml"))?)?;
    let lock: Table = fs_err::read_to_string(root.join("Cargo.lock"))?.parse()?;
    let mut faults = sources(&lock);
    let mut packages = BTreeMap::new();
    for target in &rules.targets {
        packages.extend(packages_of(&tree(root, target)?));
    }
    // A check that looks at nothing finds nothing.
    anyhow::ensure!(packages.len() > 1, "cargo tree named no packages");
    for (package, licence) in &packages {
        faults.extend(rules.package(package, licence));
    }
    Ok(faults)
}

/// One line for each package that is built for `target`: name, version, licence.
fn tree(root: &Path, target: &str) -> anyhow::Result<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--workspace", "--locked", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}\t{l}", "--target", target])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    let why = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "cargo tree failed: {why}");
    Ok(String::from_utf8(output.stdout)?)
}

/// `name version` → licence.
fn packages_of(tree: &str) -> BTreeMap<String, String> {
    let package = |line: &str| {
        let (name, licence) = line.split_once('\t')?;
        let name: Vec<&str> = name.split(' ').take(2).collect();
        Some((name.join(" "), licence.trim_end_matches(" (*)").to_owned()))
    };
    tree.lines().filter_map(package).collect()
}

/// What `deny.toml` says.
struct Rules {
    targets: Vec<String>,
    licences: Vec<String>,
    banned: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> anyhow::Result<Self> {
        let table: Table = text.parse()?;
        let list = |section: &str, key: &str| -> anyhow::Result<Vec<Value>> {
            let found = table.get(section).and_then(|section| section.get(key)?.as_array());
            Ok(found.with_context(|| format!("deny.toml has no {section}.{key}"))?.clone())
        };
        let strings = |values: Vec<Value>| -> anyhow::Result<Vec<String>> {
            let text = |value: Value| Ok(value.as_str().context("not a text")?.to_owned());
            values.into_iter().map(text).collect()
        };
        let banned = list("bans", "deny")?;
        let banned = banned.into_iter().filter_map(|ban| ban.get("crate").cloned()).collect();
        Ok(Self {
            targets: strings(list("graph", "targets")?)?,
            licences: strings(list("licenses", "allow")?)?,
            banned: strings(banned)?,
        })
    }

    fn package(&self, package: &str, licence: &str) -> Option<String> {
        let name = package.split(' ').next().unwrap_or(package);
        if self.banned.iter().any(|banned| banned == name) {
            return Some(format!("{package}: banned by deny.toml"));
        }
        let Ok(terms) = Expression::parse_mode(licence, ParseMode::LAX) else {
            return Some(format!("{package}: cannot read its licence `{licence}`"));
        };
        let is_allowed = terms.evaluate(|wanted| self.licences.contains(&wanted.to_string()));
        (!is_allowed).then(|| format!("{package}: `{licence}` is not in deny.toml"))
    }
}

/// Packages of the lock file that come from elsewhere than crates.io or this workspace.
fn sources(lock: &Table) -> Vec<String> {
    let packages = lock.get("package").and_then(Value::as_array).into_iter().flatten();
    let fault = |package: &Value| {
        let source = package.get("source")?.as_str()?;
        let is_known = source == "registry+https://github.com/rust-lang/crates.io-index";
        let name = package.get("name")?.as_str()?;
        (!is_known).then(|| format!("{name}: comes from {source}"))
    };
    packages.filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let text = r#"
            graph.targets = ["a"]
            licenses.allow = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]
            bans.deny = [{ crate = "ring" }]
        "#;
        Rules::read(text).unwrap()
    }

    #[test]
    fn licences_are_terms_and_bans_are_names() {
        let cases = [
            ("a v1", "MIT", true),
            ("a v1", "GPL-3.0", false),
            ("a v1", "GPL-3.0 OR MIT", true),
            ("a v1", "GPL-3.0/MIT", true),
            ("a v1", "ISC AND (GPL-3.0 OR MIT)", true),
            ("a v1", "MIT AND GPL-3.0", false),
            ("a v1", "Apache-2.0 WITH LLVM-exception", true),
            ("a v1", "Apache-2.0", false),
            ("a v1", "", false),
            ("ring v1", "MIT", false),
            ("ring-buffer v1", "MIT", true),
        ];
        for (package, licence, is_fine) in cases {
            let fault = rules().package(package, licence);
            assert_eq!(fault.is_none(), is_fine, "{package} {licence}: {fault:?}");
        }
    }

    #[test]
    fn sources_other_than_the_registry_are_named() {
        let lock = r#"
            [[package]]
            name = "ours"
            [[package]]
            name = "good"
            source = "registry+https://github.com/rust-lang/crates.io-index"
            [[package]]
            name = "fork"
            source = "git+https://example.com/fork"
        "#;
        let faults = sources(&lock.parse().unwrap());
        assert_eq!(faults, ["fork: comes from git+https://example.com/fork"]);
    }

    #[test]
    fn trees_are_read() {
        let tree = "a v1.0.0 (/work)\tMIT\n\nb v2.0.0 (proc-macro)\tISC (*)\n";
        let wanted = [("a v1.0.0", "MIT"), ("b v2.0.0", "ISC")];
        let wanted = wanted.map(|(name, licence)| (name.to_owned(), licence.to_owned()));
        assert_eq!(packages_of(tree), wanted.into());
    }
}
