//! Domains that tenants bring (contract: `miosa-api` 2.5).

use jiff::Timestamp;
use miosa_types::{DeploymentId, DomainId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::tenants::DnsRecord;

/// `POST …/domains`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewDomain {
    /// The name.
    pub domain: Option<String>,
    /// See `domain`.
    pub fqdn: Option<String>,
    /// Its deployment, where the path does not say it.
    pub deployment_id: Option<String>,
    /// See `deployment_id`.
    pub target_id: Option<String>,
    /// `none`, `apex_to_www` or `www_to_apex`: which of the name and the same name behind `www.`
    /// leads to the other. It begins once both are added and proved.
    pub redirect_policy: Option<String>,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// `POST /domains/:name/assign`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AssignDomain)]
pub struct Assign {
    /// The deployment that answers from now on.
    pub deployment_id: String,
}

/// `PATCH …/domains/:id`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChangeDomain {
    /// `none`, `apex_to_www` or `www_to_apex`.
    pub redirect_policy: String,
}

/// A domain of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Domain {
    /// Its id.
    pub id: DomainId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What answers it.
    pub deployment_id: DeploymentId,
    /// The name.
    pub domain: String,
    /// The same.
    pub fqdn: String,
    /// `pending`, `verified`, `active`, `failed` or `removed`.
    pub status: &'static str,
    /// Where a CNAME record has to lead.
    pub verification_target: String,
    /// Records to make.
    pub dns_records: Vec<DnsRecord>,
    /// How to make them, in words.
    pub instructions: String,
    /// `none`, `apex_to_www` or `www_to_apex`.
    pub redirect_policy: &'static str,
    /// When it was proved last.
    pub verified_at: Option<Timestamp>,
    /// When the certificate that edges serve was made.
    pub tls_issued_at: Option<Timestamp>,
    /// `none`, `pending` or `issued`.
    pub tls_status: &'static str,
    /// What the newest check found wanting.
    pub error: Option<String>,
    /// When it is looked at again without being asked.
    pub next_check_at: Option<Timestamp>,
    /// Where it is reached.
    pub url: String,
    /// The tenant's own id.
    pub external_workspace_id: Option<String>,
    /// The tenant's own id.
    pub external_project_id: Option<String>,
    /// The tenant's own id.
    pub external_user_id: Option<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
}

/// Answer to `DELETE /domains/:name`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeletedDomain)]
pub struct Deleted {
    /// Its id.
    pub id: DomainId,
    /// The name.
    pub domain: String,
    /// Always true.
    pub deleted: bool,
}
