//! Previews (contract: `miosa-api` 2.3).

use miosa_types::{PreviewId, SandboxId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST …/expose`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(default)]
pub struct Expose {
    /// Port; the template's if not given.
    pub port: Option<u16>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Exposed {
    /// The URL.
    pub url: String,
    /// The port.
    pub port: u16,
    /// Always `temporary_preview`.
    pub url_class: &'static str,
    /// Always false: it dies with the sandbox.
    pub stable_for_embedding: bool,
    /// Always `create_alias_or_publish`.
    pub recommended_next_action: &'static str,
}

/// `POST …/previews`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = NewPreview)]
pub struct Create {
    /// Port inside.
    pub port: u16,
    /// Display name; alias `label`.
    pub name: Option<String>,
    /// See `name`.
    pub label: Option<String>,
    /// `public` or `private`; the tenant's policy if not given.
    pub visibility: Option<String>,
    /// The tenant's own data.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// A preview as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Preview {
    /// Its id.
    pub id: PreviewId,
    /// Of which sandbox.
    pub sandbox_id: SandboxId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Display name.
    pub name: Option<String>,
    /// Port inside.
    pub port: u16,
    /// `public` or `private`.
    pub visibility: &'static str,
    /// `active`.
    pub state: &'static str,
    /// The URL.
    pub url: String,
    /// The tenant's own data.
    pub metadata: Map<String, Value>,
    /// The tenant's own id, of the sandbox.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id, of the sandbox.
    pub external_project_id: Option<String>,
    /// The tenant's own id, of the sandbox.
    pub external_user_id: Option<String>,
    /// First characters of the token that is good for the longest time, if it is shared.
    pub share_token_prefix: Option<String>,
    /// When that one ends.
    pub share_token_expires_at: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was changed last.
    pub updated_at: String,
}

/// `POST …/previews/:p/share`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = SharePreview)]
#[serde(default)]
pub struct Share {
    /// How long the token is good.
    pub ttl_seconds: Option<u64>,
}

/// Answer to it. The SDK returns it whole because it has three fields.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = SharedPreview)]
pub struct Shared {
    /// The preview.
    pub data: Preview,
    /// The token, shown once.
    pub preview_token: String,
    /// The URL with the token.
    pub share_url: String,
}

/// `POST …/preview-token`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = NewPreviewToken)]
#[serde(default)]
pub struct NewToken {
    /// How long it is good, in seconds.
    pub expires_in: Option<u64>,
    /// `read`.
    pub scope: Option<String>,
    /// The one port that it opens; if not given it opens all, and its URL has the template's.
    pub port: Option<u16>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = PreviewToken)]
pub struct Token {
    /// The token, shown once.
    pub token: String,
    /// The URL with the token.
    pub url: String,
    /// When it ends.
    pub expires_at: String,
    /// What it is for.
    pub scope: String,
}
