//! Who may call: Bearer keys, the acting tenant, scopes.
//!
//! Promises: everything under `/api/v1` needs a key with the scope that [`crate::openapi`] names,
//! whatever a handler does; a key that asks too often is refused before anything else is done for
//! it ([`crate::limits`]); an ordinary key acts for its own tenant only; the operator's for
//! tenant `default`, or for the one that `X-MIOSA-Tenant` names.

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, header, request::Parts};
use jiff::Timestamp;
use miosa_store::{api_keys, api_keys::ApiKey, tenants, tenants::Tenant};
use miosa_types::{ApiKeyId, Env, TenantId};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    AppState, Caller, Error,
    openapi::{self, Access},
};

/// Names the tenant that an operator acts for, by id or slug.
pub const TENANT_HEADER: &str = "x-miosa-tenant";

/// A key's last use is written at most this often, in seconds.
const TOUCH_EVERY_S: i64 = 60;

/// A new key and what is stored of it.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// The key, shown once.
    pub key: miosa_types::Secret,
    /// Its row, without the key.
    pub row: ApiKey,
}

/// Makes a key of `tenant`: `msk_live_…`, or `msk_a_…` for the operator, with 192 random bits.
pub fn new_key(env: &Env, tenant: TenantId, name: &str, is_operator: bool) -> NewKey {
    let prefix = if is_operator { "msk_a_" } else { "msk_live_" };
    let key = format!("{prefix}{}", env.token(24));
    let row = ApiKey {
        id: env.id(),
        tenant,
        name: name.to_owned(),
        hash: hash(&key),
        prefix: key.chars().take(12).collect(),
        scopes: vec!["*".to_owned()],
        is_operator,
        created_at: env.now(),
        rate_limit_rpm: None,
        last_used_at: None,
        expires_at: None,
        revoked_at: None,
    };
    NewKey { key: miosa_types::Secret::new(key), row }
}

/// What is stored of a key.
pub fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key.as_bytes()))
}

/// Layer of `/api/v1`: finds the caller and checks the key's scopes.
pub async fn layer(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let route = route.strip_prefix("/api/v1").unwrap_or(route);
    let access = openapi::access(request.method(), route);
    if access == Access::Open {
        return next.run(request).await;
    }
    let caller = match identify(&state, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    // Counted before it is refused for another reason: asking is what costs.
    let counted = state.limits.count(&caller, state.control.env.now());
    if let Err(error) = counted.and_then(|()| caller.may(access)) {
        return error.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// The caller that [`layer`] found. A handler outside of that layer refuses everybody.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts.extensions.get::<Self>().cloned().ok_or_else(no_key)
    }
}

impl Caller {
    /// Refuses everybody but the operator.
    pub fn operator_only(&self) -> Result<(), Error> {
        if self.is_operator {
            return Ok(());
        }
        Err(Error::Forbidden {
            code: "FORBIDDEN",
            message: "only the operator's key may do this".to_owned(),
        })
    }

    /// Refuses who may not call.
    fn may(&self, access: Access) -> Result<(), Error> {
        match access {
            Access::Open | Access::AnyKey => Ok(()),
            Access::Scope(scope) => self.require(scope),
            Access::Operator => self.operator_only(),
        }
    }

    /// Refuses a key without this scope. Who may write may make new things too.
    pub fn require(&self, scope: &str) -> Result<(), Error> {
        let (area, right) = scope.split_once(':').unwrap_or((scope, ""));
        let is_met = self.scopes.iter().any(|have| match have.split_once(':') {
            None => have == "*",
            Some((of, has)) => {
                of == area && (has == right || has == "*" || (has, right) == ("write", "create"))
            }
        });
        if is_met {
            return Ok(());
        }
        Err(Error::Forbidden {
            code: "insufficient_scope",
            message: format!("this key lacks the scope `{scope}`"),
        })
    }
}

async fn identify(state: &AppState, headers: &HeaderMap) -> Result<Caller, Error> {
    let presented = bearer(headers).ok_or_else(no_key)?;
    let hash = hash(presented);
    let now = state.control.env.now();
    let mut db = state.control.store.conn().await?;
    let found = api_keys::find_by_hash(&mut db, &hash).await?;
    let key = found
        .filter(|key| bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())))
        .filter(|key| key.is_usable(now))
        .ok_or_else(|| Error::Unauthenticated {
            message: "the API key is not valid, was revoked or has expired".to_owned(),
        })?;
    let own = tenants::find(&mut db, key.tenant).await?.ok_or_else(no_key)?;
    let wanted = headers.get(TENANT_HEADER).map(|value| value.to_str().unwrap_or_default());
    let tenant = match wanted {
        None => own,
        Some(name) if names(&own, name) => own,
        Some(_) if !key.is_operator => return Err(not_your_tenant()),
        Some(name) => find_tenant(&mut db, name).await?,
    };
    drop(db);
    touch(state, &key, now);
    Ok(Caller {
        tenant: tenant.id,
        tenant_slug: tenant.slug.to_string(),
        key: key.id,
        is_operator: key.is_operator,
        rate_limit_rpm: key.rate_limit_rpm,
        scopes: key.scopes,
    })
}

