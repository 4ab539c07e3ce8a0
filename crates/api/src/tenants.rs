//! `/admin/tenants`, `/platform/tenants`, `/tenants/{id}`, `/tenant/plan`, `/whoami`.

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    routing::{get, post, put},
};
use miosa_store::{
    api_keys,
    tenants::{self, Tenant},
    workspaces,
};
use miosa_types::{Slug, host::Domains};
use miosa_wire::{
    Data,
    envelope::Listed,
    tenants::{self as wire, NewTenant, RenameTenant, TenantCreated},
};

use crate::{AppState, Caller, Error, Json, Path, auth, domains, names, paging::Paging};

/// Slugs that stand for something else below the apps domain.
const RESERVED: [&str; 1] = ["e2b"];

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/admin/tenants", post(create).get(list))
        .route("/platform/tenants", get(list))
        .route("/platform/tenants/current", get(current))
        .route("/tenants/{tenant}", put(rename).get(by_name))
        .route("/tenant/plan", get(plan))
        .route("/whoami", get(whoami))
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewTenant>,
) -> Result<(StatusCode, Json<Data<TenantCreated>>), Error> {
    caller.operator_only()?;
    let (env, config) = (&state.control.env, &state.control.config.domains);
    let name = check_name(&new.name)?;
    let slug = slug_of(name, new.slug.as_deref())?;
    let tenant = Tenant {
        id: env.id(),
        name: name.to_owned(),
        deployment_domain: match &new.deployment_domain {
            Some(domain) => domains::parse("deployment_domain", domain)?,
            None => config.default_deployment_domain(slug.as_str()),
        },
        preview_domain: domains::maybe("preview_domain", new.preview_domain.as_deref())?,
        console_domain: domains::maybe("console_domain", new.console_domain.as_deref())?,
        slug,
        branding: None,
        settings: serde_json::Map::new(),
        generation: 1,
        created_at: env.now(),
        updated_at: env.now(),
    };
    let key = auth::new_key(env, tenant.id, "first key", false);
    let mut tx = state.control.store.begin().await?;
    domains::check(&mut tx, config, &tenant).await?;
    tenants::insert(&mut tx, &tenant).await?;
    api_keys::insert(&mut tx, &key.row).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    state.control.wakes.routes.notify_one();
    let created =
        TenantCreated { tenant: render(&tenant, config), api_key: key.key.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(Data::new(created))))
}

/// Every tenant for the operator, its own for everybody else.
async fn list(
    State(state): State<AppState>,
    caller: Caller,
    paging: Paging,
) -> Result<Json<Listed<wire::Tenant>>, Error> {
    let mut db = state.control.store.conn().await?;
    let part = if caller.is_operator {
        paging.read(&mut db, &tenants::all()).await?
    } else {
        paging.of(vec![own(&mut db, &caller).await?], |tenant| tenant.id.to_string())?
    };
    let config = &state.control.config.domains;
    Ok(part.show(|tenant| render(&tenant, config)))
}

async fn current(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<wire::Tenant>>, Error> {
    let tenant = own(&mut *state.control.store.conn().await?, &caller).await?;
    Ok(Json(Data::new(render(&tenant, &state.control.config.domains))))
}

async fn by_name(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Data<wire::Tenant>>, Error> {
    let tenant = named(&mut *state.control.store.conn().await?, &caller, &name).await?;
    Ok(Json(Data::new(render(&tenant, &state.control.config.domains))))
}

/// Name and slug are permanent: setting them again to what they are is fine.
async fn rename(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    Json(new): Json<RenameTenant>,
) -> Result<Json<Data<wire::Tenant>>, Error> {
    let tenant = named(&mut *state.control.store.conn().await?, &caller, &name).await?;
    let is_same_slug = new.slug.as_deref().is_none_or(|slug| slug == tenant.slug.as_str());
    if new.name.trim() != tenant.name || !is_same_slug {
        return Err(Error::Conflict {
            code: "RESOURCE_STATE",
            message: format!("the name of an organization is permanent; it is `{}`", tenant.name),
            retryable: false,
        });
    }
    Ok(Json(Data::new(render(&tenant, &state.control.config.domains))))
}

async fn plan(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<wire::Plan>>, Error> {
    let mut db = state.control.store.conn().await?;
    let [sandboxes, deployments, workspaces, projects] =
        tenants::usage(&mut db, caller.tenant).await?;
    Ok(Json(Data::new(wire::Plan {
        plan: PLAN,
        limits: serde_json::Map::new(),
        usage: wire::Usage { sandboxes, deployments, workspaces, projects },
    })))
}

async fn whoami(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<wire::WhoAmI>>, Error> {
    let mut db = state.control.store.conn().await?;
    let tenant = own(&mut db, &caller).await?;
    let default = workspaces::By::Slug("default");
    let workspace = workspaces::find(&mut db, caller.tenant, default).await?;
    Ok(Json(Data::new(wire::WhoAmI {
        user: None,
        organization: render(&tenant, &state.control.config.domains),
        workspace: workspace.as_ref().map(crate::workspaces::render),
        plan: PLAN,
        scopes: caller.scopes,
        is_operator: caller.is_operator,
    })))
}

/// Nothing is sold: there is one plan.
const PLAN: &str = "self_hosted";

/// The row of the tenant that the caller acts for.
pub(crate) async fn own(db: &mut sqlx::AnyConnection, caller: &Caller) -> Result<Tenant, Error> {
    let found = tenants::find(db, caller.tenant).await?;
    found.ok_or_else(|| Error::NotFound { kind: "tenant", id: caller.tenant_slug.clone() })
}

/// A tenant by id or slug, if the caller may see it.
async fn named(db: &mut sqlx::AnyConnection, caller: &Caller, name: &str) -> Result<Tenant, Error> {
    let found = match name.parse() {
        Ok(id) => tenants::find(db, id).await?,
        Err(_) => tenants::find_by_slug(db, name).await?,
    };
    found
        .filter(|tenant| caller.is_operator || tenant.id == caller.tenant)
        .ok_or_else(|| Error::NotFound { kind: "tenant", id: name.to_owned() })
}

pub(crate) fn render(tenant: &Tenant, config: &Domains) -> wire::Tenant {
    wire::Tenant {
        id: tenant.id,
        name: tenant.name.clone(),
        slug: tenant.slug.to_string(),
        plan: PLAN,
        credit_balance: None,
        region: "local",
        setup_required: false,
        deployment_domain: tenant.deployment_domain.clone(),
        preview_domain: tenant.preview_domain.clone().unwrap_or_else(|| config.apps.clone()),
        console_domain: tenant
            .console_domain
            .clone()
            .unwrap_or_else(|| format!("{}.console.{}", tenant.slug, config.base)),
        inserted_at: tenant.created_at,
        updated_at: tenant.updated_at,
    }
}

/// Checks a display name.
pub(crate) fn check_name(name: &str) -> Result<&str, Error> {
    names::display("name", name, names::SHORT)
}

fn slug_of(name: &str, wanted: Option<&str>) -> Result<Slug, Error> {
    let invalid = |field, message: String| Error::Invalid { field, message };
    let slug =
        Slug::from_display(name).filter(|slug| !RESERVED.contains(&slug.as_str())).ok_or_else(
            || invalid("name", format!("`{name}` gives no usable slug; use another name")),
        )?;
    if wanted.is_some_and(|wanted| wanted != slug.as_str()) {
        return Err(invalid("slug", format!("the slug follows from the name: it is `{slug}`")));
    }
    Ok(slug)
}
