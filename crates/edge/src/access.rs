//! Who may see a private port of a sandbox.
//!
//! A token comes by query, by header or by the cookie that the first visit sets, and never reaches
//! the app: it is taken out of what is sent on, whether the port is private or not. A token that
//! is taken back or expires ends what it opened, tunnels and streams included, at once.

use std::{collections::HashMap, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header,
    uri::{Parts as UriParts, PathAndQuery},
};
use jiff::Timestamp;
use miosa_types::{Digest, link};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{body::Body, product, visit::text};

/// Names of the token in a query. Others than the first are common words, so a value counts as a
/// token only if it looks like one.
const NAMES: [&str; 4] = ["preview_token", "mt", "mp", "token"];
/// What tokens begin with.
const PREFIXES: [&str; 2] = ["pv_", "mp_"];
/// Fields that hold a token.
const FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("x-preview-token"), product::PREVIEW_TOKEN];
/// Holds it after the first visit.
pub(crate) const COOKIE: &str = "__Host-preview";

/// The access of one sandbox, and what ends when it changes.
#[derive(Debug)]
pub(crate) struct Gate {
    access: link::Access,
    /// Cancelled when a port that was open to all may not be any more.
    open: CancellationToken,
    /// Cancelled one by one when a grant is taken back.
    granted: HashMap<Digest, CancellationToken>,
}

impl Gate {
    /// All tokens end with `removed`. What `old` allowed and `access` still allows goes on.
    pub(crate) fn new(
        access: link::Access,
        removed: &CancellationToken,
        old: Option<&Self>,
    ) -> Self {
        let of = |grant: &link::Grant| {
            let kept = old.filter(|old| old.access.grants.contains(grant));
            let kept = kept.and_then(|old| old.granted.get(&grant.token)).cloned();
            (grant.token, kept.unwrap_or_else(|| removed.child_token()))
        };
        let granted = access.grants.iter().map(of).collect();
        let same = old.filter(|old| is_same(&old.access, &access));
        let open = same.map_or_else(|| removed.child_token(), |old| old.open.clone());
        Self { access, open, granted }
    }

    pub(crate) const fn access(&self) -> &link::Access {
        &self.access
    }

    /// What `next` does not allow any more.
    pub(crate) fn ended_by(&self, next: &Self) -> Vec<CancellationToken> {
        let is_gone = |grant: &&link::Grant| !next.access.grants.contains(grant);
        let gone = self.access.grants.iter().filter(is_gone);
        let mut ended: Vec<_> =
            gone.filter_map(|grant| self.granted.get(&grant.token)).cloned().collect();
        if !is_same(&self.access, &next.access) {
            ended.push(self.open.clone());
        }
        ended
    }

    /// The right to see a port: `None` if the token does not give it.
    fn admit(&self, port: u16, token: Option<Digest>, now: Timestamp) -> Option<Right> {
        if !self.access.is_private(port) {
            return Some(Right { token: self.open.clone(), until: None });
        }
        let token = token?;
        let fits = |grant: &&link::Grant| {
            grant.token == token
                && grant.port.is_none_or(|only| only == port)
                && now < grant.expires_at
        };
        let grant = self.access.grants.iter().find(fits)?;
        let left = Duration::try_from(grant.expires_at.duration_since(now)).unwrap_or_default();
        let until = Instant::now().checked_add(left);
        Some(Right { token: self.granted.get(&grant.token)?.clone(), until })
    }
}

/// Whether the same ports are private.
fn is_same(one: &link::Access, other: &link::Access) -> bool {
    one.is_private == other.is_private && one.except == other.except
}

/// What lets a request see a port.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// Cancelled when it is taken back.
    pub(crate) token: CancellationToken,
    /// When it ends by itself.
    until: Option<Instant>,
}

impl Right {
    /// Waits until it ends, one way or the other.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let Self { token, until } = self.clone();
        async move {
            match until {
                Some(until) => drop(timeout_at(until, token.cancelled()).await),
                None => token.cancelled().await,
            }
        }
    }
}

/// A token that a request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    text: String,
    is_in_query: bool,
}

/// What a request brought, taken out of what is sent on.
#[derive(Debug, Default)]
pub(crate) struct Badge {
    shown: Vec<Shown>,
}

/// What a request gets.
#[derive(Debug)]
pub(crate) enum Pass {
    /// It goes on, as long as the right lasts. The cookie, if any, goes with the answer.
    Go(Right, Option<HeaderValue>),
    /// It goes no further. Whether it brought a token.
    Refused {
        /// An old one, then.
        had_token: bool,
    },
}

