//! Domains that tenants bring for their deployments.
//!
//! Promises: a name is routed from the moment that its tenant showed that it is theirs, never
//! before; no two deployments hold one name; a claim that nobody proved keeps the true owner out
//! of nothing; names of the installation and of other tenants are nobody's to claim.

pub mod names;
pub mod plan;
pub mod proof;
pub mod redirect;

use std::time::Duration;

use jiff::Timestamp;
use miosa_store::{
    certificates as certificate_rows, deployments as deployment_rows, domains as rows,
    idempotency::{self, Claim},
    tenants,
};
use miosa_types::{
    TenantId,
    host::{self, Domains},
    link::Key,
};
use sqlx::AnyConnection;

use crate::{
    Control, certificates,
    deployments::{self, ATTEMPTS, Deployment, External},
};
use plan::Event;

pub use miosa_store::domains::{Domain, Progress, RedirectPolicy, Status};

/// Domains of one deployment, at most.
pub const MAX_DOMAINS: usize = 50;
/// How long an answer waits for edges.
const EDGE_WAIT: Duration = Duration::from_secs(1);
/// Random bytes of a token.
const TOKEN_BYTES: usize = 20;

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such domain of this deployment.
    #[error("domain `{key}` does not exist")]
    NotFound {
        /// What was asked for.
        key: String,
    },
    /// No name that can be used.
    #[error("{message}")]
    Invalid {
        /// Why.
        message: String,
    },
    /// A name that is not for tenants, or not for this one.
    #[error("{why}")]
    Reserved {
        /// Why.
        why: String,
    },
    /// Somebody else holds it, or the tenant has it already.
    #[error("`{domain}` is already used by {by}")]
    Taken {
        /// The name.
        domain: String,
        /// By whom.
        by: &'static str,
    },
    /// Each of two names would lead to the other.
    #[error("`{other}` has the opposite `redirect_policy`; change that one first")]
    Contradiction {
        /// The name that leads back.
        other: String,
    },
    /// The deployment has as many as it may have.
    #[error("a deployment has at most {MAX_DOMAINS} domains")]
    TooMany,
    /// The deployment.
    #[error(transparent)]
    Deployment(#[from] deployments::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] miosa_store::Error),
}

const OTHER: &str = "another deployment";

/// A domain to add.
#[derive(Clone, Debug)]
pub struct New {
    /// The name, as it was typed.
    pub domain: String,
    /// The operator adds it: nothing has to be proved.
    pub is_trusted: bool,
    /// See there.
    pub redirect: RedirectPolicy,
    /// The tenant's own ids.
    pub external: External,
}

/// A domain and what it belongs to.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its row.
    pub domain: Domain,
    /// Its deployment.
    pub deployment: Deployment,
}

impl Shown {
    /// Where an alias has to lead.
    pub fn target(&self) -> String {
        host::app(&self.deployment.slug, &self.deployment.deployment_domain)
    }
}

/// Adds a domain to a deployment; it waits for proof, unless the operator adds it. Under a
/// `claim` that made one before, that one is the answer.
pub async fn add(
    control: &Control,
    tenant: TenantId,
    deployment: &str,
    new: New,
    claim: Option<&Claim>,
) -> Result<Shown, Error> {
    if let Some(made) = claim.and_then(|claim| claim.made) {
        return get(control, tenant, Some(deployment), &made.to_string()).await;
    }
    let deployment = deployments::get(control, tenant, deployment).await?;
    let name = names::parse(&new.domain).map_err(|message| Error::Invalid { message })?;
    let mut tx = control.store.begin().await?;
    check_free(&mut tx, &control.config.domains, tenant, &name).await?;
    if rows::list(&mut tx, tenant, Some(deployment.id)).await?.len() >= MAX_DOMAINS {
        return Err(Error::TooMany);
    }
    let token = rows::token(&mut tx, tenant, &name).await?;
    let token = token.unwrap_or_else(|| control.env.token(TOKEN_BYTES));
    let row = row(control, &deployment, name, token, new);
    check_redirect(&mut tx, &row).await?;
    let own = "a deployment of yours";
    rows::insert(&mut tx, &row).await.map_err(|error| taken(error, own))?;
    idempotency::claim(&mut tx, tenant, claim, row.id.uuid(), row.created_at).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    control.wakes.domains.notify_one();
    let row = serve(control, row).await?;
    Ok(Shown { domain: row, deployment })
}

fn row(control: &Control, of: &Deployment, domain: String, token: String, new: New) -> Domain {
    let now = control.env.now();
    let waiting = Progress {
        status: Status::Pending,
        failure: None,
        checks: 0,
        waiting_since: now,
        doubt_since: None,
        next_check_at: Some(now),
        verified_at: None,
    };
    let progress = if new.is_trusted {
        Progress { next_check_at: None, ..plan::plan(&waiting, Event::Proven, now) }
    } else {
        waiting
    };
    Domain {
        id: control.env.id(),
        tenant: of.tenant,
        deployment: of.id,
        domain,
        token,
        is_trusted: new.is_trusted,
        redirect: new.redirect,
        external: new.external,
        progress,
        tls_issued_at: None,
        generation: 1,
        created_at: now,
        updated_at: now,
    }
}

