//! Python web apps.

use crate::{request::Request, run::Run};

use super::{Candidate, Listing, Plan, Serve, Step};

/// A framework: the class whose object is the app, its package, the server package, and whether
/// that speaks ASGI.
const FRAMEWORKS: [(&str, &str, &str); 5] = [
    ("FastAPI", "fastapi", "uvicorn"),
    ("Starlette", "starlette", "uvicorn"),
    ("Litestar", "litestar", "uvicorn"),
    ("Flask", "flask", "gunicorn"),
    ("Quart", "quart", "uvicorn"),
];

/// An app object in a source file.
struct App<'a> {
    path: &'a str,
    variable: &'a str,
    class: &'static str,
    package: &'static str,
    server: &'static str,
}

pub(super) fn candidates(files: &Listing, request: &Request) -> Vec<Candidate> {
    let entry = request.entry_file().filter(|entry| is_python(entry));
    let mut apps: Vec<App<'_>> = files
        .0
        .iter()
        .filter(|(path, _)| is_python(path))
        .filter(|(path, _)| entry.as_ref().is_none_or(|entry| entry == *path))
        .filter_map(|(path, text)| find_app(path, text.as_deref()?))
        .collect();
    apps.sort_by_key(|app| rank(app.path));
    if let Some(app) = apps.first() {
        let score = if entry.is_some() { 96 } else { 75 };
        return vec![Candidate { score, plan: web_app(files, app) }];
    }
    let Some(entry) = entry else { return Vec::new() };
    let plan = Plan {
        name: "Python program".to_owned(),
        evidence: vec![format!("entrypoint `{entry}`")],
        install: install(files, folder_of(&entry), &[]),
        build: None,
        serve: Serve::Process { run: Run::Shell(format!("python3 {}", quote(&entry))), port: None },
    };
    vec![Candidate { score: 95, plan }]
}

fn web_app(files: &Listing, app: &App<'_>) -> Plan {
    let folder = folder_of(app.path);
    let file = app.path.rsplit('/').next().unwrap_or(app.path);
    let stem = file.strip_suffix(".py").unwrap_or(file);
    let is_package = files.has(&format!("{folder}__init__.py"));
    let stem_path = app.path.strip_suffix(".py").unwrap_or(app.path);
    // Inside a package the module has the package's name in front; else its folder is the root.
    let (module, app_dir) = match folder.trim_end_matches('/') {
        "" => (stem.to_owned(), None),
        _ if is_package => (stem_path.replace('/', "."), None),
        folder => (stem.to_owned(), Some(quote(folder))),
    };
    let target = format!("{}:{}", module, app.variable);
    let line = if app.server == "uvicorn" {
        let app_dir = app_dir.map(|dir| format!(" --app-dir {dir}")).unwrap_or_default();
        format!("python3 -m uvicorn {target} --host 0.0.0.0 --port $PORT{app_dir} --proxy-headers")
    } else {
        let app_dir = app_dir.map(|dir| format!(" --chdir {dir}")).unwrap_or_default();
        format!("python3 -m gunicorn {target} --bind 0.0.0.0:$PORT{app_dir}")
    };
    Plan {
        name: format!("{} app", app.class),
        evidence: vec![format!("`{}` has `{} = {}(…)`", app.path, app.variable, app.class)],
        install: install(files, folder, &[app.package, app.server]),
        build: None,
        serve: Serve::Process { run: Run::Shell(line), port: None },
    }
}

/// Steps that bring the packages named in `folder` (with a trailing slash, or empty) or at the
/// top, and those of `needed` that are not named there, into `.venv`.
pub(super) fn install(files: &Listing, folder: &str, needed: &[&str]) -> Vec<Step> {
    let near = |name: &str| {
        let inside = format!("{folder}{name}");
        if files.has(&inside) { Some(inside) } else { files.has(name).then(|| name.to_owned()) }
    };
    let mut arguments = Vec::new();
    let mut named = String::new();
    if let Some(path) = near("requirements.txt") {
        named.push_str(files.text(&path).unwrap_or(""));
        arguments.push(format!("-r {}", quote(&path)));
    } else if let Some(path) = near("pyproject.toml") {
        let text = files.text(&path).unwrap_or("");
        named.push_str(text);
        match project_dependencies(text) {
            Some(list) => arguments.extend(list.iter().map(|package| quote(package))),
            None => {
                arguments.push(quote(&format!("./{}", path.trim_end_matches("pyproject.toml"))));
            }
        }
    }
    let missing = needed.iter().filter(|package| !names(&named, package));
    arguments.extend(missing.map(|package| quote(package)));
    if arguments.is_empty() {
        return Vec::new();
    }
    let pip =
        "python3 -m pip --python .venv/bin/python3 install --no-input --disable-pip-version-check";
    vec![
        Step::new("python3 -m venv --without-pip .venv"),
        Step::new(format!("{pip} {}", arguments.join(" "))),
    ]
}

/// `[project] dependencies` (PEP 621); `None` if the file keeps them elsewhere.
fn project_dependencies(text: &str) -> Option<Vec<String>> {
    let file: toml::Table = text.parse().ok()?;
    let list = file.get("project")?.get("dependencies")?.as_array()?;
    Some(list.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect())
}

/// Whether a requirements text names a package, whatever follows its name.
fn names(text: &str, package: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = text.to_ascii_lowercase();
    text.match_indices(package).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + package.len()..].starts_with(is_part)
    })
}

/// `name = Class(` or `name: Type = Class(` at the start of a line.
fn find_app<'a>(path: &'a str, text: &'a str) -> Option<App<'a>> {
    for line in text.lines() {
        let Some((left, right)) = line.split_once('=') else { continue };
        if line.starts_with([' ', '\t', '#']) {
            continue;
        }
        let variable = left.split(':').next().unwrap_or(left).trim();
        let is_name = !variable.is_empty()
            && variable.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !variable.starts_with(|c: char| c.is_ascii_digit());
        let call = right.trim_start();
        let called = call.split_once('(').map_or("", |(name, _)| name.trim_end());
        let class = called.rsplit('.').next().unwrap_or(called);
        let framework = FRAMEWORKS.iter().find(|(name, _, _)| *name == class);
        if let (true, Some(&(class, package, server))) = (is_name, framework)
            && text.contains(package)
        {
            return Some(App { path, variable, class, package, server });
        }
    }
    None
}

/// Entry files first, tests last, then nearer to the top.
fn rank(path: &str) -> (bool, usize, usize) {
    let name = path.rsplit('/').next().unwrap_or(path);
    let usual = ["main.py", "app.py", "server.py", "asgi.py", "wsgi.py", "api.py", "index.py"];
    let place = usual.iter().position(|usual| *usual == name).unwrap_or(usual.len());
    let is_test = path.contains("test") || path.contains("example");
    (is_test, path.matches('/').count(), place)
}

fn is_python(path: &str) -> bool {
    matches!(path.rsplit_once('.'), Some((_, "py")))
}

/// The folder of a file with a trailing slash, or nothing.
fn folder_of(path: &str) -> &str {
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// As one word of a shell line.
pub(super) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) && !word.starts_with('-') {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
