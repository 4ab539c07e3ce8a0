//! The database: migrations and one query file for each table.
//!
//! Promises: SQL is a portable subset that runs unchanged on SQLite and PostgreSQL (`TEXT`,
//! `BIGINT`, blobs; times in milliseconds; `$1`), and every query is run on both by the tests;
//! every query that a caller can reach takes a [`miosa_types::TenantId`]; every list has a bound.

pub mod api_keys;
pub mod certificates;
pub mod deployments;
pub mod domains;
pub mod events;
pub mod idempotency;
pub mod installations;
pub mod instances;
pub mod list;
pub mod platform_settings;
pub mod pool_slots;
pub mod preview_tokens;
pub mod previews;
pub mod projects;
pub mod row;
pub mod sandboxes;
pub mod tenants;
pub mod versions;
pub mod workspaces;

pub use list::{List, Window};

use std::{path::Path, time::Duration};

use sqlx::{Any, AnyPool, Connection as _, Transaction, any::AnyPoolOptions, pool::PoolConnection};

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
    /// Its disk is full. Nothing was written; it can be once there is room.
    #[error("the disk of the database is full")]
    Full(#[source] sqlx::Error),
    /// It is locked, gone or starting. Nothing was written, or nobody can say; try again soon.
    #[error("the database does not answer")]
    Away(#[source] sqlx::Error),
    /// A fault of ours.
    #[error("database query failed")]
    Query(#[source] sqlx::Error),
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

/// SQLite result codes (primary, <https://sqlite.org/rescode.html>) and SQLSTATEs of PostgreSQL.
const FULL: [&str; 2] = ["13", "53100"];
const AWAY: [&str; 9] = ["5", "6", "10", "53200", "53300", "55P03", "57P01", "57P02", "57P03"];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        // The upper bits of a code of SQLite say more than is asked here.
        let primary = code.map(|code| match code.parse::<u32>() {
            Ok(number) if code.len() < 5 => (number & 0xff).to_string(),
            _ => code.into_owned(),
        });
        let is_one_of = |list: &[&str]| primary.as_deref().is_some_and(|code| list.contains(&code));
        match &error {
            _ if is_one_of(&FULL) => Self::Full(error),
            _ if is_one_of(&AWAY) => Self::Away(error),
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
                Self::Away(error)
            }
            _ => Self::Query(error),
        }
    }
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
            .after_release(|connection, _| {
                Box::pin(async move {
                    // Sends what is due first: the rollback of a unit of work that was dropped.
                    connection.ping().await?;
                    // A full disk undoes the unit of work without telling sqlx, which then would
                    // believe to be inside one for ever: such a connection is closed.
                    Ok(!connection.is_in_transaction())
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
