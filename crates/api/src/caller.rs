//! Who is asking.

use std::num::NonZeroU32;

use miosa_types::{ApiKeyId, TenantId};

/// An authenticated caller, acting for exactly one tenant.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The tenant that every query of this request is bound to.
    pub tenant: TenantId,
    /// The tenant's slug.
    pub tenant_slug: String,
    /// The key that was presented.
    pub key: ApiKeyId,
    /// Whether the key is the operator's.
    pub is_operator: bool,
    /// Requests per minute that were set for the key.
    pub rate_limit_rpm: Option<NonZeroU32>,
    /// What the key may do; `*` is everything.
    pub scopes: Vec<String>,
}
