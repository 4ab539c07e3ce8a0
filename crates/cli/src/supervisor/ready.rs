//! `DIR/ready.json`: how to reach a running platform (design §6). Mode 0600, written by rename.

use std::{
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::sockets::Sockets;
use crate::settings::Settings;

/// The file's content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// `http://127.0.0.1:PORT`, without a path.
    pub(crate) api_url: String,
    /// Plain HTTP listener.
    pub(crate) http: SocketAddr,
    /// HTTPS listener.
    pub(crate) https: SocketAddr,
    /// Admin listener: `/metrics`.
    pub(crate) admin: SocketAddr,
    /// Path of the installation's CA in PEM.
    pub(crate) ca_cert: String,
    /// The operator's key.
    pub(crate) admin_key: String,
    /// The supervisor.
    pub(crate) pid: u32,
}

impl Ready {
    pub(super) fn of(settings: &Settings, sockets: &Sockets) -> anyhow::Result<Self> {
        let http = sockets.http_addr()?;
        let key_file = settings.operator_key_file();
        let key = fs_err::read_to_string(key_file).context("control made no operator key")?;
        Ok(Self {
            api_url: format!("http://{}", reachable(http)),
            http: reachable(http),
            https: reachable(sockets.https_addr()?),
            admin: reachable(sockets.admin_addr()?),
            ca_cert: settings.ca_cert().display().to_string(),
            admin_key: key.trim().to_owned(),
            pid: std::process::id(),
        })
    }

    pub(super) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let new = file.with_extension("json.new");
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .with_context(|| format!("cannot write {}", new.display()))?;
        out.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        out.sync_all()?;
        fs_err::rename(new, file)?;
        Ok(())
    }

    /// Reads the file of a running platform. The error says what to do.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Self> {
        let file = super::ready_file(data_dir);
        let up = format!("start it with `miosa up --data-dir {}`", data_dir.display());
        match fs_err::read_to_string(&file) {
            // The file outlives a supervisor that was killed.
            Ok(_) if !super::is_running(data_dir)? => {
                anyhow::bail!("the platform on {} has ended; {up}", data_dir.display())
            }
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} cannot be read", file.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if super::is_running(data_dir).unwrap_or(false) {
                    anyhow::bail!(
                        "the platform on {} is starting; try again in a moment",
                        data_dir.display()
                    );
                }
                anyhow::bail!("no platform runs on {}; {up}", data_dir.display())
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                anyhow::bail!(
                    "only root may read {}, which holds the operator's key; use sudo",
                    file.display()
                )
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// An address that a program on this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    match address {
        SocketAddr::V4(_) => ([127, 0, 0, 1], address.port()).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::LOCALHOST, address.port()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_platform_it_is_said_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let up = format!("start it with `miosa up --data-dir {}`", dir.path().display());
        let error = Ready::read(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("no platform runs on") && error.ends_with(&up), "{error}");
        // A killed supervisor leaves its file behind.
        std::fs::write(dir.path().join("ready.json"), "{}").unwrap();
        let error = Ready::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has ended") && error.ends_with(&up), "{error}");
        let _lock = super::super::lock::take(dir.path()).unwrap();
        let error = format!("{:#}", Ready::read(dir.path()).unwrap_err());
        assert!(error.contains("ready.json cannot be read"), "{error}");
        std::fs::remove_file(dir.path().join("ready.json")).unwrap();
        let error = Ready::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is starting"), "{error}");
    }
}