impl Badge {
    /// Takes every token out of address and fields.
    pub(crate) fn take(uri: &mut Uri, headers: &mut HeaderMap) -> Self {
        let mut shown = Vec::new();
        if let Some((clean, tokens)) = uri.query().and_then(split_query) {
            let show = |text| Shown { text, is_in_query: true };
            shown.extend(tokens.into_iter().map(show));
            *uri = with_query(uri, &clean);
        }
        for name in FIELDS {
            let value = headers.remove(&name);
            let text = value.as_ref().and_then(|value| value.to_str().ok()).map(str::to_owned);
            shown.extend(text.map(|text| Shown { text, is_in_query: false }));
        }
        let split: Vec<_> = headers.get_all(header::COOKIE).iter().map(split_cookies).collect();
        // Almost no request has one: its fields stay as they came.
        if split.iter().any(|(_, tokens)| !tokens.is_empty()) {
            headers.remove(header::COOKIE);
            for (rest, tokens) in split {
                let show = |text| Shown { text, is_in_query: false };
                shown.extend(tokens.into_iter().map(show));
                if let Some(rest) = rest {
                    headers.append(header::COOKIE, rest);
                }
            }
        }
        Self { shown }
    }

    /// Whether this request may see `port`.
    pub(crate) fn present(&self, gate: &Gate, port: u16, now: Timestamp) -> Pass {
        if let Some(right) = gate.admit(port, None, now) {
            return Pass::Go(right, None);
        }
        for shown in &self.shown {
            let digest = Digest::of(shown.text.as_bytes());
            let Some(right) = gate.admit(port, Some(digest), now) else { continue };
            let cookie = shown.is_in_query.then(|| gate.cookie(digest, &shown.text, now)).flatten();
            return Pass::Go(right, cookie);
        }
        Pass::Refused { had_token: !self.shown.is_empty() }
    }
}

impl Gate {
    fn cookie(&self, digest: Digest, token: &str, now: Timestamp) -> Option<HeaderValue> {
        let grant = self.access.grants.iter().find(|grant| grant.token == digest)?;
        let seconds = grant.expires_at.duration_since(now).as_secs().max(0);
        // Builders show previews in a frame on another site.
        let text = format!(
            "{COOKIE}={token}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=None; \
             Partitioned"
        );
        HeaderValue::try_from(text).ok()
    }

