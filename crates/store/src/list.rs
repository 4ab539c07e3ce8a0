//! Lists that callers page through: one piece of SQL for all of them.
//!
//! Promises: the order is stable (a unique column); a part starts after a row that may be gone
//! meanwhile; whatever a caller gives is bound, never part of the text.

use std::fmt;

use miosa_types::TenantId;
use sqlx::{AnyConnection, AssertSqlSafe, any::AnyRow};

use crate::Error;

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What comes after the row with this key.
    pub after: Option<String>,
    /// Skip so many.
    pub offset: u64,
    /// At most so many.
    pub limit: u32,
}

impl Default for Window {
    /// The first 1,000.
    fn default() -> Self {
        Self { after: None, offset: 0, limit: 1000 }
    }
}

impl Window {
    /// The first `limit`.
    pub const fn first(limit: u32) -> Self {
        Self { after: None, offset: 0, limit }
    }
}

/// What a row's key is, so that a wrong one can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// An id.
    Id,
    /// A number.
    Number,
}

/// Rows that a caller may see, in their order.
pub struct List<T> {
    rows: &'static str,
    key: &'static str,
    /// What its key is.
    pub key_kind: KeyKind,
    is_newest_first: bool,
    binds: Vec<Option<String>>,
    read: fn(&AnyRow) -> Result<T, Error>,
    key_of: fn(&T) -> String,
}

impl<T> fmt::Debug for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<T> List<T> {
    /// Rows of one tenant, oldest first. `rows` begins with `from` and has a condition; the
    /// tenant is `$1`.
    pub(crate) fn of(
        tenant: TenantId,
        rows: &'static str,
        read: fn(&AnyRow) -> Result<T, Error>,
        key_of: fn(&T) -> String,
    ) -> Self {
        Self::of_all(rows, read, key_of).bind(Some(tenant.to_string()))
    }

    /// Rows of every tenant: for the operator alone.
    pub(crate) fn of_all(
        rows: &'static str,
        read: fn(&AnyRow) -> Result<T, Error>,
        key_of: fn(&T) -> String,
    ) -> Self {
        Self {
            rows,
            key: "id",
            key_kind: KeyKind::Id,
            is_newest_first: false,
            binds: vec![],
            read,
            key_of,
        }
    }

    /// The next parameter of `rows`.
    pub(crate) fn bind(mut self, value: Option<String>) -> Self {
        self.binds.push(value);
        self
    }

    pub(crate) fn newest_first(self) -> Self {
        Self { is_newest_first: true, ..self }
    }

    /// Ordered by a number.
    pub(crate) fn by_number(self, key: &'static str) -> Self {
        Self { key, key_kind: KeyKind::Number, ..self }
    }

    /// The key of a row: what `Window::after` may name.
    pub fn key_of(&self, row: &T) -> String {
        (self.key_of)(row)
    }

    /// One part of it.
    pub async fn window(&self, db: &mut AnyConnection, window: &Window) -> Result<Vec<T>, Error> {
        let Self { rows, key, .. } = self;
        let (beyond, order) = if self.is_newest_first { ("<", "desc") } else { (">", "asc") };
        let n = self.binds.len();
        let (after, limit, offset) = (n + 1, n + 2, n + 3);
        let after_value = match self.key_kind {
            KeyKind::Id => format!("${after}"),
            KeyKind::Number => format!("cast(nullif(${after}, '') as bigint)"),
        };
        let sql = format!(
            "select * {rows} and (${after} = '' or {key} {beyond} {after_value})
             order by {key} {order} limit ${limit} offset ${offset}"
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in &self.binds {
            query = query.bind(value.clone());
        }
        let found = query
            .bind(window.after.clone().unwrap_or_default())
            .bind(i64::from(window.limit))
            .bind(i64::try_from(window.offset).unwrap_or(i64::MAX))
            .fetch_all(db)
            .await?;
        found.iter().map(self.read).collect()
    }

    /// How many rows it has.
    pub async fn count(&self, db: &mut AnyConnection) -> Result<u64, Error> {
        let sql = format!("select count(*) {}", self.rows);
        let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
        for value in &self.binds {
            query = query.bind(value.clone());
        }
        Ok(u64::try_from(query.fetch_one(db).await?).unwrap_or(0))
    }
}
