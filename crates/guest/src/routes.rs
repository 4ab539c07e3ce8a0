//! The plain HTTP routes beside Connect: files, archives, ports, logs, control.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json;

use crate::{
    body::{self, Answer},
    connect,
    error::Error,
    files,
    http::{Reply, call_of, empty, json, with_type},
    ports,
    state::State,
    sys, tar_in, tar_out,
};

/// Largest body of `/init`, bytes.
const MAX_INIT: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Init {
    env_vars: Option<BTreeMap<String, String>>,
    hostname: Option<String>,
    default_workdir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Grace {
    #[serde(default)]
    grace_ms: u64,
}

/// Answers the call.
pub(crate) async fn call(state: &Arc<State>, request: Request<Incoming>) -> Result<Reply, Error> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let user = query.get("username").map(str::to_owned).or_else(|| call_of(&request).user);
    let route = (request.method().clone(), request.uri().path().to_owned());
    let path = || query.get("path").ok_or_else(|| Error::invalid("no path is given"));
    match (&route.0, route.1.as_str()) {
        (&Method::GET, "/files") => {
            let user = state.user(user.as_deref())?;
            let (length, answer) = files::read(state, &user, path()?).await?;
            let mut reply = with_type(StatusCode::OK, "application/octet-stream", answer);
            reply.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            Ok(reply)
        }
        (&Method::POST, "/files") => {
            let user = state.user(user.as_deref())?;
            refuse_forms(&request)?;
            let written = files::write(state, &user, path()?, request.into_body()).await?;
            Ok(json(&written))
        }
        (&Method::GET, "/tar") => {
            let user = state.user(user.as_deref())?;
            let exclude = query.all("exclude").map(str::to_owned).collect();
            let answer = tar_out::read(state, &user, path()?, exclude).await?;
            Ok(with_type(StatusCode::OK, "application/x-tar", answer))
        }
        (&Method::POST, "/tar") => {
            let user = state.user(user.as_deref())?;
            Ok(json(&tar_in::write(state, &user, path()?, request.into_body()).await?))
        }
        (&Method::POST, "/init") => init(state, request).await,
        (&Method::GET, "/ports") => Ok(json(&ports::list(state, state.own_port).await?)),
        (&Method::GET, "/envs") => {
            Ok(json(&json!(state.env_for(&state.user(None)?, &BTreeMap::new()))))
        }
        (&Method::GET, "/logs") => {
            let limit = query.get("bytes").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
            let tail = state.tail.lock().unwrap_or_else(PoisonError::into_inner).last(limit);
            let answer = Answer::Full(Some(tail.into()));
            Ok(with_type(StatusCode::OK, "text/plain; charset=utf-8", answer))
        }
        (&Method::GET, "/metrics") => Ok(json(&crate::metrics::read())),
        (&Method::POST, "/shutdown") => {
            let mut body = request.into_body();
            let Grace { grace_ms } = connect::parse(&body::read_all(&mut body, 1024).await?)?;
            state.shutdown.grace_ms.store(grace_ms, Ordering::Relaxed);
            state.shutdown.wake.notify_one();
            Ok(empty(StatusCode::ACCEPTED))
        }
        _ => Err(Error::not_found(format!("{} {}", route.0, route.1))),
    }
}

async fn init(state: &State, request: Request<Incoming>) -> Result<Reply, Error> {
    let init: Init = connect::parse(&body::read_all(&mut request.into_body(), MAX_INIT).await?)?;
    state.init(init.env_vars, init.default_workdir);
    // In most sandboxes only the host can change it; the answer says whether it is so now.
    let is_set = init.hostname.map(|name| sys::set_hostname(&name).is_ok());
    Ok(json(&json!({ "hostname_set": is_set })))
}

/// Forms carry several files and their names; raw bytes carry one.
fn refuse_forms(request: &Request<Incoming>) -> Result<(), Error> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("multipart/")) {
        let text = "forms are not offered: send the bytes as application/octet-stream";
        return Err(Error::new(crate::error::Code::Unimplemented, text));
    }
    Ok(())
}

/// The pairs of a query string, decoded.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Percent-decoding with `+` for a space (URL standard, form encoding).
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[test]
fn queries_are_decoded() {
    let query = Query::parse("path=%2Fa%20b%2Bc+d&exclude=x&exclude=%zz%e2%82%ac&flag&&");
    assert_eq!(query.get("path"), Some("/a b+c d"));
    assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["x", "%zz€"]);
    assert_eq!((query.get("flag"), query.get("none")), (Some(""), None));
}
