//! WebSocket: a handshake that goes through once, then bytes both ways.
//!
//! A tunnel lives until one side closes, its replica leaves the table, the right to it ends, or the
//! edge's shutdown has used up its time.

use std::net::SocketAddr;

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use crate::{
    attempt::{Failure, connect},
    body::Body,
    headers,
    upstream::SendError,
    visit::Visit,
};

/// Opens a tunnel to `addr`, at most until `end`. `guard` lives as long as it does.
pub(crate) async fn open(
    visit: &mut Visit,
    addr: SocketAddr,
    end: impl Future<Output = ()> + Send + 'static,
    guard: impl Send + 'static,
) -> Result<Response<Body>, Failure> {
    let limits = &visit.shared().config.limits;
    let mut link = connect(addr, limits.connect).await.map_err(Failure::Connect)?;
    let sent = tokio::time::timeout(limits.first_byte, link.send(visit.request())).await;
    let response = sent.map_err(|_| Failure::TooSlow)?.map_err(|error| match error {
        SendError::Unsent(_) => Failure::Unsent { fresh: true },
        SendError::Written(_) => Failure::Written,
    })?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, incoming) = response.into_parts();
        headers::incoming(&mut parts.headers);
        // The link goes with the body: dropped earlier, it would cut the answer.
        let body = Body::incoming(incoming).with_guard((link, guard));
        return Ok(Response::from_parts(parts, body));
    }
    Ok(switch(visit, response, end, guard))
}

pub(crate) fn switch(
    visit: &mut Visit,
    mut response: Response<Incoming>,
    end: impl Future<Output = ()> + Send + 'static,
    guard: impl Send + 'static,
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    visit.state.become_tunnel();
    if let Some(visitor) = visit.upgrade.take() {
        let (open, seat) = (visit.shared().open.enter(), visit.seat.clone());
        tokio::spawn(async move {
            let _guards = (open, seat, guard);
            let both = async {
                let (visitor, upstream) = (visitor.await?, upstream.await?);
                let (mut visitor, mut upstream) = (TokioIo::new(visitor), TokioIo::new(upstream));
                tokio::io::copy_bidirectional(&mut visitor, &mut upstream).await?;
                Ok::<_, crate::body::BodyError>(())
            };
            tokio::select! {
                ended = both => if let Err(error) = ended {
                    tracing::debug!(%error, "tunnel ended");
                },
                () = end => tracing::debug!("tunnel ended with what it led to"),
            }
        });
    }
    let (mut parts, _) = response.into_parts();
    headers::incoming(&mut parts.headers);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    Response::from_parts(parts, Body::empty())
}
