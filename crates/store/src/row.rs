//! Small helpers to read and write columns.
//!
//! Promises: a value that this program could not have written is [`Error::Corrupt`], never a
//! default.

use jiff::Timestamp;
use miosa_types::id::{Id, Kind};
use serde::{Serialize, de::DeserializeOwned};

use crate::Error;

/// Reads an id column.
pub fn id<K: Kind>(table: &'static str, text: &str) -> Result<Id<K>, Error> {
    text.parse().map_err(|error: miosa_types::id::IdError| corrupt(table, &error))
}

/// Reads a time column (milliseconds since 1970 UTC).
pub fn time(table: &'static str, ms: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(ms).map_err(|error| corrupt(table, &error))
}

/// Reads a time column that may be null.
pub fn maybe_time(table: &'static str, ms: Option<i64>) -> Result<Option<Timestamp>, Error> {
    ms.map(|ms| time(table, ms)).transpose()
}

/// Reads a JSON column.
pub fn json<T: DeserializeOwned>(table: &'static str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| corrupt(table, &error))
}

/// Writes a JSON column.
pub fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is stored as JSON has text keys")
}

/// What a program said, as text that every database keeps: PostgreSQL refuses the character 0.
pub fn said(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Reads a number that cannot be negative or larger than its type.
pub fn number<T: TryFrom<i64>>(table: &'static str, value: i64) -> Result<T, Error> {
    T::try_from(value).map_err(|_| corrupt(table, &format_args!("{value} is out of range")))
}

/// Turns a violated `unique` into [`Error::Taken`].
pub fn taken(error: sqlx::Error, name: &str) -> Error {
    let is_unique =
        error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation);
    if is_unique { Error::Taken { name: name.to_owned() } } else { error.into() }
}

/// A row that no version of this program wrote.
pub fn corrupt(table: &'static str, why: &impl std::fmt::Display) -> Error {
    Error::Corrupt { table, why: why.to_string() }
}
