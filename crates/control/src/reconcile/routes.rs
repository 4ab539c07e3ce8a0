//! Keeps what edges are told equal to what rows and observations say, certificates included.
//!
//! Promises: while the provider's state is unknown the last known one stands, so a restart of
//! control or a broken watch unroutes nothing; a host goes out together with its certificate.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use miosa_provider::Observed;
use miosa_store::{
    certificates::{self as rows, Certificate},
    deployments, domains, preview_tokens, previews, sandboxes, tenants, versions, workspaces,
};
use miosa_types::{Digest, VersionId, WorkspaceId, deployment::VersionState, link};
use tokio::sync::Notify;

use crate::{
    Control,
    certificates::{self, Authority},
    driver::{Reconciler, Report, StepError},
    routes,
};

/// Rows of sandboxes read at once.
const PAGE: u32 = 1000;

/// See the module.
#[derive(Debug)]
pub struct Routes {
    control: Arc<Control>,
    kept: Mutex<Kept>,
}

/// What does not change between most steps.
#[derive(Debug, Default)]
struct Kept {
    authority: Option<Arc<Authority>>,
    certificates: BTreeMap<Vec<String>, Certificate>,
    has_read_certificates: bool,
    entries: BTreeMap<Vec<String>, link::Certificate>,
    replicas: Option<Vec<Observed>>,
}

#[derive(Debug)]
struct Rows {
    tenants: Vec<tenants::Tenant>,
    branded: BTreeMap<WorkspaceId, workspaces::Workspace>,
    deployments: Vec<deployments::Deployment>,
    domains: Vec<domains::Domain>,
    versions: BTreeMap<VersionId, versions::Version>,
    sandboxes: Vec<sandboxes::Sandbox>,
    previews: Vec<previews::Preview>,
    preview_tokens: Vec<preview_tokens::PreviewToken>,
}

impl Routes {
    /// Routes of this installation.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, kept: Mutex::default() }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn rows(&self) -> Result<Rows, miosa_store::Error> {
        let mut db = self.control.store.conn().await?;
        // In this order: a version whose build ends meanwhile is read twice rather than never.
        let mut versions = versions::all(&mut db, VersionState::Building).await?;
        versions.extend(versions::all(&mut db, VersionState::Ready).await?);
        let mut sandboxes: Vec<sandboxes::Sandbox> = Vec::new();
        loop {
            let after = sandboxes.last().map(|last| last.id);
            let page = sandboxes::unfinished(&mut db, after, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            sandboxes.extend(page);
            if is_last {
                break;
            }
        }
        sandboxes.retain(|sandbox| sandbox.desired == sandboxes::Desired::Running);
        let deployments = deployments::all(&mut db).await?;
        let is_there: BTreeSet<_> =
            deployments.iter().filter(|d| d.deleted_at.is_none()).map(|d| d.id).collect();
        let mut domains = domains::held(&mut db).await?;
        domains.retain(|domain| is_there.contains(&domain.deployment));
        Ok(Rows {
            tenants: tenants::list(&mut db).await?,
            branded: workspaces::branded(&mut db).await?.into_iter().map(|w| (w.id, w)).collect(),
            deployments,
            domains,
            versions: versions.into_iter().map(|version| (version.id, version)).collect(),
            sandboxes,
            previews: previews::live(&mut db).await?,
            preview_tokens: preview_tokens::live(&mut db, self.control.env.now()).await?,
        })
    }

    /// Issues what is missing and offers all that is wanted to edges.
    async fn certificates(
        &self,
        wanted: &BTreeSet<Vec<String>>,
    ) -> Result<(Vec<link::Certificate>, usize), StepError> {
        if !self.kept().has_read_certificates {
            let mut db = self.control.store.conn().await?;
            let read = rows::all(&mut db).await?;
            let mut kept = self.kept();
            kept.certificates = read.into_iter().map(|c| (c.names.clone(), c)).collect();
            kept.has_read_certificates = true;
        }
        let missing =
            certificates::missing(wanted, &self.kept().certificates, self.control.env.now());
        for names in &missing {
            let issued = self.authority()?.issue(names)?;
            let mut db = self.control.store.conn().await?;
            rows::put(&mut db, &issued).await?;
            let mut kept = self.kept();
            kept.entries.remove(names);
            kept.certificates.insert(names.clone(), issued);
        }
        self.forget_unwanted(wanted).await?;
        Ok((self.offer(wanted), missing.len()))
    }

