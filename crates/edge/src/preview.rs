//! Requests to a port of a sandbox.
//!
//! A preview is edited while it is watched: where sandbox or port is not up, a person gets a page
//! that reloads itself, at once; anything else waits a few seconds. Nothing here can reach the
//! guest, which listens on the same address. A private port shows nothing, not even whether it is
//! up, to who has no right to it.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use miosa_types::{InstanceId, SandboxId, guest, link::Branded};
use tokio::time::Instant;

use crate::{
    access::{self, Badge, Pass, Right},
    attempt::{Failure, Peer, attempt},
    body::Body,
    cookies::{self, Setter},
    pages::Page,
    pool::PoolKey,
    table::Sandbox,
    tunnel,
    visit::Visit,
};

/// Pause between two looks at a port that is not up.
const EVERY: Duration = Duration::from_millis(100);

/// How many times a safe request may be sent over a connection that then died.
const MAX_DEATHS: u32 = 2;

/// Which port of which sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Where {
    pub(crate) sandbox: SandboxId,
    pub(crate) port: u16,
    pub(crate) owner: Branded,
}

enum Tried {
    Done(Response<Body>),
    /// Nobody listens there (yet).
    NotUp,
}

/// Answers a request.
pub(crate) async fn serve(visit: &mut Visit, at: Where) -> Response<Body> {
    if at.port == guest::PORT {
        return visit.page(Page::NoSuchHost, Some(at.owner));
    }
    let deadline = visit.arrived + visit.shared().config.limits.preview_hold;
    let badge = Badge::take(&mut visit.parts.uri, &mut visit.headers);
    loop {
        // Looked up each time: a sandbox that starts gets its address meanwhile.
        let Some(sandbox) = visit.shared().live.sandbox(at.sandbox) else {
            return visit.page(Page::PreviewEnded, Some(at.owner));
        };
        let now = visit.shared().config.env.now();
        let (right, cookie) = match badge.present(&sandbox.gate, at.port, now) {
            Pass::Go(right, cookie) => (right, cookie),
            Pass::Refused { had_token: true } => {
                return visit.page(Page::PreviewExpired, Some(at.owner));
            }
            Pass::Refused { had_token: false } => {
                return visit.page(Page::PreviewPrivate, Some(at.owner));
            }
        };
        if let Some(cookie) = &cookie
            && visit.parts.headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate")
            && visit.is_navigation()
        {
            return access::enter(&visit.parts.uri, cookie.clone());
        }
        if let Some(ip) = sandbox.addr {
            let to = To { sandbox: &sandbox, addr: (ip, at.port).into(), right: &right };
            if let Tried::Done(response) = exchange(visit, to, at).await {
                return dress(response, &sandbox, at.port, cookie);
            }
        }
        if visit.is_navigation() || Instant::now() + EVERY > deadline {
            return visit.page(Page::WaitingForPort { port: at.port }, Some(at.owner));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What every answer of an app carries.
fn dress(
    mut response: Response<Body>,
    sandbox: &Sandbox,
    port: u16,
    cookie: Option<HeaderValue>,
) -> Response<Body> {
    let headers = response.headers_mut();
    // Two policies hold both: the app's own stays.
    if let Some(policy) = sandbox.gate.frame_policy(port) {
        headers.append(header::CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(cookie) = cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
    response
}

/// Where an attempt goes, and the right by which it does.
#[derive(Clone, Copy)]
struct To<'a> {
    sandbox: &'a Sandbox,
    addr: SocketAddr,
    right: &'a Right,
}

async fn exchange(visit: &mut Visit, to: To<'_>, at: Where) -> Tried {
    let mut fresh = false;
    let mut deaths = 0;
    loop {
        match once(visit, to, fresh).await {
            Ok(response) => return Tried::Done(response),
            Err(Failure::Connect(_) | Failure::Unsent { fresh: true }) => return Tried::NotUp,
            Err(Failure::Unsent { fresh: false }) => fresh = true,
            Err(Failure::Written) => {
                fresh = true;
                deaths += 1;
                if !visit.is_safe() || !visit.can_repeat_body() || deaths >= MAX_DEATHS {
                    return Tried::Done(visit.page(Page::BadGateway, Some(at.owner)));
                }
                visit.shared().metrics.retries.inc();
            }
            Err(Failure::Unasked) => {
                return Tried::Done(visit.page(Page::BadGateway, Some(at.owner)));
            }
            Err(Failure::TooSlow) => {
                return Tried::Done(visit.page(Page::GatewayTimeout, Some(at.owner)));
            }
            Err(Failure::Client) => {
                let why = "The request body broke off";
                return Tried::Done(visit.text(StatusCode::BAD_REQUEST, why));
            }
        }
    }
}

async fn once(visit: &mut Visit, to: To<'_>, fresh: bool) -> Result<Response<Body>, Failure> {
    let To { sandbox, addr, right } = to;
    let mut response = if visit.is_websocket() {
        tunnel::open(visit, addr, right.ended(), ()).await?
    } else {
        // Sandboxes and instances never share a number: both are random.
        let owner = InstanceId::from_uuid(sandbox.id.uuid());
        let peer = Peer { key: PoolKey { owner, addr }, removed: &right.token, fresh };
        attempt(visit, peer, || {}).await?.map(|body| body.until(right.ended()))
    };
    cookies::confine(response.headers_mut(), Setter::Preview);
    // Search engines must not list what somebody is still writing.
    let noindex = HeaderValue::from_static("noindex");
    response.headers_mut().entry("x-robots-tag").or_insert(noindex);
    let _ = response.headers_mut().remove(header::SERVER);
    Ok(response)
}