fn names(tenant: &Tenant, name: &str) -> bool {
    tenant.slug.as_str() == name || name.parse() == Ok(tenant.id)
}

async fn find_tenant(db: &mut sqlx::AnyConnection, name: &str) -> Result<Tenant, Error> {
    let found = match name.parse() {
        Ok(id) => tenants::find(db, id).await?,
        Err(_) => tenants::find_by_slug(db, name).await?,
    };
    found.ok_or_else(|| Error::NotFound { kind: "organization", id: name.to_owned() })
}

/// Notes the use of a key off the request's path.
fn touch(state: &AppState, key: &ApiKey, now: Timestamp) {
    let is_recent =
        key.last_used_at.is_some_and(|at| now.duration_since(at).as_secs() < TOUCH_EVERY_S);
    if is_recent {
        return;
    }
    let (store, id): (_, ApiKeyId) = (state.control.store.clone(), key.id);
    tokio::spawn(async move {
        let result = async { api_keys::touch(&mut *store.conn().await?, id, now).await };
        if let Err(error) = result.await {
            tracing::warn!(%error, "the last use of a key could not be noted");
        }
    });
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty() && key.len() <= 256).then_some(key)
}

fn no_key() -> Error {
    Error::Unauthenticated {
        message: "send an API key as `Authorization: Bearer msk_…`".to_owned(),
    }
}

fn not_your_tenant() -> Error {
    Error::Forbidden {
        code: "FORBIDDEN",
        message: "this key may act for its own tenant only".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn caller(scopes: &[&str]) -> Caller {
        Caller {
            tenant: TenantId::from_uuid(Env::system().uuid()),
            tenant_slug: "t".to_owned(),
            key: ApiKeyId::from_uuid(Env::system().uuid()),
            is_operator: false,
            rate_limit_rpm: None,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        }
    }

    #[test]
    fn a_call_needs_the_scope_of_its_operation() {
        let post = Method::POST;
        for (scopes, method, route, is_ok) in [
            (&["*"][..], &post, "/sandboxes", true),
            (&["sandboxes:read"][..], &Method::GET, "/sandboxes/{id}", true),
            (&["sandboxes:read"][..], &Method::HEAD, "/sandboxes/{id}", true),
            (&["sandboxes:read"][..], &post, "/sandboxes", false),
            (&["sandboxes:create"][..], &post, "/sandboxes", true),
            (&["sandboxes:write"][..], &post, "/sandboxes", true),
            (&["sandboxes:create"][..], &Method::DELETE, "/sandboxes/{id}", false),
            (&["sandboxes:write"][..], &post, "/sandboxes/{id}/exec", false),
            (&["sandboxes:exec"][..], &post, "/sandboxes/{id}/exec", true),
            (&["sandboxes:*"][..], &post, "/sandboxes/{id}/exec", true),
            (&["sandboxes:*"][..], &post, "/sandboxes/{sandbox}/deploy", false),
            (&["deployments:write"][..], &post, "/sandboxes/{sandbox}/deploy", true),
            (&["*"][..], &post, "/admin/tenants", false),
            (&["*"][..], &Method::GET, "/a/route/without/a/line", false),
            (&[][..], &Method::GET, "/whoami", true),
        ] {
            let result = caller(scopes).may(openapi::access(method, route));
            assert_eq!(result.is_ok(), is_ok, "{scopes:?} {method} {route}");
        }
    }

    #[test]
    fn a_key_is_recognized_by_its_hash_only() {
        let env = Env::system();
        let new = new_key(&env, TenantId::from_uuid(env.uuid()), "k", false);
        assert!(new.key.expose().starts_with("msk_live_"));
        assert_eq!(new.row.hash, hash(new.key.expose()));
        assert!(!format!("{new:?}").contains(new.key.expose()));
    }

    #[test]
    fn only_bearer_is_a_key() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer msk_x").as_deref(), Some("msk_x"));
        assert_eq!(with("bearer msk_x").as_deref(), Some("msk_x"));
        for bad in ["", "Bearer", "Bearer ", "Basic msk_x", "msk_x"] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }
}
