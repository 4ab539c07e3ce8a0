//! The row of `installations`: which installation this database belongs to.

use jiff::Timestamp;
use miosa_types::InstallationId;
use sqlx::{AnyConnection, Row as _};

use crate::{Error, row};

/// The installation of this database; `new` becomes it if there is none yet.
pub async fn find_or_insert(
    db: &mut AnyConnection,
    new: InstallationId,
    now: Timestamp,
) -> Result<InstallationId, Error> {
    if let Some(id) = find(db).await? {
        return Ok(id);
    }
    sqlx::query("insert into installations (id, created_at_ms) values ($1, $2)")
        .bind(new.to_string())
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(new)
}

/// The installation of this database, if it has one.
pub async fn find(db: &mut AnyConnection) -> Result<Option<InstallationId>, Error> {
    let row = sqlx::query("select id from installations order by created_at_ms, id limit 1")
        .fetch_optional(db)
        .await?;
    row.map(|row| row::id("installations", row.try_get("id")?)).transpose()
}
