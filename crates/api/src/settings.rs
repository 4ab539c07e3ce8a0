//! `/settings` and `/tenant/preview-domain`.
//!
//! Promises: a domain that the operator sets is used at once; one that a tenant's own key sets
//! waits (`pending_dns`) until the operator confirms it, because nobody has proved yet whose it
//! is. What was published or started before keeps its address.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use miosa_control::access;
use miosa_store::{
    previews::Visibility,
    tenants::{self, Tenant},
};
use miosa_types::host::Domains;
use miosa_wire::{
    Data,
    tenants::{DnsRecord, PreviewDomain, PutPreviewDomain},
};
use serde_json::{Map, Value};

use crate::{AppState, Caller, Error, Json, domains, tenants::own};

/// Longest settings of a tenant, in bytes of JSON.
const MAX_SETTINGS: usize = 64 * 1024;

/// Where a domain waits, in the settings.
const PENDING_PREVIEW: &str = "pending_preview_domain";
const PENDING_DEPLOYMENT: &str = "pending_deployment_domain";

/// When the preview domain became usable, in the settings.
const PREVIEW_SINCE: &str = "preview_domain_verified_at";

/// Names that are not free settings.
const OWN: [&str; 6] = [
    PENDING_PREVIEW,
    PENDING_DEPLOYMENT,
    PREVIEW_SINCE,
    "deployment_domain",
    "preview_domain",
    "console_domain",
];

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/settings", get(read).put(change))
        .route("/tenant/preview-domain", get(read_preview).put(put_preview).delete(delete_preview))
        .route("/tenant/preview-domain/verify", post(verify_preview))
}

type Settings = Json<Data<Map<String, Value>>>;

async fn read(State(state): State<AppState>, caller: Caller) -> Result<Settings, Error> {
    let tenant = own(&mut *state.control.store.conn().await?, &caller).await?;
    Ok(Json(Data::new(render(&tenant, &state.control.config.domains))))
}

async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<Map<String, Value>>,
) -> Result<Settings, Error> {
    let domain = match new.get("deployment_domain") {
        None => None,
        Some(Value::String(text)) => Some(domains::parse("deployment_domain", text)?),
        Some(_) => {
            return Err(Error::Invalid {
                field: "deployment_domain",
                message: "must be a text".to_owned(),
            });
        }
    };
    check_preview_settings(&new)?;
    let tenant = write(&state, &caller, |tenant| {
        for (name, value) in new {
            if !OWN.contains(&name.as_str()) {
                tenant.settings.insert(name, value);
            }
        }
        match domain {
            Some(domain) if caller.is_operator || domain == tenant.deployment_domain => {
                tenant.deployment_domain = domain;
                tenant.settings.remove(PENDING_DEPLOYMENT);
            }
            Some(domain) => {
                tenant.settings.insert(PENDING_DEPLOYMENT.to_owned(), domain.into());
            }
            None => {}
        }
    })
    .await?;
    Ok(Json(Data::new(render(&tenant, &state.control.config.domains))))
}

/// Settings that decide who sees what are not stored unless they are understood.
fn check_preview_settings(new: &Map<String, Value>) -> Result<(), Error> {
    let invalid = |field, message: &str| Error::Invalid { field, message: message.to_owned() };
    if let Some(value) = new.get(access::VISIBILITY)
        && value.as_str().and_then(Visibility::parse).is_none()
    {
        return Err(invalid(access::VISIBILITY, "must be `public` or `private`"));
    }
    let Some(value) = new.get(access::FRAME_ANCESTORS) else { return Ok(()) };
    let is_list = value.as_array().is_some_and(|list| {
        list.len() <= 20 && list.iter().all(|one| one.as_str().is_some_and(is_origin))
    });
    if is_list {
        return Ok(());
    }
    let why = "must be a list of at most 20 origins, such as `https://app.example.com` or \
               `https://*.example.com`";
    Err(invalid(access::FRAME_ANCESTORS, why))
}

/// A source of a policy (CSP level 3 §2.3.1) that names a host, or the page itself.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return text == "'self'" };
    let (host, port) = rest.split_once(':').unwrap_or((rest, "1"));
    let host = host.strip_prefix("*.").unwrap_or(host);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    ["http", "https"].contains(&scheme)
        && host.len() <= 253
        && host.split('.').all(is_label)
        && port.parse::<u16>().is_ok()
}

