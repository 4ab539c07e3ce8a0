//! What the roles can be told on the command line and in the environment.
//!
//! Each role takes the options that it uses and no others. An option that is not given is `None`:
//! only then does the configuration file count.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args,
    builder::{StringValueParser, TypedValueParser as _},
};
use miosa_types::Secret;

use super::file::File;

/// How control is told the database: a command line can be read by every user of the machine.
pub(crate) const DATABASE_ENV: &str = "MIOSA_DATABASE";
/// Names the configuration file.
pub(crate) const CONFIG_ENV: &str = "MIOSA_CONFIG";
/// Names the data folder.
pub(crate) const DATA_DIR_ENV: &str = "MIOSA_DATA_DIR";
/// Names the folder of templates.
pub(crate) const CACHE_DIR_ENV: &str = "MIOSA_CACHE_DIR";

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) folder: Folder,
    #[command(flatten)]
    pub(crate) http: Http,
    #[command(flatten)]
    pub(crate) https: Https,
    /// Told to the edge by its parent; else only the file sets them.
    #[arg(skip)]
    pub(crate) trusted_proxies: Vec<String>,
    #[command(flatten)]
    pub(crate) platform: Platform,
    /// Remove every workload and host object at the end.
    #[arg(
        long,
        env = "MIOSA_EPHEMERAL",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(crate) ephemeral: Option<bool>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EdgeOptions {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    http: Http,
    #[command(flatten)]
    https: Https,
    /// Networks of proxies, from the parent's configuration file.
    #[arg(long, hide = true, value_delimiter = ',')]
    trusted_proxies: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ControlOptions {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    https: Https,
    #[command(flatten)]
    platform: Platform,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Folder {
    /// Folder of durable data; made if missing. Not on an overlay filesystem [default:
    /// /var/lib/miosa].
    #[arg(long, value_name = "DIR", env = DATA_DIR_ENV)]
    pub(crate) data_dir: Option<PathBuf>,
    /// Configuration file (TOML). It may set what the options set, and more: see `miosa config`.
    #[arg(long, value_name = "FILE", env = CONFIG_ENV)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Http {
    /// Address for plain HTTP: the API on this machine, redirects to HTTPS. Port 0 picks one
    /// [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR", env = "MIOSA_HTTP")]
    pub(crate) http: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Https {
    /// Address for HTTPS: apps, previews, console, API. Its port is in every address that is
    /// given out [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR", env = "MIOSA_HTTPS")]
    pub(crate) https: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Platform {
    /// Database: `postgres://…`; without it a SQLite file in the data folder. A URL with a
    /// password belongs into the configuration file or the environment, which only root reads.
    #[arg(long, value_name = "URL", env = DATABASE_ENV, hide_env_values = true, value_parser = StringValueParser::new().map(Secret::new))]
    pub(crate) database: Option<Secret>,
    /// Address for `/metrics`; keep it private [default: 127.0.0.1:9464].
    #[arg(long, value_name = "ADDR", env = "MIOSA_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// Domain of API and console [default: miosa.localhost].
    #[arg(long, value_name = "DOMAIN", env = "MIOSA_BASE_DOMAIN")]
    pub(crate) base_domain: Option<String>,
    /// Domain of apps and previews; another site than the base domain [default: apps.localhost].
    #[arg(long, value_name = "DOMAIN", env = "MIOSA_APPS_DOMAIN")]
    pub(crate) apps_domain: Option<String>,
    /// Folder of templates, shared by data folders [default: /var/cache/miosa].
    #[arg(long, value_name = "DIR", env = CACHE_DIR_ENV)]
    pub(crate) cache_dir: Option<PathBuf>,
}

impl From<EdgeOptions> for Options {
    fn from(EdgeOptions { folder, http, https, trusted_proxies }: EdgeOptions) -> Self {
        Self { folder, http, https, trusted_proxies, ..Self::default() }
    }
}

impl From<ControlOptions> for Options {
    fn from(ControlOptions { folder, https, platform }: ControlOptions) -> Self {
        Self { folder, https, platform, ..Self::default() }
    }
}

impl Options {
    /// For commands that only need the folder.
    pub(crate) fn for_data_dir(data_dir: &std::path::Path) -> Self {
        let folder = Folder { data_dir: Some(data_dir.to_owned()), config: None };
        Self { folder, ..Self::default() }
    }

    /// What the environment alone says, for a configuration file that is looked at and not used.
    pub(crate) fn of_environment() -> Result<Self, clap::Error> {
        use clap::FromArgMatches as _;
        let command = Self::augment_args(clap::Command::new("environment"));
        Self::from_arg_matches(&command.try_get_matches_from(["environment"])?)
    }

    /// Puts what is given over what the file says; returns the keys that were.
    pub(super) fn put_over(&self, file: &mut File) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let platform = &self.platform;
        over("data_dir", self.folder.data_dir.as_ref(), &mut file.data_dir, &mut keys);
        over("http", self.http.http.as_ref(), &mut file.http, &mut keys);
        over("https", self.https.https.as_ref(), &mut file.https, &mut keys);
        let proxies = Some(&self.trusted_proxies).filter(|proxies| !proxies.is_empty());
        over("edge.trusted_proxies", proxies, &mut file.edge.trusted_proxies, &mut keys);
        over("admin", platform.admin.as_ref(), &mut file.admin, &mut keys);
        over("base_domain", platform.base_domain.as_ref(), &mut file.base_domain, &mut keys);
        over("apps_domain", platform.apps_domain.as_ref(), &mut file.apps_domain, &mut keys);
        over("cache_dir", platform.cache_dir.as_ref(), &mut file.cache_dir, &mut keys);
        over("ephemeral", self.ephemeral.as_ref(), &mut file.ephemeral, &mut keys);
        if platform.database.is_some() {
            file.database.clone_from(&platform.database);
            keys.push("database");
        }
        keys
    }
}

fn over<T: Clone>(
    key: &'static str,
    given: Option<&T>,
    value: &mut T,
    keys: &mut Vec<&'static str>,
) {
    if let Some(given) = given {
        value.clone_from(given);
        keys.push(key);
    }
}
