//! `cargo xtask`: what rustc and clippy cannot check.
//!
//! `tidy` reads the workspace and fails with one line for each fault, so that a fault is found
//! before a review: crate arrows point down, files stay short and say what they are for, product
//! words stay where they belong, documented paths exist. `licences` does the same for what the
//! platform is built from. `generate` writes what is made from the source and committed; tests
//! of `miosa-api` and `miosa-cli` fail while that is stale.

mod arrows;
mod files;
mod flows;
mod licences;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;

#[expect(clippy::print_stderr, reason = "a command-line tool talks to its user")]
fn main() -> anyhow::Result<ExitCode> {
    let task = std::env::args().nth(1).unwrap_or_default();
    let root = root()?;
    let faults = match task.as_str() {
        "tidy" => [arrows::check(&root)?, files::check(&root)?, flows::check(&root)?].concat(),
        "licences" => licences::check(&root)?,
        "generate" => generate(&root)?,
        _ => anyhow::bail!("usage: cargo xtask tidy | licences | generate"),
    };
    for fault in &faults {
        eprintln!("{fault}");
    }
    eprintln!("{task}: {} faults", faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Writes what describes the platform to programs. It is built for that here, so that `tidy`
/// needs no build of it.
fn generate(root: &Path) -> anyhow::Result<Vec<String>> {
    let api = ["run", "--quiet", "-p", "miosa-api", "--example", "openapi"];
    fs_err::write(root.join("docs/openapi.json"), printed(root, &api)?)?;
    let schema = ["run", "--quiet", "-p", "miosa-cli", "--", "config", "schema"];
    fs_err::write(root.join("docs/config.schema.json"), printed(root, &schema)?)?;
    Ok(vec![])
}

/// What a program of the workspace prints.
fn printed(root: &Path, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo run")?;
    anyhow::ensure!(output.status.success(), "`cargo {}` failed", arguments.join(" "));
    Ok(output.stdout)
}

/// The workspace's folder.
fn root() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies below the workspace")?.to_owned())
}
