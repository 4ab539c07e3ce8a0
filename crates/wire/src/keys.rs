//! API keys (contract: `miosa-api` 2.6).

use jiff::Timestamp;
use miosa_types::ApiKeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /api-keys`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = NewApiKey)]
pub struct NewKey {
    /// Display name.
    pub name: String,
    /// What it may do; everything that the caller may, if not given.
    pub scopes: Option<Vec<String>>,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Requests per minute; what the platform allows every key, if not given.
    pub rate_limit_rpm: Option<u32>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// The key; only in the answer to its creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The same; SDKs name it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// First 12 characters.
    pub key_prefix: String,
    /// Display name.
    pub name: String,
    /// Always `platform`.
    pub key_type: &'static str,
    /// Always `api`.
    pub key_purpose: &'static str,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Requests per minute, its own or what every key may. Null: there is no limit.
    pub rate_limit_rpm: Option<u32>,
    /// `active`, `expired` or `revoked`.
    pub status: &'static str,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// When it was used last, exact to a minute.
    pub last_used_at: Option<Timestamp>,
}