async fn read_preview(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<PreviewDomain>>, Error> {
    let tenant = own(&mut *state.control.store.conn().await?, &caller).await?;
    Ok(Json(Data::new(preview(&tenant, &state.control.config.domains))))
}

async fn put_preview(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<PutPreviewDomain>,
) -> Result<Json<Data<PreviewDomain>>, Error> {
    let domain = domains::parse("preview_domain", &new.preview_domain)?;
    let now = state.control.env.now();
    let tenant = write(&state, &caller, |tenant| {
        if caller.is_operator {
            use_preview(tenant, domain, now);
        } else if tenant.preview_domain.as_ref() != Some(&domain) {
            tenant.settings.insert(PENDING_PREVIEW.to_owned(), domain.into());
        }
    })
    .await?;
    Ok(Json(Data::new(preview(&tenant, &state.control.config.domains))))
}

async fn delete_preview(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<StatusCode, Error> {
    write(&state, &caller, |tenant| {
        tenant.preview_domain = None;
        tenant.settings.remove(PENDING_PREVIEW);
        tenant.settings.remove(PREVIEW_SINCE);
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The operator confirms a waiting domain; for everybody else it tells the state.
async fn verify_preview(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<PreviewDomain>>, Error> {
    let now = state.control.env.now();
    let tenant = if caller.is_operator {
        write(&state, &caller, |tenant| {
            if let Some(Value::String(domain)) = tenant.settings.remove(PENDING_PREVIEW) {
                use_preview(tenant, domain, now);
            }
        })
        .await?
    } else {
        own(&mut *state.control.store.conn().await?, &caller).await?
    };
    let mut answer = preview(&tenant, &state.control.config.domains);
    answer.verified = Some(answer.status == "configured");
    Ok(Json(Data::new(answer)))
}

fn use_preview(tenant: &mut Tenant, domain: String, now: jiff::Timestamp) {
    tenant.preview_domain = Some(domain);
    tenant.settings.remove(PENDING_PREVIEW);
    tenant.settings.insert(PREVIEW_SINCE.to_owned(), now.to_string().into());
}

/// Changes a tenant within the rules for domains, and has edges told.
async fn write(
    state: &AppState,
    caller: &Caller,
    change: impl FnOnce(&mut Tenant),
) -> Result<Tenant, Error> {
    let mut tx = state.control.store.begin().await?;
    let mut tenant = own(&mut tx, caller).await?;
    change(&mut tenant);
    let bytes = serde_json::to_vec(&tenant.settings).map_or(usize::MAX, |json| json.len());
    if bytes > MAX_SETTINGS {
        return Err(Error::TooLarge {
            message: format!("settings have at most {MAX_SETTINGS} bytes"),
        });
    }
    domains::check(&mut tx, &state.control.config.domains, &tenant).await?;
    tenants::update(&mut tx, &tenant, state.control.env.now()).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    state.control.wakes.routes.notify_one();
    Ok(tenant)
}

fn render(tenant: &Tenant, config: &Domains) -> Map<String, Value> {
    let wire = crate::tenants::render(tenant, config);
    let mut settings = tenant.settings.clone();
    settings.insert("deployment_domain".to_owned(), wire.deployment_domain.into());
    settings.insert("preview_domain".to_owned(), wire.preview_domain.into());
    settings.insert("console_domain".to_owned(), wire.console_domain.into());
    settings
}

fn preview(tenant: &Tenant, config: &Domains) -> PreviewDomain {
    let text = |name: &str| tenant.settings.get(name).and_then(Value::as_str);
    let pending = text(PENDING_PREVIEW).map(str::to_owned);
    let status = match (&pending, &tenant.preview_domain) {
        (Some(_), _) => "pending_dns",
        (None, Some(_)) => "configured",
        (None, None) => "not_configured",
    };
    let verified_at = match status {
        "configured" => {
            text(PREVIEW_SINCE).and_then(|at| at.parse().ok()).or(Some(tenant.created_at))
        }
        _ => None,
    };
    let domain = pending.or_else(|| tenant.preview_domain.clone());
    let record = domain.as_ref().map(|domain| DnsRecord {
        kind: "CNAME",
        name: format!("*.sandbox.{domain}"),
        value: config.apps.clone(),
    });
    PreviewDomain {
        preview_domain: domain.clone(),
        domain,
        default_domain: config.apps.clone(),
        status,
        dns_status: status,
        verified_at,
        cname_target: config.apps.clone(),
        target: config.apps.clone(),
        records: record.clone().into_iter().collect(),
        dns_instructions: record,
        verified: None,
    }
}
