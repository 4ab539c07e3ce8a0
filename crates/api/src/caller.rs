//! Who is asking.

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
    /// What the key may do; `*` is everything.
    pub scopes: Vec<String>,
}
