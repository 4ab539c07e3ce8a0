//! The database: migrations and one query file for each table.
//!
//! Promises: SQL is a portable subset that runs unchanged on SQLite and PostgreSQL (`TEXT`,
//! `BIGINT`, blobs; times in milliseconds; `$1`), and every query is run on both by the tests;
//! every query that a caller can reach takes a [`miosa_types::TenantId`]; every list has a bound.

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
    kind: Kind,
}

/// Which database it is; only this file may differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sqlite,
    Postgres,
}

/// Of each connection to SQLite: durable at each commit; readers never wait for the writer.
const SQLITE_SETTINGS: &str = "
    pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;
    pragma busy_timeout = 5000";

/// The one word of the migrations that PostgreSQL does not know.
const POSTGRES_TYPES: &str = "
    do $$ begin
        if to_regtype('blob') is null then create domain blob as bytea; end if;
    exception when duplicate_object or unique_violation then null;
    end $$";

/// Units of work come one after the other, as on SQLite: what one has read stays true until it
/// commits (`docs/adr/0007-one-writer-on-postgresql-too.md`). The number only has to be the same
/// everywhere.
const POSTGRES_WRITE_LOCK: &str = "
    set local lock_timeout = '5s';
    do $$ begin perform pg_advisory_xact_lock(6500117); end $$";

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

    /// Opens a database by URL (`sqlite:…` or `postgres://…`) and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let kind = if url.starts_with("sqlite:") { Kind::Sqlite } else { Kind::Postgres };
        let connections = if kind == Kind::Sqlite { 4 } else { 16 };
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if kind == Kind::Sqlite {
                        sqlx::raw_sql(SQLITE_SETTINGS).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await?;
        if kind == Kind::Postgres {
            sqlx::raw_sql(POSTGRES_TYPES).execute(&pool).await?;
        }
        MIGRATIONS.run(&pool).await?;
        Ok(Self { pool, kind })
    }

    /// A connection for single statements.
    pub async fn conn(&self) -> Result<PoolConnection<Any>, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// A unit of work: commit it, or it is undone when dropped. It takes the write lock at once,
    /// so that it cannot fail half-way for want of it; single statements need no lock, they
    /// compare and set.
    pub async fn begin(&self) -> Result<Transaction<'static, Any>, Error> {
        if self.kind == Kind::Sqlite {
            return Ok(self.pool.begin_with("begin immediate").await?);
        }
        let mut tx = self.pool.begin().await?;
        sqlx::raw_sql(POSTGRES_WRITE_LOCK).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// The pool, for query modules.
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }
}
