//! Rows of `events`: what happened to a tenant's objects, for its owner.
//!
//! Promises: ids of a tenant's events rise in the order in which they were committed, so that
//! whoever asks for what came after an id misses nothing.

use jiff::Timestamp;
use miosa_types::{EventId, TenantId};
use serde_json::Value;
use sqlx::{AnyConnection, Row as _, any::AnyRow};
use uuid::Uuid;

use crate::{Error, row};

const TABLE: &str = "events";
/// Most rows of one answer.
const MOST: u32 = 1000;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `UUIDv7`, so that ids sort by time.
    pub id: EventId,
    /// Whose it is.
    pub tenant: TenantId,
    /// As `runtime.replaced`.
    pub kind: String,
    /// Id of the object.
    pub subject: String,
    /// What else there is to know.
    pub data: Value,
    /// When it happened.
    pub at: Timestamp,
}

/// Adds an event, in the transaction of what it tells about. Its id is raised above the newest of
/// its tenant: two of one millisecond are random in their lower bits. Returns the id.
pub async fn insert(db: &mut AnyConnection, event: &Event) -> Result<EventId, Error> {
    let id = match newest(db, event.tenant).await? {
        Some(newest) if newest >= event.id => {
            EventId::from_uuid(Uuid::from_u128(newest.uuid().as_u128().saturating_add(1)))
        }
        _ => event.id,
    };
    sqlx::query(
        "insert into events (id, tenant_id, kind, subject_id, data, created_at_ms)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id.to_string())
    .bind(event.tenant.to_string())
    .bind(&event.kind)
    .bind(&event.subject)
    .bind(row::to_json(&event.data))
    .bind(event.at.as_millisecond())
    .execute(db)
    .await?;
    Ok(id)
}

/// Id of the newest event of a tenant.
pub async fn newest(db: &mut AnyConnection, tenant: TenantId) -> Result<Option<EventId>, Error> {
    const NEWEST: &str = "select id from events where tenant_id = $1 order by id desc limit 1";
    let id: Option<String> =
        sqlx::query_scalar(NEWEST).bind(tenant.to_string()).fetch_optional(db).await?;
    id.map(|id| row::id(TABLE, &id)).transpose()
}

/// The events of a tenant after the one with id `after` (`None`: from the first kept), oldest
/// first, at most `limit`.
pub async fn list_after(
    db: &mut AnyConnection,
    tenant: TenantId,
    after: Option<EventId>,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    const AFTER: &str = "
        select * from events where tenant_id = $1 and id > $2 order by id limit $3";
    let rows = sqlx::query(AFTER)
        .bind(tenant.to_string())
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit.min(MOST)))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// The newest events of one object, newest first, at most `limit`.
pub async fn of_subject(
    db: &mut AnyConnection,
    tenant: TenantId,
    subject: &str,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    const NEWEST: &str = "
        select * from events where subject_id = $1 and tenant_id = $2 order by id desc limit $3";
    let rows = sqlx::query(NEWEST)
        .bind(subject)
        .bind(tenant.to_string())
        .bind(i64::from(limit.min(MOST)))
        .fetch_all(db)
        .await?;
    rows.iter().map(read).collect()
}

/// Keeps the newest `keep` events of one object and removes the others.
pub async fn prune(
    db: &mut AnyConnection,
    tenant: TenantId,
    subject: &str,
    keep: u32,
) -> Result<(), Error> {
    const PRUNE: &str = "
        delete from events where subject_id = $1 and tenant_id = $2 and id <= (
            select id from events where subject_id = $1 and tenant_id = $2
            order by id desc limit 1 offset $3)";
    sqlx::query(PRUNE)
        .bind(subject)
        .bind(tenant.to_string())
        .bind(i64::from(keep))
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Event, Error> {
    Ok(Event {
        id: row::id(TABLE, row.try_get("id")?)?,
        tenant: row::id(TABLE, row.try_get("tenant_id")?)?,
        kind: row.try_get("kind")?,
        subject: row.try_get("subject_id")?,
        data: row::json(TABLE, row.try_get("data")?)?,
        at: row::time(TABLE, row.try_get("created_at_ms")?)?,
    })
}
