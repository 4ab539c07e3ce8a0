//! Settings of one installation: command line over environment over configuration file over
//! defaults.
//!
//! Promises: what is wrong is told all at once and by name, with the line where there is one; an
//! unknown key in the file is an error, for a misspelt setting must not be silently ignored; a
//! child is told exactly what its parent was.

mod file;
mod options;
mod read;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use miosa_api::limits::Rates;
use miosa_control::PoolTarget;
use miosa_types::{Secret, host::Domains, name::parse_domain};
use serde::Serialize;
use serde_json::Value;

pub(crate) use file::{File, schema_text};
pub(crate) use options::{
    CACHE_DIR_ENV, CONFIG_ENV, ControlOptions, DATA_DIR_ENV, DATABASE_ENV, EdgeOptions, Options,
};
pub(crate) use read::Problem;

use miosa_edge::Network;

use crate::supervisor::Sockets;

/// Everything, checked.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    /// `None`: the SQLite file of the data folder.
    pub(crate) database: Option<Secret>,
    pub(crate) cache_dir: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) base_domain: String,
    pub(crate) apps_domain: String,
    pub(crate) ephemeral: bool,
    pub(crate) config: Option<PathBuf>,
    /// What only the file sets.
    pub(crate) file: File,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// Command line or environment.
    Environment,
    File,
    Default,
}

/// One setting as it would take effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Effect {
    pub(crate) value: Value,
    pub(crate) source: Source,
}

/// What command line, environment and file say together.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// What is wrong; empty: everything can be used.
    pub(crate) problems: Vec<Problem>,
    /// Every setting by its key. A value of a line that is wrong is its default.
    pub(crate) effects: BTreeMap<String, Effect>,
    file: File,
}

/// Merges and checks. Pure but for the file's text, which is an argument.
pub(crate) fn check(options: &Options, text: &str) -> Checked {
    let read::Read { mut file, given, mut problems } = read::read(text);
    let over = options.put_over(&mut file);
    let source = |key: &str| match (over.contains(&key), given.contains_key(key)) {
        (true, _) => Source::Environment,
        (false, true) => Source::File,
        (false, false) => Source::Default,
    };
    for (key, message) in faults(&mut file) {
        // A value that does not come from the file has no line.
        let line = given.get(key).copied().filter(|_| source(key) == Source::File);
        problems.push(Problem { line, key: Some(key.to_owned()), message });
    }
    let mut leaves = BTreeMap::new();
    flatten(&serde_json::to_value(&file).unwrap_or_default(), "", &mut leaves);
    let effects = leaves.into_iter().map(|(key, value)| {
        let source = source(&key);
        (key, Effect { value, source })
    });
    Checked { effects: effects.collect(), problems, file }
}

/// What is wrong with values that can be read, by key. Domains get their one form.
fn faults(file: &mut File) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    for (key, domain) in
        [("base_domain", &mut file.base_domain), ("apps_domain", &mut file.apps_domain)]
    {
        match parse_domain(domain) {
            Ok(parsed) => *domain = parsed,
            Err(error) => faults.push((key, format!("`{key}`: {error}"))),
        }
    }
    if is_within(&file.base_domain, &file.apps_domain)
        || is_within(&file.apps_domain, &file.base_domain)
    {
        let why = "`base_domain` and `apps_domain` must be two domains, neither below the other: \
                   apps must not share a site with the API";
        faults.push(("apps_domain", why.to_owned()));
    }
    let is_known = |url: &Secret| {
        ["postgres://", "postgresql://"].iter().any(|scheme| url.expose().starts_with(scheme))
    };
    if !file.database.as_ref().is_none_or(is_known) {
        // Not shown: it may hold a password.
        let why = "the `database` must be a URL like postgres://user@host/name";
        faults.push(("database", why.to_owned()));
    }
    for proxy in &file.edge.trusted_proxies {
        if let Err(error) = proxy.trim().parse::<Network>() {
            faults.push((
                "edge.trusted_proxies",
                format!("`edge.trusted_proxies`: `{proxy}` is {error}"),
            ));
        }
    }
    let targets = &file.pool.targets;
    for (n, target) in targets.iter().enumerate() {
        let twin =
            |one: &file::PoolEntry| (&one.template, one.size) == (&target.template, target.size);
        let name = format!("`pool.targets`: {} of size {}", target.template, target.size.as_str());
        if target.count > file::MOST_SLOTS {
            faults.push(("pool.targets", format!("{name}: at most {} slots", file::MOST_SLOTS)));
        }
        if targets[..n].iter().any(twin) {
            faults.push(("pool.targets", format!("{name} is there twice")));
        }
    }
    faults
}

