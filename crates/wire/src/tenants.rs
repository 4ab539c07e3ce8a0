//! Tenants, their brand, domains and settings (contract: `miosa-api` 2.1).

use jiff::Timestamp;
use miosa_types::{Branding, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// `POST /admin/tenants`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NewTenant {
    /// Display name; the slug is made from it.
    pub name: String,
    /// Must equal what the name gives, if it is sent at all.
    pub slug: Option<String>,
    /// Apps are `<slug>.<this>`; default `<tenant>.<apps domain>`.
    pub deployment_domain: Option<String>,
    /// Previews are `<port>-<slug>.sandbox.<this>`; default the apps domain.
    pub preview_domain: Option<String>,
    /// Host of the console; default `<tenant>.console.<base>`.
    pub console_domain: Option<String>,
}

/// Answer of `POST /admin/tenants`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TenantCreated {
    /// The tenant.
    pub tenant: Tenant,
    /// Its first key, shown once.
    pub api_key: String,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Display name.
    pub name: String,
    /// Permanent.
    pub slug: String,
    /// Always `self_hosted`.
    pub plan: &'static str,
    /// Always null: nothing is sold here.
    pub credit_balance: Option<i64>,
    /// Always `local`.
    pub region: &'static str,
    /// Always false: a tenant is made with its name.
    pub setup_required: bool,
    /// Where its apps are.
    pub deployment_domain: String,
    /// Where its previews are.
    pub preview_domain: String,
    /// Host of its console.
    pub console_domain: String,
    /// When it was made.
    pub inserted_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// `PUT /tenants/{id}`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct RenameTenant {
    /// Must equal the permanent name.
    pub name: String,
    /// Must equal the permanent slug.
    pub slug: Option<String>,
}

/// Exactly `{"branding": … }`: SDKs unwrap this one key.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BrandingAnswer {
    /// The brand; null if none is set.
    pub branding: Option<Brand>,
}

/// `PUT /tenant/branding`: replaces the whole brand.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct PutBranding {
    /// The new brand.
    pub branding: Brand,
}

/// A brand, with both spellings of its name. A field that it does not have is refused: it replaces
/// the whole, so a misspelt one would clear what it was meant to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Brand {
    /// Product name.
    pub name: Option<String>,
    /// The same; newer SDKs send this one.
    pub product_name: Option<String>,
    /// `https://` or `data:image/…` address.
    pub logo_url: Option<String>,
    /// `#rrggbb`.
    pub primary_color: Option<String>,
    /// `#rrggbb`.
    pub background_color: Option<String>,
    /// `https://` address.
    pub support_url: Option<String>,
    /// Mail address.
    pub support_email: Option<String>,
}

impl From<Branding> for Brand {
    fn from(brand: Branding) -> Self {
        Self {
            product_name: brand.name.clone(),
            name: brand.name,
            logo_url: brand.logo_url,
            primary_color: brand.primary_color,
            background_color: brand.background_color,
            support_url: brand.support_url,
            support_email: brand.support_email,
        }
    }
}

impl From<Brand> for Branding {
    /// Empty texts count as not given.
    fn from(brand: Brand) -> Self {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Self {
            name: given(brand.name).or(given(brand.product_name)),
            logo_url: given(brand.logo_url),
            primary_color: given(brand.primary_color),
            background_color: given(brand.background_color),
            support_url: given(brand.support_url),
            support_email: given(brand.support_email),
        }
    }
}

/// `PUT /tenant/preview-domain`; older SDKs send `domain`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct PutPreviewDomain {
    /// The domain.
    #[serde(alias = "domain")]
    pub preview_domain: String,
}

/// State of the preview domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PreviewDomain {
    /// The tenant's own, set or waiting; null if none.
    pub preview_domain: Option<String>,
    /// The same.
    pub domain: Option<String>,
    /// What is used without one.
    pub default_domain: String,
    /// `not_configured`, `pending_dns` or `configured`.
    pub status: &'static str,
    /// The same.
    pub dns_status: &'static str,
    /// When it became usable.
    pub verified_at: Option<Timestamp>,
    /// Where the record has to point.
    pub cname_target: String,
    /// The same.
    pub target: String,
    /// The record to make; null without a domain.
    pub dns_instructions: Option<DnsRecord>,
    /// All records to make.
    pub records: Vec<DnsRecord>,
    /// Answer of `verify` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<bool>,
}

/// A DNS record to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DnsRecord {
    /// `CNAME`, `TXT`, `A` or `AAAA`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Name of the record.
    pub name: String,
    /// Where it points, or what it says.
    pub value: String,
}

/// `GET /tenant/plan`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Plan {
    /// Always `self_hosted`.
    pub plan: &'static str,
    /// No limits are set.
    pub limits: Map<String, Value>,
    /// What is there now.
    pub usage: Usage,
}

/// What a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Sandboxes that are wanted.
    pub sandboxes: i64,
    /// Deployments that are not deleted.
    pub deployments: i64,
    /// Workspaces.
    pub workspaces: i64,
    /// Projects.
    pub projects: i64,
}

/// `GET /whoami`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WhoAmI {
    /// Always null: a key is nobody in person.
    pub user: Option<Value>,
    /// The tenant that the key acts for.
    pub organization: Tenant,
    /// The tenant's default workspace, once there is one.
    pub workspace: Option<crate::workspaces::Workspace>,
    /// Always `self_hosted`.
    pub plan: &'static str,
    /// What the key may do.
    pub scopes: Vec<String>,
    /// Whether it is the operator's key.
    pub is_operator: bool,
}
