//! Serving the files of a static version.
//!
//! Promises: a path is only ever looked up in the manifest, never on the disk, so there is
//! nothing to traverse; clean URLs behave as Cloudflare's `auto-trailing-slash`; every answer
//! has a strong validator that differs per encoding; conditional and range requests follow RFC
//! 9110. A request for several ranges is answered with the whole file (§14.2 allows a server to
//! ignore `Range`): no browser sends one, and overlapping ranges are a way to make a server work.

mod encoding;
mod path;
mod range;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts};
use miosa_types::{
    Branding,
    manifest::{BlobRef, SiteFile, SiteManifest},
};

use crate::{
    blobs::{Blob, BlobCache, BlobError},
    body::Body,
    pages::{self, Page},
};

use encoding::Encoding;
use path::Found;
use range::Wanted;

/// For pages, and for whatever may change under the same name.
const REVALIDATE: &str = "public, max-age=0, must-revalidate";

/// For files that carry a hash of their content in their name.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Answers one request from the files of `manifest`.
pub(crate) async fn serve(
    manifest: &SiteManifest,
    blobs: &BlobCache,
    branding: &Branding,
    parts: &Parts,
) -> Response<Body> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return not_allowed();
    }
    match path::find(manifest, parts.uri.path()) {
        Found::File { path, file } => send(blobs, branding, parts, path, file).await,
        Found::Redirect { to } => redirect(&to, &parts.uri),
        Found::Nothing { page: Some(file) } => {
            let mut response = whole(blobs, branding, parts, file).await;
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::NOT_FOUND;
            }
            response
        }
        Found::Nothing { page: None } => pages::render(Page::NotFound, branding, parts),
    }
}

/// A file with everything that a request may ask of it.
async fn send(
    blobs: &BlobCache,
    branding: &Branding,
    parts: &Parts,
    path: &str,
    file: &SiteFile,
) -> Response<Body> {
    let (encoding, blob) = match open(blobs, parts, file).await {
        Ok(opened) => opened,
        Err(error) => return broken(&error, branding, parts),
    };
    let etag = etag_of(encoding.blob(file));
    let mut headers = fields(file, encoding, &etag, cache_control(path));
    if fails_if_match(&parts.headers, &etag) {
        return answer(StatusCode::PRECONDITION_FAILED, HeaderMap::new(), Body::empty());
    }
    if matches_if_none_match(&parts.headers, &etag) {
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_ENCODING);
        return answer(StatusCode::NOT_MODIFIED, headers, Body::empty());
    }
    let size = blob.size();
    let wanted = if parts.method == Method::GET {
        range::wanted(&parts.headers, &etag, size)
    } else {
        Wanted::All
    };
    match wanted {
        Wanted::All => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            answer(StatusCode::OK, headers, body_of(&parts.method, blob, 0, size))
        }
        Wanted::Part { first, last } => {
            let length = last - first + 1;
            insert(&mut headers, header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            let body = body_of(&parts.method, blob, first, length);
            answer(StatusCode::PARTIAL_CONTENT, headers, body)
        }
        Wanted::Nothing => {
            headers.remove(header::CONTENT_ENCODING);
            headers.remove(header::CONTENT_TYPE);
            insert(&mut headers, header::CONTENT_RANGE, format!("bytes */{size}"));
            answer(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::empty())
        }
    }
}

/// A file as the body of an error: no ranges, no conditions, no validator.
async fn whole(
    blobs: &BlobCache,
    branding: &Branding,
    parts: &Parts,
    file: &SiteFile,
) -> Response<Body> {
    let (encoding, blob) = match open(blobs, parts, file).await {
        Ok(opened) => opened,
        Err(error) => return broken(&error, branding, parts),
    };
    let mut headers = fields(file, encoding, "", REVALIDATE);
    headers.remove(header::ETAG);
    headers.remove(header::ACCEPT_RANGES);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(blob.size()));
    let size = blob.size();
    answer(StatusCode::OK, headers, body_of(&parts.method, blob, 0, size))
}

/// The best variant that can be opened; a damaged variant must not hide an intact file.
async fn open(
    blobs: &BlobCache,
    parts: &Parts,
    file: &SiteFile,
) -> Result<(Encoding, Blob), BlobError> {
    let encoding = encoding::choose(&parts.headers, file);
    match blobs.get(encoding.blob(file).digest).await {
        Ok(blob) => Ok((encoding, blob)),
        Err(error) if encoding == Encoding::Identity => Err(error),
        Err(error) => {
            tracing::warn!(%error, path = parts.uri.path(), "compressed variant cannot be served");
            Ok((Encoding::Identity, blobs.get(file.blob.digest).await?))
        }
    }
}

fn broken(error: &BlobError, branding: &Branding, parts: &Parts) -> Response<Body> {
    tracing::error!(%error, path = parts.uri.path(), "file of a site cannot be served");
    pages::render(Page::Unavailable, branding, parts)
}

fn body_of(method: &Method, blob: Blob, first: u64, length: u64) -> Body {
    if method == Method::HEAD {
        return Body::empty();
    }
    match blob {
        Blob::File { file, .. } => Body::file(file, first, length),
        Blob::Memory(bytes) => {
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            Body::full(bytes.slice(index(first)..index(first + length)))
        }
    }
}

fn fields(
    file: &SiteFile,
    encoding: Encoding,
    etag: &str,
    cache_control: &'static str,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    insert(&mut headers, header::CONTENT_TYPE, file.content_type.clone());
    insert(&mut headers, header::ETAG, etag.to_owned());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = HeaderValue::from_static("strict-origin-when-cross-origin");
    headers.insert(header::REFERRER_POLICY, policy);
    if file.brotli.is_some() || file.gzip.is_some() {
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if let Some(name) = encoding.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    headers
}

/// A value that is no header value (a content type with a line break) is left out.
fn insert(headers: &mut HeaderMap, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

fn answer(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn not_allowed() -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer(StatusCode::METHOD_NOT_ALLOWED, headers, Body::empty())
}

/// 307, so that a later version of the site may decide otherwise.
fn redirect(to: &str, uri: &Uri) -> Response<Body> {
    let mut location = path::encode(to);
    if let Some(query) = uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut headers = HeaderMap::new();
    insert(&mut headers, header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(REVALIDATE));
    answer(StatusCode::TEMPORARY_REDIRECT, headers, Body::empty())
}

/// Half a digest is still far beyond any accident. Each variant is a blob of its own, so the
/// validator differs per encoding by itself.
fn etag_of(blob: BlobRef) -> String {
    let digest = blob.digest.to_string();
    format!("\"{}\"", &digest[..32])
}

/// RFC 9110 §13.1.1: strong comparison.
fn fails_if_match(headers: &HeaderMap, etag: &str) -> bool {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    values.peek().is_some() && !values.any(|value| listed(value, |one| one == "*" || one == etag))
}

/// RFC 9110 §13.1.2: weak comparison.
fn matches_if_none_match(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        listed(value, |one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
    })
}

/// Our own validators contain no comma, so a plain split finds them.
fn listed(value: &HeaderValue, is_it: impl Fn(&str) -> bool) -> bool {
    value.to_str().is_ok_and(|value| value.split(',').any(|one| is_it(one.trim())))
}

fn cache_control(path: &str) -> &'static str {
    if path::is_hashed(path) { IMMUTABLE } else { REVALIDATE }
}

#[cfg(test)]
mod tests;
