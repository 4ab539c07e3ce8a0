//! `/deployments/{id}/domains`, and the same domains by name: `/domains`, `/custom-domains`.

use std::net::IpAddr;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{delete, get, post},
};
use miosa_control::domains::{
    self as control, Error as ControlError, New, RedirectPolicy, Shown, Status,
};
use miosa_store::deployments::External;
use miosa_wire::{
    Data,
    domains::{self as wire, Assign, ChangeDomain, Deleted, NewDomain},
    envelope::Listed,
    tenants::DnsRecord,
};
use serde::Deserialize;

use crate::{
    AppState, Caller, Error, Json, Path, Query, idempotency::Keyed, names, paging::Paging,
    unsupported,
};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/deployments/{deployment}/domains", get(list).post(add))
        .route("/deployments/{deployment}/domains/{domain}", get(show).patch(change).delete(remove))
        .route("/deployments/{deployment}/domains/{domain}/verify", post(verify))
        .route("/domains", get(list_all).post(add_by_name))
        .route("/domains/{domain}", get(show_by_name).delete(remove_by_name))
        .route("/domains/{domain}/verify", post(verify_by_name))
        .route("/domains/{domain}/assign", post(assign))
        .route("/custom-domains", get(list_all).post(add_by_name))
        .route("/custom-domains/{domain}", delete(remove_by_name))
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::NotFound { key } => Self::NotFound { kind: "domain", id: key },
            ControlError::Invalid { message } => Self::Invalid { field: "domain", message },
            ControlError::Reserved { .. } => {
                Self::Refused { code: "DOMAIN_RESERVED", field: "domain", message }
            }
            ControlError::Taken { .. } => {
                Self::Conflict { code: "DOMAIN_TAKEN", message, retryable: false }
            }
            ControlError::Contradiction { .. } => {
                Self::Conflict { code: "REDIRECT_CONFLICT", message, retryable: false }
            }
            ControlError::TooMany => {
                Self::Conflict { code: "TOO_MANY_DOMAINS", message, retryable: false }
            }
            ControlError::Deployment(error) => error.into(),
            ControlError::Store(error) => error.into(),
        }
    }
}

type One = Result<Json<Data<wire::Domain>>, Error>;
type Added = Result<(StatusCode, Json<Data<wire::Domain>>), Error>;
type Many = Result<Json<Listed<wire::Domain>>, Error>;

/// A domain below a deployment.
#[derive(Debug, Deserialize)]
struct At {
    deployment: String,
    domain: String,
}

async fn add(
    State(state): State<AppState>,
    caller: Caller,
    Path(deployment): Path<String>,
    keyed: Keyed,
    Json(body): Json<NewDomain>,
) -> Added {
    add_to(&state, &caller, &deployment, keyed, body).await
}

async fn add_by_name(
    State(state): State<AppState>,
    caller: Caller,
    keyed: Keyed,
    Json(body): Json<NewDomain>,
) -> Added {
    let named = body.deployment_id.as_ref().or(body.target_id.as_ref());
    let message = "it names the deployment that shall answer".to_owned();
    let deployment = named.cloned().ok_or(Error::Invalid { field: "deployment_id", message })?;
    add_to(&state, &caller, &deployment, keyed, body).await
}

async fn add_to(
    state: &AppState,
    caller: &Caller,
    deployment: &str,
    keyed: Keyed,
    body: NewDomain,
) -> Added {
    unsupported::refuse(&body.rest, &unsupported::DOMAIN)?;
    let external = External {
        workspace: body.external_workspace_id,
        project: body.external_project_id,
        user: body.external_user_id,
    };
    names::check_free_data(&[&external.workspace, &external.project, &external.user])?;
    let new = New {
        domain: body.domain.or(body.fqdn).unwrap_or_default(),
        is_trusted: caller.is_operator,
        redirect: policy(body.redirect_policy.as_deref().unwrap_or_default())?,
        external,
    };
    let claim = keyed.0.as_ref();
    let shown = control::add(&state.control, caller.tenant, deployment, new, claim).await?;
    Ok((StatusCode::CREATED, Json(Data::new(view(state, shown)))))
}

/// Empty counts as not given.
fn policy(text: &str) -> Result<RedirectPolicy, Error> {
    if text.is_empty() {
        return Ok(RedirectPolicy::None);
    }
    RedirectPolicy::parse(text).ok_or_else(|| {
        let known = RedirectPolicy::ALL.map(RedirectPolicy::as_str).join(", ");
        Error::Invalid { field: "redirect_policy", message: format!("it is one of {known}") }
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    status: Option<String>,
    deployment_id: Option<String>,
    external_workspace_id: Option<String>,
    external_project_id: Option<String>,
    external_user_id: Option<String>,
}

impl Wanted {
    fn is(&self, shown: &Shown) -> bool {
        let fits = |wanted: &Option<String>, has: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || Some(wanted) == has)
        };
        let external = &shown.domain.external;
        fits(&self.status, Some(shown.domain.progress.status.as_str()))
            && fits(&self.external_workspace_id, external.workspace.as_deref())
            && fits(&self.external_project_id, external.project.as_deref())
            && fits(&self.external_user_id, external.user.as_deref())
    }
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path(deployment): Path<String>,
    Query(wanted): Query<Wanted>,
    paging: Paging,
) -> Many {
    many(&state, &caller, Some(&deployment), (&wanted, &paging)).await
}

