//! Cookies that an app sets: none reaches another tenant, and none is ours.
//!
//! Apps and previews of many tenants share parent domains. A cookie whose `Domain` is above what
//! is the tenant's own loses that attribute and so stays with the host that set it.

use http::{HeaderMap, HeaderValue, header};
use miosa_types::link::Settings;

use crate::access;

/// Whose answer it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setter<'a> {
    /// A port of a sandbox: its cookies are its host's alone.
    Preview,
    /// An app on this host.
    App {
        /// Lower case, without port.
        host: &'a str,
        /// `None`: nothing is known of what is shared, so no parent domain is let through.
        settings: Option<&'a Settings>,
    },
}

/// Rewrites the cookies of an answer.
pub(crate) fn confine(headers: &mut HeaderMap, setter: Setter<'_>) {
    if !headers.contains_key(header::SET_COOKIE) {
        return;
    }
    let all: Vec<_> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    headers.remove(header::SET_COOKIE);
    for value in all.iter().filter_map(|value| confined(value, setter)) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// One cookie as it may be set; `None`: not at all.
fn confined(value: &HeaderValue, setter: Setter<'_>) -> Option<HeaderValue> {
    let mut parts = value.as_bytes().split(|byte| *byte == b';');
    let pair = parts.next().unwrap_or_default();
    // Browsers send a cookie without a name as its bare value, which would read as a name again.
    let bare = pair.trim_ascii_start();
    let bare = bare.strip_prefix(b"=").unwrap_or(bare).trim_ascii_start();
    let name = bare.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end();
    if name.eq_ignore_ascii_case(access::COOKIE.as_bytes()) {
        return None;
    }
    let stays = |part: &&[u8]| domain(part).is_none_or(|domain| may_reach(&domain, setter));
    let rest = parts.filter(stays);
    let kept: Vec<_> = std::iter::once(pair).chain(rest).collect();
    HeaderValue::from_bytes(&kept.join(&b";"[..])).ok()
}

/// The value of a `Domain` attribute (RFC 6265 §5.2.3).
fn domain(part: &[u8]) -> Option<String> {
    let mut halves = part.splitn(2, |byte| *byte == b'=');
    let name = halves.next()?.trim_ascii();
    let value = halves.next().unwrap_or_default().trim_ascii();
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let text = text.trim_start_matches('.').trim_end_matches('.');
    name.eq_ignore_ascii_case(b"domain").then(|| text.to_owned())
}

/// Whether all hosts below `domain` are the tenant's own: the app's host, what is below it, and
/// the tenant's deployment domain, unless others have hosts there too.
fn may_reach(domain: &str, setter: Setter<'_>) -> bool {
    let Setter::App { host, settings } = setter else { return false };
    if is_in(domain, host) {
        return true;
    }
    let Some(settings) = settings else { return false };
    let is_own_level = host.split_once('.').is_some_and(|(_, parent)| parent == domain);
    let apps = settings.domains.apps.as_str();
    let previews = format!("sandbox.{apps}");
    let consoles = settings.console_hosts.iter().map(String::as_str);
    let mut foreign = [apps, &previews, &settings.domains.base].into_iter().chain(consoles);
    is_own_level && !foreign.any(|name| is_in(name, domain))
}

/// Whether `name` is `domain` or below it.
fn is_in(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use miosa_types::host::Domains;

    use super::*;

    fn settings() -> Settings {
        Settings {
            domains: Domains {
                base: "base.localhost".into(),
                apps: "apps.localhost".into(),
                https_port: 443,
            },
            console_hosts: vec!["console.both.test".into()],
            plain_http: true,
        }
    }

    #[test]
    fn a_cookie_reaches_no_other_tenant() {
        let settings = settings();
        for (host, domain, is_kept) in [
            // The app's own host and what is below it.
            ("shop.clinic.apps.localhost", "shop.clinic.apps.localhost", true),
            ("shop.clinic.apps.localhost", "a.shop.clinic.apps.localhost", true),
            // The tenant's own level.
            ("shop.clinic.apps.localhost", "clinic.apps.localhost", true),
            ("shop.clinic.apps.localhost", ".Clinic.apps.localhost", true),
            ("shop.cliniciq.com", "cliniciq.com", true),
            ("shop.cliniciq.com", " .cliniciq.com ", true),
            // What others have too.
            ("shop.clinic.apps.localhost", "apps.localhost", false),
            ("shop.clinic.apps.localhost", ".APPS.localhost", false),
            ("shop.clinic.apps.localhost", "localhost", false),
            ("shop.clinic.apps.localhost", "other.apps.localhost", false),
            ("shop.clinic.apps.localhost", "sandbox.apps.localhost", false),
            ("shop.sandbox.apps.localhost", "sandbox.apps.localhost", false),
            ("shop.apps.localhost", "apps.localhost", false),
            ("shop.cliniciq.com", "com", false),
            ("shop.a.hoster.com", "hoster.com", false),
            // A site that is shared with a console.
            ("shop.both.test", "both.test", false),
            ("shop.base.localhost", "base.localhost", false),
            ("shop.localhost", "localhost", false),
            // Nothing at all means the same as no attribute.
            ("shop.cliniciq.com", "", false),
        ] {
            let value = format!("a=1; Path=/;domain={domain}; Secure");
            let value = HeaderValue::try_from(value).unwrap();
            let app = Setter::App { host, settings: Some(&settings) };
            let wanted = if is_kept { value.as_bytes() } else { b"a=1; Path=/; Secure" };
            assert_eq!(confined(&value, app).unwrap().as_bytes(), wanted, "{host} {domain}");
            let preview = confined(&value, Setter::Preview).unwrap();
            assert_eq!(preview, "a=1; Path=/; Secure", "{host} {domain}");
        }
    }

    #[test]
    fn our_cookie_cannot_be_set_and_others_stay_as_they_are() {
        let mut headers = HeaderMap::new();
        for value in [
            "__Host-preview=pv_x; Path=/; Secure",
            " __host-PREVIEW = pv_x",
            "=__Host-preview=pv_x",
            "__Host-preview",
            "__Host-previewer=1; Path=/; Secure",
            "x=__Host-preview; Domain=sandbox.apps.localhost; DOMAIN = .apps.localhost",
            "domain=sandbox.apps.localhost; HttpOnly",
        ] {
            headers.append(header::SET_COOKIE, HeaderValue::from_static(value));
        }
        confine(&mut headers, Setter::Preview);
        let left: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
        let wanted = [
            "__Host-previewer=1; Path=/; Secure",
            "x=__Host-preview",
            "domain=sandbox.apps.localhost; HttpOnly",
        ];
        assert_eq!(left, wanted);
    }
}