    /// The policy that says who may show a port in a frame.
    pub(crate) fn frame_policy(&self, port: u16) -> Option<HeaderValue> {
        let list = &self.access.frame_ancestors;
        let text = match (list.is_empty(), self.access.is_private(port)) {
            (true, false) => return None,
            (true, true) => "frame-ancestors 'self'".to_owned(),
            (false, _) => format!("frame-ancestors {}", list.join(" ")),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// Sends a browser on to the same address without the token, so that it stays in no history.
pub(crate) fn enter(uri: &Uri, cookie: HeaderValue) -> Response<Body> {
    let mut response = text(StatusCode::SEE_OTHER, "See the same address without the token");
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let headers = response.headers_mut();
    // An address that begins with two slashes would name a host.
    let path = format!("/{}", path.trim_start_matches('/'));
    if let Ok(location) = HeaderValue::try_from(path) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(header::SET_COOKIE, cookie);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn is_token(text: &str) -> bool {
    PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

/// The query without tokens, and these; `None` if there are none.
fn split_query(query: &str) -> Option<(String, Vec<String>)> {
    let token = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        (NAMES.contains(&name) && is_token(value)).then(|| value.to_owned())
    };
    let tokens: Vec<_> = query.split('&').filter_map(token).collect();
    let rest: Vec<_> = query.split('&').filter(|pair| token(pair).is_none()).collect();
    (!tokens.is_empty()).then(|| (rest.join("&"), tokens))
}

fn with_query(uri: &Uri, query: &str) -> Uri {
    let path = uri.path();
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let mut parts = UriParts::from(uri.clone());
    match PathAndQuery::try_from(text) {
        Ok(clean) => parts.path_and_query = Some(clean),
        Err(_) => return Uri::from_static("/"),
    }
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static("/"))
}

/// The field without our cookie (`None` if nothing is left), and what the cookie held.
fn split_cookies(value: &HeaderValue) -> (Option<HeaderValue>, Vec<String>) {
    let (mut rest, mut tokens) = (Vec::new(), Vec::new());
    for pair in value.as_bytes().split(|byte| *byte == b';') {
        let pair = pair.trim_ascii();
        match pair.strip_prefix(COOKIE.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
            Some(token) => tokens.push(String::from_utf8_lossy(token).into_owned()),
            None if pair.is_empty() => {}
            None => rest.push(pair),
        }
    }
    let joined = rest.join(&b"; "[..]);
    let rest = (!joined.is_empty()).then(|| HeaderValue::from_bytes(&joined).ok()).flatten();
    (rest, tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn grant(token: &str, port: Option<u16>) -> link::Grant {
        let expires_at = now() + Duration::from_mins(1);
        link::Grant { token: Digest::of(token.as_bytes()), port, expires_at }
    }

    fn gate(access: link::Access, old: Option<&Gate>) -> Gate {
        Gate::new(access, &CancellationToken::new(), old)
    }

    fn private(grants: Vec<link::Grant>) -> link::Access {
        link::Access { is_private: false, except: [3000].into(), grants, ..Default::default() }
    }

    fn taken(uri: &str, fields: &[(&str, &str)]) -> (String, Vec<String>, Badge) {
        let mut uri: Uri = uri.parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let badge = Badge::take(&mut uri, &mut headers);
        let left = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        (uri.to_string(), left, badge)
    }

    #[test]
    fn tokens_are_taken_out_and_nothing_else() {
        for (uri, fields, left_uri, left_fields) in [
            ("/a?x=1&preview_token=pv_a&y=2", vec![], "/a?x=1&y=2", vec![]),
            ("/a?mp=mp_a", vec![], "/a", vec![]),
            ("/a?mt=mp_a&mt=1", vec![], "/a?mt=1", vec![]),
            ("/a?token=pv_a", vec![], "/a", vec![]),
            ("/a?token=other&x&=", vec![], "/a?token=other&x&=", vec![]),
            ("/", vec![("x-preview-token", "pv_a"), ("x-other", "1")], "/", vec!["x-other: 1"]),
            ("/", vec![("cookie", "a=1; __Host-preview=pv_a; b=2")], "/", vec!["cookie: a=1; b=2"]),
            ("/", vec![("cookie", "__Host-preview=pv_a")], "/", vec![]),
            ("/", vec![("cookie", "my__Host-preview=x")], "/", vec!["cookie: my__Host-preview=x"]),
        ] {
            let (uri_left, fields_left, badge) = taken(uri, &fields);
            assert_eq!(
                (&*uri_left, fields_left),
                (left_uri, left_fields.iter().map(|f: &&str| (*f).to_owned()).collect::<Vec<_>>()),
                "{uri} {fields:?}"
            );
            let is_kept = uri_left == uri
                && left_fields.len() == fields.len()
                && !fields.iter().any(|f| f.1.contains("; __Host"));
            assert_eq!(badge.shown.is_empty(), is_kept, "{uri} {fields:?}");
        }
    }

    #[test]
    fn a_private_port_opens_to_its_own_live_token_only() {
        let gate = gate(
            private(vec![
                grant("pv_a", Some(3000)),
                grant("pv_b", Some(4000)),
                grant("mp_c", None),
            ]),
            None,
        );
        let is_in = |uri: &str, port: u16, at: Timestamp| {
            matches!(taken(uri, &[]).2.present(&gate, port, at), Pass::Go(..))
        };
        assert!(is_in("/", 4000, now()), "another port is public");
        assert!(!is_in("/", 3000, now()));
        assert!(is_in("/?preview_token=pv_a", 3000, now()));
        assert!(is_in("/?mp=mp_c", 3000, now()));
        assert!(!is_in("/?preview_token=pv_b", 3000, now()), "the token of another port");
        assert!(!is_in("/?preview_token=pv_x", 3000, now()));
        assert!(!is_in("/?preview_token=pv_a", 3000, now() + Duration::from_mins(1)), "too late");
        let old = taken("/?preview_token=pv_x", &[("cookie", "__Host-preview=pv_a")]).2;
        assert!(matches!(old.present(&gate, 3000, now()), Pass::Go(_, None)), "the cookie counts");
    }

    #[test]
    fn what_is_taken_back_ends_and_the_rest_goes_on() {
        let removed = CancellationToken::new();
        let both = private(vec![grant("pv_a", None), grant("pv_b", None)]);
        let old = Gate::new(both, &removed, None);
        let right = |gate: &Gate, token: &str, port: u16| {
            gate.admit(port, Some(Digest::of(token.as_bytes())), now()).unwrap().token
        };
        let (a, b, open) =
            (right(&old, "pv_a", 3000), right(&old, "pv_b", 3000), right(&old, "", 1));
        let next = Gate::new(private(vec![grant("pv_b", None)]), &removed, Some(&old));
        old.ended_by(&next).iter().for_each(CancellationToken::cancel);
        assert!(a.is_cancelled() && !b.is_cancelled() && !open.is_cancelled());
        let closed = link::Access { is_private: true, ..link::Access::default() };
        let last = Gate::new(closed, &removed, Some(&next));
        next.ended_by(&last).iter().for_each(CancellationToken::cancel);
        assert!(b.is_cancelled() && open.is_cancelled());
        assert!(last.admit(1, None, now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_ends_when_its_token_expires() {
        let gate = gate(private(vec![grant("pv_a", None)]), None);
        let badge = taken("/?preview_token=pv_a", &[]).2;
        let Pass::Go(right, _) = badge.present(&gate, 3000, now()) else { panic!("refused") };
        let Pass::Go(open, _) = badge.present(&gate, 1, now()) else { panic!("refused") };
        let began = Instant::now();
        right.ended().await;
        assert_eq!(began.elapsed().as_secs(), 60);
        let day = Duration::from_hours(24);
        assert!(tokio::time::timeout(day, open.ended()).await.is_err(), "it is open to all");
    }
}
