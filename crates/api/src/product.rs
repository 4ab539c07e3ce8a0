//! The product's own words in what the API says of itself: the only place that holds them.

/// Title of the API's description and of its reference page.
pub(crate) const TITLE: &str = "MIOSA API";

/// What `/health` calls this API.
pub(crate) const SERVICE: &str = "miosa-compute";
