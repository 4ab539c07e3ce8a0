//! Rows of `platform_settings`: what the operator set on the running platform. They belong to no
//! tenant.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::AnyConnection;

use crate::{Error, row};

const TABLE: &str = "platform_settings";

/// The value of that name, if one was set.
pub async fn find<T: DeserializeOwned>(
    db: &mut AnyConnection,
    name: &str,
) -> Result<Option<T>, Error> {
    let value: Option<String> =
        sqlx::query_scalar("select value from platform_settings where name = $1")
            .bind(name)
            .fetch_optional(db)
            .await?;
    value.map(|value| row::json(TABLE, &value)).transpose()
}

const PUT: &str = "
    insert into platform_settings (name, value, updated_at_ms) values ($1, $2, $3)
    on conflict (name) do update set value = excluded.value, updated_at_ms = excluded.updated_at_ms";

/// Sets a value.
pub async fn put<T: Serialize>(
    db: &mut AnyConnection,
    name: &str,
    value: &T,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(PUT)
        .bind(name)
        .bind(row::to_json(value))
        .bind(now.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets a value: what the configuration file says counts again.
pub async fn remove(db: &mut AnyConnection, name: &str) -> Result<(), Error> {
    sqlx::query("delete from platform_settings where name = $1").bind(name).execute(db).await?;
    Ok(())
}
