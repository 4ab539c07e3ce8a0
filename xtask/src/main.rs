//! `cargo xtask`: what rustc and clippy cannot check.
//!
//! `tidy` reads the workspace and fails with one line for each fault, so that a fault is found
//! before a review: crate arrows point down, files stay short and say what they are for, product
//! words stay where they belong, documented paths exist.

mod arrows;
mod files;
mod flows;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;

#[expect(clippy::print_stderr, reason = "a command-line tool talks to its user")]
fn main() -> anyhow::Result<ExitCode> {
    let task = std::env::args().nth(1).unwrap_or_default();
    anyhow::ensure!(task == "tidy", "usage: cargo xtask tidy");
    let root = root()?;
    let mut faults = arrows::check(&root)?;
    faults.extend(files::check(&root)?);
    faults.extend(flows::check(&root)?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    eprintln!("tidy: {} faults", faults.len());
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The workspace's folder.
fn root() -> anyhow::Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies below the workspace")?.to_owned())
}
