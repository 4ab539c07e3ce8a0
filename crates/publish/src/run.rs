//! How a dynamic version is run.
//!
//! Stored with the version by control; the artifact itself holds no configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{WORKSPACE, request::Request};

/// Port that an app is told to use unless one was named.
pub(crate) const DEFAULT_PORT: u16 = 8080;

/// Command and environment of every runtime instance of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// What to run.
    pub run: Run,
    /// Port on which it must listen.
    pub port: u16,
    /// Path that tells readiness; `None`: an accepted connection does.
    pub health_check_path: Option<String>,
    /// Environment: `PORT`, `HOST`, `NODE_ENV` and what the request named.
    pub env: BTreeMap<String, String>,
    /// Working folder.
    pub cwd: String,
}

/// A program, or a line for a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// Program and arguments.
    Argv(Vec<String>),
    /// A line for a shell.
    Shell(String),
}

impl RunConfig {
    /// `run` with the request's port, health path and environment; `port` is what detection
    /// found.
    pub fn new(run: Run, port: Option<u16>, request: &Request) -> Self {
        let port = request.port.or(port).unwrap_or(DEFAULT_PORT);
        let mut env = BTreeMap::from(
            [("HOST", "0.0.0.0"), ("NODE_ENV", "production"), ("PYTHONUNBUFFERED", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        env.extend(request.env.clone());
        // Whatever else is said: the port that is probed is the port that the app is told.
        env.insert("PORT".to_owned(), port.to_string());
        let health_check_path = request.health_check_path.clone();
        Self { run, port, health_check_path, env, cwd: WORKSPACE.to_owned() }
    }

    /// What to execute. A shell line is run with `.venv/bin` and `node_modules/.bin` in front of
    /// the path, as it would be in the sandbox; a line that is one simple command replaces the
    /// shell, so that signals and exit codes are its own.
    pub fn argv(&self) -> Vec<String> {
        let line = match &self.run {
            Run::Argv(argv) => return argv.clone(),
            Run::Shell(line) => line.trim(),
        };
        let exec = if is_simple(line) { "exec " } else { "" };
        let line = format!(
            "export PATH=\"{WORKSPACE}/.venv/bin:{WORKSPACE}/node_modules/.bin:$PATH\"; {exec}{line}"
        );
        vec!["/bin/bash".into(), "-c".into(), line]
    }

    /// The command as a person would write it.
    pub fn display(&self) -> String {
        match &self.run {
            Run::Argv(argv) => argv.join(" "),
            Run::Shell(line) => line.clone(),
        }
    }
}

/// One command without control operators or assignments in front, so that `exec` keeps its
/// meaning.
fn is_simple(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or("");
    let builtin = matches!(
        first,
        "cd" | "export"
            | "source"
            | "."
            | "set"
            | "if"
            | "for"
            | "while"
            | "until"
            | "case"
            | "exec"
            | "eval"
            | "test"
            | "["
            | "[["
            | "time"
            | "trap"
            | "ulimit"
            | "umask"
            | "!"
            | "function"
            | "unset"
            | "alias"
            | "wait"
            | ":"
    );
    !first.is_empty()
        && !builtin
        && !first.contains('=')
        && !line.contains(['|', '&', ';', '\n', '(', ')', '{', '}', '`'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_simple_command_replaces_the_shell() {
        for (line, wanted) in [
            ("npm start", true),
            ("node server.js --port $PORT", true),
            ("uvicorn main:app > log", true),
            ("cd api && node server.js", false),
            ("FOO=1 node server.js", false),
            ("node a.js & node b.js", false),
            ("cd api", false),
            ("", false),
        ] {
            assert_eq!(is_simple(line), wanted, "{line}");
        }
    }

    #[test]
    fn the_told_port_is_the_probed_port() {
        let mut request = Request { port: Some(3000), ..Request::default() };
        request.env.insert("PORT".into(), "1".into());
        request.env.insert("NODE_ENV".into(), "staging".into());
        let config = RunConfig::new(Run::Shell("npm start".into()), Some(8000), &request);
        assert_eq!((config.port, config.env["PORT"].as_str()), (3000, "3000"));
        assert_eq!(config.env["NODE_ENV"], "staging");
        assert!(config.argv()[2].ends_with("; exec npm start"), "{:?}", config.argv());
    }
}