    /// A key for a name that is nobody's any more is not kept.
    async fn forget_unwanted(&self, wanted: &BTreeSet<Vec<String>>) -> Result<(), StepError> {
        let unwanted: Vec<_> = {
            let kept = self.kept();
            kept.certificates.keys().filter(|names| !wanted.contains(*names)).cloned().collect()
        };
        for names in unwanted {
            rows::remove(&mut *self.control.store.conn().await?, &names).await?;
            self.kept().certificates.remove(&names);
        }
        Ok(())
    }

    fn offer(&self, wanted: &BTreeSet<Vec<String>>) -> Vec<link::Certificate> {
        let mut kept = self.kept();
        let is_known = wanted.iter().all(|names| kept.entries.contains_key(names))
            && kept.entries.len() == wanted.len();
        if !is_known {
            let mut material: BTreeMap<Digest, Bytes> = BTreeMap::new();
            let mut entries = BTreeMap::new();
            for certificate in wanted.iter().filter_map(|names| kept.certificates.get(names)) {
                let (entry, blobs) = certificates::entry(certificate);
                material.extend(blobs);
                entries.insert(certificate.names.clone(), entry);
            }
            kept.entries = entries;
            self.control.edges.offer(material);
        }
        kept.entries.values().cloned().collect()
    }

    fn authority(&self) -> Result<Arc<Authority>, certificates::Error> {
        let mut kept = self.kept();
        if let Some(authority) = &kept.authority {
            return Ok(authority.clone());
        }
        let opened = Arc::new(Authority::open(&self.control.config.data_dir, &self.control.env)?);
        kept.authority = Some(opened.clone());
        Ok(opened)
    }

    /// The replicas as last known; `None` before the first observation.
    fn replicas(&self) -> Option<Vec<Observed>> {
        let mut kept = self.kept();
        if let Some(replicas) = self.control.observed.replicas() {
            kept.replicas = Some(replicas);
        }
        kept.replicas.clone()
    }
}

#[async_trait]
impl Reconciler for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn wake(&self) -> Arc<Notify> {
        self.control.wakes.routes.clone()
    }

    async fn step(&self) -> Result<Report, StepError> {
        // Observed before read: a replica is never newer than the row it belongs to.
        let Some(replicas) = self.replicas() else { return Ok(Report::default()) };
        let rows = self.rows().await?;
        let domains = &self.control.config.domains;
        let wanted = certificates::wanted(domains, &rows.tenants, &rows.deployments, &rows.domains);
        let (certificates, issued) = self.certificates(&wanted).await?;
        let console_hosts = rows.tenants.iter().filter_map(|t| t.console_domain.clone()).collect();
        let table = routes::table(&routes::Facts {
            settings: link::Settings {
                domains: domains.clone(),
                console_hosts,
                plain_http: self.control.config.plain_http,
            },
            tenants: &rows.tenants,
            branded: &rows.branded,
            deployments: &rows.deployments,
            domains: &rows.domains,
            versions: &rows.versions,
            sandboxes: &rows.sandboxes,
            previews: &rows.previews,
            preview_tokens: &rows.preview_tokens,
            replicas: &replicas,
            suspects: &self.control.suspects.all(),
            certificates,
        });
        let looked_at = table.0.len();
        let before = *self.control.edges.positions().borrow();
        let after = self.control.edges.publish(table);
        if after != before {
            self.control.wakes.deployments.notify_one();
        }
        Ok(Report { looked_at, acted: issued + usize::from(after != before), failed: 0 })
    }
}
