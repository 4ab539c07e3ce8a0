//! What an operator types: results, and mistakes that are explained in one line.

use std::{
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt as _},
    process::Command,
};

use serde_json::Value;

use crate::platform::{Platform, skipped};

/// Somebody without rights.
const NOBODY: u32 = 65_534;

/// Exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    finish(Command::new(env!("CARGO_BIN_EXE_miosa")).args(arguments))
}

fn finish(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A mistake is told in one line that holds all of `words`.
fn assert_explained(outcome: &(Option<i32>, String, String), words: &[&str]) {
    let (code, _, error) = outcome;
    assert_eq!(*code, Some(1), "{error}");
    assert!(error.starts_with("error: ") && error.lines().count() == 1, "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in {error}");
    }
}

#[test]
fn what_cannot_be_read_is_explained() {
    for (arguments, word) in [
        (&["up", "--http", "nonsense"][..], "--http"),
        (&["up", "--htp", "127.0.0.1:0"], "--http"),
        (&["stats"], "status"),
        (&["completions", "tcsh"], "bash"),
    ] {
        let (code, _, error) = run(arguments);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(word), "{error}");
    }
    let outcome = run(&["status", "--data-dir", "/nonexistent"]);
    assert_explained(&outcome, &["no platform runs on", "miosa up --data-dir /nonexistent"]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    std::fs::write(&config, "[pol]\n").unwrap();
    let outcome = run(&["edge", "--config", config.to_str().unwrap()]);
    assert_explained(&outcome, &["config.toml", "line 1", "`pol`", "did you mean `pool`?"]);
    let outcome = run(&["up", "--base-domain", "apps.localhost"]);
    assert_explained(&outcome, &["neither below the other"]);
}

#[test]
fn a_configuration_is_checked_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("miosa.toml");
    let check = |text: &str, variables: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_miosa"));
        command.args(["config", "check", "--json"]).arg(&file).env_remove("MIOSA_CACHE_DIR");
        let (code, out, error) = finish(command.envs(variables.iter().copied()));
        let answer: Value = serde_json::from_str(&out).unwrap_or_default();
        (code, answer, error)
    };
    let (code, answer, error) =
        check("http = '127.0.0.1:81'\nhttps = '127.0.0.1:82'", &[("MIOSA_HTTPS", "127.0.0.1:83")]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert_eq!(answer["ok"], true);
    for (key, value, source) in [
        ("http", "127.0.0.1:81", "file"),
        ("https", "127.0.0.1:83", "environment"),
        ("cache_dir", "/var/cache/miosa", "default"),
    ] {
        assert_eq!(answer["settings"][key]["value"], value);
        assert_eq!(answer["settings"][key]["source"], source);
    }
    let (code, answer, _) = check("htp = '127.0.0.1:81'\n\nadmin = 'x'", &[]);
    assert_eq!((code, &answer["ok"]), (Some(1), &false.into()));
    assert_eq!(answer["problems"][0]["line"], 1);
    assert_eq!(answer["problems"][1]["key"], "admin");
    let outcome = run(&["config", "check", "/nonexistent.toml"]);
    assert_explained(&outcome, &["/nonexistent.toml"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_miosa"));
    let outcome = finish(command.args(["config", "check"]).env("MIOSA_HTTP", "nonsense"));
    assert_explained(&outcome, &["the environment", "nonsense", "--http"]);
}

#[test]
fn completions_are_scripts_of_the_shell() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef miosa"), ("fish", "complete -c miosa")]
    {
        let (code, script, error) = run(&["completions", shell]);
        assert_eq!(code, Some(0), "{error}");
        assert!(script.contains(word) && script.contains("rollback"), "{shell}");
    }
}

#[test]
fn a_start_that_cannot_be_is_explained_in_one_line() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let data = home.path().to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let outcome = run(&["up", "--data-dir", data, "--http", &address]);
    assert_explained(&outcome, &[&address, "--http", "in use"]);
    let outcome = run(&["up", "--data-dir", "/proc/none", "--http", "127.0.0.1:0"]);
    assert_explained(&outcome, &["/proc/none", "--data-dir"]);
    let outcome = run(&["up", "--data-dir", data, "--http", "192.0.2.1:80"]);
    assert_explained(&outcome, &["192.0.2.1:80", "--http"]);
}

#[test]
fn without_rights_it_is_said_who_may() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The program is where only root may look: a copy is not.
    let program = home.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_miosa"), &program).unwrap();
    let ready = home.path().join("ready.json");
    std::fs::write(&ready, "{\"admin_key\": \"msk_a_secret\"}").unwrap();
    std::fs::set_permissions(&ready, PermissionsExt::from_mode(0o600)).unwrap();
    let data = home.path().to_str().unwrap();
    for (arguments, word) in [
        (&["up", "--data-dir", data][..], "root"),
        (&["down", "--data-dir", data], "root"),
        (&["status", "--data-dir", data], "sudo"),
        (&["template", "list"], "root"),
    ] {
        let outcome = finish(Command::new(&program).args(arguments).uid(NOBODY).gid(NOBODY));
        assert_explained(&outcome, &[word]);
        assert!(!outcome.2.contains("msk_a_"), "{}", outcome.2);
    }
}

#[test]
fn a_running_platform_tells_of_itself() {
    if skipped() {
        return;
    }
    let mut platform = Platform::up();
    let data = platform.data.to_str().unwrap().to_owned();
    let of = |arguments: &[&str]| {
        let (code, out, error) = run(&[arguments, &["--data-dir", &data]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        assert_eq!(error, "", "{arguments:?}");
        out
    };
    let status: Value = serde_json::from_str(&of(&["status", "--json"])).unwrap();
    for field in [
        "commit",
        "disk_limits",
        "instances",
        "apps",
        "monitor",
        "tracking_failures",
        "pool",
        "restarts",
        "certificates",
    ] {
        assert!(!status[field].is_null(), "{field} is not in {status}");
    }
    assert_eq!(status["monitor"]["marked_error"], 0);
    assert!(status["volumes"]["pool"]["total_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let page = of(&["status"]);
    for word in ["release", "control       up\n", "edge          1 linked\n", "WARM POOL\nTEMPLATE"]
    {
        assert!(page.contains(word), "{word} is not in {page}");
    }
    assert!(of(&["template", "list"]).contains("miosa-sandbox"));
    assert!(of(&["tenant", "list"]).contains("default"));
    let id = of(&["sandbox", "create", "--name", "by hand", "--size", "xs"]);
    let id = id.trim();
    assert!(of(&["sandbox", "list"]).contains("by hand"));
    let exec = ["sandbox", "exec", id, "--data-dir", &data, "--"];
    let (code, out, error) = run(&[&exec[..], &["echo it\\'s; echo no >&2; exit 3"]].concat());
    assert_eq!((code, out.as_str(), error.as_str()), (Some(3), "it's\n", "no\n"));
    assert!(of(&["sandbox", "destroy", id]).contains("is destroyed"));
    let outcome = run(&["sandbox", "exec", id, "--data-dir", &data, "--", "true"]);
    assert_eq!(outcome.0, Some(1), "{}", outcome.2);
    let outcome = run(&["logs", "no such app", "--data-dir", &data]);
    assert_explained(&outcome, &["no such app"]);
    let line = of(&["down"]);
    assert!(line.starts_with("stopped the platform and removed"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert_eq!(platform.wait().code(), Some(0));
    let outcome = run(&["status", "--data-dir", &data]);
    assert_explained(&outcome, &["no platform runs on"]);
}
