//! `/tenant/branding`, its alias `/settings/branding`, and `/workspaces/:id/branding`.
//!
//! Promises: the answers of `…/branding` of a tenant or workspace have exactly one key, because
//! SDKs unwrap it; a brand that could break a page is refused with the field's name.

use axum::{Router, extract::State, routing::get};
use miosa_store::{tenants, workspaces};
use miosa_types::{Branding, WorkspaceId};
use miosa_wire::{
    Data,
    tenants::{Brand, BrandingAnswer, PutBranding},
};

use crate::{AppState, Caller, Error, Json, Path, tenants::own};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/tenant/branding", get(read).put(replace).delete(clear))
        .route(
            "/workspaces/{workspace}/branding",
            get(read_of_workspace).put(replace_of_workspace).delete(clear_of_workspace),
        )
        .route("/settings/branding", get(read_flat).put(change_flat))
}

async fn read(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<BrandingAnswer>, Error> {
    let tenant = own(&mut *state.control.store.conn().await?, &caller).await?;
    Ok(Json(BrandingAnswer { branding: tenant.branding.map(Brand::from) }))
}

async fn replace(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<PutBranding>,
) -> Result<Json<BrandingAnswer>, Error> {
    let brand = write(&state, &caller, |_| Some(new.branding.into())).await?;
    Ok(Json(BrandingAnswer { branding: brand.map(Brand::from) }))
}

async fn clear(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<BrandingAnswer>, Error> {
    write(&state, &caller, |_| None).await?;
    Ok(Json(BrandingAnswer { branding: None }))
}

async fn read_flat(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Json<Data<Brand>>, Error> {
    let tenant = own(&mut *state.control.store.conn().await?, &caller).await?;
    Ok(Json(Data::new(tenant.branding.unwrap_or_default().into())))
}

/// Here, what is not given stays.
async fn change_flat(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<Brand>,
) -> Result<Json<Data<Brand>>, Error> {
    let new = Branding::from(new);
    let brand = write(&state, &caller, |old| Some(new.over(old.unwrap_or_default()))).await?;
    Ok(Json(Data::new(brand.unwrap_or_default().into())))
}

async fn read_of_workspace(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
) -> Result<Json<BrandingAnswer>, Error> {
    let mut db = state.control.store.conn().await?;
    let workspace = crate::workspaces::find(&mut db, &caller, id).await?;
    Ok(Json(BrandingAnswer { branding: workspace.branding.map(Brand::from) }))
}

async fn replace_of_workspace(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
    Json(new): Json<PutBranding>,
) -> Result<Json<BrandingAnswer>, Error> {
    write_of_workspace(&state, &caller, id, Some(new.branding.into())).await
}

async fn clear_of_workspace(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<WorkspaceId>,
) -> Result<Json<BrandingAnswer>, Error> {
    write_of_workspace(&state, &caller, id, None).await
}

async fn write_of_workspace(
    state: &AppState,
    caller: &Caller,
    id: WorkspaceId,
    brand: Option<Branding>,
) -> Result<Json<BrandingAnswer>, Error> {
    let now = state.control.env.now();
    let mut tx = state.control.store.begin().await?;
    let mut workspace = crate::workspaces::find(&mut tx, caller, id).await?;
    workspace.branding = brand;
    workspace.updated_at = now;
    check(workspace.branding.as_ref())?;
    workspaces::update(&mut tx, &workspace, now).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    state.control.wakes.routes.notify_one();
    Ok(Json(BrandingAnswer { branding: workspace.branding.map(Brand::from) }))
}

fn check(brand: Option<&Branding>) -> Result<(), Error> {
    brand
        .map_or(Ok(()), Branding::check)
        .map_err(|error| Error::Invalid { field: error.field, message: error.to_string() })
}

/// Changes the brand and has edges told.
async fn write(
    state: &AppState,
    caller: &Caller,
    change: impl FnOnce(Option<Branding>) -> Option<Branding>,
) -> Result<Option<Branding>, Error> {
    let mut tx = state.control.store.begin().await?;
    let mut tenant = own(&mut tx, caller).await?;
    tenant.branding = change(tenant.branding.take());
    check(tenant.branding.as_ref())?;
    tenants::update(&mut tx, &tenant, state.control.env.now()).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    state.control.wakes.routes.notify_one();
    Ok(tenant.branding)
}
