//! Display names and free data in requests.
//!
//! Promises: every name that is stored and shown was checked by [`display`]; what a tenant stores
//! with an object has a bound.

use miosa_types::{Slug, name};
use serde::Serialize;

use crate::Error;

/// Longest name of a tenant, workspace, project or key, in characters.
pub(crate) const SHORT: usize = 80;
/// Longest name of a sandbox or preview.
pub(crate) const MEDIUM: usize = 128;
/// Longest name of a deployment, and of a tenant's own id that becomes a name.
pub(crate) const LONG: usize = 200;
/// Most bytes of environment, metadata and tags together.
const MAX_FREE_DATA: usize = 64 * 1024;

/// Checks a display name; returns it without the space around it.
pub(crate) fn display<'a>(
    field: &'static str,
    text: &'a str,
    max: usize,
) -> Result<&'a str, Error> {
    name::display(text, max).map_err(|error| {
        let message = format!("{}; a name has 1 to {max} visible characters", error.why);
        Error::Invalid { field, message }
    })
}

/// The same for a name that may be missing.
pub(crate) fn maybe(
    field: &'static str,
    text: Option<&str>,
    max: usize,
) -> Result<Option<String>, Error> {
    text.map(|text| display(field, text, max).map(str::to_owned)).transpose()
}

/// Checks a slug that was asked for; it is taken as it is or refused.
pub(crate) fn slug(field: &'static str, text: &str) -> Result<Slug, Error> {
    Slug::parse(text).map_err(|error| Error::Invalid { field, message: error.to_string() })
}

/// Bounds what a tenant stores with an object.
pub(crate) fn check_free_data(data: &impl Serialize) -> Result<(), Error> {
    let length = serde_json::to_vec(data).map_or(usize::MAX, |text| text.len());
    if length <= MAX_FREE_DATA {
        return Ok(());
    }
    let message = format!("env, metadata and tags together may have {MAX_FREE_DATA} bytes");
    Err(Error::Invalid { field: "metadata", message })
}
