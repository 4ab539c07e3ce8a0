//! Rows of `versions`: immutable artifact and run configuration, and the state of the build.

use jiff::Timestamp;
use miosa_types::{
    DeploymentId, Digest, SandboxId, Size, TenantId, VersionId, WorkloadId,
    deployment::{VersionKind, VersionState},
};
use serde_json::Value;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, Window, row};

const TABLE: &str = "versions";

/// One version. The build log is not part of it: see [`build_log`].
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it is a version of.
    pub deployment: DeploymentId,
    /// Counts from 1 within the deployment.
    pub number: u32,
    /// Static or dynamic; `None` until that is known.
    pub kind: Option<VersionKind>,
    /// Where it is in its life.
    pub state: VersionState,
    /// The sandbox that its source came from; it may be gone.
    pub source_sandbox: Option<SandboxId>,
    /// Blob of the source, a tar of the workspace.
    pub source: Option<Digest>,
    /// What the caller asked of this publish.
    pub request: Value,
    /// What the build made, once it is ready.
    pub artifact: Option<Artifact>,
    /// How to run it; `None` for static.
    pub run: Option<Value>,
    /// What its replicas and its build start from.
    pub template: String,
    /// Limits of each replica.
    pub size: Size,
    /// Workload of its replicas.
    pub workload: WorkloadId,
    /// Revision with which that workload starts next.
    pub revision: u64,
    /// Whether it becomes the active version when it is ready.
    pub is_promoted_when_ready: bool,
    /// Why it failed.
    pub failure: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
    /// When its artifact was complete.
    pub ready_at: Option<Timestamp>,
    /// When it was last made the active version.
    pub promoted_at: Option<Timestamp>,
    /// When every edge first served it.
    pub served_at: Option<Timestamp>,
    /// When its artifact was deleted.
    pub archived_at: Option<Timestamp>,
}

/// The output of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Manifest of a site, or layer of an app.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
}

const INSERT: &str = "
    insert into versions (id, tenant_id, deployment_id, number, kind, state, source_sandbox_id,
        source_digest, request, template, size, workload_id, revision, is_promoted_when_ready,
        created_at_ms, updated_at_ms)
    values ($1, $2, $3, $4, $5, 'building', $6, $7, $8, $9, $10, $11, 1, $12, $13, $13)";

/// Adds a version that is to be built. `Taken` if its number is in use: someone else published
/// at the same time, so take the next.
pub async fn insert(db: &mut AnyConnection, new: &Version) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(new.id.to_string())
        .bind(new.tenant.to_string())
        .bind(new.deployment.to_string())
        .bind(i64::from(new.number))
        .bind(new.kind.map(VersionKind::as_str))
        .bind(new.source_sandbox.map(|id| id.to_string()))
        .bind(new.source.map(|digest| digest.to_string()))
        .bind(new.request.to_string())
        .bind(&new.template)
        .bind(row::to_json(&new.size))
        .bind(new.workload.to_string())
        .bind(i64::from(new.is_promoted_when_ready))
        .bind(new.created_at.as_millisecond())
        .execute(db)
        .await
        .map_err(|error| row::taken(error, &format!("version {}", new.number)))?;
    Ok(())
}

/// The number for the next version of a deployment.
pub async fn next_number(db: &mut AnyConnection, id: DeploymentId) -> Result<u32, Error> {
    const NEXT: &str = "select coalesce(max(number), 0) + 1 from versions where deployment_id = $1";
    let next: i64 = sqlx::query_scalar(NEXT).bind(id.to_string()).fetch_one(db).await?;
    row::number(TABLE, next)
}

/// A tenant's version.
pub async fn find(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: VersionId,
) -> Result<Option<Version>, Error> {
    let row = sqlx::query("select * from versions where tenant_id = $1 and id = $2")
        .bind(tenant.to_string())
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Versions of a deployment, newest first; in one state, or only those that have an artifact, if
/// asked for.
pub fn of_deployment(
    tenant: TenantId,
    deployment: DeploymentId,
    state: Option<VersionState>,
    is_built: bool,
) -> List<Version> {
    const ROWS: &str = "
        from versions
        where tenant_id = $1 and deployment_id = $2 and ($3 = '' or state = $3)
            and ($4 = '' or artifact_digest is not null)";
    List::of(tenant, ROWS, read, |version| version.number.to_string())
        .by_number("number")
        .newest_first()
        .bind(Some(deployment.to_string()))
        .bind(Some(state.map(|state| state.as_str().to_owned()).unwrap_or_default()))
        .bind(Some(if is_built { "built" } else { "" }.to_owned()))
}

/// The newest versions of a deployment that are older than number `before`.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    deployment: DeploymentId,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Version>, Error> {
    let after = before.map(|number| number.to_string());
    let window = Window { after, ..Window::first(limit) };
    of_deployment(tenant, deployment, None, false).window(db, &window).await
}

