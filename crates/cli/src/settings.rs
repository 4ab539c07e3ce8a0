//! Settings of one installation: command line over configuration file over defaults.
//!
//! The three roles take the same options, so that a child is told exactly what its parent was.
//! An unknown key in the file is an error: a misspelt setting must not be silently ignored.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{
    Args,
    builder::{StringValueParser, TypedValueParser as _},
};
use miosa_control::PoolTarget;
use miosa_types::{Secret, host::Domains, name::parse_domain, size::Tier};
use serde::Deserialize;

use crate::supervisor::Sockets;

/// How control is told the database: a command line can be read by every user of the machine.
pub(crate) const DATABASE_ENV: &str = "MIOSA_DATABASE";

/// Options of `up`, `edge` and `control`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Folder of durable data; made if missing. Not on an overlay filesystem.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/miosa")]
    pub(crate) data_dir: PathBuf,
    /// Database: `postgres://…`; without it a SQLite file in the data folder. A URL with a
    /// password belongs into the configuration file or the environment, which only root reads.
    #[arg(long, value_name = "URL", env = DATABASE_ENV, hide_env_values = true, value_parser = StringValueParser::new().map(Secret::new))]
    pub(crate) database: Option<Secret>,
    /// Address for plain HTTP: the API on this machine, redirects to HTTPS. Port 0 picks one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// Address for HTTPS: apps, previews, console, API.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub(crate) https: SocketAddr,
    /// Address for `/metrics`; keep it private.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    pub(crate) admin: SocketAddr,
    /// Domain of API and console.
    #[arg(long, value_name = "DOMAIN", default_value = "miosa.localhost")]
    pub(crate) base_domain: String,
    /// Domain of apps and previews; another site than the base domain.
    #[arg(long, value_name = "DOMAIN", default_value = "apps.localhost")]
    pub(crate) apps_domain: String,
    /// Folder of templates, shared by data folders.
    #[arg(long, value_name = "DIR", default_value = "/var/cache/miosa")]
    pub(crate) cache_dir: PathBuf,
    /// Remove every workload and host object at the end.
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl Options {
    /// Defaults, for commands that only need the folders.
    pub(crate) fn for_data_dir(data_dir: &std::path::Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            database: None,
            http: ([127, 0, 0, 1], 0).into(),
            https: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            base_domain: "miosa.localhost".into(),
            apps_domain: "apps.localhost".into(),
            cache_dir: "/var/cache/miosa".into(),
            ephemeral: false,
            config: None,
        }
    }
}

/// The configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// URL of the database, as `--database` (since 0.1).
    pub(crate) database: Option<Secret>,
    pub(crate) domains: DomainsSection,
    pub(crate) edge: EdgeSection,
    pub(crate) sandbox: SandboxSection,
    pub(crate) pool: PoolSection,
}

/// `[domains]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DomainsSection {
    /// Resolver for names that tenants bring; the host's if not given (since 0.1).
    pub(crate) resolver: Option<SocketAddr>,
    /// Addresses that visitors reach this machine at, for names that are no CNAME (since 0.1).
    pub(crate) addresses: Vec<IpAddr>,
}

/// `[edge]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EdgeSection {
    /// Serve apps on plain HTTP instead of answering 308 (since 0.1).
    pub(crate) plain_http: bool,
}

/// `[sandbox]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SandboxSection {
    /// Mount the host's CA bundle where it trusts more than the distribution (since 0.1).
    pub(crate) trust_host_ca: bool,
    /// Template of a sandbox that names none (since 0.1).
    pub(crate) default_template: String,
}

impl Default for SandboxSection {
    fn default() -> Self {
        Self { trust_host_ca: true, default_template: "miosa-sandbox".into() }
    }
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PoolSection {
    /// Warm slots to keep (since 0.1).
    pub(crate) targets: Vec<PoolEntry>,
}

/// One `[[pool.targets]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolEntry {
    /// Template name.
    pub(crate) template: String,
    /// Size tier.
    pub(crate) size: Tier,
    /// How many slots.
    pub(crate) count: u32,
}

impl Default for PoolSection {
    fn default() -> Self {
        let entry = |size, count| PoolEntry { template: "miosa-sandbox".into(), size, count };
        Self { targets: vec![entry(Tier::Xs, 1), entry(Tier::Small, 2)] }
    }
}

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
    pub(crate) file: File,
}

