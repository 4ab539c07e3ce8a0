//! The database: migrations and one query file for each table.
//!
//! Promises: SQL is a portable subset that runs unchanged on SQLite and PostgreSQL (`TEXT`,
//! `BIGINT`, blobs; times in milliseconds; `$1`); every query that a caller can reach takes a
//! [`miosa_types::TenantId`]; every list has a bound.

pub mod api_keys;
pub mod certificates;
pub mod deployments;
pub mod events;
pub mod idempotency;
pub mod installations;
pub mod instances;
pub mod pool_slots;
pub mod preview_tokens;
pub mod previews;
pub mod projects;
pub mod row;
pub mod sandboxes;
pub mod tenants;
pub mod versions;
pub mod workspaces;

use std::{path::Path, time::Duration};

use sqlx::{Any, AnyPool, Transaction, any::AnyPoolOptions, pool::PoolConnection};

/// Schema changes, oldest first; embedded, forward only, never edited after a release.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
}

/// Split by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another object has this name on this domain, or this key.
    #[error("`{name}` is already used")]
    Taken {
        /// The name.
        name: String,
    },
    /// Someone else moved the row on first. Read again, plan again.
    #[error("{what} was changed by someone else")]
    Stale {
        /// Which row.
        what: String,
    },
    /// The database did not do it: locked, full, gone, or a fault of ours.
    #[error("database query failed")]
    Query(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migration failed")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row that no version of this program wrote.
    #[error("table {table} holds an unreadable row: {why}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Store {
    /// Opens the SQLite database at `path`, makes it if missing, and brings its schema up to
    /// date.
    pub async fn open_sqlite(path: &Path) -> Result<Self, Error> {
        Self::open(&format!("sqlite://{}?mode=rwc", path.display())).await
    }

    /// Opens any supported database by URL and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let pool = AnyPoolOptions::new()
            .max_connections(if is_sqlite { 4 } else { 16 })
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_sqlite {
                        // Durable at each commit; readers never wait for the writer.
                        const SETTINGS: &str = "pragma journal_mode = wal; \
                            pragma synchronous = full; pragma foreign_keys = on; \
                            pragma busy_timeout = 5000";
                        sqlx::raw_sql(SETTINGS).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self { pool })
    }

    /// A connection for single statements.
    pub async fn conn(&self) -> Result<PoolConnection<Any>, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// A unit of work: commit it, or it is undone when dropped. On SQLite it takes the write
    /// lock at once, so that it cannot fail half-way for want of it.
    pub async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        let connection = self.pool.acquire().await?;
        let is_sqlite = connection.backend_name() == "SQLite";
        drop(connection);
        if is_sqlite {
            return Ok(self.pool.begin_with("begin immediate").await?);
        }
        Ok(self.pool.begin().await?)
    }

    /// The pool, for query modules.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }
}
