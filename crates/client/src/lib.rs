//! A small client of the API, for the command line and tests.
//!
//! Promises: one call is one request on a kept-alive connection that is opened when needed; it
//! never retries by itself; every call has a deadline; an error answer becomes [`Error::Refused`]
//! with the server's own words.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use miosa_types::Secret;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, sync::Mutex};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    /// `host:port`.
    authority: String,
    key: Secret,
    /// Slug or id of the tenant that the operator's key acts for.
    tenant: Option<String>,
    deadline: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no: the message is for the person who asked.
    #[error("{message} ({status}, request {request_id})")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Stable code, as `NOT_FOUND`.
        code: String,
        /// The server's words.
        message: String,
        /// Names the request in the server's log.
        request_id: String,
    },
    /// The server does not answer; what it did is unknown.
    #[error("the server at {authority} does not answer")]
    Unreachable {
        /// Where.
        authority: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what this client knows.
    #[error("the server's answer cannot be read: {0}")]
    Unreadable(String),
    /// The address is no `http://host:port`.
    #[error("`{0}` is not an address like http://127.0.0.1:8080")]
    Address(String),
}

impl Client {
    /// A client of `api_url` (`http://host:port`, as in `ready.json`).
    pub fn new(api_url: &str, key: Secret) -> Result<Self, Error> {
        let authority = api_url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|authority| !authority.is_empty() && !authority.contains('/'))
            .ok_or_else(|| Error::Address(api_url.to_owned()))?;
        Ok(Self {
            authority: authority.to_owned(),
            key,
            tenant: None,
            deadline: Duration::from_mins(1),
            connection: Mutex::new(None),
        })
    }

    /// Acts for another tenant, by slug or id; only the operator's key may.
    #[must_use]
    pub fn for_tenant(mut self, tenant: Option<String>) -> Self {
        self.tenant = tenant;
        self
    }

    /// Waits for each answer as long as this; a minute if it is not called.
    #[must_use]
    pub const fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// `GET path`; the path begins with a slash and includes `/api/v1`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// `POST path` with a JSON body.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Any call.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        let request = self.request(method, path, body)?;
        let answer = tokio::time::timeout(self.deadline, self.send(request));
        let (status, id, bytes) = answer
            .await
            .map_err(|late| self.unreachable(late))?
            .map_err(|e| self.unreachable(e))?;
        if !status.is_success() {
            return Err(refusal(status, id, &bytes));
        }
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(|error| Error::Unreadable(error.to_string()))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| Error::Unreadable(e.to_string()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder().method(method).uri(path);
        if let Some(tenant) = &self.tenant {
            request = request.header("x-miosa-tenant", tenant);
        }
        request
            .header(header::HOST, &self.authority)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.key.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| Error::Unreadable(error.to_string()))
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, String, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = self.connection.lock().await;
        let is_open = connection.as_ref().is_some_and(|sender| !sender.is_closed());
        if !is_open {
            *connection = Some(self.connect().await?);
        }
        let sender = connection.as_mut().ok_or("no connection")?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let id = id.unwrap_or("unknown").to_owned();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok((status, id, body.to_bytes()))
    }

    async fn connect(
        &self,
    ) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn unreachable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Unreachable { authority: self.authority.clone(), source: source.into() }
    }
}

/// `text` as one segment of a path: an app may be named by any name that it has.
pub fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

fn refusal(status: StatusCode, request_id: String, body: &[u8]) -> Error {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| body["error"][field].as_str().unwrap_or_default().to_owned();
    let message = match text("message") {
        empty if empty.is_empty() => "the server refused".to_owned(),
        message => message,
    };
    Error::Refused { status, code: text("code"), message, request_id }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Answers each connection's first request with `answer`.
    async fn serve(answer: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn an_error_answer_keeps_the_servers_words() {
        let url = serve(
            "HTTP/1.1 404 Not Found\r\nx-request-id: r1\r\ncontent-length: 49\r\nconnection: close\r\n\r\n\
             {\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"no app\"}}",
        )
        .await;
        let client = Client::new(&url, Secret::new("k".into())).unwrap();
        let error = client.get::<serde_json::Value>("/x").await.unwrap_err();
        assert_eq!(error.to_string(), "no app (404 Not Found, request r1)");
    }

    #[tokio::test]
    async fn a_request_says_for_whom_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let client = Client::new(&url, Secret::new("k".into())).unwrap();
        let client = client.for_tenant(Some("cliniciq".into()));
        let path = format!("/x/{}", segment("Ärzte & Co"));
        assert_eq!(client.get::<Option<()>>(&path).await.unwrap(), None);
        let request = seen.await.unwrap();
        assert!(request.starts_with("GET /x/%C3%84rzte%20%26%20Co HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nx-miosa-tenant: cliniciq\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_to_be_unreachable() {
        let client = Client::new("http://127.0.0.1:1", Secret::new("k".into())).unwrap();
        let error = client.get::<serde_json::Value>("/x").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }));
        assert!(Client::new("ftp://x", Secret::new("k".into())).is_err());
    }
}
