//! The HTTP server: who may call, and which call is meant.
//!
//! Promises: without the token nothing but `GET /health` answers, from the sandbox itself
//! neither; connections are bounded apart for callers inside and outside, so that the sandbox
//! cannot lock its host out.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    body::{self, Answer},
    connect,
    error::{Code, Error},
    filesystem, process_api, routes,
    state::State,
};

/// Connections from outside, and as many from inside.
const MAX_CONNECTIONS: usize = 256;
/// An idle connection is closed after that long, and a request's head must be here by then.
const IDLE: Duration = Duration::from_mins(1);
/// Time between signs of life on a quiet stream, unless the caller asks for another.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// What a handler makes.
pub(crate) type Reply = Response<Answer>;

/// Serves for ever.
pub(crate) async fn serve(state: Arc<State>, listener: TcpListener) {
    let outside = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let inside = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors or memory: others must end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let is_inside = stream.local_addr().is_ok_and(|own: SocketAddr| own.ip() == peer.ip());
        let slots = if is_inside { &inside } else { &outside };
        // Too many: the newest is closed, the caller sees it at once.
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        // Only speed depends on it.
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(state.clone(), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(64 << 10)
                .half_close(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // A caller that went away is its own matter.
            drop((served, slot));
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    if request.uri().path() == "/health" && request.method() == Method::GET {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    if !is_allowed(&state.token, &request) {
        return Ok(failure(&Error::unauthenticated("the token is missing or wrong")));
    }
    let service = request.uri().path().trim_start_matches('/').split_once('/');
    let reply = match service {
        Some(("process.Process", method)) if request.method() == Method::POST => {
            let method = method.to_owned();
            process_call(&state, &method, request).await
        }
        Some(("filesystem.Filesystem", method)) if request.method() == Method::POST => {
            let method = method.to_owned();
            filesystem_call(&state, &method, request).await
        }
        _ => return Ok(routes::call(&state, request).await.unwrap_or_else(|e| plain_failure(&e))),
    };
    Ok(reply.unwrap_or_else(|e| failure(&e)))
}

fn is_allowed(token: &str, request: &Request<Incoming>) -> bool {
    let given = request.headers().get("x-access-token").map_or(&b""[..], |value| value.as_bytes());
    !token.is_empty() && bool::from(token.as_bytes().ct_eq(given))
}

async fn process_call(
    state: &Arc<State>,
    method: &str,
    request: Request<Incoming>,
) -> Result<Reply, Error> {
    let call = call_of(&request);
    let mut body = request.into_body();
    match method {
        "Start" => Ok(streamed(match message(body).await {
            Ok(message) => process_api::start(state, call, message),
            Err(e) => Err(e),
        })),
        "Connect" => Ok(streamed(match message(body).await {
            Ok(message) => process_api::connect(state, &call, &message),
            Err(e) => Err(e),
        })),
        "StreamInput" => Ok(streamed_one(process_api::stream_input(state, body).await)),
        "List" => Ok(json(&process_api::list(state))),
        "SendInput" => Ok(json(&process_api::send_input(state, unary(&mut body).await?).await?)),
        "CloseStdin" => Ok(json(&process_api::close_stdin(state, unary(&mut body).await?).await?)),
        "SendSignal" => Ok(json(&process_api::send_signal(state, &unary(&mut body).await?)?)),
        _ => Err(Error::new(Code::Unimplemented, format!("process.Process/{method}"))),
    }
}

async fn filesystem_call(
    state: &Arc<State>,
    method: &str,
    request: Request<Incoming>,
) -> Result<Reply, Error> {
    let user = state.user(call_of(&request).user.as_deref())?;
    let mut body = request.into_body();
    let value = match method {
        "Stat" => filesystem::stat(state, user, unary(&mut body).await?).await?,
        "MakeDir" => filesystem::make_dir(state, user, unary(&mut body).await?).await?,
        "Move" => filesystem::rename(state, user, unary(&mut body).await?).await?,
        "ListDir" => filesystem::list(state, user, unary(&mut body).await?).await?,
        "Remove" => filesystem::remove(state, user, unary(&mut body).await?).await?,
        _ => {
            let text = format!("filesystem.Filesystem/{method}");
            return Err(Error::new(Code::Unimplemented, text));
        }
    };
    Ok(json(&value))
}

/// What the headers say about a call.
pub(crate) fn call_of(request: &Request<Incoming>) -> process_api::Call {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    process_api::Call {
        time_limit: number("connect-timeout-ms").filter(|ms| *ms > 0).map(Duration::from_millis),
        keepalive: number("keepalive-ping-interval")
            .map_or(KEEPALIVE, |seconds| Duration::from_secs(seconds.clamp(1, 3600))),
        user: text("authorization").and_then(basic_user),
    }
}

/// The user of HTTP basic authentication (RFC 7617); the password means nothing.
fn basic_user(header: &str) -> Option<String> {
    let decoded = BASE64.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let user = text.split_once(':').map_or(text.as_str(), |(user, _)| user);
    (!user.is_empty()).then(|| user.to_owned())
}

async fn unary<T: serde::de::DeserializeOwned>(body: &mut Incoming) -> Result<T, Error> {
    connect::parse(&body::read_all(body, connect::MAX_MESSAGE).await?)
}

async fn message<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Error> {
    let message = connect::Messages::new(body).next().await?;
    message.ok_or_else(|| Error::invalid("the stream has no message"))
}

fn streamed(answer: Result<Answer, Error>) -> Reply {
    let answer = answer.unwrap_or_else(|e| Answer::Full(Some(connect::end(Some(&e)))));
    with_type(StatusCode::OK, "application/connect+json", answer)
}

fn streamed_one(value: Result<Value, Error>) -> Reply {
    streamed(value.map(|value| {
        let both = [connect::envelope(&value), connect::end(None)].concat();
        Answer::Full(Some(both.into()))
    }))
}

/// An answer of JSON.
pub(crate) fn json(value: &Value) -> Reply {
    let text = Bytes::from(value.to_string());
    with_type(StatusCode::OK, "application/json", Answer::Full(Some(text)))
}

/// An answer without content.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Answer::Full(None));
    *reply.status_mut() = status;
    reply
}

/// An answer with a content type.
pub(crate) fn with_type(status: StatusCode, kind: &'static str, answer: Answer) -> Reply {
    let mut reply = Response::new(answer);
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

fn failure(error: &Error) -> Reply {
    let text = connect::error_json(error).to_string();
    with_type(error.code.status(), "application/json", Answer::Full(Some(text.into())))
}

/// Outside Connect, as E2B answers there: the code is the HTTP status.
fn plain_failure(error: &Error) -> Reply {
    let status = error.http_status();
    let text = serde_json::json!({ "code": status.as_u16(), "message": error.message });
    with_type(status, "application/json", Answer::Full(Some(text.to_string().into())))
}

#[cfg(test)]
#[test]
fn the_user_is_in_the_authorization_header() {
    for (header, user) in [
        ("Basic dXNlcjo=", Some("user")),
        ("Basic cm9vdDpwdw==", Some("root")),
        ("Basic Og==", None),
        ("Bearer dXNlcjo=", None),
        ("Basic ???", None),
    ] {
        assert_eq!(basic_user(header).as_deref(), user, "{header}");
    }
}