/// A tenant's domains, of one deployment if it is named, oldest first.
pub async fn list(
    control: &Control,
    tenant: TenantId,
    deployment: Option<&str>,
) -> Result<Vec<Shown>, Error> {
    let of = match deployment {
        Some(key) => Some(deployments::get(control, tenant, key).await?),
        None => None,
    };
    let mut db = control.store.conn().await?;
    let mut shown = Vec::new();
    for domain in rows::list(&mut db, tenant, of.as_ref().map(|of| of.id)).await? {
        let deployment = match &of {
            Some(of) => Some(of.clone()),
            None => deployment_rows::find(&mut db, tenant, domain.deployment).await?,
        };
        // One whose deployment was just deleted is about to go too.
        shown.extend(deployment.map(|deployment| Shown { domain, deployment }));
    }
    Ok(shown)
}

/// A tenant's domain by id or name, of one deployment if it is named.
pub async fn get(
    control: &Control,
    tenant: TenantId,
    deployment: Option<&str>,
    key: &str,
) -> Result<Shown, Error> {
    let of = match deployment {
        Some(key) => Some(deployments::get(control, tenant, key).await?),
        None => None,
    };
    let missing = || Error::NotFound { key: key.to_owned() };
    let mut db = control.store.conn().await?;
    let domain = rows::find(&mut db, tenant, &key.to_ascii_lowercase()).await?;
    let domain = domain.ok_or_else(missing)?;
    let deployment = match of {
        Some(of) if of.id == domain.deployment => of,
        Some(_) => return Err(missing()),
        None => {
            let found = deployment_rows::find(&mut db, tenant, domain.deployment).await?;
            found.ok_or_else(missing)?
        }
    };
    Ok(Shown { domain, deployment })
}

/// Looks now whether a domain is proved; gives one that failed a new beginning.
pub async fn verify(
    control: &Control,
    tenant: TenantId,
    deployment: Option<&str>,
    key: &str,
) -> Result<Shown, Error> {
    let Shown { mut domain, deployment } = get(control, tenant, deployment, key).await?;
    if domain.progress.status == Status::Failed {
        domain = settle(control, domain, Event::Retried).await?;
    }
    if !domain.is_trusted {
        domain = check(control, domain, &deployment).await?;
    }
    let domain = serve(control, domain).await?;
    Ok(Shown { domain, deployment })
}

/// Has another deployment of the tenant answer a domain.
pub async fn assign(
    control: &Control,
    tenant: TenantId,
    key: &str,
    deployment: &str,
) -> Result<Shown, Error> {
    let to = deployments::get(control, tenant, deployment).await?;
    with_row(control, tenant, (None, key), |row| row.deployment = to.id).await
}

/// Changes which of a name and the same name behind `www.` leads to the other.
pub async fn set_redirect(
    control: &Control,
    tenant: TenantId,
    deployment: Option<&str>,
    key: &str,
    policy: RedirectPolicy,
) -> Result<Shown, Error> {
    with_row(control, tenant, (deployment, key), |row| row.redirect = policy).await
}

async fn with_row(
    control: &Control,
    tenant: TenantId,
    (deployment, key): (Option<&str>, &str),
    change: impl Fn(&mut Domain),
) -> Result<Shown, Error> {
    let missing = || Error::NotFound { key: key.to_owned() };
    for attempt in 1.. {
        let Shown { domain: before, .. } = get(control, tenant, deployment, key).await?;
        let mut row = before.clone();
        change(&mut row);
        let now = control.env.now();
        let mut tx = control.store.begin().await?;
        let new_home = (row.deployment != before.deployment).then_some(row.deployment);
        if new_home.is_some() && rows::list(&mut tx, tenant, new_home).await?.len() >= MAX_DOMAINS {
            return Err(Error::TooMany);
        }
        check_redirect(&mut tx, &row).await?;
        match rows::update(&mut tx, &row, now).await {
            Err(miosa_store::Error::Stale { .. }) if attempt < ATTEMPTS => {}
            outcome => {
                outcome?;
                let deployment = deployment_rows::find(&mut tx, tenant, row.deployment).await?;
                tx.commit().await.map_err(miosa_store::Error::from)?;
                control.wakes.routes.notify_one();
                let domain = Domain { generation: row.generation + 1, updated_at: now, ..row };
                return Ok(Shown { domain, deployment: deployment.ok_or_else(missing)? });
            }
        }
    }
    Err(missing())
}

/// Takes a domain away; route and certificate go with it, and it is free at once.
pub async fn remove(
    control: &Control,
    tenant: TenantId,
    deployment: Option<&str>,
    key: &str,
) -> Result<Domain, Error> {
    let Shown { domain, .. } = get(control, tenant, deployment, key).await?;
    let route = Key::Route(domain.domain.clone());
    let was_held = domain.progress.status.is_held();
    let removed = settle(control, domain, Event::Removed).await?;
    if was_held && !control.edges.wait_gone(&route, EDGE_WAIT).await {
        tracing::debug!(domain = removed.domain, "an edge may still serve it");
    }
    Ok(removed)
}

