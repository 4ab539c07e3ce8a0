//! The pages that the platform itself shows on an app's host, in the tenant's brand.
//!
//! Promises: no page names the platform; a page needs nothing from anywhere but the tenant's own
//! logo, runs no script and is held to that by its content security policy; whoever did not ask
//! for a document gets JSON or a line of text; nothing here is ever cached.

mod brand;

use base64::Engine as _;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{self, HeaderName},
    request::Parts,
};
use miosa_types::Branding;
use sha2::{Digest as _, Sha256};

use crate::body::Body;

use brand::escape;

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// No such file.
    NotFound,
    /// No such host.
    NoSuchHost,
    /// The app starts.
    Starting,
    /// The sandbox runs, but nobody listens on that port yet.
    WaitingForPort {
        /// The port.
        port: u16,
    },
    /// The sandbox of a preview is gone.
    PreviewEnded,
    /// The port is private, and nothing was shown.
    PreviewPrivate,
    /// The port is private, and what was shown is not valid any more.
    PreviewExpired,
    /// Its owner stopped it.
    Stopped,
    /// It does not start.
    Failed,
    /// It broke off, or refused.
    BadGateway,
    /// It did not begin to answer in time.
    GatewayTimeout,
    /// A bound was reached.
    Overloaded,
    /// The platform itself could not do it.
    Unavailable,
}

/// The words and numbers of a page.
struct Words {
    status: StatusCode,
    /// For programs.
    code: &'static str,
    /// Above the title.
    label: &'static str,
    title: &'static str,
    text: String,
    retry_after_s: Option<u16>,
    /// Loads itself again.
    reloads: bool,
    action: Action,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    None,
    Home,
    Again,
}

/// Seconds between two loads of a page that waits.
const RELOAD_S: u16 = 2;

impl Page {
    fn words(self) -> Words {
        let (status, code) = self.status();
        let (label, title, text) = self.text();
        let reloads = matches!(self, Self::Starting | Self::WaitingForPort { .. });
        let retry_after_s = match self {
            Self::Starting | Self::WaitingForPort { .. } => Some(RELOAD_S),
            Self::Overloaded | Self::Unavailable => Some(1),
            Self::Failed => Some(30),
            _ => None,
        };
        let action = match self {
            Self::NotFound => Action::Home,
            Self::Failed
            | Self::BadGateway
            | Self::GatewayTimeout
            | Self::Overloaded
            | Self::Unavailable => Action::Again,
            _ => Action::None,
        };
        Words { status, code, label, title, text, retry_after_s, reloads, action }
    }

    const fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::NoSuchHost => (StatusCode::NOT_FOUND, "NO_SUCH_HOST"),
            Self::PreviewEnded => (StatusCode::NOT_FOUND, "PREVIEW_ENDED"),
            Self::PreviewPrivate => (StatusCode::FORBIDDEN, "PREVIEW_PRIVATE"),
            Self::PreviewExpired => (StatusCode::FORBIDDEN, "PREVIEW_EXPIRED"),
            Self::Starting => (StatusCode::SERVICE_UNAVAILABLE, "STARTING"),
            Self::WaitingForPort { .. } => (StatusCode::SERVICE_UNAVAILABLE, "PORT_NOT_READY"),
            Self::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "STOPPED"),
            Self::Failed => (StatusCode::SERVICE_UNAVAILABLE, "FAILED"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            Self::BadGateway => (StatusCode::BAD_GATEWAY, "BAD_GATEWAY"),
            Self::GatewayTimeout => (StatusCode::GATEWAY_TIMEOUT, "GATEWAY_TIMEOUT"),
        }
    }

    /// Label, title and sentence.
    fn text(self) -> (&'static str, &'static str, String) {
        let (label, title, text) = match self {
            Self::NotFound => (
                "Error 404",
                "This page does not exist",
                "The address may be mistyped, or the page may have moved.",
            ),
            Self::NoSuchHost => (
                "Error 404",
                "There is nothing here",
                "No site is published at this address. Please check it for typing errors.",
            ),
            Self::PreviewEnded => (
                "Preview",
                "This preview has ended",
                "The workspace behind it was closed. Open the project again to get a new preview.",
            ),
            Self::PreviewPrivate => (
                "Preview",
                "This preview is private",
                "Open it from the project, or ask its owner for a link.",
            ),
            Self::PreviewExpired => (
                "Preview",
                "This link has expired",
                "Open the preview from the project again, or ask its owner for a new link.",
            ),
            Self::Starting => {
                ("Starting", "Just a moment", "The app is starting. This page opens it by itself.")
            }
            Self::WaitingForPort { port } => {
                let text = format!(
                    "Nothing answers on port {port} yet. As soon as the app runs, this page opens \
                     it by itself."
                );
                return ("Preview", "Waiting for the app", text);
            }
            Self::Stopped => {
                ("Stopped", "This app is paused", "Its owner has stopped it. Nothing is lost.")
            }
            Self::Failed => (
                "Not available",
                "This app could not start",
                "Its owner can see why. Please try again later.",
            ),
            Self::BadGateway => (
                "Error 502",
                "The app did not answer",
                "It broke off before it had answered. Trying again often helps.",
            ),
            Self::GatewayTimeout => {
                ("Error 504", "This takes too long", "The app did not answer in time.")
            }
            Self::Overloaded => {
                ("Error 503", "Too many visitors at once", "Please try again in a few seconds.")
            }
            Self::Unavailable => {
                ("Error 503", "Not available right now", "Please try again in a moment.")
            }
        };
        (label, title, text.to_owned())
    }
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Json,
    Plain,
}

