//! Why the platform could not start an instance, in words for the owner of the workload.
//!
//! Promises: what a tenant is shown names no place of the host; the log has the rest.

use std::{error::Error as StdError, fmt::Write as _, io, time::Duration};

use crate::{layers, storage};

/// Longest pause between two attempts: short, because visitors may be waiting.
const LONGEST: Duration = Duration::from_secs(5);

/// Split by what is told: the text is for the tenant. It never was the workload's own doing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Passes when there is room.
    #[error("The platform has no room for it.")]
    NoRoom(#[source] Cause),
    /// What was published cannot be had.
    #[error("The platform could not prepare its files (the layer of its version).")]
    Layer(#[source] Cause),
    /// Its root filesystem is not there.
    #[error("The platform does not have its template.")]
    Template(#[source] Cause),
    /// The operator must look.
    #[error("The platform could not start it.")]
    Host(#[source] Cause),
}

type Cause = Box<dyn StdError + Send + Sync>;

impl Failure {
    /// Of a layer.
    pub(crate) fn layer(error: layers::Error) -> Self {
        if has_no_room(&error) { Self::NoRoom(error.into()) } else { Self::Layer(error.into()) }
    }

    /// Of a template.
    pub(crate) fn template(error: miosa_provider::Error) -> Self {
        Self::Template(error.into())
    }

    /// Whether no other attempt can end otherwise.
    pub(super) fn is_final(&self) -> bool {
        let Self::Layer(cause) = self else { return false };
        matches!(cause.downcast_ref(), Some(layers::Error::Refused(_)))
    }

    /// For the log.
    pub(super) fn source_text(&self) -> String {
        let mut text = String::new();
        let mut next = self.source();
        while let Some(error) = next {
            let colon = if text.is_empty() { "" } else { ": " };
            write!(text, "{colon}{error}").ok();
            next = error.source();
        }
        text
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if has_no_room(&error) { Self::NoRoom(error.into()) } else { Self::Host(error.into()) }
    }
}

/// Before the next attempt, after so many in a row that could not be made.
pub(super) fn pause(unmade: u32) -> Duration {
    // An exit of the app is followed by an attempt at once; this is no exit.
    miosa_provider::plan::pause(unmade.saturating_add(2)).min(LONGEST)
}

/// Whether want of room is among the causes.
fn has_no_room(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<storage::Error>() {
        return matches!(error, storage::Error::Full(_));
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        // `source` of one that wraps another skips that other.
        let inner = error.get_ref().map(|inner| inner as &(dyn StdError + 'static));
        return kinds.contains(&error.kind()) || inner.is_some_and(has_no_room);
    }
    error.source().is_some_and(has_no_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_room_is_found_however_deep_and_no_path_is_told() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let path = "/srv/data/pool/.new-01a2";
        let named = || io::Error::new(full().kind(), format!("{path}: {}", full()));
        let volume = || storage::Error::Full(format!("cannot name a volume: {path}"));
        let room = "The platform has no room for it.";
        for (failure, told) in [
            (Failure::from(full()), room),
            (Failure::from(io::Error::from_raw_os_error(libc::EDQUOT)), room),
            (Failure::from(named()), room),
            (Failure::from(io::Error::other(volume())), room),
            (Failure::from(io::Error::other(io::Error::other(volume()))), room),
            (Failure::layer(layers::Error::Io(named())), room),
            (
                Failure::layer(layers::Error::Refused(path.into())),
                "The platform could not prepare its files (the layer of its version).",
            ),
            (
                Failure::from(io::Error::new(io::ErrorKind::NotFound, path)),
                "The platform could not start it.",
            ),
        ] {
            assert_eq!(failure.to_string(), told);
            assert!(!failure.source_text().is_empty());
            assert_eq!(failure.is_final(), told.contains("layer"), "only what is refused");
        }
    }

    #[test]
    fn attempts_become_rarer_to_a_limit() {
        assert!(pause(1) > Duration::ZERO && pause(1) < Duration::from_secs(1));
        assert_eq!(pause(u32::MAX), LONGEST);
    }
}