/// Versions of all tenants in one state after `after`, oldest first, at most 1,000.
pub async fn page(
    db: &mut AnyConnection,
    state: VersionState,
    after: Option<VersionId>,
) -> Result<Vec<Version>, Error> {
    const PAGE: &str = "select * from versions where state = $1 and id > $2 order by id limit 1000";
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let rows = sqlx::query(PAGE).bind(state.as_str()).bind(after).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// All versions that are in `state`.
pub async fn all(db: &mut AnyConnection, state: VersionState) -> Result<Vec<Version>, Error> {
    let mut all: Vec<Version> = Vec::new();
    loop {
        let next = page(db, state, all.last().map(|last| last.id)).await?;
        let is_last = next.len() < 1000;
        all.extend(next);
        if is_last {
            return Ok(all);
        }
    }
}

/// The newest ready version that once was active and is older than `number`.
pub async fn previous_ready(
    db: &mut AnyConnection,
    tenant: TenantId,
    deployment: DeploymentId,
    number: u32,
) -> Result<Option<Version>, Error> {
    const FIND: &str = "
        select * from versions
        where tenant_id = $1 and deployment_id = $2 and number < $3 and state = 'ready'
        order by number desc limit 1";
    let row = sqlx::query(FIND)
        .bind(tenant.to_string())
        .bind(deployment.to_string())
        .bind(i64::from(number))
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// What a build made.
#[derive(Clone, Debug)]
pub struct Built {
    /// Static or dynamic.
    pub kind: VersionKind,
    /// The artifact.
    pub artifact: Artifact,
    /// How to run it; `None` for static.
    pub run: Option<Value>,
}

/// `building` becomes `ready`. `Stale` if it is not `building` any more.
pub async fn set_ready(
    db: &mut AnyConnection,
    id: VersionId,
    built: &Built,
    now: Timestamp,
) -> Result<(), Error> {
    const READY: &str = "
        update versions set state = 'ready', kind = $2, artifact_digest = $3,
            artifact_bytes = $4, artifact_files = $5, run = $6, ready_at_ms = $7,
            updated_at_ms = $7, failure = null
        where id = $1 and state = 'building'";
    let size = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let done = sqlx::query(READY)
        .bind(id.to_string())
        .bind(built.kind.as_str())
        .bind(built.artifact.digest.to_string())
        .bind(size(built.artifact.bytes))
        .bind(size(built.artifact.files))
        .bind(built.run.as_ref().map(ToString::to_string))
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    changed(done.rows_affected(), id)
}

/// A version that could not be built, or that never served, becomes `failed`. `Stale` if it is
/// in a final state already.
pub async fn set_failed(
    db: &mut AnyConnection,
    id: VersionId,
    why: &str,
    now: Timestamp,
) -> Result<(), Error> {
    const FAILED: &str = "
        update versions set state = 'failed', failure = $2, updated_at_ms = $3
        where id = $1 and state in ('building', 'ready')";
    changed(tell(db, FAILED, id.to_string(), (why, now)).await?, id)
}

/// A version whose build was ended becomes `failed`. `Stale` if it is not being built any more.
pub async fn set_cancelled(
    db: &mut AnyConnection,
    id: VersionId,
    why: &str,
    now: Timestamp,
) -> Result<(), Error> {
    const CANCELLED: &str = "
        update versions set state = 'failed', failure = $2, updated_at_ms = $3
        where id = $1 and state = 'building'";
    changed(tell(db, CANCELLED, id.to_string(), (why, now)).await?, id)
}

/// The same of all versions of a deployment that are being built, if there are any.
pub async fn cancel_all(
    db: &mut AnyConnection,
    deployment: DeploymentId,
    why: &str,
    now: Timestamp,
) -> Result<(), Error> {
    const CANCELLED: &str = "
        update versions set state = 'failed', failure = $2, updated_at_ms = $3
        where deployment_id = $1 and state = 'building'";
    tell(db, CANCELLED, deployment.to_string(), (why, now)).await.map(drop)
}

/// Notes why a version is still `building`; no effect on one that is not.
pub async fn note_interruption(
    db: &mut AnyConnection,
    id: VersionId,
    why: &str,
    now: Timestamp,
) -> Result<(), Error> {
    const NOTE: &str = "
        update versions set failure = $2, updated_at_ms = $3
        where id = $1 and state = 'building'";
    tell(db, NOTE, id.to_string(), (why, now)).await.map(drop)
}

/// Runs a statement that says why, and when. Returns how many rows it changed.
async fn tell(
    db: &mut AnyConnection,
    sql: &'static str,
    of: String,
    (why, now): (&str, Timestamp),
) -> Result<u64, Error> {
    let said = sqlx::query(sql).bind(of).bind(row::said(why)).bind(now.as_millisecond());
    Ok(said.execute(db).await?.rows_affected())
}

/// Notes that it was made the active version.
pub async fn set_promoted(
    db: &mut AnyConnection,
    id: VersionId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("update versions set promoted_at_ms = $2, updated_at_ms = $2 where id = $1")
        .bind(id.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

/// Notes that every edge serves it, if that is new.
pub async fn set_served(
    db: &mut AnyConnection,
    id: VersionId,
    now: Timestamp,
) -> Result<(), Error> {
    const SERVED: &str =
        "update versions set served_at_ms = $2 where id = $1 and served_at_ms is null";
    sqlx::query(SERVED).bind(id.to_string()).bind(now.as_millisecond()).execute(db).await?;
    Ok(())
}

/// Raises the revision to one above `used`, if it is not above already.
pub async fn raise_revision(db: &mut AnyConnection, id: VersionId, used: u64) -> Result<(), Error> {
    let next = i64::try_from(used).unwrap_or(i64::MAX - 1) + 1;
    sqlx::query("update versions set revision = $2 where id = $1 and revision < $2")
        .bind(id.to_string())
        .bind(next)
        .execute(db)
        .await?;
    Ok(())
}

/// Keeps the log of a build.
pub async fn set_build_log(db: &mut AnyConnection, id: VersionId, log: &str) -> Result<(), Error> {
    sqlx::query("update versions set build_log = $2 where id = $1")
        .bind(id.to_string())
        .bind(row::said(log))
        .execute(db)
        .await?;
    Ok(())
}

/// The log of a version's build, as far as it is kept.
pub async fn build_log(
    db: &mut AnyConnection,
    tenant: TenantId,
    id: VersionId,
) -> Result<Option<String>, Error> {
    let log: Option<Option<String>> =
        sqlx::query_scalar("select build_log from versions where tenant_id = $1 and id = $2")
            .bind(tenant.to_string())
            .bind(id.to_string())
            .fetch_optional(db)
            .await?;
    Ok(log.flatten())
}

/// Deployments of a tenant that have a version which is being built, at most 10,000.
pub async fn building(
    db: &mut AnyConnection,
    tenant: TenantId,
) -> Result<Vec<DeploymentId>, Error> {
    const BUILDING: &str = "
        select distinct deployment_id from versions where tenant_id = $1 and state = 'building'
        limit 10000";
    let ids: Vec<String> =
        sqlx::query_scalar(BUILDING).bind(tenant.to_string()).fetch_all(db).await?;
    ids.iter().map(|id| row::id(TABLE, id)).collect()
}

fn changed(rows: u64, id: VersionId) -> Result<(), Error> {
    if rows == 0 { Err(Error::Stale { what: format!("{id:?}") }) } else { Ok(()) }
}

fn read(row: &AnyRow) -> Result<Version, Error> {
    let text = |column: &str| row.try_get::<Option<String>, _>(column);
    let number = |column: &str| row.try_get::<Option<i64>, _>(column);
    let time = |column: &str| row::maybe_time(TABLE, row.try_get(column)?);
    let digest = |text: String| text.parse::<Digest>().map_err(|e| row::corrupt(TABLE, &e));
    let json = |text: String| row::json::<Value>(TABLE, &text);
    let kind = text("kind")?
        .map(|word| VersionKind::parse(&word).ok_or_else(|| row::corrupt(TABLE, &word)))
        .transpose()?;
    let state: String = row.try_get("state")?;
    let artifact = match text("artifact_digest")?.map(digest).transpose()? {
        None => None,
        Some(digest) => Some(Artifact {
            digest,
            bytes: row::number(TABLE, number("artifact_bytes")?.unwrap_or(0))?,
            files: row::number(TABLE, number("artifact_files")?.unwrap_or(0))?,
        }),
    };
    Ok(Version {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        deployment: row::id(TABLE, row.try_get("deployment_id")?)?,
        number: row::number(TABLE, row.try_get("number")?)?,
        kind,
        state: VersionState::parse(&state).ok_or_else(|| row::corrupt(TABLE, &state))?,
        source_sandbox: text("source_sandbox_id")?.map(|t| row::id(TABLE, &t)).transpose()?,
        source: text("source_digest")?.map(digest).transpose()?,
        request: json(row.try_get("request")?)?,
        artifact,
        run: text("run")?.map(json).transpose()?,
        template: row.try_get("template")?,
        size: row::json(TABLE, &text("size")?.unwrap_or_default())?,
        workload: row::id(TABLE, row.try_get("workload_id")?)?,
        revision: row::number(TABLE, row.try_get("revision")?)?,
        is_promoted_when_ready: row.try_get::<i64, _>("is_promoted_when_ready")? != 0,
        failure: text("failure")?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
        updated_at: row::time(TABLE, row.try_get("updated_at_ms")?)?,
        ready_at: time("ready_at_ms")?,
        promoted_at: time("promoted_at_ms")?,
        served_at: time("served_at_ms")?,
        archived_at: time("archived_at_ms")?,
    })
}
