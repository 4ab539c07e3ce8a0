//! Builds the guest, so that `cargo build` alone gives a full server.
//!
//! The guest is a static program of its own profile, built by a cargo of its own in a target
//! folder of its own (`<target>/guest`): the outer cargo holds the lock of its folder meanwhile.
//! What the outer cargo sets for its own compiler must not leak into it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = here.ancestors().nth(2).expect("crates/provider-oci lies in the workspace");
    for path in ["crates/guest/src", "crates/guest/Cargo.toml", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let guest = build(workspace, &target_folder(&out));
    let copy = out.join("guest");
    std::fs::copy(&guest, &copy).unwrap_or_else(|e| panic!("cannot copy {}: {e}", guest.display()));
    println!("cargo::rustc-env=GUEST_BINARY={}", copy.display());
}

/// `<target>/<profile>/build/<package>/out` → `<target>/guest`.
fn target_folder(out: &Path) -> PathBuf {
    let target = out.ancestors().nth(4).expect("the layout of cargo's target folder");
    target.join("guest")
}

fn build(workspace: &Path, target: &Path) -> PathBuf {
    let triple = env::var("TARGET").expect("cargo sets it");
    let cargo = env::var_os("CARGO").expect("cargo sets it");
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--locked", "--package", "miosa-guest", "--profile", "guest"])
        .args(["--target", &triple, "--target-dir"])
        .arg(target);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_ours =
            text.starts_with("CARGO_") && text != "CARGO_HOME" && text != "CARGO_NET_OFFLINE";
        if is_ours || text.starts_with("RUSTC") || text == "RUSTFLAGS" {
            command.env_remove(&name);
        }
    }
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "the guest cannot be built");
    target.join(triple).join("guest").join("miosa-guest")
}
