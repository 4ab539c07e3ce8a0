//! The product's own words at the edge: the only file of it that may hold them.
//!
//! Nothing here is ever sent to a visitor; these are names that a caller may send.

use http::HeaderName;

/// A field of the published API that holds a preview's token.
pub(crate) const PREVIEW_TOKEN: HeaderName = HeaderName::from_static("x-miosa-preview-token");
