//! Rows of `domains`: names that tenants bring for their deployments.
//!
//! Promises: from proof to loss one row holds a name, and the database refuses a second one; a
//! claim that nobody proved keeps nobody out.

use jiff::Timestamp;
use miosa_types::{DeploymentId, DomainId, TenantId};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, deployments::External, row};

const TABLE: &str = "domains";

/// Rows that a reconciler looks at in one step.
const STEP: i64 = 100;

/// Where a domain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing is proved yet.
    Pending,
    /// It is the tenant's and points here; edges are being told.
    Verified,
    /// Every edge serves it.
    Active,
    /// It was given up; the owner can have it checked again.
    Failed,
    /// Gone.
    Removed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Verified, Self::Active, Self::Failed, Self::Removed];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Verified => "verified",
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }

    /// Whether the name is routed, and nobody else can have it.
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Verified | Self::Active)
    }
}

/// Which of a name and the same name behind `www.` leads to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPolicy {
    /// Each answers for itself.
    #[default]
    None,
    /// `smile.example` leads to `www.smile.example`.
    ApexToWww,
    /// `www.smile.example` leads to `smile.example`.
    WwwToApex,
}

impl RedirectPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::ApexToWww, Self::WwwToApex];

    /// As stored and shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ApexToWww => "apex_to_www",
            Self::WwwToApex => "www_to_apex",
        }
    }

    /// The policy of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

/// What checks found so far, and when the next one is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub status: Status,
    /// Why the newest check did not find what it looked for.
    pub failure: Option<String>,
    /// Checks in a row without proof.
    pub checks: u32,
    /// Since when proof is waited for.
    pub waiting_since: Timestamp,
    /// Since when a held name has been found to be someone else's.
    pub doubt_since: Option<Timestamp>,
    /// `None`: it is not checked by itself.
    pub next_check_at: Option<Timestamp>,
    /// When it was proved last.
    pub verified_at: Option<Timestamp>,
}

/// One domain of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What answers it.
    pub deployment: DeploymentId,
    /// The name, in lower case.
    pub domain: String,
    /// What a text record has to say.
    pub token: String,
    /// Set by the operator: nothing has to be proved.
    pub is_trusted: bool,
    /// Takes effect once the tenant holds both names.
    pub redirect: RedirectPolicy,
    /// The tenant's own ids.
    pub external: External,
    /// See there.
    pub progress: Progress,
    /// When the certificate that edges serve was made.
    pub tls_issued_at: Option<Timestamp>,
    /// Raised with each change.
    pub generation: i64,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

const INSERT: &str = "
    insert into domains (id, tenant_id, deployment_id, domain, holder, token, is_trusted,
        external_workspace_id, external_project_id, external_user_id, status, failure, checks,
        waiting_since_ms, next_check_at_ms, verified_at_ms, generation, created_at_ms,
        updated_at_ms, redirect_policy)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18,
        $19)";

/// Adds a domain. `Taken` if the tenant has it already, or if it is held and so is this one.
pub async fn insert(db: &mut AnyConnection, new: &Domain) -> Result<(), Error> {
    let progress = &new.progress;
    sqlx::query(INSERT)
        .bind(new.id.to_string())
        .bind(new.tenant.to_string())
        .bind(new.deployment.to_string())
        .bind(&new.domain)
        .bind(progress.status.is_held().then_some(new.domain.as_str()))
        .bind(&new.token)
        .bind(i64::from(new.is_trusted))
        .bind(new.external.workspace.as_deref())
        .bind(new.external.project.as_deref())
        .bind(new.external.user.as_deref())
        .bind(progress.status.as_str())
        .bind(progress.failure.as_deref())
        .bind(i64::from(progress.checks))
        .bind(progress.waiting_since.as_millisecond())
        .bind(progress.next_check_at.map(Timestamp::as_millisecond))
        .bind(progress.verified_at.map(Timestamp::as_millisecond))
        .bind(new.generation)
        .bind(new.created_at.as_millisecond())
        .bind(new.redirect.as_str())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, &new.domain))?;
    Ok(())
}

const UPDATE: &str = "
    update domains set status = $3, holder = $4, failure = $5, checks = $6, waiting_since_ms = $7,
        doubt_since_ms = $8, next_check_at_ms = $9, verified_at_ms = $10, tls_issued_at_ms = $11,
        deployment_id = $12, updated_at_ms = $13, redirect_policy = $14,
        generation = generation + 1,
        removed_at_ms = case when $3 = 'removed' then $13 else null end
    where id = $1 and generation = $2 and removed_at_ms is null";

/// Writes progress, deployment and policy if nobody changed the row since it was read; `Stale` otherwise.
/// `Taken` if the name is to be held and another row holds it.
pub async fn update(db: &mut AnyConnection, new: &Domain, now: Timestamp) -> Result<(), Error> {
    let progress = &new.progress;
    let done = sqlx::query(UPDATE)
        .bind(new.id.to_string())
        .bind(new.generation)
        .bind(progress.status.as_str())
        .bind(progress.status.is_held().then_some(new.domain.as_str()))
        .bind(progress.failure.as_deref())
        .bind(i64::from(progress.checks))
        .bind(progress.waiting_since.as_millisecond())
        .bind(progress.doubt_since.map(Timestamp::as_millisecond))
        .bind(progress.next_check_at.map(Timestamp::as_millisecond))
        .bind(progress.verified_at.map(Timestamp::as_millisecond))
        .bind(new.tls_issued_at.map(Timestamp::as_millisecond))
        .bind(new.deployment.to_string())
        .bind(now.as_millisecond())
        .bind(new.redirect.as_str())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, &new.domain))?;
    if done.rows_affected() == 0 {
        return Err(Error::Stale { what: format!("{:?}", new.id) });
    }
    Ok(())
}