/// Whether `domain` is `parent` or lies below it.
fn is_within(domain: &str, parent: &str) -> bool {
    domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Settings by their full names; a list is one setting.
fn flatten(value: &Value, prefix: &str, leaves: &mut BTreeMap<String, Value>) {
    let Value::Object(fields) = value else {
        leaves.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (key, value) in fields {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(value, &name, leaves);
    }
}

/// The text of a configuration file; of none, nothing.
pub(crate) fn read_text(config: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = config else { return Ok(String::new()) };
    fs_err::read_to_string(path).context("the configuration file cannot be read")
}

impl Settings {
    /// Reads the file and checks everything.
    pub(crate) fn load(options: &Options) -> anyhow::Result<Self> {
        let config = options.folder.config.as_deref();
        let Checked { problems, file, .. } = check(options, &read_text(config)?);
        if !problems.is_empty() {
            let list: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let list = list.join("; ");
            match config {
                // A problem without a line is not the file's.
                Some(path) if problems.iter().any(|problem| problem.line.is_some()) => {
                    anyhow::bail!("{} cannot be used: {list}", path.display())
                }
                _ => anyhow::bail!("{list}"),
            }
        }
        Ok(Self {
            data_dir: std::path::absolute(&file.data_dir)?,
            database: file.database.clone(),
            cache_dir: std::path::absolute(&file.cache_dir)?,
            http: file.http,
            https: file.https,
            admin: file.admin,
            base_domain: file.base_domain.clone(),
            apps_domain: file.apps_domain.clone(),
            ephemeral: file.ephemeral,
            config: config.map(std::path::absolute).transpose()?,
            file,
        })
    }

    /// The same with the ports that were really bound.
    pub(crate) fn with_bound(&self, sockets: &Sockets) -> Self {
        let mut bound = self.clone();
        let addresses = [
            (&mut bound.http, sockets.http_addr()),
            (&mut bound.https, sockets.https_addr()),
            (&mut bound.admin, sockets.admin_addr()),
        ];
        for (wanted, got) in addresses {
            if let Ok(got) = got {
                *wanted = got;
            }
        }
        bound
    }

    /// The command line that gives the edge these settings. Not the file: all that it needs is
    /// here, and a file that has since been spoilt must not keep a new edge from serving.
    pub(crate) fn edge_arguments(&self) -> Vec<OsString> {
        let mut arguments = line([
            ("--data-dir", self.data_dir.clone().into()),
            ("--http", self.http.to_string().into()),
            ("--https", self.https.to_string().into()),
        ]);
        let proxies = &self.file.edge.trusted_proxies;
        if !proxies.is_empty() {
            arguments.extend(line([("--trusted-proxies", proxies.join(",").into())]));
        }
        arguments
    }

    /// The proxies that the edge believes. They were checked before.
    pub(crate) fn trusted_proxies(&self) -> Vec<Network> {
        let proxies = self.file.edge.trusted_proxies.iter();
        proxies.filter_map(|proxy| proxy.trim().parse().ok()).collect()
    }

    /// The command line that gives control these settings, but for the database.
    pub(crate) fn control_arguments(&self) -> Vec<OsString> {
        let mut arguments = line([
            ("--data-dir", self.data_dir.clone().into()),
            ("--cache-dir", self.cache_dir.clone().into()),
            ("--https", self.https.to_string().into()),
            ("--admin", self.admin.to_string().into()),
            ("--base-domain", self.base_domain.clone().into()),
            ("--apps-domain", self.apps_domain.clone().into()),
        ]);
        if let Some(config) = &self.config {
            arguments.extend(line([("--config", config.clone().into())]));
        }
        arguments
    }

    pub(crate) fn domains(&self) -> Domains {
        Domains {
            base: self.base_domain.clone(),
            apps: self.apps_domain.clone(),
            https_port: self.https.port(),
        }
    }

    /// How often the API may be asked.
    pub(crate) fn rates(&self) -> Rates {
        let limits = &self.file.limits;
        Rates::per_minute(limits.key_requests_per_minute, limits.tenant_requests_per_minute)
    }

    pub(crate) fn pool(&self) -> Vec<PoolTarget> {
        let target = |entry: &file::PoolEntry| PoolTarget {
            template: entry.template.clone(),
            size: entry.size.size(),
            count: entry.count,
        };
        self.file.pool.targets.iter().map(target).collect()
    }

    /// Sockets that control listens on and the edge dials.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.data_dir.join("run")
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run_dir().join("api.sock")
    }

    pub(crate) fn link_socket(&self) -> PathBuf {
        self.run_dir().join("link.sock")
    }

    /// The edge's own folder.
    pub(crate) fn edge_dir(&self) -> PathBuf {
        self.data_dir.join("edge")
    }

    /// Where the edge tells its metrics.
    pub(crate) fn edge_metrics_socket(&self) -> PathBuf {
        self.edge_dir().join("metrics.sock")
    }

    pub(crate) fn database_dir(&self) -> PathBuf {
        self.data_dir.join("db")
    }

    /// The SQLite file.
    pub(crate) fn database_file(&self) -> PathBuf {
        self.database_dir().join("platform.db")
    }

    /// Tells which installation this data folder belongs to, wherever its database is.
    pub(crate) fn installation_file(&self) -> PathBuf {
        self.database_dir().join("installation")
    }

    pub(crate) fn artifacts_dir(&self) -> PathBuf {
        self.data_dir.join("artifacts")
    }

    /// The installation's own CA, public part.
    pub(crate) fn ca_cert(&self) -> PathBuf {
        self.data_dir.join("ca").join("ca.pem")
    }

    /// The operator's key, mode 0600.
    pub(crate) fn operator_key_file(&self) -> PathBuf {
        self.data_dir.join("operator.key")
    }
}

fn line<const N: usize>(options: [(&str, OsString); N]) -> Vec<OsString> {
    options.into_iter().flat_map(|(option, value)| [option.into(), value]).collect()
}

#[cfg(test)]
mod tests;
