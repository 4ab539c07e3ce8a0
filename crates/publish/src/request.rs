//! What a publish may say explicitly.
//!
//! Promises: whatever is said here wins over detection (design §7); after [`Request::check`] every
//! value is usable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The explicit part of a publish. Every field may be missing; unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Static, dynamic, or for detection to find.
    pub kind: Option<KindChoice>,
    /// Shell line that builds; an empty one skips the build.
    pub build_command: Option<String>,
    /// Shell line that serves.
    #[serde(alias = "start_command")]
    pub run_command: Option<String>,
    /// Port on which the app listens.
    pub port: Option<u16>,
    /// Path that answers with 2xx once the app is ready, with a leading slash.
    pub health_check_path: Option<String>,
    /// Folder of the finished files: relative to the workspace, or absolute inside it.
    pub output_path: Option<String>,
    /// File that starts a server (`server.js`, `app.py`), relative to the workspace.
    pub entrypoint: Option<String>,
    /// Environment of the build and of the app. Never part of the artifact.
    pub env: BTreeMap<String, String>,
}

/// What a caller may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindChoice {
    /// For detection to find.
    #[default]
    Auto,
    /// Files.
    Static,
    /// A process.
    Dynamic,
}

/// A value that cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{field}` {why}")]
pub struct RequestError {
    /// Name of the field in the API.
    pub field: &'static str,
    /// What is wrong, as the end of a sentence.
    pub why: &'static str,
}

/// Longest command line in bytes.
const MAX_LINE: usize = 8192;

impl Request {
    /// Checks every value; call it where the request comes in.
    pub fn check(&self) -> Result<(), RequestError> {
        let error = |field, why| Err(RequestError { field, why });
        for (field, line) in
            [("build_command", &self.build_command), ("run_command", &self.run_command)]
        {
            if line.as_ref().is_some_and(|line| line.len() > MAX_LINE || line.contains('\0')) {
                return error(field, "must be at most 8192 bytes without a zero byte");
            }
        }
        if self.port == Some(miosa_types::guest::PORT) {
            return error("port", "must be another: this one is the platform's own");
        }
        if self.port == Some(0) {
            return error("port", "must be from 1 to 65535");
        }
        if self.health_check_path.as_ref().is_some_and(|path| {
            !path.starts_with('/') || path.chars().any(|c| c.is_control() || c.is_whitespace())
        }) {
            return error("health_check_path", "must begin with `/` and contain no spaces");
        }
        for (field, path) in [("output_path", &self.output_path), ("entrypoint", &self.entrypoint)]
        {
            if path.as_ref().is_some_and(|path| below_workspace(path).is_none()) {
                return error(field, "must stay inside /workspace");
            }
        }
        if self.env.iter().any(|(name, value)| !is_env_name(name) || value.contains('\0')) {
            return error("env", "has a name that is not like `DATABASE_URL`, or a zero byte");
        }
        if self.kind() == KindChoice::Static && self.run_command().is_some() {
            return error("run_command", "makes no sense with kind `static`");
        }
        Ok(())
    }

    /// The wish, `Auto` if none was made.
    pub fn kind(&self) -> KindChoice {
        self.kind.unwrap_or_default()
    }

    /// The run command, if it says something.
    pub fn run_command(&self) -> Option<&str> {
        self.run_command.as_deref().map(str::trim).filter(|line| !line.is_empty())
    }

    /// The output folder relative to the workspace, if one was named; empty for the workspace
    /// itself.
    pub fn output_folder(&self) -> Option<String> {
        self.output_path.as_deref().filter(|p| !p.trim().is_empty()).and_then(below_workspace)
    }

    /// Whether files are asked for: by the kind, or by a folder of their own without a word of a
    /// process. The workspace itself is what clients send when they mean "all of it".
    pub fn wants_files(&self) -> bool {
        let names_folder = self.output_folder().is_some_and(|folder| !folder.is_empty());
        let is_silent = self.run_command().is_none() && self.port.is_none();
        self.kind() == KindChoice::Static
            || (self.kind() == KindChoice::Auto && names_folder && is_silent)
    }

    /// The entry file relative to the workspace, if one was named.
    pub fn entry_file(&self) -> Option<String> {
        let path = self.entrypoint.as_deref().and_then(below_workspace);
        path.filter(|path| !path.is_empty())
    }
}

/// `dist`, `./dist/` and `/workspace/dist` are the same; `None` if it leaves the workspace.
pub(crate) fn below_workspace(path: &str) -> Option<String> {
    let path = path.trim();
    let relative = match path.strip_prefix('/') {
        None => path,
        Some(absolute) => match absolute.strip_prefix("workspace") {
            Some("") => "",
            Some(rest) => rest.strip_prefix('/')?,
            None => return None,
        },
    };
    let mut parts = Vec::new();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part if part.chars().any(char::is_control) => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn is_env_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_stay_inside_the_workspace() {
        for (given, wanted) in [
            ("dist", Some("dist")),
            ("./dist/", Some("dist")),
            ("/workspace/dist", Some("dist")),
            ("/workspace", Some("")),
            (".", Some("")),
            ("a/../b", Some("b")),
            ("../etc", None),
            ("a/../../b", None),
            ("/etc", None),
            ("/workspaces/x", None),
            ("/workspace/../etc", None),
        ] {
            assert_eq!(below_workspace(given).as_deref(), wanted, "{given}");
        }
    }

    #[test]
    fn wrong_values_are_named() {
        let check = |json: &str| {
            let request: Request = serde_json::from_str(json).unwrap();
            request.check().map_err(|error| error.field)
        };
        assert_eq!(check(r#"{"start_command":"npm start","port":3000,"extra":1}"#), Ok(()));
        assert_eq!(check(r#"{"port":0}"#), Err("port"));
        assert_eq!(check(r#"{"port":49983}"#), Err("port"));
        assert_eq!(check(r#"{"health_check_path":"healthz"}"#), Err("health_check_path"));
        assert_eq!(check(r#"{"output_path":"../../etc"}"#), Err("output_path"));
        assert_eq!(check(r#"{"env":{"A B":"1"}}"#), Err("env"));
        assert_eq!(check(r#"{"kind":"static","run_command":"x"}"#), Err("run_command"));
    }
}
