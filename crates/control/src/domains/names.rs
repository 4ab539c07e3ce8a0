//! Which names can be brought: their form, and those that are nobody's to claim.
//!
//! Promises: what passes is a name as the DNS has it, in lower case and ASCII, so that one name
//! has one spelling; no refusal tells whose a name is.

use idna::{
    AsciiDenyList,
    uts46::{DnsLength, Hyphens, Uts46},
};
use miosa_store::tenants::Tenant;
use miosa_types::{
    TenantId,
    host::{Domains, is_at_or_below},
    name::parse_domain,
};

/// A name as the DNS has it, from what a person typed; why not, otherwise.
pub fn parse(text: &str) -> Result<String, String> {
    let name = text.trim();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.split('.').any(|label| label == "*") {
        return Err("a wildcard cannot be added; add each name by itself".to_owned());
    }
    let is_encoded = |label: &str| label.get(..4).is_some_and(|a| a.eq_ignore_ascii_case("xn--"));
    if name.is_ascii() && !name.split('.').any(is_encoded) {
        return parse_domain(name).map_err(|error| error.to_string());
    }
    // What was typed is not repeated: it may hold characters that turn text around.
    let refused = |_| "the name cannot be written as a domain (UTS #46)".to_owned();
    let ascii = Uts46::new()
        .to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Ignore)
        .map_err(refused)?;
    parse_domain(&ascii).map_err(|error| error.to_string())
}

/// Why a name cannot be brought by `tenant`, if it cannot.
pub(super) fn reserved(
    config: &Domains,
    tenants: &[Tenant],
    tenant: TenantId,
    domain: &str,
) -> Option<String> {
    let is_ours = [&config.base, &config.apps].into_iter().any(|own| is_at_or_below(domain, own));
    let is_anothers = |other: &Tenant| {
        let theirs = [&other.preview_domain, &other.console_domain].into_iter().flatten();
        let mut all = theirs.chain([&other.deployment_domain]);
        other.id != tenant && all.any(|high| is_at_or_below(domain, high))
    };
    if is_ours || tenants.iter().any(is_anothers) {
        // Both are told alike: whose it is, is nobody's business.
        return Some(format!("`{domain}` is reserved"));
    }
    let own = tenants.iter().find(|own| own.id == tenant)?;
    let is_host = domain.split_once('.').is_some_and(|(_, rest)| rest == own.deployment_domain);
    let is_preview = own
        .preview_domain
        .as_ref()
        .is_some_and(|high| is_at_or_below(domain, &format!("sandbox.{high}")));
    let is_console = own.console_domain.as_deref() == Some(domain);
    (is_host || is_preview || is_console).then(|| {
        format!("`{domain}` is managed already; hosts of your own domains come with the name of a deployment")
    })
}

#[cfg(test)]
mod tests {
    use miosa_types::{Env, Slug, env::ManualClock};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_name_has_one_spelling() {
        for (typed, name) in [
            (" WWW.Smile.test. ", "www.smile.test"),
            ("xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
            ("Bücher.test", "xn--bcher-kva.test"),
            ("ｓｍｉｌｅ。test", "smile.test"),
            ("a--b.test", "a--b.test"),
            ("診療所.test", "xn--8ou585bfso.test"),
        ] {
            assert_eq!(parse(typed).as_deref(), Ok(name), "{typed}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let (long, longer) = ("a".repeat(64), "abc.".repeat(60));
        for (typed, why) in [
            ("", "1 to 200 characters"),
            ("smile", "at least two labels"),
            ("*.smile.test", "wildcard"),
            ("www.*.test", "wildcard"),
            ("192.0.2.1", "address"),
            ("2001:db8::1", "address"),
            ("１９２.0.2.1", "address"),
            ("https://smile.test/", "each label"),
            ("smile.test:443", "each label"),
            ("a_b.test", "each label"),
            (&format!("{long}.test"), "each label"),
            (&format!("{longer}test"), "1 to 200 characters"),
            // Turned around, of two directions, not what it decodes to, and nothing at all.
            ("sm\u{202e}ile.test", "UTS #46"),
            ("\u{5d0}a.test", "UTS #46"),
            ("xn--a.test", "UTS #46"),
            ("xn--smile-.test", "UTS #46"),
            ("xn--.test", "UTS #46"),
            ("smile\u{0}ü.test", "UTS #46"),
        ] {
            let refused = parse(typed).expect_err(typed);
            assert!(refused.contains(why), "{typed}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_stays_as_it_is(typed in "\\PC{0,40}|(xn--)?[a-zü0-9-]{1,9}\\.[a-z]{2,5}") {
            if let Ok(name) = parse(&typed) {
                prop_assert!(name.is_ascii() && name == name.to_ascii_lowercase());
                prop_assert_eq!(parse(&name), Ok(name.clone()));
            }
        }
    }

    #[test]
    fn names_of_the_installation_and_of_tenants_are_reserved() {
        let env = Env::fixed(ManualClock::new("2026-06-01T12:00:00Z".parse().unwrap()), 1);
        let config =
            Domains { base: "base.test".into(), apps: "apps.test".into(), https_port: 443 };
        let tenant = |name: &str| Tenant {
            id: env.id(),
            name: name.into(),
            slug: Slug::parse(name).unwrap(),
            deployment_domain: format!("{name}.example"),
            preview_domain: Some(format!("{name}.example")),
            console_domain: Some(format!("desk.{name}.test")),
            branding: None,
            settings: serde_json::Map::new(),
            generation: 1,
            created_at: env.now(),
            updated_at: env.now(),
        };
        let all = [tenant("a"), tenant("b")];
        for (domain, is_free) in [
            ("shop.test", true),
            ("base.test", false),
            ("x.y.base.test", false),
            ("xbase.test", true),
            ("a.apps.test", false),
            // Of the other tenant.
            ("b.example", false),
            ("x.y.b.example", false),
            ("desk.b.test", false),
            ("b.test", true),
            // Its own: what is made by other means.
            ("shop.a.example", false),
            ("1-x.sandbox.a.example", false),
            ("desk.a.test", false),
            ("a.example", true),
            ("www.shop.a.example", true),
        ] {
            let why = reserved(&config, &all, all[0].id, domain);
            assert_eq!(why.is_none(), is_free, "{domain}: {why:?}");
        }
    }
}
