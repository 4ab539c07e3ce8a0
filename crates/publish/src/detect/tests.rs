//! Sources and what they must be taken for.

use super::*;

fn listing(files: &[(&str, &str)]) -> Listing {
    let read = |path: &str, text: &str| wanted(path).then(|| text.to_owned());
    Listing(files.iter().map(|(path, text)| ((*path).to_owned(), read(path, text))).collect())
}

fn request(json: &str) -> Request {
    let request: Request = serde_json::from_str(json).unwrap();
    request.check().unwrap();
    request
}

/// A plan in one line: installs, build, what is served.
fn line(plan: &Plan) -> String {
    let install: Vec<_> = plan.install.iter().map(|step| step.line.as_str()).collect();
    let serve = match &plan.serve {
        Serve::Files { folders } => format!("files in [{}]", folders.join(" ")),
        Serve::Process { run: Run::Shell(line), .. } => format!("run `{line}`"),
        Serve::Process { run: Run::Argv(argv), .. } => format!("run {argv:?}"),
    };
    let build = plan.build.as_deref().unwrap_or("-");
    format!("{}: {} | {build} | {serve}", plan.name, install.join(" && "))
}

const NPM: &str = "npm install --include=dev --no-audit --no-fund";
const NPM_CI: &str = "npm ci --include=dev --no-audit --no-fund";
const VENV: &str = "python3 -m venv --without-pip .venv && python3 -m pip --python \
                    .venv/bin/python3 install --no-input --disable-pip-version-check";
const VITE: &str =
    r#"{"scripts":{"dev":"vite","build":"vite build"},"devDependencies":{"vite":"8"}}"#;
const EXPRESS: &str = r#"{"scripts":{"start":"node server.js"},"dependencies":{"express":"5"}}"#;
const SERVER: &str = "import express from 'express';\nconst app = express();\napp.listen(3000);";
const FASTAPI: &str = "from fastapi import FastAPI\n\napi = FastAPI(title='x')\n";

fn check(files: &[(&str, &str)], request_json: &str, wanted: &str) {
    let plan = detect(&listing(files), &request(request_json));
    let seen = plan.as_ref().map_or_else(ToString::to_string, line);
    assert_eq!(seen, wanted, "{files:?} {request_json}");
}

