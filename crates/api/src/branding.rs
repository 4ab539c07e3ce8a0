//! `/tenant/branding` and its alias `/settings/branding`.
//!
//! Promises: the answers of `/tenant/branding` have exactly one key, because SDKs unwrap it; a
//! brand that could break a page is refused with the field's name.

use axum::{Router, extract::State, routing::get};
use miosa_store::tenants;
use miosa_types::Branding;
use miosa_wire::{
    Data,
    tenants::{Brand, BrandingAnswer, PutBranding},
};

use crate::{AppState, Caller, Error, Json, tenants::own};

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/tenant/branding", get(read).put(replace).delete(clear))
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
    let brand = write(&state, &caller, |old| {
        let old = old.unwrap_or_default();
        Some(Branding {
            name: new.name.or(old.name),
            logo_url: new.logo_url.or(old.logo_url),
            primary_color: new.primary_color.or(old.primary_color),
            background_color: new.background_color.or(old.background_color),
            support_url: new.support_url.or(old.support_url),
            support_email: new.support_email.or(old.support_email),
        })
    })
    .await?;
    Ok(Json(Data::new(brand.unwrap_or_default().into())))
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
    if let Some(brand) = &tenant.branding {
        brand
            .check()
            .map_err(|error| Error::Invalid { field: error.field, message: error.to_string() })?;
    }
    tenants::update(&mut tx, &tenant, state.control.env.now()).await?;
    tx.commit().await.map_err(miosa_store::Error::from)?;
    state.control.wakes.routes.notify_one();
    Ok(tenant.branding)
}
