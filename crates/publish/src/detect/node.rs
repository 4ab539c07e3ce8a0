//! Apps with a `package.json`, and Node servers without one.

use serde_json::Value;

use crate::{request::Request, run::Run};

use super::{Candidate, Listing, OUTPUT_FOLDERS, Plan, Serve, Step};

/// Packages that an entry file imports when it is a server.
const SERVERS: [&str; 11] = [
    "express",
    "fastify",
    "hono",
    "koa",
    "@hono/node-server",
    "@hapi/hapi",
    "polka",
    "restify",
    "h3",
    "@nestjs/core",
    "socket.io",
];

/// Start scripts that only serve a folder for developers.
const DEV_SERVERS: [&str; 12] = [
    "vite",
    "react-scripts start",
    "ng serve",
    "vue-cli-service serve",
    "webpack serve",
    "webpack-dev-server",
    "parcel",
    "serve",
    "http-server",
    "live-server",
    "astro dev",
    "next dev",
];

const FOLDERS: [&str; 5] = ["", "src/", "server/", "api/", "backend/"];
const NAMES: [&str; 5] = ["server", "index", "app", "main", "start"];
const EXTENSIONS: [&str; 5] = ["js", "mjs", "cjs", "ts", "mts"];

/// The parts of a `package.json` that matter.
struct Package(Value);

impl Package {
    fn of(files: &Listing) -> Option<Self> {
        let json: Value = serde_json::from_str(files.text("package.json")?).ok()?;
        json.is_object().then_some(Self(json))
    }

    fn script(&self, name: &str) -> Option<&str> {
        let line = self.0.get("scripts")?.get(name)?.as_str()?.trim();
        // What `npm init` writes.
        (!line.is_empty() && !line.contains("no test specified")).then_some(line)
    }

    fn depends_on(&self, package: &str) -> bool {
        ["dependencies", "devDependencies"]
            .iter()
            .any(|kind| self.0.get(kind).is_some_and(|deps| deps.get(package).is_some()))
    }

    fn main(&self) -> Option<&str> {
        Some(self.0.get("main")?.as_str()?.trim_start_matches("./"))
    }
}

pub(super) fn candidates(files: &Listing, request: &Request) -> Vec<Candidate> {
    let package = Package::of(files);
    let mut found = Vec::new();
    found.extend(start_script(files, package.as_ref()));
    found.extend(next(files, package.as_ref()));
    found.extend(entry_file(files, package.as_ref(), request));
    found.extend(front_end(files, package.as_ref()));
    found
}

/// Works with any lock file, or none.
const PLAIN: &str = "npm install --include=dev --no-audit --no-fund";

/// Steps that bring the packages of the `package.json` in `folder`.
pub(super) fn install(files: &Listing, folder: &str) -> Vec<Step> {
    let at = |name: &str| format!("{folder}{name}");
    if !files.has(&at("package.json")) {
        return Vec::new();
    }
    let fallback = |why| Some((PLAIN.to_owned(), why));
    let step = if files.has(&at("package-lock.json")) || files.has(&at("npm-shrinkwrap.json")) {
        Step {
            line: "npm ci --include=dev --no-audit --no-fund".to_owned(),
            fallback: fallback(
                "`npm ci` failed, most likely because package-lock.json does not fit \
                 package.json; trying `npm install`",
            ),
        }
    } else if files.has(&at("pnpm-lock.yaml")) {
        Step {
            line: "npx --yes pnpm@10 install --frozen-lockfile --prod=false".to_owned(),
            fallback: fallback("`pnpm install` failed; trying `npm install`"),
        }
    } else if files.has(&at("yarn.lock")) {
        Step {
            line: "npx --yes yarn@1.22.22 install --frozen-lockfile --production=false".to_owned(),
            fallback: fallback("`yarn install` failed; trying `npm install`"),
        }
    } else {
        Step::new(PLAIN)
    };
    vec![step]
}

/// `npm run build`, where that script exists.
pub(super) fn build_script(files: &Listing) -> Option<String> {
    Package::of(files)?.script("build").map(|_| "npm run build".to_owned())
}

fn start_script(files: &Listing, package: Option<&Package>) -> Option<Candidate> {
    let package = package?;
    let line = package.script("start")?;
    if is_dev_server(line) {
        return None;
    }
    let name = SERVERS.iter().find(|server| package.depends_on(server));
    let mut evidence = vec![format!("package.json has the script `start`: `{line}`")];
    evidence.extend(name.map(|server| format!("it depends on `{server}`")));
    Some(Candidate { score: 80, plan: process("Node server", evidence, files, "npm start") })
}

fn is_dev_server(line: &str) -> bool {
    let line = line.trim();
    let words = line.strip_prefix("npx ").unwrap_or(line);
    DEV_SERVERS.iter().any(|server| {
        words.strip_prefix(server).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    })
}

fn next(files: &Listing, package: Option<&Package>) -> Option<Candidate> {
    let package = package?;
    if !package.depends_on("next") {
        return None;
    }
    let evidence = vec!["package.json depends on `next`".to_owned()];
    let exports = ["next.config.js", "next.config.mjs", "next.config.ts"]
        .iter()
        .filter_map(|config| files.text(config))
        .any(|config| quoted_after(config, "output:").is_some_and(|kind| kind == "export"));
    let build = build_script(files).or_else(|| Some("npx next build".to_owned()));
    let mut plan = process("Next.js app", evidence, files, "npx next start -H 0.0.0.0 -p $PORT");
    plan.build = build;
    if exports {
        "Next.js export".clone_into(&mut plan.name);
        plan.serve = Serve::Files { folders: vec!["out".to_owned()] };
    }
    Some(Candidate { score: 85, plan })
}

