//! Requests to a port of a sandbox.
//!
//! A preview is edited while it is watched: where sandbox or port is not up, a person gets a page
//! that reloads itself, at once; anything else waits a few seconds. Nothing here can reach the
//! guest, which listens on the same address.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use miosa_types::{InstanceId, SandboxId, TenantId, guest};
use tokio::time::Instant;

use crate::{
    attempt::{Failure, Peer, attempt},
    body::Body,
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
    pub(crate) tenant: TenantId,
}

enum Tried {
    Done(Response<Body>),
    /// Nobody listens there (yet).
    NotUp,
}

/// Answers a request.
pub(crate) async fn serve(visit: &mut Visit, at: Where) -> Response<Body> {
    if at.port == guest::PORT {
        return visit.page(Page::NoSuchHost, Some(at.tenant));
    }
    let deadline = visit.arrived + visit.shared().config.limits.preview_hold;
    loop {
        // Looked up each time: a sandbox that starts gets its address meanwhile.
        let Some(sandbox) = visit.shared().live.sandbox(at.sandbox) else {
            return visit.page(Page::PreviewEnded, Some(at.tenant));
        };
        if let Some(ip) = sandbox.addr
            && let Tried::Done(response) = exchange(visit, &sandbox, (ip, at.port).into(), at).await
        {
            return response;
        }
        if visit.is_navigation() || Instant::now() + EVERY > deadline {
            return visit.page(Page::WaitingForPort { port: at.port }, Some(at.tenant));
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn exchange(visit: &mut Visit, sandbox: &Arc<Sandbox>, addr: SocketAddr, at: Where) -> Tried {
    let mut fresh = false;
    let mut deaths = 0;
    loop {
        match once(visit, sandbox, addr, fresh).await {
            Ok(response) => return Tried::Done(response),
            Err(Failure::Connect(_) | Failure::Unsent { fresh: true }) => return Tried::NotUp,
            Err(Failure::Unsent { fresh: false }) => fresh = true,
            Err(Failure::Written) => {
                fresh = true;
                deaths += 1;
                if !visit.is_safe() || !visit.can_repeat_body() || deaths >= MAX_DEATHS {
                    return Tried::Done(visit.page(Page::BadGateway, Some(at.tenant)));
                }
                visit.shared().metrics.retries.inc();
            }
            Err(Failure::TooSlow) => {
                return Tried::Done(visit.page(Page::GatewayTimeout, Some(at.tenant)));
            }
            Err(Failure::Client) => {
                let why = "The request body broke off";
                return Tried::Done(visit.text(StatusCode::BAD_REQUEST, why));
            }
        }
    }
}

async fn once(
    visit: &mut Visit,
    sandbox: &Arc<Sandbox>,
    addr: SocketAddr,
    fresh: bool,
) -> Result<Response<Body>, Failure> {
    let mut response = if visit.is_websocket() {
        tunnel::open(visit, addr, &sandbox.removed, ()).await?
    } else {
        // Sandboxes and instances never share a number: both are random.
        let owner = InstanceId::from_uuid(sandbox.id.uuid());
        let peer = Peer { key: PoolKey { owner, addr }, removed: &sandbox.removed, fresh };
        attempt(visit, peer, || {}).await?
    };
    // Search engines must not list what somebody is still writing.
    let noindex = HeaderValue::from_static("noindex");
    response.headers_mut().entry("x-robots-tag").or_insert(noindex);
    let _ = response.headers_mut().remove(header::SERVER);
    Ok(response)
}
