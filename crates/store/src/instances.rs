//! Rows of `instances`: what was observed of each runtime instance, kept after it ended.

use jiff::Timestamp;
use miosa_types::{DeploymentId, InstanceId, TenantId, VersionId, deployment::InstanceState};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, List, row};

const TABLE: &str = "instances";

/// One runtime instance as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What it serves.
    pub deployment: DeploymentId,
    /// Which version of that.
    pub version: VersionId,
    /// What it did when it was last seen.
    pub state: InstanceState,
    /// Its address.
    pub ip: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Restarts of its workload until then.
    pub restarts: u32,
    /// Why it ended or is stuck.
    pub error: Option<String>,
    /// When it began to start.
    pub started_at: Timestamp,
    /// When it became ready.
    pub ready_at: Option<Timestamp>,
    /// When it was last seen.
    pub last_seen_at: Timestamp,
    /// When it was first not seen any more.
    pub ended_at: Option<Timestamp>,
}

const OBSERVE: &str = "
    insert into instances (id, tenant_id, deployment_id, version_id, state, ip, port, restarts,
        error_message, started_at_ms, ready_at_ms, last_seen_at_ms, ended_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
    on conflict (id) do update set state = excluded.state, ip = excluded.ip,
        port = excluded.port, restarts = excluded.restarts,
        error_message = coalesce(excluded.error_message, instances.error_message),
        ready_at_ms = coalesce(excluded.ready_at_ms, instances.ready_at_ms),
        last_seen_at_ms = excluded.last_seen_at_ms, ended_at_ms = excluded.ended_at_ms";

/// Writes what was seen.
pub async fn observe(db: &mut AnyConnection, seen: &Instance) -> Result<(), Error> {
    sqlx::query(OBSERVE)
        .bind(seen.id.to_string())
        .bind(seen.tenant.to_string())
        .bind(seen.deployment.to_string())
        .bind(seen.version.to_string())
        .bind(seen.state.as_str())
        .bind(seen.ip.as_deref())
        .bind(seen.port.map(i64::from))
        .bind(i64::from(seen.restarts))
        .bind(seen.error.as_deref().map(row::said))
        .bind(seen.started_at.as_millisecond())
        .bind(seen.ready_at.map(Timestamp::as_millisecond))
        .bind(seen.last_seen_at.as_millisecond())
        .bind(seen.ended_at.map(Timestamp::as_millisecond))
        .execute(db)
        .await?;
    Ok(())
}

/// Instances of a deployment, newest first, ended ones included.
pub fn of_deployment(tenant: TenantId, deployment: DeploymentId) -> List<Instance> {
    const ROWS: &str = "from instances where tenant_id = $1 and deployment_id = $2";
    List::of(tenant, ROWS, read, |instance| instance.id.to_string())
        .newest_first()
        .bind(Some(deployment.to_string()))
}

/// Instances of a tenant's deployment, newest first, at most `limit`.
pub async fn list(
    db: &mut AnyConnection,
    tenant: TenantId,
    deployment: DeploymentId,
    limit: u32,
) -> Result<Vec<Instance>, Error> {
    const LIST: &str = "
        select * from instances where tenant_id = $1 and deployment_id = $2
        order by started_at_ms desc, id desc limit $3";
    let rows = sqlx::query(LIST)
        .bind(tenant.to_string())
        .bind(deployment.to_string())
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Instances of all tenants that had not ended when they were last seen, at most 100,000.
pub async fn alive(db: &mut AnyConnection) -> Result<Vec<Instance>, Error> {
    const ALIVE: &str = "
        select * from instances where ended_at_ms is null order by id limit 100000";
    let rows = sqlx::query(ALIVE).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// Adds to what was observed of an instance why it is stuck.
pub async fn set_error(db: &mut AnyConnection, id: InstanceId, error: &str) -> Result<(), Error> {
    sqlx::query("update instances set error_message = $2 where id = $1")
        .bind(id.to_string())
        .bind(row::said(error))
        .execute(db)
        .await?;
    Ok(())
}

/// Like [`set_error`], unless something is said of it already.
pub async fn add_error(db: &mut AnyConnection, id: InstanceId, error: &str) -> Result<(), Error> {
    const ADD: &str =
        "update instances set error_message = $2 where id = $1 and error_message is null";
    sqlx::query(ADD).bind(id.to_string()).bind(row::said(error)).execute(db).await?;
    Ok(())
}

/// What is said of an instance.
pub async fn error_of(db: &mut AnyConnection, id: InstanceId) -> Result<Option<String>, Error> {
    const ERROR: &str = "select error_message from instances where id = $1";
    let found: Option<Option<String>> =
        sqlx::query_scalar(ERROR).bind(id.to_string()).fetch_optional(db).await?;
    Ok(found.flatten())
}

/// Notes that the instances of a version are told to end.
pub async fn set_stopping(db: &mut AnyConnection, version: VersionId) -> Result<(), Error> {
    const STOPPING: &str =
        "update instances set state = 'stopped' where version_id = $1 and ended_at_ms is null";
    sqlx::query(STOPPING).bind(version.to_string()).execute(db).await?;
    Ok(())
}

/// Why the newest instance of a version that failed did so.
pub async fn last_error(
    db: &mut AnyConnection,
    version: VersionId,
) -> Result<Option<String>, Error> {
    const LAST: &str = "
        select error_message from instances
        where version_id = $1 and error_message is not null
        order by started_at_ms desc, id desc limit 1";
    Ok(sqlx::query_scalar(LAST).bind(version.to_string()).fetch_optional(db).await?)
}

/// Why the newest instance of a version that ended, or was told to, without ever having been
/// ready did so; of those that began since `since`.
pub async fn last_late(
    db: &mut AnyConnection,
    version: VersionId,
    since: Timestamp,
) -> Result<Option<String>, Error> {
    const LAST: &str = "
        select error_message from instances
        where version_id = $1 and started_at_ms >= $2 and ready_at_ms is null
            and error_message is not null
        order by started_at_ms desc, id desc limit 1";
    let found = sqlx::query_scalar(LAST)
        .bind(version.to_string())
        .bind(since.as_millisecond())
        .fetch_optional(db)
        .await?;
    Ok(found)
}

/// How many instances of a version that began since `since` ended without ever having been
/// ready, after they were given at least `given_ms` milliseconds.
pub async fn late_starts(
    db: &mut AnyConnection,
    version: VersionId,
    since: Timestamp,
    given_ms: i64,
) -> Result<u32, Error> {
    const COUNT: &str = "
        select count(*) from instances
        where version_id = $1 and ready_at_ms is null and ended_at_ms is not null
            and started_at_ms >= $2 and ended_at_ms - started_at_ms >= $3";
    let count: i64 = sqlx::query_scalar(COUNT)
        .bind(version.to_string())
        .bind(since.as_millisecond())
        .bind(given_ms)
        .fetch_one(db)
        .await?;
    row::number(TABLE, count)
}

/// Keeps the newest `keep` ended instances of a deployment and removes the others.
pub async fn prune(
    db: &mut AnyConnection,
    deployment: DeploymentId,
    keep: u32,
) -> Result<(), Error> {
    const PRUNE: &str = "
        delete from instances
        where deployment_id = $1 and ended_at_ms is not null and id not in (
            select id from instances where deployment_id = $1 and ended_at_ms is not null
            order by ended_at_ms desc, id desc limit $2)";
    sqlx::query(PRUNE).bind(deployment.to_string()).bind(i64::from(keep)).execute(db).await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Instance, Error> {
    let state: String = row.try_get("state")?;
    let port: Option<i64> = row.try_get("port")?;
    Ok(Instance {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        deployment: row::id(TABLE, row.try_get("deployment_id")?)?,
        version: row::id(TABLE, row.try_get("version_id")?)?,
        state: InstanceState::parse(&state).ok_or_else(|| row::corrupt(TABLE, &state))?,
        ip: row.try_get("ip")?,
        port: port.map(|port| row::number(TABLE, port)).transpose()?,
        restarts: row::number(TABLE, row.try_get("restarts")?)?,
        error: row.try_get("error_message")?,
        started_at: row::time(TABLE, row.try_get("started_at_ms")?)?,
        ready_at: row::maybe_time(TABLE, row.try_get("ready_at_ms")?)?,
        last_seen_at: row::time(TABLE, row.try_get("last_seen_at_ms")?)?,
        ended_at: row::maybe_time(TABLE, row.try_get("ended_at_ms")?)?,
    })
}
