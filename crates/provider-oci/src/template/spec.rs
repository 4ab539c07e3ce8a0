//! The declarative file that a template is built from.
//!
//! ```toml
//! name = "my-stack"            # a-z, 0-9, -; what sandboxes ask for
//! aliases = ["base"]           # other names
//! description = "…"
//! tags = ["node"]
//! suite = "bookworm"           # of Debian; the host's apt sources for it are used
//! packages = ["git"]           # Debian packages
//! remove = ["usr/share/games"] # paths below / that are taken out at the end
//! user = "user"                # whom processes run as: uid 1000, may use sudo; or "root"
//! workdir = "/workspace"       # where they start; owned by the user
//! preview_port = 3000
//! install_command = "npm install"
//! start_command = "npm run dev"
//! [npm]                        # global packages, install scripts not run: name = version
//! typescript = "5"
//! [env]                        # of every process
//! LANG = "C.UTF-8"
//! [[files]]                    # written last
//! path = "/etc/motd"
//! content = "hello\n"
//! mode = "0644"                # optional
//! owner = "user"               # optional: root (default) or user
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a template is built from and what its sandboxes start with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateSpec {
    /// Its name: `a-z`, `0-9`, `-`.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Debian's release.
    pub suite: String,
    /// Debian packages, in addition to the essential ones and apt.
    #[serde(default)]
    pub packages: Vec<String>,
    /// npm packages and versions, installed globally without running install scripts.
    #[serde(default)]
    pub npm: BTreeMap<String, String>,
    /// Paths relative to `/` that are taken out at the end.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Whom processes run as. Any name but `root` is made with uid and gid 1000.
    #[serde(default = "default_user")]
    pub user: String,
    /// Where processes start.
    #[serde(default = "default_workdir")]
    pub workdir: String,
    /// Environment of every process.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files written into it.
    #[serde(default)]
    pub files: Vec<TemplateFile>,
    /// Shell command that fetches an app's dependencies.
    #[serde(default)]
    pub install_command: Option<String>,
    /// Shell command that starts an app's development server.
    #[serde(default)]
    pub start_command: Option<String>,
    /// Port that the development server listens on.
    #[serde(default)]
    pub preview_port: Option<u16>,
}

/// A file written into a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateFile {
    /// Absolute path inside.
    pub path: String,
    /// Its text.
    pub content: String,
    /// Octal permission bits.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// `root` or the template's user.
    #[serde(default = "default_owner")]
    pub owner: String,
}

impl TemplateFile {
    /// The permission bits as a number.
    pub(super) fn bits(&self) -> Option<u32> {
        u32::from_str_radix(&self.mode, 8).ok().filter(|bits| *bits <= 0o7777)
    }
}

fn default_user() -> String {
    "user".to_owned()
}

fn default_workdir() -> String {
    "/workspace".to_owned()
}

fn default_mode() -> String {
    "0644".to_owned()
}

fn default_owner() -> String {
    "root".to_owned()
}

/// Reads and checks a spec. The error says what to change.
pub(super) fn parse(text: &str) -> Result<TemplateSpec, String> {
    let spec: TemplateSpec = toml::from_str(text).map_err(|error| error.to_string())?;
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &TemplateSpec) -> Result<(), String> {
    for name in std::iter::once(&spec.name).chain(&spec.aliases) {
        if !is_word(name, "") {
            return Err(format!(
                "`{name}` is no name of a template: use 1 to 64 of a-z, 0-9 and -"
            ));
        }
    }
    if !is_word(&spec.suite, "") {
        return Err(format!(
            "suite = `{}`: name a release of Debian, as in \"bookworm\"",
            spec.suite
        ));
    }
    if !is_word(&spec.user, "_") {
        return Err(format!("user = `{}`: use a-z, 0-9, - and _", spec.user));
    }
    if let Some(bad) = spec.packages.iter().find(|name| !is_word(name, "+.:")) {
        return Err(format!("packages: `{bad}` is no name of a Debian package"));
    }
    for (name, version) in &spec.npm {
        let name = name.strip_prefix('@').unwrap_or(name);
        if !is_word(name, "/._") || !is_word(&version.to_lowercase(), ".^~_+") {
            return Err(format!("npm: `{name} = \"{version}\"` is no package and version"));
        }
    }
    check_paths(spec)
}

fn check_paths(spec: &TemplateSpec) -> Result<(), String> {
    if !is_inside(&spec.workdir) {
        return Err(format!("workdir = `{}`: give an absolute path without `..`", spec.workdir));
    }
    if let Some(bad) = spec.remove.iter().find(|path| !is_inside(&format!("/{path}"))) {
        return Err(format!(
            "remove: `{bad}`: give a path below / without a leading slash or `..`"
        ));
    }
    for file in &spec.files {
        if !is_inside(&file.path) {
            return Err(format!("files: `{}`: give an absolute path without `..`", file.path));
        }
        if file.bits().is_none() {
            return Err(format!(
                "files: mode = `{}`: give octal digits, as in \"0644\"",
                file.mode
            ));
        }
        if file.owner != "root" && file.owner != spec.user {
            return Err(format!("files: owner = `{}`: root or {}", file.owner, spec.user));
        }
    }
    Ok(())
}

/// A word that no program takes for an option and no shell for more than a word.
fn is_word(text: &str, more: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(char::from(b))
    }) && text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || more.contains(c))
}

fn is_inside(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        !rest.is_empty() && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"a\"\nsuite = \"bookworm\"\n";

    #[test]
    fn the_least_spec_has_defaults() {
        let spec = parse(LEAST).unwrap();
        assert_eq!((spec.user.as_str(), spec.workdir.as_str()), ("user", "/workspace"));
    }

    #[test]
    fn a_wrong_spec_says_what_to_change() {
        let cases = [
            ("suite = \"bookworm\"", "missing field `name`"),
            ("name = \"a\"", "missing field `suite`"),
            ("name = \"A b\"\nsuite = \"bookworm\"", "use 1 to 64 of a-z"),
            ("pakages = []", "unknown field `pakages`"),
            ("packages = [\"-oDir=/\"]", "`-oDir=/` is no name of a Debian package"),
            ("[npm]\nleft-pad = \"1; rm\"", "is no package and version"),
            ("workdir = \"../x\"", "absolute path without `..`"),
            ("remove = [\"/etc\"]", "without a leading slash"),
            ("remove = [\"../etc\"]", "or `..`"),
            ("[[files]]\npath = \"/a/../b\"\ncontent = \"\"", "absolute path without `..`"),
            ("[[files]]\npath = \"/a\"\ncontent = \"\"\nmode = \"rw\"", "octal digits"),
            ("[[files]]\npath = \"/a\"\ncontent = \"\"\nowner = \"bin\"", "root or user"),
        ];
        for (text, expected) in cases {
            let whole = if text.contains("name =") || text.starts_with("suite") {
                text.to_owned()
            } else {
                format!("{LEAST}{text}")
            };
            let error = parse(&whole).unwrap_err();
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }
}