#[test]
fn pages_without_a_build() {
    check(&[("index.html", ""), ("style.css", "")], "{}", "plain HTML:  | - | files in []");
    check(&[("public/index.html", "")], "{}", "plain HTML:  | - | files in [public]");
    check(&[("dist/index.html", ""), ("src/x.ts", "")], "{}", "plain HTML:  | - | files in [dist]");
    // A package file without scripts changes nothing.
    let files = [("index.html", ""), ("package.json", r#"{"name":"x"}"#)];
    check(&files, "{}", "plain HTML:  | - | files in []");
}

#[test]
fn front_ends() {
    let all = "files in [dist build out _site public]";
    let files = [("package.json", VITE), ("index.html", ""), ("package-lock.json", "{}")];
    check(&files, "{}", &format!("Vite app: {NPM_CI} | npm run build | {all}"));
    let config = "export default defineConfig({ build: { outDir: 'www' } })";
    let files = [("package.json", VITE), ("vite.config.ts", config)];
    check(&files, "{}", &format!("Vite app: {NPM} | npm run build | files in [www]"));
    let flag = r#"{"scripts":{"build":"vite build --outDir=site/out","start":"vite preview"}}"#;
    let wanted = "front end with a build script: ";
    let wanted = format!("{wanted}{NPM} | npm run build | files in [site/out]");
    check(&[("package.json", flag)], "{}", &wanted);
    let no_script = r#"{"devDependencies":{"vite":"8"}}"#;
    let wanted = format!("Vite app: {NPM} | npx vite build | {all}");
    check(&[("package.json", no_script), ("index.html", "")], "{}", &wanted);
    let outside =
        r#"{"scripts":{"build":"vite build --outDir ../dist"},"devDependencies":{"vite":"8"}}"#;
    check(&[("package.json", outside)], "{}", &format!("Vite app: {NPM} | npm run build | {all}"));
}

#[test]
fn node_servers() {
    let start = "run `npm start`";
    let files = [("package.json", EXPRESS), ("server.js", SERVER), ("public/index.html", "")];
    check(&files, "{}", &format!("Node server: {NPM} | - | {start}"));
    // Builds its front end, serves it itself.
    let both = r#"{"scripts":{"start":"node dist/index.js","build":"vite build"},"devDependencies":{"vite":"8"}}"#;
    check(
        &[("package.json", both)],
        "{}",
        &format!("Node server: {NPM} | npm run build | {start}"),
    );
    let no_script = r#"{"type":"module","dependencies":{"hono":"4"}}"#;
    let hono =
        "import { Hono } from \"hono\"\nimport { serve } from '@hono/node-server'\nserve(app)";
    let files = [("package.json", no_script), ("src/index.mjs", hono)];
    check(&files, "{}", &format!("Node server: {NPM} | - | run `node src/index.mjs`"));
    let main = r#"{"main":"./lib/boot.cjs"}"#;
    let http = "const http = require('node:http');\nhttp.createServer(x).listen(process.env.PORT)";
    let files = [("package.json", main), ("lib/boot.cjs", http)];
    check(&files, "{}", &format!("Node server: {NPM} | - | run `node lib/boot.cjs`"));
    check(&[("server.js", http)], "{}", "Node server:  | - | run `node server.js`");
    // A browser's module that talks about http is no server.
    let browser = "import x from './http'; fetch('/'); element.listen(1)";
    check(&[("index.html", ""), ("app.js", browser)], "{}", "plain HTML:  | - | files in []");
}

#[test]
fn next_with_and_without_export() {
    let package =
        r#"{"scripts":{"build":"next build","start":"next start"},"dependencies":{"next":"16"}}"#;
    let serve = "run `npx next start -H 0.0.0.0 -p $PORT`";
    let wanted = format!("Next.js app: {NPM} | npm run build | {serve}");
    check(&[("package.json", package)], "{}", &wanted);
    let files =
        [("package.json", package), ("next.config.mjs", "export default { output: 'export' }")];
    check(&files, "{}", &format!("Next.js export: {NPM} | npm run build | files in [out]"));
}

#[test]
fn python_apps() {
    let uvicorn = "run `python3 -m uvicorn app:api --host 0.0.0.0 --port $PORT --proxy-headers`";
    let files = [("app.py", FASTAPI), ("requirements.txt", "fastapi>=0.1\nuvicorn[standard]\n")];
    check(&files, "{}", &format!("FastAPI app: {VENV} -r requirements.txt | - | {uvicorn}"));
    let files = [("app.py", FASTAPI)];
    check(&files, "{}", &format!("FastAPI app: {VENV} fastapi uvicorn | - | {uvicorn}"));
    let files = [("app.py", FASTAPI), ("requirements.txt", "fastapi-users\n")];
    let wanted = format!("FastAPI app: {VENV} -r requirements.txt fastapi uvicorn | - | {uvicorn}");
    check(&files, "{}", &wanted);
    let project = "[project]\nname = 'x'\ndependencies = ['fastapi>=0.1', 'uvicorn']\n";
    let files = [("app.py", FASTAPI), ("pyproject.toml", project)];
    check(&files, "{}", &format!("FastAPI app: {VENV} 'fastapi>=0.1' uvicorn | - | {uvicorn}"));
    let packaged = [("api/__init__.py", ""), ("api/main.py", FASTAPI), ("tests/main.py", FASTAPI)];
    let uvicorn =
        "run `python3 -m uvicorn api.main:api --host 0.0.0.0 --port $PORT --proxy-headers`";
    check(&packaged, "{}", &format!("FastAPI app: {VENV} fastapi uvicorn | - | {uvicorn}"));
    let files = [("backend/main.py", FASTAPI), ("backend/requirements.txt", "fastapi\nuvicorn")];
    let uvicorn = "run `python3 -m uvicorn main:api --host 0.0.0.0 --port $PORT --app-dir backend --proxy-headers`";
    let wanted = format!("FastAPI app: {VENV} -r backend/requirements.txt | - | {uvicorn}");
    check(&files, "{}", &wanted);
    let flask = "import flask\napp: flask.Flask = flask.Flask(__name__)";
    let gunicorn = "run `python3 -m gunicorn server:app --bind 0.0.0.0:$PORT`";
    check(
        &[("server.py", flask)],
        "{}",
        &format!("Flask app: {VENV} flask gunicorn | - | {gunicorn}"),
    );
}

#[test]
fn a_procfile_says_how_it_is_run() {
    let web = "web: node boot.js --port $PORT\nworker: node jobs.js\n";
    let files = [("Procfile", web), ("package.json", EXPRESS), ("server.js", SERVER)];
    let run = "run `node boot.js --port $PORT`";
    check(&files, "{}", &format!("app with a Procfile: {NPM} | - | {run}"));
    let python = [("Procfile", "web: gunicorn site:app"), ("requirements.txt", "flask")];
    let wanted =
        format!("app with a Procfile: {VENV} -r requirements.txt | - | run `gunicorn site:app`");
    check(&python, "{}", &wanted);
}

#[test]
fn what_is_said_explicitly_wins() {
    let all = [("package.json", EXPRESS), ("server.js", SERVER), ("index.html", "")];
    let run = r#"{"run_command":"node other.js","port":4000}"#;
    check(&all, run, &format!("app with its own run command: {NPM} | - | run `node other.js`"));
    let vite = [("package.json", VITE), ("index.html", "")];
    let wanted = format!("app with its own run command: {NPM} | npm run build | run `node x`");
    check(&vite, r#"{"start_command":"node x"}"#, &wanted);
    let python = [("requirements.txt", "flask"), ("x.py", "")];
    let wanted = format!(
        "app with its own run command: {VENV} -r requirements.txt | - | run `python3 x.py`"
    );
    check(&python, r#"{"run_command":"python3 x.py"}"#, &wanted);
    check(&all, r#"{"kind":"static"}"#, "plain HTML:  | - | files in []");
    check(&all, r#"{"output_path":"/workspace/public"}"#, "plain HTML:  | - | files in [public]");
    let wanted = format!("Vite app: {NPM} | npm run build | files in [web]");
    check(&vite, r#"{"output_path":"web"}"#, &wanted);
    let all_folders = "files in [dist build out _site public]";
    let wanted = format!("Vite app: {NPM} | npm run build | {all_folders}");
    check(&vite, r#"{"output_path":"/workspace"}"#, &wanted);
    let wanted = format!("Vite app: {NPM} | make site | files in [web]");
    check(&vite, r#"{"output_path":"web","build_command":"make site"}"#, &wanted);
    check(
        &vite,
        r#"{"output_path":"web","build_command":""}"#,
        &format!("Vite app: {NPM} | - | files in [web]"),
    );
    check(&all, r#"{"port":8080}"#, &format!("Node server: {NPM} | - | run `npm start`"));
    let entry = r#"{"entrypoint":"server.js"}"#;
    check(&all, entry, &format!("Node server: {NPM} | - | run `node server.js`"));
    let program = [("serve.py", "print()"), ("index.html", "")];
    check(
        &program,
        r#"{"entrypoint":"serve.py"}"#,
        "Python program:  | - | run `python3 serve.py`",
    );
    check(
        &[("data/a.json", "")],
        r#"{"output_path":"data"}"#,
        "static files:  | - | files in [data]",
    );
}

#[test]
fn nothing_to_go_by_is_a_clear_error() {
    for (files, request_json, wanted) in [
        (&[("notes.txt", "")][..], "{}", "contains notes.txt"),
        (&[("index.html", "")], r#"{"kind":"dynamic"}"#, "`start` script"),
        (&[("a/b.py", "print()")], r#"{"kind":"static"}"#, "an `index.html`"),
    ] {
        let error = detect(&listing(files), &request(request_json)).unwrap_err();
        assert!(error.reason.contains(wanted), "{error}");
    }
}

#[test]
fn quoting_keeps_words_whole() {
    for (word, wanted) in [
        ("main.py", "main.py"),
        ("a b", "'a b'"),
        ("it's", r"'it'\''s'"),
        ("-rf", "'-rf'"),
        ("$(x)", "'$(x)'"),
        ("", "''"),
    ] {
        assert_eq!(python::quote(word), wanted);
    }
}

proptest::proptest! {
    #[test]
    fn any_files_give_the_same_answer_twice(
        files in proptest::collection::btree_map(
            "(src/|api/)?(index|main|app|server|package)\\.(js|py|json|html|ts)",
            "\\PC{0,60}",
            0..6,
        ),
    ) {
        let files = Listing(files.into_iter().map(|(path, text)| (path, Some(text))).collect());
        let request = Request::default();
        proptest::prop_assert_eq!(detect(&files, &request), detect(&files, &request));
    }
}
