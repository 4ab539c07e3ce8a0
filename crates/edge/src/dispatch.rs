//! Decides what answers a request: the API, a route, a redirect or a page.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use miosa_types::{
    host::{self, Host},
    link::Settings,
};
use tokio::time::Instant;

use crate::{
    api, app,
    body::Body,
    cookies::{self, Setter},
    files,
    headers::{self, Visitor},
    identify::{self, Refusal},
    metrics::Class,
    pages::Page,
    peers, preview,
    replay::Replay,
    serve::Connection,
    table::{Live, Route, Target},
    visit::{Visit, text},
};

/// How often one request looks up who has its host: each time but the last its app went away.
const MAX_LOOKS: usize = 8;

/// Answers one request.
pub(crate) async fn serve(
    connection: &Arc<Connection>,
    request: Request<Incoming>,
    arrived: Instant,
) -> (Class, Response<Body>) {
    let head = connection.state.take_head();
    let mut visit = visit(connection, request, arrived);
    let host = match admit(connection, &visit.parts, &head) {
        Ok(host) => host,
        Err(refusal) => return (Class::Refused, visit.text(refusal.status, refusal.why)),
    };
    let settings = visit.shared().live.settings();
    if is_api(&host, connection.local, settings.as_deref()) {
        return (Class::Api, api::serve(&mut visit).await);
    }
    let Host::Name(name) = host else {
        return (Class::Unknown, visit.page(Page::NoSuchHost, None));
    };
    let is_plain = !visit.is_https;
    for _ in 0..MAX_LOOKS {
        let Some((route, port)) = find(&visit.shared().live, &name) else {
            let owner = visit.shared().live.owner_of(&name);
            return (Class::Unknown, visit.page(unknown(&name), owner));
        };
        if is_plain && !settings.as_ref().is_some_and(|settings| settings.plain_http) {
            return (Class::Redirect, to_https(&visit, &name, settings.as_deref()));
        }
        if let Some(answer) = target(&mut visit, &name, (&route, port), settings.as_deref()).await {
            return answer;
        }
        // Its app has left the host: something else answers there, or nothing.
    }
    (Class::App, visit.page(Page::Unavailable, None))
}

/// What to say on a host that nobody has.
fn unknown(name: &str) -> Page {
    let is_preview = host::split_preview(name)
        .and_then(|(_, rest)| rest.split_once('.'))
        .is_some_and(|(_, domain)| domain.starts_with("sandbox."));
    if is_preview { Page::PreviewEnded } else { Page::NoSuchHost }
}

fn visit(connection: &Arc<Connection>, request: Request<Incoming>, arrived: Instant) -> Visit {
    let (mut parts, incoming) = request.into_parts();
    let is_websocket = identify::is_websocket(&parts);
    let upgrade = is_websocket.then(|| parts.extensions.remove()).flatten();
    let worker = connection.worker.clone();
    let written_host = match parts.uri.authority() {
        Some(authority) => authority.as_str(),
        None => parts.headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default(),
    };
    let (peer, is_tls) = (connection.peer.ip().to_canonical(), connection.tls.is_some());
    let trusted = &worker.shared.config.trusted_proxies;
    let is_trusted = peers::is_trusted(trusted, peer);
    let ip = peers::visitor(peer, &parts.headers, trusted);
    let is_https = is_tls || (is_trusted && peers::says_https(&parts.headers));
    let visitor = Visitor { peer, is_trusted, is_https: is_tls, host: written_host };
    let headers = headers::outgoing(&parts, visitor);
    let replay = Replay::new(incoming, worker.shared.config.limits.body_idle);
    let (state, seat) = (connection.state.clone(), connection.seat.clone());
    Visit { worker, state, seat, ip, is_https, parts, headers, replay, arrived, upgrade }
}

/// The host, if the request may come over this connection.
fn admit(connection: &Connection, parts: &Parts, head: &[u8]) -> Result<Host, Refusal> {
    let host = identify::identify(parts, head)?;
    let Some(tls) = &connection.tls else { return Ok(host) };
    let misdirected = Err(Refusal {
        status: StatusCode::MISDIRECTED_REQUEST,
        why: "This connection is not for that host",
    });
    if !tls.has_name {
        // It came by address: only the API answers, whatever the certificate would cover.
        let settings = connection.worker.shared.live.settings();
        let is_api = is_api(&host, connection.local, settings.as_deref());
        return if is_api { Ok(host) } else { misdirected };
    }
    match &host {
        Host::Name(name) if tls.certificate.covers(name) => Ok(host),
        _ => misdirected,
    }
}

