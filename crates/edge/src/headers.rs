//! Header fields on their way through: what belongs to one hop stays there, and what an app may
//! believe about its visitor is written by us alone, and by proxies that the operator trusts.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header, request::Parts};

/// Fields of one hop (RFC 9110 §7.6.1), and those that only we may write.
const HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Who asks, as an app is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visitor<'a> {
    /// Where the connection comes from.
    pub(crate) peer: IpAddr,
    /// Whether the peer may say for whom it asks: then its word is passed on and ours is added.
    pub(crate) is_trusted: bool,
    /// Whether this connection is TLS.
    pub(crate) is_https: bool,
    /// As the visitor wrote it, port included.
    pub(crate) host: &'a str,
}

/// The fields to send on.
pub(crate) fn outgoing(parts: &Parts, visitor: Visitor<'_>) -> HeaderMap {
    let mut headers = parts.headers.clone();
    let wants_trailers = headers.get_all(header::TE).iter().any(has_trailers);
    strip_hop(&mut headers);
    drop_shadows(&mut headers);
    if !visitor.is_trusted {
        let spoofed: Vec<_> = headers.keys().filter(|name| is_vouched(name)).cloned().collect();
        for name in spoofed {
            headers.remove(name);
        }
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    vouch(&mut headers, visitor);
    headers
}

/// Whether a field says something about the visitor that an app believes.
fn is_vouched(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
}

/// Drops `X_Forwarded_For` and the like: CGI and its heirs (WSGI, Rack, PHP) take it for the real
/// field. Also from trusted proxies, which pass on what they do not know.
fn drop_shadows(headers: &mut HeaderMap) {
    let is_shadow = |name: &&HeaderName| {
        let folded: Vec<u8> = name
            .as_str()
            .bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { byte } else { b'-' })
            .collect();
        let is_ours =
            |real: &HeaderName| is_vouched(real) || *real == header::HOST || is_hop(real.as_str());
        folded != name.as_str().as_bytes()
            && HeaderName::from_bytes(&folded).is_ok_and(|real| is_ours(&real))
    };
    let shadows: Vec<_> = headers.keys().filter(is_shadow).cloned().collect();
    for name in shadows {
        headers.remove(name);
    }
}

fn is_hop(name: &str) -> bool {
    HOP.contains(&name)
}

/// Writes what we know of the visitor. Of an untrusted peer nothing of the kind is left by now.
fn vouch(headers: &mut HeaderMap, visitor: Visitor<'_>) {
    const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
    const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    let proto = if visitor.is_https { "https" } else { "http" };
    let mut set = |name: HeaderName, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    set(header::HOST, visitor.host);
    append(headers, HeaderName::from_static("x-forwarded-for"), &visitor.peer.to_string());
    // These two have one value: that of the hop next to the visitor.
    for (name, text) in [(HOST, visitor.host), (PROTO, proto)] {
        if !headers.contains_key(&name) {
            append(headers, name, text);
        }
    }
    if headers.contains_key(header::FORWARDED) {
        let hop = match visitor.peer {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        append(headers, header::FORWARDED, &hop);
    }
}

/// Adds to a list, which stays in one field: some servers read only the first.
fn append(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(text.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

/// Cleans the fields of an answer.
pub(crate) fn incoming(headers: &mut HeaderMap) {
    strip_hop(headers);
    headers.remove(header::SERVER);
}

fn has_trailers(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers"))
}

fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Naming these is an attack on whoever trusts them, never a wish of the hop.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP {
        headers.remove(name);
    }
}

/// HTTP/2 clients send one `cookie` field per cookie; HTTP/1.1 allows one field (RFC 9113
/// §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in cookies {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn hop_fields_go_and_what_we_vouch_for_is_ours() {
        let (parts, ()) = Request::builder()
            .version(Version::HTTP_2)
            .header("connection", "close, x-secret, content-length")
            .header("x-secret", "1")
            .header("content-length", "3")
            .header("te", "trailers, deflate")
            .header("upgrade", "h2c")
            .header("expect", "100-continue")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-user", "root")
            .header("forwarded", "for=6.6.6.6")
            .header("x_forwarded_for", "6.6.6.6")
            .header("x-forwarded_proto", "https")
            .header("X_Real_IP", "6.6.6.6")
            .header("host_", "kept")
            .header("x_own", "kept")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap()
            .into_parts();
        let visitor = Visitor {
            peer: [10, 0, 0, 1].into(),
            is_trusted: false,
            is_https: true,
            host: "a.b:8443",
        };
        let mut got: Vec<_> = outgoing(&parts, visitor)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        got.sort();
        let wanted = [
            "content-length: 3",
            "cookie: a=1; b=2",
            "host: a.b:8443",
            "host_: kept",
            "te: trailers",
            "x-forwarded-for: 10.0.0.1",
            "x-forwarded-host: a.b:8443",
            "x-forwarded-proto: https",
            "x_own: kept",
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn the_word_of_a_trusted_proxy_is_passed_on_and_ours_is_added() {
        let (parts, ()) = Request::builder()
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-forwarded-for", "10.0.0.2")
            .header("x-forwarded-proto", "https")
            .header("forwarded", "for=6.6.6.6")
            .header("x-real-ip", "6.6.6.6")
            .header("x_forwarded_for", "5.5.5.5")
            .body(())
            .unwrap()
            .into_parts();
        let visitor = Visitor {
            peer: "fd00::1".parse().unwrap(),
            is_trusted: true,
            is_https: false,
            host: "a.b",
        };
        let headers = outgoing(&parts, visitor);
        assert!(!headers.contains_key("x_forwarded_for"), "it passed on what it did not know");
        for (name, wanted) in [
            ("x-forwarded-for", "6.6.6.6, 10.0.0.2, fd00::1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.b"),
            ("x-real-ip", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6, for=\"[fd00::1]\";proto=http"),
        ] {
            let all: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(all, [wanted], "{name}");
        }
    }
}
