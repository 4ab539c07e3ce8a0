//! Rows of `pool_slots`: warm sandboxes that nobody has yet, and who took them.
//!
//! Promises: a slot is taken once ([`take`] is a compare-and-set); nothing here ever gives a
//! taken slot back.

use jiff::Timestamp;
use miosa_types::{Digest, SandboxId, Size, WorkloadId};
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, row, sandboxes};

const TABLE: &str = "pool_slots";

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its workload; revision 1.
    pub workload: WorkloadId,
    /// Name of its template.
    pub template: String,
    /// What that name meant when it was started.
    pub template_digest: Digest,
    /// Its limits.
    pub size: Size,
    /// Who took it.
    pub sandbox: Option<SandboxId>,
    /// When it was asked for.
    pub created_at: Timestamp,
}

const INSERT: &str = "
    insert into pool_slots (workload_id, template, template_digest, memory_mib, cpu_millis,
        disk_mib, created_at_ms)
    values ($1, $2, $3, $4, $5, $6, $7)";

/// Adds a slot that nobody has.
pub async fn insert(db: &mut AnyConnection, slot: &Slot) -> Result<(), Error> {
    sqlx::query(INSERT)
        .bind(slot.workload.to_string())
        .bind(slot.template.clone())
        .bind(slot.template_digest.to_string())
        .bind(i64::from(slot.size.memory_mib))
        .bind(i64::from(slot.size.cpu_millis))
        .bind(i64::from(slot.size.disk_mib))
        .bind(slot.created_at.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

const FREE: &str = "
    select * from pool_slots where sandbox_id is null order by workload_id limit $1";

/// Slots that nobody has, oldest first, at most `limit`.
pub async fn free(db: &mut AnyConnection, limit: u32) -> Result<Vec<Slot>, Error> {
    let rows = sqlx::query(FREE).bind(i64::from(limit)).fetch_all(db).await?;
    rows.iter().map(read).collect()
}

const TAKE: &str = "
    update pool_slots set sandbox_id = $2, claimed_at_ms = $3
    where workload_id = $1 and sandbox_id is null";

/// Gives the slot to `sandbox`; false if another has it or it is gone.
pub async fn take(
    db: &mut AnyConnection,
    workload: WorkloadId,
    sandbox: SandboxId,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(TAKE)
        .bind(workload.to_string())
        .bind(sandbox.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

const RETIRE: &str = "delete from pool_slots where workload_id = $1 and sandbox_id is null";

/// Removes a slot that nobody has; false if somebody took it meanwhile.
pub async fn retire(db: &mut AnyConnection, workload: WorkloadId) -> Result<bool, Error> {
    let done = sqlx::query(RETIRE).bind(workload.to_string()).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

const FORGET: &str = "delete from pool_slots where workload_id = $1 and sandbox_id is not null";

/// Removes the row of a taken slot of which nothing is left.
pub async fn forget(db: &mut AnyConnection, workload: WorkloadId) -> Result<(), Error> {
    sqlx::query(FORGET).bind(workload.to_string()).execute(db).await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Slot, Error> {
    let sandbox: Option<String> = row.try_get("sandbox_id")?;
    Ok(Slot {
        workload: row::id(TABLE, row.try_get("workload_id")?)?,
        template: row.try_get("template")?,
        template_digest: sandboxes::digest(TABLE, row.try_get("template_digest")?)?,
        size: sandboxes::size(TABLE, row)?,
        sandbox: sandbox.map(|id| row::id(TABLE, &id)).transpose()?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
    })
}