/// Looks whether a domain is proved, and writes what follows.
pub(crate) async fn check(
    control: &Control,
    row: Domain,
    deployment: &Deployment,
) -> Result<Domain, Error> {
    let claim = proof::Claim {
        domain: &row.domain,
        token: &row.token,
        deployment_domain: &deployment.deployment_domain,
        addresses: &control.config.addresses,
        is_held: row.progress.status.is_held(),
    };
    let event = proof::look(&*control.dns, &claim).await;
    settle(control, row, event).await
}

/// Waits a moment for edges if the domain is held, and notes that they have it.
pub(crate) async fn serve(control: &Control, row: Domain) -> Result<Domain, Error> {
    if row.progress.status != Status::Verified {
        return Ok(row);
    }
    control.wakes.routes.notify_one();
    control.edges.wait_live(&Key::Route(row.domain.clone()), EDGE_WAIT).await;
    observe(control, row).await
}

/// Makes a proved domain active once every edge has its route and its certificate.
async fn observe(control: &Control, row: Domain) -> Result<Domain, Error> {
    let is_live = |key: &Key| matches!(control.edges.live(key), Ok(Some(_)));
    if row.progress.status != Status::Verified || !is_live(&Key::Route(row.domain.clone())) {
        return Ok(row);
    }
    let names = std::slice::from_ref(&row.domain);
    let mut db = control.store.conn().await?;
    let found = certificate_rows::find(&mut db, names).await?;
    drop(db);
    let Some(certificate) = found else { return Ok(row) };
    let (entry, _) = certificates::entry(&certificate);
    if !is_live(&Key::Certificate(entry.chain)) {
        return Ok(row);
    }
    let issued = Domain { tls_issued_at: Some(certificate.created_at), ..row };
    settle(control, issued, Event::Served).await
}

/// Writes what follows from an event; reads again where somebody else was faster.
pub(crate) async fn settle(
    control: &Control,
    mut row: Domain,
    mut event: Event,
) -> Result<Domain, Error> {
    for attempt in 1.. {
        let now = control.env.now();
        let next =
            Domain { progress: plan::plan(&row.progress, event.clone(), now), ..row.clone() };
        let is_new = next.progress.status.is_held() && !row.progress.status.is_held();
        match write(control, &next, is_new, now).await {
            Ok(()) => {
                if next.progress.status.is_held() != row.progress.status.is_held() {
                    control.wakes.routes.notify_one();
                }
                let generation = row.generation + 1;
                return Ok(Domain { generation, updated_at: now, ..next });
            }
            Err(Error::Taken { .. } | Error::Reserved { .. }) if event == Event::Proven => {
                event = Event::Taken(format!("`{}` is already used by {OTHER}", row.domain));
            }
            Err(Error::Store(miosa_store::Error::Stale { .. })) if attempt < ATTEMPTS => {
                let mut db = control.store.conn().await?;
                let found = rows::find(&mut db, row.tenant, &row.id.to_string()).await?;
                let missing = || Error::NotFound { key: row.domain.clone() };
                row = Domain { tls_issued_at: row.tls_issued_at, ..found.ok_or_else(missing)? };
                // Somebody looked at the same time and has written what the DNS said; this look may
                // be the older one, and the next check is not far.
                if matches!(event, Event::Missing(_) | Event::Unknown(_)) {
                    return Ok(row);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(row)
}

async fn write(
    control: &Control,
    next: &Domain,
    is_new: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let mut tx = control.store.begin().await?;
    if is_new {
        check_free(&mut tx, &control.config.domains, next.tenant, &next.domain).await?;
    }
    rows::update(&mut tx, next, now).await.map_err(|error| taken(error, OTHER))?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    Ok(())
}

fn taken(error: miosa_store::Error, by: &'static str) -> Error {
    match error {
        miosa_store::Error::Taken { name } => Error::Taken { domain: name, by },
        other => Error::Store(other),
    }
}

/// Checks that nobody holds a name, and that it is a tenant's to bring.
async fn check_free(
    db: &mut AnyConnection,
    config: &Domains,
    tenant: TenantId,
    domain: &str,
) -> Result<(), Error> {
    let tenants = tenants::list(db).await?;
    if let Some(why) = names::reserved(config, &tenants, tenant, domain) {
        return Err(Error::Reserved { why });
    }
    match rows::holder(db, domain).await? {
        Some(_) => Err(Error::Taken { domain: domain.to_owned(), by: OTHER }),
        None => Ok(()),
    }
}

/// Checks that two names of a tenant do not lead to each other.
async fn check_redirect(db: &mut AnyConnection, row: &Domain) -> Result<(), Error> {
    let Some(name) = redirect::counterpart(&row.domain) else { return Ok(()) };
    match rows::find(db, row.tenant, &name).await? {
        Some(other) if redirect::is_contradiction(row.redirect, other.redirect) => {
            Err(Error::Contradiction { other: other.domain })
        }
        _ => Ok(()),
    }
}
