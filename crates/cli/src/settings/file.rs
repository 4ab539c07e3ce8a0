//! The configuration file, as types: what it may hold, what each key means, its default. The
//! JSON schema is made from the same types.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

use miosa_api::limits::Rates;
use miosa_types::{Secret, size::Tier};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// Most slots that one target may ask for.
pub(super) const MOST_SLOTS: u32 = 1000;

/// Settings of one installation. The command line and the environment go before the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Configuration file")]
pub(crate) struct File {
    /// Folder of durable data; made if missing. Not on an overlay filesystem.
    pub(crate) data_dir: PathBuf,
    /// URL of the database, as `postgres://user:password@host/name`; without it a SQLite file in
    /// the data folder.
    #[serde(serialize_with = "hidden")]
    #[schemars(with = "Option<String>")]
    pub(crate) database: Option<Secret>,
    /// Folder of templates, shared by data folders.
    pub(crate) cache_dir: PathBuf,
    /// Address for plain HTTP: the API on this machine, redirects to HTTPS. Port 0 picks one.
    #[schemars(with = "String")]
    pub(crate) http: SocketAddr,
    /// Address for HTTPS: apps, previews, console, API.
    #[schemars(with = "String")]
    pub(crate) https: SocketAddr,
    /// Address for `/metrics`; keep it private.
    #[schemars(with = "String")]
    pub(crate) admin: SocketAddr,
    /// Domain of API and console.
    pub(crate) base_domain: String,
    /// Domain of apps and previews; another site than the base domain.
    pub(crate) apps_domain: String,
    /// Remove every workload and host object at the end.
    pub(crate) ephemeral: bool,
    /// Names that tenants bring.
    pub(crate) domains: DomainsSection,
    /// What faces visitors.
    pub(crate) edge: EdgeSection,
    /// What sandboxes are made of.
    pub(crate) sandbox: SandboxSection,
    /// The warm pool.
    pub(crate) pool: PoolSection,
    /// How often the API may be asked.
    pub(crate) limits: LimitsSection,
}

impl Default for File {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            data_dir: "/var/lib/miosa".into(),
            database: None,
            cache_dir: "/var/cache/miosa".into(),
            http: local(8080),
            https: local(8443),
            admin: local(9464),
            base_domain: "miosa.localhost".into(),
            apps_domain: "apps.localhost".into(),
            ephemeral: false,
            domains: DomainsSection::default(),
            edge: EdgeSection::default(),
            sandbox: SandboxSection::default(),
            pool: PoolSection::default(),
            limits: LimitsSection::default(),
        }
    }
}

/// Names that tenants bring.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DomainsSection {
    /// Resolver for them, as `127.0.0.53:53`; the host's if not given.
    #[schemars(with = "Option<String>")]
    pub(crate) resolver: Option<SocketAddr>,
    /// Addresses that visitors reach this machine at, for names that are no CNAME.
    pub(crate) addresses: Vec<IpAddr>,
}

/// What faces visitors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EdgeSection {
    /// Serve apps on plain HTTP instead of answering 308.
    pub(crate) plain_http: bool,
    /// Proxies in front of this machine, as addresses or networks like `10.0.0.0/8`: what they
    /// say of a visitor's address is believed.
    pub(crate) trusted_proxies: Vec<String>,
}

/// What sandboxes are made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SandboxSection {
    /// Mount the host's CA bundle where it trusts more than the distribution.
    pub(crate) trust_host_ca: bool,
    /// Template of a sandbox that names none.
    pub(crate) default_template: String,
}

impl Default for SandboxSection {
    fn default() -> Self {
        Self { trust_host_ca: true, default_template: "miosa-sandbox".into() }
    }
}

/// How often the API may be asked. Health and the operator's key are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsSection {
    /// Requests per minute of a key that has no rate of its own; 0: no limit.
    pub(crate) key_requests_per_minute: u32,
    /// Requests per minute of all keys of a tenant together; 0: no limit.
    pub(crate) tenant_requests_per_minute: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        let Rates { key, tenant } = Rates::default();
        let number = |rate: Option<NonZeroU32>| rate.map_or(0, NonZeroU32::get);
        Self { key_requests_per_minute: number(key), tenant_requests_per_minute: number(tenant) }
    }
}

/// The warm pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PoolSection {
    /// Warm slots to keep.
    pub(crate) targets: Vec<PoolEntry>,
}

/// Warm slots of one template and size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolEntry {
    /// Name of the template.
    pub(crate) template: String,
    /// Size of each slot: `xs`, `small`, `medium`, `large` or `xl`.
    #[schemars(with = "TierWord")]
    pub(crate) size: Tier,
    /// How many slots.
    #[schemars(range(max = MOST_SLOTS))]
    pub(crate) count: u32,
}

/// The words for [`Tier`], which knows no schemas of files.
#[expect(dead_code, reason = "it only describes")]
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TierWord {
    Xs,
    Small,
    Medium,
    Large,
    Xl,
}

impl Default for PoolSection {
    fn default() -> Self {
        let entry = |size, count| PoolEntry { template: "miosa-sandbox".into(), size, count };
        Self { targets: vec![entry(Tier::Xs, 1), entry(Tier::Small, 2)] }
    }
}

/// Settings are shown to people; a URL with a password is not.
#[expect(clippy::ref_option, reason = "what serde asks for")]
fn hidden<S: Serializer>(value: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|_| "(set, not shown)").serialize(serializer)
}

/// The JSON schema of the file, with nothing to look up elsewhere in it.
pub(crate) fn schema() -> Value {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<File>().to_value()
}

/// The same as text, as it is committed.
pub(crate) fn schema_text() -> String {
    format!("{:#}\n", schema())
}
