//! Rows of `certificates`: what edges serve TLS with.

use jiff::Timestamp;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use crate::{Error, row};

const TABLE: &str = "certificates";

/// One certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Names that it covers, sorted.
    pub names: Vec<String>,
    /// PEM chain, leaf first.
    pub chain_pem: String,
    /// PEM private key (PKCS #8).
    pub key_pem: String,
    /// End of validity.
    pub not_after: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Adds a certificate, or replaces the one for the same names.
pub async fn put(db: &mut AnyConnection, new: &Certificate) -> Result<(), Error> {
    const PUT: &str = "
        insert into certificates (names, chain_pem, key_pem, not_after_ms, created_at_ms)
        values ($1, $2, $3, $4, $5)
        on conflict (names) do update set chain_pem = excluded.chain_pem,
            key_pem = excluded.key_pem, not_after_ms = excluded.not_after_ms,
            created_at_ms = excluded.created_at_ms";
    sqlx::query(PUT)
        .bind(new.names.join(","))
        .bind(&new.chain_pem)
        .bind(&new.key_pem)
        .bind(new.not_after.as_millisecond())
        .bind(new.created_at.as_millisecond())
        .execute(db)
        .await?;
    Ok(())
}

/// All certificates, at most 100,000.
pub async fn all(db: &mut AnyConnection) -> Result<Vec<Certificate>, Error> {
    let rows =
        sqlx::query("select * from certificates order by names limit 100000").fetch_all(db).await?;
    rows.iter().map(read).collect()
}

/// The certificate for exactly these names.
pub async fn find(db: &mut AnyConnection, names: &[String]) -> Result<Option<Certificate>, Error> {
    let row = sqlx::query("select * from certificates where names = $1")
        .bind(names.join(","))
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Removes the certificate for exactly these names.
pub async fn remove(db: &mut AnyConnection, names: &[String]) -> Result<(), Error> {
    sqlx::query("delete from certificates where names = $1")
        .bind(names.join(","))
        .execute(db)
        .await?;
    Ok(())
}

fn read(row: &AnyRow) -> Result<Certificate, Error> {
    let names: String = row.try_get("names")?;
    Ok(Certificate {
        names: names.split(',').map(str::to_owned).collect(),
        chain_pem: row.try_get("chain_pem")?,
        key_pem: row.try_get("key_pem")?,
        not_after: row::time(TABLE, row.try_get("not_after_ms")?)?,
        created_at: row::time(TABLE, row.try_get("created_at_ms")?)?,
    })
}
