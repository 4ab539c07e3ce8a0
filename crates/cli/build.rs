//! Tells the program which commit it was built from.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../../.git/HEAD");
    println!("cargo::rerun-if-changed=../../.git/index");
    if let Some(branch) = git(&["symbolic-ref", "-q", "HEAD"]) {
        println!("cargo::rerun-if-changed=../../.git/{branch}");
    }
    println!("cargo::rerun-if-env-changed=MIOSA_COMMIT");
    let commit = std::env::var("MIOSA_COMMIT").ok().or_else(describe);
    println!("cargo::rustc-env=MIOSA_COMMIT={}", commit.unwrap_or_else(|| "unknown".to_owned()));
}

/// The commit, marked when the work tree differs from it.
fn describe() -> Option<String> {
    let commit = git(&["rev-parse", "HEAD"])?;
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_clean { commit } else { format!("{commit}-dirty") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
