//! Finding out what an app is.
//!
//! A pure function over the names of its files and the content of a few of them. Promises: what
//! the request says explicitly always wins; each finder proposes scored candidates with their
//! evidence and the best of them is taken; the same files give the same plan.

mod html;
mod node;
mod procfile;
mod python;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    request::{KindChoice, Request},
    run::Run,
};

/// The files of a source: path relative to the workspace, to the text if it is [`wanted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub BTreeMap<String, Option<String>>);

/// What to do with a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What it is, for people: `Vite app`.
    pub name: String,
    /// Why, for people.
    pub evidence: Vec<String>,
    /// Steps that bring dependencies.
    pub install: Vec<Step>,
    /// Shell line that builds.
    pub build: Option<String>,
    /// How the result is served.
    pub serve: Serve,
}

/// A shell line, and what to try if it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line.
    pub line: String,
    /// Second choice, and the sentence that goes to the log when it is taken.
    pub fallback: Option<(String, &'static str)>,
}

/// How a plan ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serve {
    /// The first of these folders that holds a page; relative to the workspace, `""` is the
    /// workspace itself.
    Files {
        /// In order of preference.
        folders: Vec<String>,
    },
    /// A process.
    Process {
        /// What to run.
        run: Run,
        /// Port that it listens on whatever it is told, if that is known.
        port: Option<u16>,
    },
}

/// Nothing fits; the text says what was looked for and found.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{reason}")]
pub struct Unknown {
    /// Why.
    pub reason: String,
}

/// A plan and how sure its finder is, from 0 to 100.
struct Candidate {
    score: u8,
    plan: Plan,
}

impl Step {
    fn new(line: impl Into<String>) -> Self {
        Self { line: line.into(), fallback: None }
    }
}

impl Listing {
    fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.as_deref()
    }

    /// Names at the top, folders with a trailing slash, for messages; at most 20.
    fn top(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for path in self.0.keys() {
            let name = match path.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => path.clone(),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let more = if names.len() > 20 { ", …" } else { "" };
        names.truncate(20);
        format!("{}{more}", names.join(", "))
    }
}

/// Whether the text of a file is needed for [`detect`]. At most a few levels deep: an entry file
/// lies near the top.
pub fn wanted(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let depth = path.matches('/').count();
    let is_manifest = matches!(name, "package.json" | "requirements.txt" | "pyproject.toml");
    let is_source = matches!(extension, "py" | "js" | "mjs" | "cjs" | "ts" | "mts");
    path == "Procfile" || (is_manifest && depth <= 1) || (is_source && depth <= 3)
}

/// Decides what to do with a source (design §7).
pub fn detect(files: &Listing, request: &Request) -> Result<Plan, Unknown> {
    let mut plan = decide(files, request)?;
    if let Some(line) = &request.build_command {
        let line = line.trim();
        plan.build = (!line.is_empty()).then(|| line.to_owned());
    }
    if let (Serve::Files { folders }, Some(folder)) = (&mut plan.serve, request.output_folder()) {
        // The workspace itself is what clients send when they mean "all of it"; where a build
        // makes a folder, that folder is still meant.
        if !folder.is_empty() || plan.build.is_none() {
            *folders = vec![folder];
        }
    }
    Ok(plan)
}

fn decide(files: &Listing, request: &Request) -> Result<Plan, Unknown> {
    let kind = request.kind();
    if let Some(line) = request.run_command() {
        return Ok(explicit_process(files, line));
    }
    if request.wants_files() {
        return static_plan(files, request);
    }
    let mut found = candidates(files, request);
    if kind == KindChoice::Dynamic {
        found.retain(|candidate| is_process(&candidate.plan));
    } else if request.port.is_some() && found.iter().any(|c| is_process(&c.plan)) {
        // A port without a command says "it listens", if there is anything that could.
        found.retain(|candidate| is_process(&candidate.plan));
    }
    best(found).ok_or_else(|| unknown(files, kind))
}

fn candidates(files: &Listing, request: &Request) -> Vec<Candidate> {
    let mut found = node::candidates(files, request);
    found.extend(python::candidates(files, request));
    found.extend(procfile::candidates(files));
    found.extend(html::candidates(files));
    found
}

/// The highest score; the first finder among equals.
fn best(found: Vec<Candidate>) -> Option<Plan> {
    let mut best: Option<Candidate> = None;
    for candidate in found {
        if best.as_ref().is_none_or(|best| candidate.score > best.score) {
            best = Some(candidate);
        }
    }
    best.map(|best| best.plan)
}

const fn is_process(plan: &Plan) -> bool {
    matches!(plan.serve, Serve::Process { .. })
}

/// The command is given; what its dependencies are is read from the files.
fn explicit_process(files: &Listing, line: &str) -> Plan {
    let mut install = node::install(files, "");
    install.extend(python::install(files, "", &[]));
    Plan {
        name: "app with its own run command".to_owned(),
        evidence: vec![format!("run command `{line}`")],
        install,
        build: node::build_script(files),
        serve: Serve::Process { run: Run::Shell(line.to_owned()), port: None },
    }
}

/// Files are wanted: the best finder of files, else whatever folder is named or there.
fn static_plan(files: &Listing, request: &Request) -> Result<Plan, Unknown> {
    let mut found = candidates(files, request);
    found.retain(|candidate| !is_process(&candidate.plan));
    if let Some(plan) = best(found) {
        return Ok(plan);
    }
    // Nothing recognised: a server's package with a front end that its build script makes, or a
    // folder of files without a page.
    let build = node::build_script(files);
    if build.is_none() && request.build_command.is_none() && request.output_folder().is_none() {
        return Err(unknown(files, KindChoice::Static));
    }
    Ok(Plan {
        name: "static files".to_owned(),
        evidence: vec!["files were asked for".to_owned()],
        install: node::install(files, ""),
        build,
        serve: Serve::Files { folders: OUTPUT_FOLDERS.map(str::to_owned).to_vec() },
    })
}

/// Where builds put their files, in order.
const OUTPUT_FOLDERS: [&str; 5] = ["dist", "build", "out", "_site", "public"];

fn unknown(files: &Listing, kind: KindChoice) -> Unknown {
    let looked_for = match kind {
        KindChoice::Static => {
            "an `index.html` (at the top, in `public` or `dist`) or a \
             `package.json` with a `build` script"
        }
        KindChoice::Dynamic => {
            "a `Procfile` with a `web` line, a `package.json` with a `start` script or a \
             server's entry file, or a Python file with a FastAPI or Flask app"
        }
        KindChoice::Auto => {
            "an `index.html`, a `package.json` with a `build` or `start` script, a `Procfile` \
             with a `web` line, or a Python file with a FastAPI or Flask app"
        }
    };
    let top = files.top();
    Unknown {
        reason: format!(
            "it was not recognised what this app is: looked for {looked_for}; the workspace \
             contains {top}. Pass `run_command` and `port`, or `output_path`."
        ),
    }
}