impl Settings {
    /// Reads the file and checks everything.
    pub(crate) fn load(options: &Options) -> anyhow::Result<Self> {
        let file = match &options.config {
            None => File::default(),
            Some(path) => {
                let text = fs_err::read_to_string(path)?;
                toml::from_str(&text)
                    .with_context(|| format!("{} cannot be used", path.display()))?
            }
        };
        let base_domain = parse_domain(&options.base_domain).context("--base-domain")?;
        let apps_domain = parse_domain(&options.apps_domain).context("--apps-domain")?;
        anyhow::ensure!(
            base_domain != apps_domain,
            "--base-domain and --apps-domain must differ: apps must not share a site with the console"
        );
        let database = options.database.clone().or_else(|| file.database.clone());
        if let Some(url) = &database {
            let is_known =
                ["postgres://", "postgresql://"].iter().any(|s| url.expose().starts_with(s));
            // Not shown: it may hold a password.
            anyhow::ensure!(is_known, "the database must be a URL like postgres://user@host/name");
        }
        Ok(Self {
            data_dir: std::path::absolute(&options.data_dir)?,
            database,
            cache_dir: std::path::absolute(&options.cache_dir)?,
            http: options.http,
            https: options.https,
            admin: options.admin,
            base_domain,
            apps_domain,
            ephemeral: options.ephemeral,
            config: options.config.as_deref().map(std::path::absolute).transpose()?,
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

    /// The command line that gives a child these settings, but for the database.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        push("--data-dir", self.data_dir.clone().into());
        push("--cache-dir", self.cache_dir.clone().into());
        push("--http", self.http.to_string().into());
        push("--https", self.https.to_string().into());
        push("--admin", self.admin.to_string().into());
        push("--base-domain", self.base_domain.clone().into());
        push("--apps-domain", self.apps_domain.clone().into());
        if let Some(config) = &self.config {
            push("--config", config.clone().into());
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

    pub(crate) fn pool(&self) -> Vec<PoolTarget> {
        let target = |entry: &PoolEntry| PoolTarget {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Options {
        let first: OsString = "up".into();
        let rest = arguments.into_iter().map(Into::into);
        Cli::try_parse_from(std::iter::once(first).chain(rest)).unwrap().options
    }

    #[test]
    fn a_child_gets_what_its_parent_has() {
        let options = parse(["--data-dir", "/d", "--http", "127.0.0.1:0", "--apps-domain", "A.b"]);
        let settings = Settings::load(&options).unwrap();
        let again = Settings::load(&parse(settings.to_arguments())).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{again:?}"));
        assert_eq!(again.apps_domain, "a.b");
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_no_password_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("miosa.toml");
        std::fs::write(&config, "database = \"postgres://u:hidden@file/d\"").unwrap();
        let config: OsString = config.into();
        let file = parse(["--config".into(), config.clone()]);
        let both = [OsString::from("--config"), config, "--database".into()];
        let both = parse(both.into_iter().chain(["postgres://u:hidden@line/d".into()]));
        for (options, host) in [(file, "@file"), (both, "@line")] {
            let settings = Settings::load(&options).unwrap();
            assert!(settings.database.as_ref().unwrap().expose().contains(host), "{host}");
            let shown = format!("{options:?} {settings:?} {:?}", settings.to_arguments());
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }

    #[test]
    fn what_is_misspelt_is_named() {
        let error = toml::from_str::<File>("[pool]\ntarget = []").unwrap_err().to_string();
        assert!(error.contains("unknown field `target`"), "{error}");
        let options = parse(["--base-domain", "apps.localhost"]);
        assert!(Settings::load(&options).unwrap_err().to_string().contains("must differ"));
        let options = parse(["--database", "mysql://u:hidden@h/d"]);
        let error = Settings::load(&options).unwrap_err().to_string();
        assert!(error.contains("postgres://") && !error.contains("hidden"), "{error}");
        let text = "[[pool.targets]]\ntemplate = \"t\"\nsize = \"small\"\ncount = 3";
        assert_eq!(toml::from_str::<File>(text).unwrap().pool.targets[0].count, 3);
    }
}
