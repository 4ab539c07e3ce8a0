//! `/api-keys`.
//!
//! Promises: a key is shown once; a key cannot make one that may do more than itself, or more
//! often; the
//! operator's key is not listed and cannot be revoked here.

use std::num::NonZeroU32;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use miosa_store::api_keys::{self, ApiKey};
use miosa_types::ApiKeyId;
use miosa_wire::{
    Data,
    envelope::Listed,
    keys::{self as wire, NewKey},
};

use crate::{AppState, Caller, Error, Json, Path, auth, paging::Paging, tenants::check_name};

/// Highest rate of one key.
const MAX_RPM: u32 = 1_000_000;
/// Most scopes of one key.
const MAX_SCOPES: usize = 64;

/// Routes of this area.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/api-keys", get(list).post(create))
        .route("/api-keys/{key}", get(read).delete(revoke))
}

async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Json(new): Json<NewKey>,
) -> Result<(StatusCode, Json<Data<wire::ApiKey>>), Error> {
    let env = &state.control.env;
    let mut key = auth::new_key(env, caller.tenant, check_name(&new.name)?, false);
    let scopes = new.scopes.unwrap_or_else(|| caller.scopes.clone());
    check_scopes(&caller, &scopes)?;
    if new.expires_at.is_some_and(|end| end <= env.now()) {
        return Err(Error::Invalid {
            field: "expires_at",
            message: "must be in the future".to_owned(),
        });
    }
    key.row.rate_limit_rpm = rate(&state, &caller, new.rate_limit_rpm)?;
    key.row.scopes = scopes;
    key.row.expires_at = new.expires_at;
    api_keys::insert(&mut *state.control.store.conn().await?, &key.row).await?;
    let mut answer = render(&state, &key.row);
    answer.key = Some(key.key.expose().to_owned());
    answer.token.clone_from(&answer.key);
    Ok((StatusCode::CREATED, Json(Data::new(answer))))
}

async fn list(
    State(state): State<AppState>,
    caller: Caller,
    paging: Paging,
) -> Result<Json<Listed<wire::ApiKey>>, Error> {
    let keys = api_keys::of_tenant(caller.tenant);
    let part = paging.read(&mut *state.control.store.conn().await?, &keys).await?;
    Ok(part.show(|key| render(&state, &key)))
}

async fn read(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ApiKeyId>,
) -> Result<Json<Data<wire::ApiKey>>, Error> {
    let mut db = state.control.store.conn().await?;
    let key = api_keys::find(&mut db, caller.tenant, id).await?.filter(|key| !key.is_operator);
    let key = key.ok_or_else(|| missing(id))?;
    Ok(Json(Data::new(render(&state, &key))))
}

/// Revoking a revoked key is fine.
async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ApiKeyId>,
) -> Result<StatusCode, Error> {
    let mut db = state.control.store.conn().await?;
    let now = state.control.env.now();
    let is_done = api_keys::revoke(&mut db, caller.tenant, id, now).await?;
    let is_there = is_done
        || api_keys::find(&mut db, caller.tenant, id).await?.is_some_and(|key| !key.is_operator);
    if is_there { Ok(StatusCode::NO_CONTENT) } else { Err(missing(id)) }
}

fn check_scopes(caller: &Caller, scopes: &[String]) -> Result<(), Error> {
    let is_scope = |scope: &String| {
        scope == "*"
            || (scope.len() <= 64
                && scope.split_once(':').is_some_and(|(area, right)| {
                    !area.is_empty()
                        && !right.is_empty()
                        && scope.bytes().all(|b| b.is_ascii_lowercase() || b"_:*-".contains(&b))
                }))
    };
    if scopes.is_empty() || scopes.len() > MAX_SCOPES || !scopes.iter().all(is_scope) {
        return Err(Error::Invalid {
            field: "scopes",
            message: "give 1 to 64 scopes like `sandboxes:read`, or `*`".to_owned(),
        });
    }
    scopes.iter().try_for_each(|scope| caller.require(scope))
}

/// A key cannot make one that may ask more often than itself.
fn rate(
    state: &AppState,
    caller: &Caller,
    wanted: Option<u32>,
) -> Result<Option<NonZeroU32>, Error> {
    let field = "rate_limit_rpm";
    let own = caller.rate_limit_rpm.filter(|_| !caller.is_operator);
    let Some(wanted) = wanted else { return Ok(own) };
    let wanted = NonZeroU32::new(wanted)
        .filter(|rpm| rpm.get() <= MAX_RPM)
        .ok_or_else(|| Error::Invalid { field, message: format!("must be from 1 to {MAX_RPM}") })?;
    match state.limits.of_key(own).filter(|most| !caller.is_operator && wanted > *most) {
        Some(most) => Err(Error::Invalid {
            field,
            message: format!("this key may make {most} requests a minute and cannot give more"),
        }),
        None => Ok(Some(wanted)),
    }
}

fn missing(id: ApiKeyId) -> Error {
    Error::NotFound { kind: "API key", id: id.to_string() }
}

fn render(state: &AppState, key: &ApiKey) -> wire::ApiKey {
    let now = state.control.env.now();
    let status = match (key.revoked_at, key.is_usable(now)) {
        (Some(_), _) => "revoked",
        (None, false) => "expired",
        (None, true) => "active",
    };
    wire::ApiKey {
        id: key.id,
        key: None,
        token: None,
        key_prefix: key.prefix.clone(),
        name: key.name.clone(),
        key_type: "platform",
        key_purpose: "api",
        scopes: key.scopes.clone(),
        rate_limit_rpm: state.limits.of_key(key.rate_limit_rpm).map(NonZeroU32::get),
        status,
        created_at: key.created_at,
        expires_at: key.expires_at,
        last_used_at: key.last_used_at,
    }
}