async fn list_all(
    State(state): State<AppState>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
    paging: Paging,
) -> Many {
    let deployment = wanted.deployment_id.as_deref().filter(|id| !id.is_empty());
    many(&state, &caller, deployment, (&wanted, &paging)).await
}

async fn many(
    state: &AppState,
    caller: &Caller,
    deployment: Option<&str>,
    (wanted, paging): (&Wanted, &Paging),
) -> Many {
    let mut all = control::list(&state.control, caller.tenant, deployment).await?;
    all.retain(|shown| wanted.is(shown));
    // Whether one is wanted is known only once it is looked at; at most 1,000 are.
    let part = paging.of(all, |shown| shown.domain.id.to_string())?;
    Ok(part.show(|shown| view(state, shown)))
}

async fn show(State(state): State<AppState>, caller: Caller, Path(at): Path<At>) -> One {
    let of = Some(at.deployment.as_str());
    let shown = control::get(&state.control, caller.tenant, of, &at.domain).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn show_by_name(
    State(state): State<AppState>,
    caller: Caller,
    Path(domain): Path<String>,
) -> One {
    let shown = control::get(&state.control, caller.tenant, None, &domain).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
    Json(body): Json<ChangeDomain>,
) -> One {
    let (of, policy) = (Some(at.deployment.as_str()), policy(&body.redirect_policy)?);
    let shown =
        control::set_redirect(&state.control, caller.tenant, of, &at.domain, policy).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn verify(State(state): State<AppState>, caller: Caller, Path(at): Path<At>) -> One {
    let of = Some(at.deployment.as_str());
    let shown = control::verify(&state.control, caller.tenant, of, &at.domain).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn verify_by_name(
    State(state): State<AppState>,
    caller: Caller,
    Path(domain): Path<String>,
) -> One {
    let shown = control::verify(&state.control, caller.tenant, None, &domain).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn assign(
    State(state): State<AppState>,
    caller: Caller,
    Path(domain): Path<String>,
    Json(body): Json<Assign>,
) -> One {
    let to = &body.deployment_id;
    let shown = control::assign(&state.control, caller.tenant, &domain, to).await?;
    Ok(Json(Data::new(view(&state, shown))))
}

async fn remove(
    State(state): State<AppState>,
    caller: Caller,
    Path(at): Path<At>,
) -> Result<StatusCode, Error> {
    let of = Some(at.deployment.as_str());
    control::remove(&state.control, caller.tenant, of, &at.domain).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_by_name(
    State(state): State<AppState>,
    caller: Caller,
    Path(domain): Path<String>,
) -> Result<Json<Deleted>, Error> {
    let removed = control::remove(&state.control, caller.tenant, None, &domain).await?;
    Ok(Json(Deleted { id: removed.id, domain: removed.domain, deleted: true }))
}

fn view(state: &AppState, shown: Shown) -> wire::Domain {
    let config = &state.control.config;
    let target = shown.target();
    let Shown { domain, deployment } = shown;
    let progress = domain.progress.clone();
    let dns_records = records(&domain, &target, &config.addresses);
    wire::Domain {
        id: domain.id,
        tenant_id: domain.tenant,
        deployment_id: deployment.id,
        fqdn: domain.domain.clone(),
        status: progress.status.as_str(),
        dns_records,
        instructions: instructions(&domain, &target, !config.addresses.is_empty()),
        verification_target: target,
        redirect_policy: domain.redirect.as_str(),
        verified_at: progress.verified_at,
        tls_status: match progress.status {
            Status::Active => "issued",
            Status::Pending | Status::Verified => "pending",
            Status::Failed | Status::Removed => "none",
        },
        tls_issued_at: domain.tls_issued_at.filter(|_| progress.status == Status::Active),
        error: progress.failure,
        next_check_at: progress.next_check_at,
        url: config.domains.url(&domain.domain),
        domain: domain.domain,
        external_workspace_id: domain.external.workspace,
        external_project_id: domain.external.project,
        external_user_id: domain.external.user,
        created_at: domain.created_at,
        updated_at: domain.updated_at,
    }
}

/// An alias, and what does the same where none can be made, if this installation has addresses.
fn records(domain: &control::Domain, target: &str, addresses: &[IpAddr]) -> Vec<DnsRecord> {
    let control::Domain { domain, token, is_trusted, .. } = domain;
    let record = |kind, name: &str, value: &str| DnsRecord {
        kind,
        name: name.to_owned(),
        value: value.to_owned(),
    };
    let proof = record("TXT", &control::proof::record_name(domain), token);
    let mut all = vec![record("CNAME", domain, target)];
    all.extend((!*is_trusted && !addresses.is_empty()).then_some(proof));
    all.extend(addresses.iter().map(|address| {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        record(kind, domain, &address.to_string())
    }));
    all
}

fn instructions(domain: &control::Domain, target: &str, has_addresses: bool) -> String {
    let mut text = format!("Make `{}` a CNAME to `{target}`.", domain.domain);
    text.push_str(match (has_addresses, domain.is_trusted) {
        (false, _) => "",
        (true, true) => " Where no CNAME can be made, make the A or AAAA records instead.",
        (true, false) => {
            " Where no CNAME can be made, make the TXT record and the A or AAAA records instead. \
             Keep them: they are looked at again from time to time."
        }
    });
    if domain.redirect != RedirectPolicy::None
        && let Some(other) = control::redirect::counterpart(&domain.domain)
    {
        let begins = format!(" The redirect begins once `{other}` is added and proved too.");
        text.push_str(&begins);
    }
    text
}