const FIND: &str = "
    select * from domains
    where tenant_id = $1 and (id = $2 or domain = $2) and removed_at_ms is null
    limit 1";

/// A tenant's domain by id or name.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    key: &str,
) -> Result<Option<Domain>, Error> {
    let row = sqlx::query(FIND).bind(tenant.to_string()).bind(key).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

const LIST: &str = "
    select * from domains
    where tenant_id = $1 and ($2 = '' or deployment_id = $2) and removed_at_ms is null
    order by id limit 1000";

/// A tenant's domains, of one deployment if it is named, oldest first, at most 1,000.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    deployment: Option<DeploymentId>,
) -> Result<Vec<Domain>, Error> {
    let rows = sqlx::query(LIST)
        .bind(tenant.to_string())
        .bind(deployment.map(|id| id.to_string()).unwrap_or_default())
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// What the tenant's text record for a name had to say in any earlier claim.
pub async fn token(
    db: &mut AnyConnection,
    tenant: TenantId,
    domain: &str,
) -> Result<Option<String>, Error> {
    const TOKEN: &str =
        "select token from domains where tenant_id = $1 and domain = $2 order by id limit 1";
    let row = sqlx::query(TOKEN).bind(tenant.to_string()).bind(domain).fetch_optional(db).await?;
    Ok(row.map(|row| row.try_get("token")).transpose()?)
}

/// Who holds a name, whichever tenant: for the rules, never for a caller.
pub async fn holder(db: &mut AnyConnection, domain: &str) -> Result<Option<Domain>, Error> {
    let row = sqlx::query("select * from domains where holder = $1")
        .bind(domain)
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Whether another tenant holds a name at or below `domain`.
pub async fn is_held_below(
    db: &mut AnyConnection,
    tenant: TenantId,
    domain: &str,
) -> Result<bool, Error> {
    // A name has neither of the two characters that mean something to `like`.
    const BELOW: &str = "
        select id from domains
        where tenant_id <> $1 and (holder = $2 or holder like '%.' || $2) limit 1";
    let row = sqlx::query(BELOW).bind(tenant.to_string()).bind(domain).fetch_optional(db).await?;
    Ok(row.is_some())
}

/// Held names of all tenants, at most 100,000: for routes, never for a caller.
pub async fn held(db: &mut AnyConnection) -> Result<Vec<Domain>, Error> {
    const HELD: &str = "select * from domains where holder is not null order by id limit 100000";
    let rows = sqlx::query(HELD).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Domains of all tenants whose check is due, the longest waiting first, at most 100.
pub async fn due(db: &mut AnyConnection, now: Timestamp) -> Result<Vec<Domain>, Error> {
    const DUE: &str = "
        select * from domains where next_check_at_ms <= $1 and removed_at_ms is null
        order by next_check_at_ms, id limit $2";
    let rows = sqlx::query(DUE).bind(now.as_millisecond()).bind(STEP).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Domains of all tenants that were proved and are not known to be served, at most 100.
pub async fn unserved(db: &mut AnyConnection) -> Result<Vec<Domain>, Error> {
    const UNSERVED: &str = "select * from domains where status = 'verified' order by id limit $1";
    let rows = sqlx::query(UNSERVED).bind(STEP).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Domains of all tenants whose deployment was deleted, at most 100.
pub async fn orphans(db: &mut AnyConnection) -> Result<Vec<Domain>, Error> {
    const ORPHANS: &str = "
        select d.* from domains d join deployments p on p.id = d.deployment_id
        where d.removed_at_ms is null and p.deleted_at_ms is not null
        order by d.id limit $1";
    let rows = sqlx::query(ORPHANS).bind(STEP).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

fn read(row: &AnyRow) -> Result<Domain, Error> {
    let time = |column: &str| -> Result<Option<Timestamp>, Error> {
        row::maybe_time(TABLE, row.try_get(column)?)
    };
    let status: String = row.try_get("status")?;
    let known = Status::ALL.into_iter().find(|one| one.as_str() == status);
    let unknown = || row::corrupt(TABLE, &format_args!("`{status}` is no status"));
    let policy: String = row.try_get("redirect_policy")?;
    let redirect = RedirectPolicy::parse(&policy)
        .ok_or_else(|| row::corrupt(TABLE, &format_args!("`{policy}` is no policy")))?;
    Ok(Domain {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        deployment: row::id(TABLE, row.try_get("deployment_id")?)?,
        domain: row.try_get("domain")?,
        token: row.try_get("token")?,
        is_trusted: row.try_get::<i64, _>("is_trusted")? != 0,
        redirect,
        external: External {
            workspace: row.try_get("external_workspace_id")?,
            project: row.try_get("external_project_id")?,
            user: row.try_get("external_user_id")?,
        },
        progress: Progress {
            status: known.ok_or_else(unknown)?,
            failure: row.try_get("failure")?,
            checks: row::number(TABLE, row.try_get("checks")?)?,
            waiting_since: row::time(TABLE, row.try_get("waiting_since_ms")?)?,
            doubt_since: time("doubt_since_ms")?,
            next_check_at: time("next_check_at_ms")?,
            verified_at: time("verified_at_ms")?,
        },
        tls_issued_at: time("tls_issued_at_ms")?,
        generation: row.try_get("generation")?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
    })
}
