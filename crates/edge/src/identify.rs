//! Which host a request is for, and which requests are refused before anything is looked up.
//!
//! hyper frames messages correctly; policy is ours: one valid `Host`, no `CONNECT`, not both
//! `Content-Length` and `Transfer-Encoding`, no upgrade but WebSocket. Of a request that was sent
//! before the one ahead of it was answered we do not see the bytes: there hyper goes by the chunks
//! and drops the length (RFC 9112 §6.3), so both sides of us still agree where it ends.

use http::{HeaderMap, Method, StatusCode, Version, header, request::Parts};
use miosa_types::host::Host;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// For the person who sent it.
    pub(crate) why: &'static str,
}

const fn refuse(status: StatusCode, why: &'static str) -> Refusal {
    Refusal { status, why }
}

/// The host of a request. `head` is what was read for it (empty on HTTP/2).
pub(crate) fn identify(parts: &Parts, head: &[u8]) -> Result<Host, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here"));
    }
    if parts.headers.contains_key(header::TRANSFER_ENCODING) && has_content_length(parts, head) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Content-Length beside Transfer-Encoding"));
    }
    let mut fields = parts.headers.get_all(header::HOST).iter();
    let (field, second) = (fields.next(), fields.next());
    if second.is_some() {
        return Err(refuse(StatusCode::BAD_REQUEST, "more than one Host"));
    }
    let bad = refuse(StatusCode::BAD_REQUEST, "Host is no host");
    let field =
        field.map(|value| value.to_str().ok().and_then(Host::parse).ok_or(bad)).transpose()?;
    let authority =
        parts.uri.authority().map(|a| Host::parse(a.as_str()).ok_or(bad)).transpose()?;
    match (field, authority) {
        (Some(field), Some(authority)) if field != authority => {
            Err(refuse(StatusCode::BAD_REQUEST, "Host differs from the address"))
        }
        (_, Some(host)) if parts.version == Version::HTTP_2 => Ok(host),
        (Some(host), _) => Ok(host),
        (None, _) => Err(refuse(StatusCode::BAD_REQUEST, "Host is missing")),
    }
}

/// Whether the head had a `Content-Length`, which hyper removes beside `Transfer-Encoding`.
/// Where the kept bytes begin with another request (pipelining), hyper's removal has to do.
fn has_content_length(parts: &Parts, head: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length:";
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return true;
    }
    let head = head.trim_ascii_start();
    let begins = head.strip_prefix(parts.method.as_str().as_bytes());
    if begins.is_none_or(|rest| !rest.starts_with(b" ")) {
        return false;
    }
    head.split(|byte| *byte == b'\n')
        .skip(1)
        .take_while(|line| !line.trim_ascii().is_empty())
        .any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// Whether this is a WebSocket handshake over HTTP/1.1 (RFC 6455 §4.1). Any other `Upgrade` is
/// not refused but ignored, as RFC 9110 §7.8 allows: Java clients send `h2c` with every request.
pub(crate) fn is_websocket(parts: &Parts) -> bool {
    let names = |name, wanted: &str| {
        let all = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let mut tokens = all.flat_map(|value| value.split(','));
        tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && parts.headers.get_all(header::UPGRADE).iter().count() == 1
        && parts
            .headers
            .get(header::UPGRADE)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && names(header::CONNECTION, "upgrade")
}

/// Whether a person looks at the answer: a page that reloads itself makes sense.
pub(crate) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    if method != Method::GET {
        return false;
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-mode") {
        Some(mode) => mode == "navigate",
        None => text("accept").is_some_and(|accept| accept.starts_with("text/html")),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn one_valid_host_or_none() {
        let status = |uri, fields: &[(&str, &str)]| {
            identify(&parts(uri, fields), b"").map_err(|refusal| refusal.status.as_u16())
        };
        let host = Ok(Host::Name("a.b".into()));
        assert_eq!(status("/", &[("host", "A.b:80")]), host);
        assert_eq!(status("http://a.b/", &[("host", "a.b")]), host);
        let bad: [(&str, &[(&str, &str)]); 5] = [
            ("/", &[]),
            ("/", &[("host", "a.b"), ("host", "a.b")]),
            ("/", &[("host", "a b")]),
            ("http://c.d/", &[("host", "a.b")]),
            ("/", &[("host", "a.b"), ("transfer-encoding", "chunked"), ("content-length", "1")]),
        ];
        for (uri, fields) in bad {
            assert_eq!(status(uri, fields), Err(400), "{uri} {fields:?}");
        }
    }

    #[test]
    fn a_content_length_that_hyper_removed_is_seen() {
        let parts = parts("/", &[("host", "a.b"), ("transfer-encoding", "chunked")]);
        let head = b"GET / HTTP/1.1\r\nHost: a.b\r\nContent-LENGTH: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(identify(&parts, head).is_err());
        let body =
            b"GET / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\ncontent-length: 3";
        assert!(identify(&parts, body).is_ok(), "what stands in the body does not count");
    }

    #[test]
    fn navigation_and_websocket() {
        let is = |fields: &[(&str, &str)]| is_navigation(&Method::GET, &parts("/", fields).headers);
        assert!(is(&[("sec-fetch-mode", "navigate")]));
        assert!(!is(&[("sec-fetch-mode", "cors"), ("accept", "text/html")]));
        assert!(is(&[("accept", "text/html,*/*")]));
        assert!(!is(&[("accept", "*/*")]));
        let ws = |upgrade| {
            is_websocket(&parts(
                "/",
                &[("upgrade", upgrade), ("connection", "keep-alive, Upgrade")],
            ))
        };
        assert!(ws("WebSocket"));
        assert!(!ws("h2c"));
        assert!(!ws("websocket, h2c"));
    }
}
