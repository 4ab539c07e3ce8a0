//! Which domains a tenant may have.
//!
//! Promises: no two tenants have domains of which one lies at or below the other, and none
//! reaches into the installation's own, so a host name means one thing only.

use miosa_store::{
    domains as brought,
    tenants::{self, Tenant},
};
use miosa_types::{
    host::{Domains, is_at_or_below},
    name::parse_domain,
};
use sqlx::AnyConnection;

use crate::Error;

/// Checks the form of a domain.
pub(crate) fn parse(field: &'static str, text: &str) -> Result<String, Error> {
    parse_domain(text).map_err(|error| Error::Invalid { field, message: error.to_string() })
}

/// The same where it may be missing; empty counts as missing.
pub(crate) fn maybe(field: &'static str, text: Option<&str>) -> Result<Option<String>, Error> {
    text.filter(|text| !text.is_empty()).map(|text| parse(field, text)).transpose()
}

/// Checks the domains of `tenant` against the installation's and all other tenants'. Run it in
/// the transaction that writes them.
pub(crate) async fn check(
    db: &mut AnyConnection,
    config: &Domains,
    tenant: &Tenant,
) -> Result<(), Error> {
    for (field, domain) in of(tenant) {
        check_own(field, domain, config, tenant)?;
        if brought::is_held_below(db, tenant.id, domain).await? {
            return Err(Error::NameTaken { name: domain.to_owned() });
        }
    }
    for other in tenants::list(db).await? {
        if other.id == tenant.id {
            continue;
        }
        for (_, domain) in of(tenant) {
            if of(&other).any(|(_, theirs)| overlap(domain, theirs)) {
                return Err(Error::NameTaken { name: domain.to_owned() });
            }
        }
    }
    Ok(())
}

fn of(tenant: &Tenant) -> impl Iterator<Item = (&'static str, &str)> {
    [
        ("deployment_domain", Some(tenant.deployment_domain.as_str())),
        ("preview_domain", tenant.preview_domain.as_deref()),
        ("console_domain", tenant.console_domain.as_deref()),
    ]
    .into_iter()
    .filter_map(|(field, domain)| domain.map(|domain| (field, domain)))
}

fn check_own(
    field: &'static str,
    domain: &str,
    config: &Domains,
    tenant: &Tenant,
) -> Result<(), Error> {
    let is_default = domain == config.default_deployment_domain(tenant.slug.as_str());
    let is_shared_preview = field == "preview_domain" && domain == config.apps;
    if is_default || is_shared_preview {
        return Ok(());
    }
    for own in [&config.base, &config.apps] {
        if overlap(domain, own) {
            return Err(Error::Invalid {
                field,
                message: format!("`{domain}` belongs to the installation (`{own}`)"),
            });
        }
    }
    Ok(())
}

/// Whether one lies at or below the other.
fn overlap(a: &str, b: &str) -> bool {
    is_at_or_below(a, b) || is_at_or_below(b, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_overlap_at_labels_only() {
        for (a, b, is_overlap) in [
            ("a.b", "a.b", true),
            ("x.a.b", "a.b", true),
            ("a.b", "x.a.b", true),
            ("xa.b", "a.b", false),
            ("a.b", "c.b", false),
        ] {
            assert_eq!(overlap(a, b), is_overlap, "{a} {b}");
        }
    }
}