/// Hosts of the API and the consoles (design §6). `local`: the address that the connection came to.
fn is_api(host: &Host, local: Option<IpAddr>, settings: Option<&Settings>) -> bool {
    let name = match host {
        Host::Ip(ip) => {
            let ip = ip.to_canonical();
            return ip.is_loopback() || local == Some(ip);
        }
        Host::Name(name) => name.as_str(),
    };
    let Some(settings) = settings else { return name == "localhost" };
    let below_base = name
        .strip_suffix(settings.domains.base.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name == "localhost" || below_base || settings.console_hosts.iter().any(|host| host == name)
}

/// The route of a host, and the port if it is a preview's.
fn find(live: &Live, name: &str) -> Option<(Arc<Route>, Option<u16>)> {
    if let Some(route) = live.route(name) {
        // The bare name of a sandbox answers nothing: only its ports have hosts.
        return (!matches!(route.target, Target::Preview(_))).then_some((route, None));
    }
    let (port, rest) = host::split_preview(name)?;
    let route = live.route(rest)?;
    matches!(route.target, Target::Preview(_)).then_some((route, Some(port)))
}

/// The answer of whatever has the host; `None`: look again who that is.
async fn target(
    visit: &mut Visit,
    host: &str,
    (route, port): (&Route, Option<u16>),
    settings: Option<&Settings>,
) -> Option<(Class, Response<Body>)> {
    Some(match &route.target {
        Target::Static(manifest) => {
            let shared = visit.shared();
            let branding = shared.live.branding(route.owner);
            let response = files::serve(manifest, &shared.blobs, &branding, &visit.parts).await;
            (Class::Static, response)
        }
        Target::App(id) => match visit.shared().live.app(*id) {
            Some(app) => {
                let mut response = app::serve(visit, route, &app).await?;
                cookies::confine(response.headers_mut(), Setter::App { host, settings });
                (Class::App, response)
            }
            // The route came before its app; control sends both at once, so this is short.
            None => (Class::App, visit.page(Page::Unavailable, Some(route.owner))),
        },
        Target::Preview(sandbox) => {
            let at =
                preview::Where { sandbox: *sandbox, port: port.unwrap_or(0), owner: route.owner };
            (Class::Preview, preview::serve(visit, at).await)
        }
        Target::Redirect(to) => (Class::Redirect, to_https(visit, to, settings)),
        Target::Nothing => (Class::Unknown, visit.page(Page::NoSuchHost, Some(route.owner))),
    })
}

/// 308 keeps method and body.
fn to_https(visit: &Visit, host: &str, settings: Option<&Settings>) -> Response<Body> {
    let base =
        settings.map_or_else(|| format!("https://{host}"), |settings| settings.domains.url(host));
    let path = visit.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut response = text(StatusCode::PERMANENT_REDIRECT, "See https");
    if let Ok(location) = HeaderValue::from_str(&format!("{base}{path}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_answers_by_the_address_that_was_called() {
        let local = Some([10, 0, 0, 7].into());
        for (host, is_ours) in [
            ("10.0.0.7", true),
            ("[::ffff:10.0.0.7]", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("localhost", true),
            ("10.0.0.8", false),
            ("8.8.8.8", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_api(&Host::parse(host).unwrap(), local, None), is_ours, "{host}");
        }
        assert!(!is_api(&Host::Ip([10, 0, 0, 7].into()), None, None));
    }

    #[test]
    fn who_looks_for_a_preview_is_told_of_a_preview() {
        for (host, page) in [
            ("3000-slug.sandbox.apps.localhost", Page::PreviewEnded),
            ("3000-slug.sandbox.cliniciq.com", Page::PreviewEnded),
            ("slug.sandbox.apps.localhost", Page::NoSuchHost),
            ("3000-slug.clinic.apps.localhost", Page::NoSuchHost),
            ("x-slug.sandbox.apps.localhost", Page::NoSuchHost),
            ("3000-sandbox", Page::NoSuchHost),
        ] {
            assert_eq!(unknown(host), page, "{host}");
        }
    }
}
