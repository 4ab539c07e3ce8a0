//! Rows of `events`: what happened to a tenant's objects, for its owner.

use jiff::Timestamp;
use miosa_types::TenantId;
use serde_json::Value;
use sqlx::{AnyConnection, Row as _};

use crate::{Error, row};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// UUIDv7, so that ids sort by time.
    pub id: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// As `deployment.promoted`.
    pub kind: String,
    /// Id of the object.
    pub subject: String,
    /// What else there is to know.
    pub data: Value,
    /// When it happened.
    pub at: Timestamp,
}

/// Adds an event; in the transaction of what it tells about.
pub async fn insert(db: &mut AnyConnection, event: &Event) -> Result<(), Error> {
    sqlx::query(
        "insert into events (id, tenant_id, kind, subject_id, data, created_at_ms)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&event.id)
    .bind(event.tenant.to_string())
    .bind(&event.kind)
    .bind(&event.subject)
    .bind(row::to_json(&event.data))
    .bind(event.at.as_millisecond())
    .execute(db)
    .await?;
    Ok(())
}

/// The events of a tenant after the one with id `after` (empty: from the first), oldest first,
/// at most `limit`.
pub async fn list_after(
    db: &mut AnyConnection,
    tenant: TenantId,
    after: &str,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    let rows =
        sqlx::query("select * from events where tenant_id = $1 and id > $2 order by id limit $3")
            .bind(tenant.to_string())
            .bind(after)
            .bind(i64::from(limit.min(1000)))
            .fetch_all(db)
            .await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        events.push(Event {
            id: row.try_get("id")?,
            tenant,
            kind: row.try_get("kind")?,
            subject: row.try_get("subject_id")?,
            data: row::json("events", row.try_get("data")?)?,
            at: row::time("events", row.try_get("created_at_ms")?)?,
        });
    }
    Ok(events)
}