/// A file that opens a server itself.
fn entry_file(files: &Listing, package: Option<&Package>, request: &Request) -> Option<Candidate> {
    if let Some(entry) = request.entry_file().filter(|entry| is_script(entry)) {
        let evidence = vec![format!("entrypoint `{entry}`")];
        let plan = process("Node server", evidence, files, &node_line(&entry));
        return Some(Candidate { score: 95, plan });
    }
    let named = package.and_then(Package::main).into_iter().map(str::to_owned);
    let usual = FOLDERS.iter().flat_map(|folder| {
        NAMES.iter().flat_map(move |name| {
            EXTENSIONS.iter().map(move |extension| format!("{folder}{name}.{extension}"))
        })
    });
    for path in named.chain(usual) {
        let Some(text) = files.text(&path) else { continue };
        let Some(why) = opens_server(text) else { continue };
        let evidence = vec![format!("`{path}` {why}")];
        let plan = process("Node server", evidence, files, &node_line(&path));
        return Some(Candidate { score: 70, plan });
    }
    None
}

fn opens_server(text: &str) -> Option<String> {
    let server = SERVERS.iter().find(|server| imports(text, server));
    let listens =
        ["listen(", "serve(", "NestFactory.create"].iter().any(|call| text.contains(call));
    if let (Some(server), true) = (server, listens) {
        return Some(format!("imports `{server}` and listens"));
    }
    let http = ["node:http", "http", "node:https", "https", "node:http2", "node:net"]
        .iter()
        .any(|module| imports(text, module));
    (http && text.contains("createServer") && text.contains("listen("))
        .then(|| "creates an HTTP server".to_owned())
}

/// `from 'x'`, `import 'x'`, `import("x")` or `require("x")`, in either quotes.
fn imports(text: &str, module: &str) -> bool {
    ['\'', '"'].iter().any(|quote| {
        let name = format!("{quote}{module}{quote}");
        text.match_indices(&name).any(|(at, _)| {
            let before = text[..at].trim_end();
            ["from", "import", "import(", "require("].iter().any(|word| before.ends_with(word))
        })
    })
}

fn is_script(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension))
}

fn node_line(entry: &str) -> String {
    let quoted = super::python::quote(entry);
    if matches!(entry.rsplit_once('.'), Some((_, "ts" | "mts"))) {
        return format!("node --experimental-strip-types {quoted}");
    }
    format!("node {quoted}")
}

fn process(name: &str, evidence: Vec<String>, files: &Listing, line: &str) -> Plan {
    Plan {
        name: name.to_owned(),
        evidence,
        install: install(files, ""),
        build: build_script(files),
        serve: Serve::Process { run: Run::Shell(line.to_owned()), port: None },
    }
}

/// A package whose build makes files: Vite, and anything else with a build script.
fn front_end(files: &Listing, package: Option<&Package>) -> Option<Candidate> {
    let package = package?;
    let build = package.script("build");
    let config = EXTENSIONS.iter().map(|ext| format!("vite.config.{ext}")).find(|c| files.has(c));
    let is_vite = package.depends_on("vite") || config.is_some();
    if build.is_none() && !is_vite {
        return None;
    }
    let named = build
        .and_then(out_dir_flag)
        .or_else(|| quoted_after(files.text(config.as_ref()?)?, "outDir:").map(str::to_owned))
        .and_then(|folder| crate::request::below_workspace(&folder));
    let folders = match named {
        Some(folder) => vec![folder],
        None => OUTPUT_FOLDERS.map(str::to_owned).to_vec(),
    };
    let mut evidence = Vec::new();
    evidence.extend(build.map(|line| format!("package.json has the script `build`: `{line}`")));
    if is_vite {
        evidence.push(config.map_or_else(
            || "package.json depends on `vite`".to_owned(),
            |config| format!("`{config}` exists"),
        ));
    }
    Some(Candidate {
        score: if is_vite { 65 } else { 60 },
        plan: Plan {
            name: if is_vite { "Vite app" } else { "front end with a build script" }.to_owned(),
            evidence,
            install: install(files, ""),
            build: build_script(files).or_else(|| Some("npx vite build".to_owned())),
            serve: Serve::Files { folders },
        },
    })
}

/// `--outDir folder` or `--outDir=folder`.
fn out_dir_flag(line: &str) -> Option<String> {
    let after = line.split_once("--outDir")?.1.trim_start_matches(['=', ' ']);
    let folder = after.split_whitespace().next()?.trim_matches(['\'', '"']);
    (!folder.is_empty()).then(|| folder.to_owned())
}

/// The quoted text right after `key`.
fn quoted_after<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let after = text.split_once(key)?.1.trim_start();
    let quote = after.chars().next().filter(|quote| matches!(quote, '\'' | '"' | '`'))?;
    after[1..].split_once(quote).map(|(inside, _)| inside)
}
