//! Who may see the ports of a sandbox: computed for edges from previews, tokens and the tenant's
//! policy.

use std::collections::BTreeSet;

use miosa_store::{
    preview_tokens::PreviewToken,
    previews::{Preview, Visibility},
    tenants::Tenant,
};
use miosa_types::link::{Access, Grant};
use serde_json::Value;

/// Setting of a tenant: `private` makes every port private that no preview says is public.
pub const VISIBILITY: &str = "preview_visibility";
/// Setting of a tenant: the origins whose pages may show its previews in a frame.
pub const FRAME_ANCESTORS: &str = "frame_ancestors";

/// What a port is that no preview row speaks of.
pub fn default_visibility(tenant: Option<&Tenant>) -> Visibility {
    let setting = tenant.and_then(|tenant| tenant.settings.get(VISIBILITY)).and_then(Value::as_str);
    setting.and_then(Visibility::parse).unwrap_or(Visibility::Public)
}

/// The access of one sandbox. `previews` and `tokens` are its own.
///
/// Where two previews of one port differ it is private. A private preview that was removed keeps
/// its port closed until another speaks of it: whoever removes one does not mean to open it. A
/// token opens its preview, its port or all, and nothing when its preview is gone.
pub fn access(tenant: Option<&Tenant>, previews: &[&Preview], tokens: &[&PreviewToken]) -> Access {
    let is_private = default_visibility(tenant) == Visibility::Private;
    let (removed, previews): (Vec<&Preview>, Vec<&Preview>) =
        previews.iter().partition(|preview| preview.deleted_at.is_some());
    let ports = |of: Visibility| -> BTreeSet<u16> {
        previews.iter().filter(|p| p.visibility == of).map(|p| p.port).collect()
    };
    let (public, mut private) = (ports(Visibility::Public), ports(Visibility::Private));
    let was_private = |preview: &&&Preview| preview.visibility == Visibility::Private;
    let closed = removed.iter().filter(was_private).map(|preview| preview.port);
    private.extend(closed.filter(|port| !public.contains(port)));
    let except = if is_private { &public - &private } else { private };
    let grant = |token: &&PreviewToken| {
        let port = match token.preview {
            None => token.port,
            Some(id) => Some(previews.iter().find(|preview| preview.id == id)?.port),
        };
        Some(Grant { token: token.digest, port, expires_at: token.expires_at })
    };
    let frame_ancestors = tenant.map_or_else(Vec::new, frame_ancestors);
    Access {
        is_private,
        except,
        grants: tokens.iter().filter_map(grant).collect(),
        frame_ancestors,
    }
}

fn frame_ancestors(tenant: &Tenant) -> Vec<String> {
    let list = tenant.settings.get(FRAME_ANCESTORS).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use miosa_types::{Digest, PreviewId, SandboxId, Slug, TenantId};
    use uuid::Uuid;

    use super::*;

    fn at() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn tenant(settings: &Value) -> Tenant {
        Tenant {
            id: TenantId::from_uuid(Uuid::from_u128(1)),
            name: "Clinic".into(),
            slug: Slug::parse("clinic").unwrap(),
            deployment_domain: "clinic.localhost".into(),
            preview_domain: None,
            console_domain: None,
            branding: None,
            settings: settings.as_object().unwrap().clone(),
            generation: 1,
            created_at: at(),
            updated_at: at(),
        }
    }

    fn preview(id: u128, port: u16, visibility: Visibility) -> Preview {
        Preview {
            id: PreviewId::from_uuid(Uuid::from_u128(id)),
            tenant: TenantId::from_uuid(Uuid::from_u128(1)),
            sandbox: SandboxId::from_uuid(Uuid::from_u128(2)),
            name: None,
            port,
            visibility,
            metadata: serde_json::Map::new(),
            created_at: at(),
            updated_at: at(),
            deleted_at: None,
        }
    }

    fn token(id: u128, preview: Option<u128>, port: Option<u16>) -> PreviewToken {
        PreviewToken {
            id: miosa_types::PreviewTokenId::from_uuid(Uuid::from_u128(id)),
            tenant: TenantId::from_uuid(Uuid::from_u128(1)),
            sandbox: SandboxId::from_uuid(Uuid::from_u128(2)),
            preview: preview.map(|id| PreviewId::from_uuid(Uuid::from_u128(id))),
            port,
            digest: Digest::of(&id.to_be_bytes()),
            prefix: String::new(),
            scope: "read".into(),
            created_at: at(),
            expires_at: at(),
        }
    }

    #[test]
    fn a_port_is_as_private_as_its_strictest_preview() {
        use Visibility::{Private, Public};
        let open = tenant(&serde_json::json!({}));
        let strict = tenant(&serde_json::json!({"preview_visibility": "private"}));
        for (tenant, rows, private, public) in [
            (&open, vec![], vec![], vec![3000, 1]),
            (&open, vec![(3000, Private)], vec![3000], vec![1]),
            (&open, vec![(3000, Public), (3000, Private)], vec![3000], vec![1]),
            (&strict, vec![], vec![3000, 1], vec![]),
            (&strict, vec![(3000, Public)], vec![1], vec![3000]),
            (&strict, vec![(3000, Public), (3000, Private)], vec![3000, 1], vec![]),
        ] {
            let rows: Vec<_> =
                (1..).zip(rows).map(|(id, (port, of))| preview(id, port, of)).collect();
            let access = access(Some(tenant), &rows.iter().collect::<Vec<_>>(), &[]);
            assert!(private.iter().all(|port| access.is_private(*port)), "{access:?}");
            assert!(!public.iter().any(|port| access.is_private(*port)), "{access:?}");
        }
    }

    #[test]
    fn removing_a_private_preview_does_not_open_its_port() {
        let removed = Preview { deleted_at: Some(at()), ..preview(7, 3000, Visibility::Private) };
        let token = token(1, Some(7), None);
        let closed = access(None, &[&removed], &[&token]);
        assert!(closed.is_private(3000) && !closed.is_private(1));
        assert!(closed.grants.is_empty(), "its tokens are gone with it");
        let opened = access(None, &[&removed, &preview(8, 3000, Visibility::Public)], &[]);
        assert!(!opened.is_private(3000), "whoever says public means it");
        let public = Preview { deleted_at: Some(at()), ..preview(7, 3000, Visibility::Public) };
        assert!(!access(None, &[&public], &[]).is_private(3000));
    }

    #[test]
    fn a_token_opens_its_preview_its_port_or_all_and_nothing_when_that_is_gone() {
        let row = preview(7, 3000, Visibility::Private);
        let tokens = [
            token(1, Some(7), None),
            token(2, None, None),
            token(3, Some(8), None),
            token(4, None, Some(4000)),
        ];
        let access = access(None, &[&row], &tokens.iter().collect::<Vec<_>>());
        let ports: Vec<_> = access.grants.iter().map(|grant| grant.port).collect();
        assert_eq!(ports, [Some(3000), None, Some(4000)]);
    }
}
