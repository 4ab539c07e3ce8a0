//! One request on its way through the edge: what every way of answering it needs.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts,
};
use http_body_util::BodyExt;
use miosa_types::link::Branded;
use tokio::time::Instant;

use crate::{
    body::Body,
    client_io::ConnState,
    crowd::Seat,
    hold::Who,
    identify,
    pages::{self, Page},
    pool::Pool,
    replay::Replay,
    shared::Shared,
};

/// Bytes of an unread request body that are read and thrown away after an early answer, so that
/// the client sees the answer and not a reset, and how long it may pause meanwhile.
const DISCARD_BYTES: u64 = 64 << 20;
const DISCARD_IDLE: Duration = Duration::from_secs(2);

/// One runtime: what its connections share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) worker: Arc<Worker>,
    pub(crate) state: Arc<ConnState>,
    /// Its connection's place, which a tunnel keeps.
    pub(crate) seat: Arc<Seat>,
    /// The visitor's address, behind proxies that are trusted.
    pub(crate) ip: IpAddr,
    /// Whether the visitor sees HTTPS, from us or from a proxy that is trusted.
    pub(crate) is_https: bool,
    /// As it came.
    pub(crate) parts: Parts,
    /// The fields to send on.
    pub(crate) headers: HeaderMap,
    /// `None` if there is no body.
    pub(crate) replay: Option<Replay>,
    pub(crate) arrived: Instant,
    /// The visitor's end of a tunnel, if it asks for one.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
}

impl Visit {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.worker.shared
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.upgrade.is_some()
    }

    pub(crate) fn is_navigation(&self) -> bool {
        !self.is_websocket() && identify::is_navigation(&self.parts.method, &self.parts.headers)
    }

    /// Safe to run twice (RFC 9110 §9.2.1).
    pub(crate) fn is_safe(&self) -> bool {
        matches!(self.parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Whether a second attempt would send the same bytes.
    pub(crate) fn can_repeat_body(&self) -> bool {
        self.replay.as_ref().is_none_or(Replay::can_repeat)
    }

    /// What an attempt sends.
    pub(crate) fn request(&self) -> Request<Body> {
        let body = self.replay.as_ref().map_or_else(Body::empty, Replay::attempt);
        let mut request = Request::new(body);
        request.method_mut().clone_from(&self.parts.method);
        *request.uri_mut() = origin_form(&self.parts.uri);
        request.headers_mut().clone_from(&self.headers);
        if self.is_websocket() {
            let headers = request.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        request
    }

    /// What the bounds of a queue are counted by.
    pub(crate) fn who(&self) -> Who {
        let fields: usize =
            self.parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        Who { ip: self.ip, bytes: fields + self.parts.uri.path().len() + 512 }
    }

    /// A branded page, or its short form for what is no document.
    pub(crate) fn page(&self, page: Page, owner: Option<Branded>) -> Response<Body> {
        self.discard();
        let branding = owner.map(|owner| self.shared().live.branding(owner)).unwrap_or_default();
        pages::render(page, &branding, &self.parts)
    }

    /// A short text.
    pub(crate) fn text(&self, status: StatusCode, why: &'static str) -> Response<Body> {
        self.discard();
        text(status, why)
    }

    /// Reads what the client still sends, in the background.
    fn discard(&self) {
        // Whoever waits for `100 Continue` sends nothing until the body is polled.
        if self.parts.headers.contains_key(header::EXPECT) {
            return;
        }
        let Some(replay) = &self.replay else { return };
        let mut body = replay.attempt();
        tokio::spawn(async move {
            let mut read = 0;
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(DISCARD_IDLE, body.frame()).await {
                read += frame.data_ref().map_or(0, |data| data.len() as u64);
                if read > DISCARD_BYTES {
                    return;
                }
            }
        });
    }
}

/// A short text that no cache keeps.
pub(crate) fn text(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(format!("{why}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    // `*` (OPTIONS) and paths come through; anything else was refused by hyper's parser.
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
}