/// A browser that navigates gets a page; a script, a style sheet or an image request does not.
fn form(headers: &HeaderMap) -> Form {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let accept = text("accept").unwrap_or("*/*").to_ascii_lowercase();
    let navigates = text("sec-fetch-mode").is_none_or(|mode| mode == "navigate");
    if navigates && (accept.contains("text/html") || accept.contains("*/*")) {
        // `application/json, */*` is a program that can live with anything.
        let json_first = accept.trim_start().starts_with("application/json");
        return if json_first { Form::Json } else { Form::Html };
    }
    if accept.contains("application/json") { Form::Json } else { Form::Plain }
}

/// The answer that says `page`.
pub(crate) fn render(page: Page, branding: &Branding, parts: &Parts) -> Response<Body> {
    let words = page.words();
    let (content_type, policy, body) = match form(&parts.headers) {
        Form::Html => {
            let (html, policy) = html(&words, branding);
            ("text/html; charset=utf-8", Some(policy), html)
        }
        Form::Json => {
            let message = format!("{}. {}", words.title, words.text);
            let body = serde_json::json!({"error": {"code": words.code, "message": message}});
            ("application/json", None, body.to_string())
        }
        Form::Plain => {
            let body = format!("{}. {}\n", words.title, words.text);
            ("text/plain; charset=utf-8", None, body)
        }
    };
    let length = body.len();
    let is_head = parts.method == Method::HEAD;
    let mut response = Response::new(if is_head { Body::empty() } else { Body::full(body) });
    *response.status_mut() = words.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Sec-Fetch-Mode"));
    for (name, value) in FIELDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Some(policy) = policy.and_then(|policy| HeaderValue::try_from(policy).ok()) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    if let Some(seconds) = words.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// On every page.
const FIELDS: [(HeaderName, &str); 4] = [
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

const STYLE: &str = include_str!("style.css");

/// The document and the policy that allows exactly it.
fn html(words: &Words, branding: &Branding) -> (String, String) {
    let style = format!("{}{STYLE}", brand::variables(branding));
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&style));
    let logo = brand::logo(branding);
    let images = logo.as_ref().map_or("'none'", |logo| logo.source.as_str());
    // Framing is allowed: builders show previews inside their own pages.
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src {images}; base-uri 'none'; \
         form-action 'none'"
    );
    let name = branding.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let title = match name {
        Some(name) => format!("{} · {}", words.title, escape(name)),
        None => words.title.to_owned(),
    };
    let refresh = if words.reloads {
        format!("<meta http-equiv=\"refresh\" content=\"{RELOAD_S}\">")
    } else {
        String::new()
    };
    let header = brand::header(name, logo.as_ref());
    let class = if words.reloads { " class=\"wait\"" } else { "" };
    let below = match (words.reloads, words.action) {
        (true, _) => "<div class=\"bar\" aria-hidden=\"true\"></div>",
        (false, Action::Home) => {
            "<div class=\"do\"><a class=\"button\" href=\"/\">Go to the start page</a></div>"
        }
        (false, Action::Again) => {
            "<div class=\"do\"><a class=\"button\" href=\"\">Try again</a></div>"
        }
        (false, Action::None) => "",
    };
    let footer = brand::footer(branding);
    let Words { label, title: heading, text, .. } = words;
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n{refresh}<title>{title}</title>\n\
         <style>{style}</style>\n</head>\n<body{class}>\n{header}<main>\n\
         <p class=\"code\"><i aria-hidden=\"true\"></i>{label}</p>\n<h1>{heading}</h1>\n\
         <p role=\"status\">{text}</p>\n{below}\n</main>\n{footer}</body>\n</html>\n"
    );
    (html, policy)
}

#[cfg(test)]
mod tests;
